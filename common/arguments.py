"""Types and help for the entry points' command lines."""
import argparse

from symbols.architecture import check_image_shape


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside every option; descriptions as they are written."""


def image_shape(text: str) -> tuple:
    """ "3,224,224" as (3, 224, 224)."""
    try:
        shape = tuple(int(n) for n in text.split(","))
        check_image_shape(shape)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give 3,height,width as in 3,224,224 ({error})") from None
    return shape


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of 1 or more")
    return int(text)


def numbers(count: int):
    """A type for `count` numbers with commas between: numbers(3)("123.68,116.78,103.94")."""
    def parse(text: str) -> tuple:
        try:
            values = tuple(float(n) for n in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{text!r}: give {count} numbers with commas between")
        return values
    return parse
