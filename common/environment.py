"""Variables of the environment that libraries do not check themselves."""
import os
import re

from common.errors import InputError

THREADS = r"[1-9]\d{0,3}"


def check_environment(allowed: dict[str, str]) -> None:
    """Raise InputError for a variable that is set, and not to what its regular expression in `allowed` matches."""
    for name, pattern in allowed.items():
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(pattern, value, re.ASCII):
            what = "a number of threads" if pattern == THREADS else f"one of {pattern.replace('|', ', ')}"
            raise InputError(f"the environment's {name} is {value!r}: give {what}, or unset it")
