"""What the types of options take, and what they refuse by the value and what to give in its place."""
from argparse import ArgumentTypeError

import pytest

from common.base.arguments import (
    ArgumentParser,
    amount,
    fraction,
    grey,
    not_negative,
    numbers,
    positive,
    positive_amount,
    probability,
    ratio,
    switch,
    whole_numbers,
)

NO_NUMBERS = ("", "x", "nan", "inf", "-1", "1e400", "٣a", "١", "３")
TYPES = {  # what each takes, and refuses beside what is no number
    positive: ({"1": 1, "2147483647": 2 ** 31 - 1}, ("0", "1.5", "2147483648", "²")),
    not_negative: ({"0": 0, "7": 7}, ("-0", "1e3", "2147483648")),
    switch: ({"0": 0, "1": 1}, ("2", "01", "true")),
    grey: ({"0": 0, "255": 255}, ("256", "1.5")),
    amount: ({"0": 0.0, "1e-3": 0.001, "9e29": 9e29}, ("1e30",)),
    positive_amount: ({"1e-3": 0.001}, ("0", "1e30")),
    fraction: ({"0": 0.0, "0.999": 0.999}, ("1", "1.5")),
    probability: ({"0": 0.0, "1": 1.0}, ("1.001", "2")),
    ratio: ({"0.001": 0.001, "1": 1.0}, ("0", "0.0009", "1.1")),
    numbers(3): ({"1,-2,3e5": (1, -2, 3e5)}, ("1,2", "1,2,3,4", "1,2,x", "1,2,1e30", "1,2,nan")),
    numbers(2, positive=True): ({"0.5,2": (0.5, 2)}, ("0,1", "1,-1")),
    whole_numbers(2): ({"30,60": (30, 60)}, ("30", "0,1", "1,2.5", "1,2,3")),
}


@pytest.mark.parametrize(("kind", "values"), TYPES.items(), ids=[kind.__qualname__ for kind in TYPES])
def test_values(kind, values):
    taken, refused = values
    for text, value in taken.items():
        assert kind(text) == value
    for text in (*refused, *NO_NUMBERS):
        with pytest.raises(ArgumentTypeError) as error:
            kind(text)
        assert str(error.value).startswith(f"{text!r}: give ")



def test_empty_values_are_not_taken_for_flags_that_are_left_out(capsys):
    """But where the flag says what an empty one means, and in a command that is passed on."""
    parser = ArgumentParser(prog="x.py")
    parser.add_argument("file")
    parser.add_argument("-o", "--out")
    parser.add_argument("--gpus", default="")
    parser.add_argument("command", nargs="...")
    for arguments in (["--out", "", "a"], [""], ["--out=", "a"]):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(arguments)
        assert capsys.readouterr().err.endswith(": is empty (see --help)\n")
    assert parser.parse_args(["--gpus", "", "a"]).gpus == ""
    assert parser.parse_args(["a", "b", ""]).command[-1] == ""
