"""Types and help for the entry points' command lines."""
import argparse
import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from common.base.errors import InputError, printable

MOST = 1e30  # of a number, so that what is computed from it in float32 is finite


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside every option that has one, as they would be given; descriptions as they are written."""

    def _get_help_string(self, action):
        nothing = action.default is None or action.default is False or action.default == ""
        return action.help if nothing else super()._get_help_string(action)

    def _expand_help(self, action):
        if not isinstance(action.default, (list, tuple)):
            return super()._expand_help(action)
        shown = copy.copy(action)
        shown.default = (" " if action.nargs else ",").join(map(str, action.default))
        return super()._expand_help(shown)


class ArgumentParser(argparse.ArgumentParser):
    """A parser with such help, whose errors are one line. `elsewhere`: {flag of other programs: what to give here}."""

    def __init__(self, elsewhere: dict[str, str] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **options)
        self._source: str | Path | None = None
        self._elsewhere = elsewhere or {}

    def given(self, arguments: Sequence[str] | None = None) -> dict:
        """{destination: value} of the flags that `arguments` (those of the program) give, without the defaults."""
        unset = object()
        destinations = vars(self.parse_args([]))
        parsed = vars(self.parse_args(arguments, argparse.Namespace(**dict.fromkeys(destinations, unset))))
        return {name: value for name, value in parsed.items() if value is not unset}

    def read(self, values: dict, source: str | Path) -> dict:
        """{destination: value} of {flag without dashes: value} read from a file, checked as on the command line.

        A list stands for numbers with commas between. Raises InputError, which names `source`, for what is not usable.
        """
        arguments = []
        for flag, value in values.items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            arguments.append(f"--{flag}={int(value) if isinstance(value, bool) else text}")
        self._source = source
        try:
            return self.given(arguments)
        finally:
            self._source = None

    def parse_known_args(self, *arguments: Any, **options: Any) -> tuple:  # type: ignore[override]
        """As argparse's. An empty value, such as that of a variable that is not set, is an error, but for flags that
        say what it means: those whose default it is."""
        parsed, left = super().parse_known_args(*arguments, **options)
        for flag in (word.partition("=")[0] for word in left):
            if flag in self._elsewhere:
                self.error(f"there is no {flag} here: {self._elsewhere[flag]}")
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if action.default != "" and action.nargs != argparse.REMAINDER and "" in (
                    value if isinstance(value, list) else [value]):
                self.error(f"argument {'/'.join(action.option_strings) or action.metavar or action.dest}: is empty")
        return parsed, left

    def error(self, message: str) -> NoReturn:
        if self._source:
            raise InputError(f"{self._source}: {message.removeprefix('argument ')}")
        print(printable(f"{self.prog}: error: {message} (see --help)"), file=sys.stderr)
        sys.exit(2)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    return _whole(text, 1)


def not_negative(text: str) -> int:
    """A whole number of 0 or more, of 31 bits."""
    return _whole(text, 0)


def side_or_stored(text: str) -> int:
    """The length of a side in pixels, or -1: as it is stored."""
    return -1 if text == "-1" else positive(text)


def switch(text: str) -> int:
    """0 or 1."""
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"{text!r}: give 0 or 1")
    return int(text)


def whole_from(least: int, most: int) -> Callable[[str], int]:
    """A type for a whole number, not negative, from `least` to `most`."""
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} to {most}")
        return int(text)
    return parse


grey = whole_from(0, 255)


def port(text: str) -> int:
    """The number of a TCP port."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to 65535")
    return int(text)


def amount(text: str) -> float:
    """A number of 0 or more, and less than 1e30."""
    try:
        value = float(text.encode("ascii"))
    except ValueError:
        value = math.nan
    if not 0 <= value < MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of 0 or more, and less than {MOST:g}")
    return value


def positive_amount(text: str) -> float:
    """A number above 0, and less than 1e30."""
    if not (value := amount(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def fraction(text: str) -> float:
    """A number of 0 or more, and less than 1."""
    if not (value := amount(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of 0 or more, and less than 1")
    return value


def probability(text: str) -> float:
    """A number from 0 to 1."""
    if not (value := amount(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to 1")
    return value


def ratio(text: str) -> float:
    """A number from 0.001 to 1."""
    if not 0.001 <= (value := amount(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0.001 to 1")
    return value


def numbers(count: int, positive: bool = False) -> Callable[[str], tuple]:
    """A type for `count` numbers, of less than 1e30, with commas between: numbers(3)("123.68,116.78,103.94")."""
    def parse(text: str) -> tuple:
        try:
            values = tuple(float(n.encode("ascii")) for n in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count or not all(abs(n) < MOST and (n > 0 or not positive) for n in values):
            raise argparse.ArgumentTypeError(f"{text!r}: give {count} numbers{' above 0' if positive else ''} with "
                                             "commas between")
        return values
    return parse


def whole_numbers(count: int) -> Callable[[str], tuple]:
    """A type for `count` whole numbers of 1 or more, with commas between."""
    def parse(text: str) -> tuple:
        try:
            values = tuple(positive(n.strip()) for n in text.split(","))
        except argparse.ArgumentTypeError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{text!r}: give {count} whole numbers with commas between")
        return values
    return parse


def as_flag(value: object) -> str:
    """A value as it is given to a flag."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_flag, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_flags(values: Mapping[str, object]) -> str:
    """{destination: value} as the flags that give it, for a message: "--image-shape 3,224,224, --resize 256"."""
    return ", ".join(f"--{name.replace('_', '-')} {as_flag(value)}" for name, value in values.items())


def _whole(text, least):
    if not (text.isascii() and text.isdecimal() and least <= int(text) < 2 ** 31):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of {least} or more")
    return int(text)
