"""Variables of the environment that are numbers or one of a few words."""
import os
import re

from common.errors import InputError

THREADS, PIXELS = r"[1-9]\d{0,3}", r"[1-9]\d{0,17}"
NUMBERS = {THREADS: "a number of threads", PIXELS: "a number of pixels"}


def check_environment(allowed: dict[str, str]) -> None:
    """Raise InputError for a variable that is set, and not to what its regular expression in `allowed` matches."""
    for name, pattern in allowed.items():
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(pattern, value, re.ASCII):
            what = NUMBERS.get(pattern) or f"one of {pattern.replace('|', ', ')}"
            raise InputError(f"the environment's {name} is {value!r}: give {what}, or unset it")
