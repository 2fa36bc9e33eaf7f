"""The attributes of a node in a symbol JSON graph, which MXNet writes as text: the allowed forms, and the values.

Only operators of image classifiers, with maps of two dimensions. TVM crashes on a kernel of one number, say, so
anything that MXNet does not take has to be found before.
"""
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from common.base.errors import InputError

MOST = 2 ** 24  # no map, kernel or layer of an image classifier is as large; products of a few stay within int64
MAX_RANK = 8


class Form(NamedTuple):
    read: Callable[[str], object]  # None if the text is not of this form
    expected: str
    default: str | None            # None: the attribute has to be there


def _integer(text, least):
    number = int(text) if re.fullmatch(r"\s*-?[0-9]{1,10}\s*", text) else least - 1
    return number if least <= number <= MOST else None


def whole(default: str | None = None, least: int = 0) -> Form:
    return Form(lambda text: _integer(text, least), f"a whole number of {least} or more", default)


def wholes(count: int, default: str | None = None, least: int = 0) -> Form:
    """As in "(3, 3)"; "()" is the default."""
    def read(text):
        numbers = tuple(_integer(part, least) for part in text[1:-1].split(","))
        whole = text[:1] + text[-1:] in ("()", "[]") and len(numbers) == count and None not in numbers
        return numbers if whole else None
    return Form(read, f"{count} whole numbers of {least} or more", default)


def reshaping(default: str | None = None) -> Form:
    """Sizes, and MXNet's codes of 0 to -4 for them, as in "(0, -1)"."""
    def read(text):
        sizes = tuple(_integer(part, -4) for part in re.sub(r",\s*$", "", text[1:-1]).split(",")) if text[2:] else ()
        return sizes if text[:1] + text[-1:] in ("()", "[]") and None not in sizes else None
    return Form(read, "whole numbers of -4 or more", default)


def number(default: str | None = None) -> Form:
    def read(text):
        try:
            value = float(text)
        except ValueError:
            return None
        return value if abs(value) < 1e30 else None
    return Form(read, "a number", default)


def switch(default: str) -> Form:
    values = {"true": True, "1": True, "false": False, "0": False}
    return Form(lambda text: values.get(text.lower()), "True or False", default)


def word(default: str | None = None, allowed: Sequence[str] = ()) -> Form:
    """Any one, or one of `allowed`."""
    def read(text):
        return text if text in allowed or not allowed else None
    return Form(read, ", ".join(allowed) or "a word", default)


# operators on a tensor and a number
SCALARS = ("_plus_scalar", "_minus_scalar", "_rminus_scalar", "_mul_scalar", "_div_scalar", "_rdiv_scalar")
WINDOW = {"stride": wholes(2, "(1, 1)", 1), "pad": wholes(2, "(0, 0)"),
          "layout": word("None", ("None", "NCHW", "NHWC"))}
FORMS = {
    "Convolution": {"kernel": wholes(2, least=1), **WINDOW, "dilate": wholes(2, "(1, 1)", 1),
                    "num_filter": whole(least=1), "num_group": whole("1", 1), "no_bias": switch("False")},
    "BatchNorm": {"eps": number("0.001"), "fix_gamma": switch("True"), "axis": whole("1", -MAX_RANK)},
    "clip": {"a_min": number(), "a_max": number()},
    "Activation": {"act_type": word()},
    "LeakyReLU": {"act_type": word("leaky"), "slope": number("0.25")},
    "Pooling": {"global_pool": switch("False"), "kernel": wholes(2, least=1), **WINDOW, "pool_type": word("max"),
                "pooling_convention": word("valid"), "count_include_pad": switch("True")},
    "FullyConnected": {"num_hidden": whole(least=1), "no_bias": switch("False"), "flatten": switch("True")},
    "Pad": {"mode": word(allowed=("constant", "edge", "reflect")), "pad_width": wholes(8),
            "constant_value": number("0")},
    "softmax": {"axis": whole("-1", -MAX_RANK), "temperature": word("None"), "use_length": switch("False")},
    "Dropout": {"mode": word("training")},
    **dict.fromkeys(("Cast", "amp_cast"), {"dtype": word()}),
    "Reshape": {"shape": reshaping("()"), "reverse": switch("False")},
    "SliceChannel": {"num_outputs": whole(least=1)},
    **dict.fromkeys(SCALARS, {"scalar": number()}),
}
# the inputs after an operator's first
PARAMETERS = {"Convolution": ("weight", "bias"), "FullyConnected": ("weight", "bias"),
              "BatchNorm": ("gamma", "beta", "moving_mean", "moving_var"), "LeakyReLU": ("gamma",)}
# the numbers of inputs of other operators
INPUTS = {"SoftmaxOutput": (1, 2), "softmax": (1, 2), "elemwise_add": (2,), "broadcast_add": (2,),
          **dict.fromkeys(("clip", "Activation", "Pooling", "Flatten", "Pad", "Dropout", "Cast", "SoftmaxActivation",
                           "Reshape", "BlockGrad", "_copy", "amp_cast", *SCALARS), (1,))}


class Attributes:
    """`attributes["kernel"]` of a node of `common.checkpoint.symbol`: (3, 3), as FORMS has it.

    An InputError for another form names the node, its operator and the attribute.
    """

    def __init__(self, node: dict) -> None:
        self._node, self._texts = node, node.get("attrs", {})

    def __getitem__(self, key: str) -> Any:
        form = FORMS[self._node["op"]][key]
        text = self._texts.get(key, form.default)
        if text is None:
            raise self.error(f"has no {key}")
        if form.default is not None and text.replace(" ", "") == "()":
            text = form.default
        value = form.read(text)
        if value is None:
            raise self.error(f"{key} is {text!r}, not {form.expected}")
        return value

    def parameters(self) -> tuple[str, ...]:
        """MXNet's names of the inputs after the first: ("weight", "bias")."""
        op = self._node["op"]
        if op == "LeakyReLU" and self["act_type"] != "prelu":
            return ()
        names = PARAMETERS.get(op, ())
        return names[:-1] if names[-1:] == ("bias",) and self["no_bias"] else names

    def check(self) -> None:
        """Raise InputError unless a known operator takes these attributes and this number of inputs."""
        op, count = self._node["op"], len(self._node["inputs"])
        for key in FORMS.get(op, ()):
            if key != "kernel" or op != "Pooling" or not self["global_pool"]:
                self[key]
        if op == "clip" and self["a_min"] > self["a_max"]:
            raise self.error(f"a_min, {self['a_min']:g}, is above a_max, {self['a_max']:g}")
        counts = (1 + len(self.parameters()),) if op in PARAMETERS else INPUTS.get(op, (count,))
        if count not in counts:
            raise self.error(f"has {count} inputs, not {' or '.join(map(str, counts))}")

    def error(self, message: str) -> InputError:
        """An error to raise, with the node's name and operator before `message`."""
        return InputError(f"node {self._node['name']!r} ({self._node['op']}): {message}")
