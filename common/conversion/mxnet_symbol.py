"""Read a MobileNetV2 checkpoint of another MXNet repository: by what its symbol computes, not by its names."""
from pathlib import Path

import numpy as np

from common.base.errors import InputError
from common.checkpoint.arrays import check_numbers
from common.checkpoint.attributes import Attributes
from common.checkpoint.params import load_checkpoint_params
from common.checkpoint.prefix import prefix_of
from common.checkpoint.preprocessing import MIN_STD, Preprocessing, load_preprocessing, preprocessing_file
from common.checkpoint.symbol import FLAT, INPUT, load_symbol
from common.conversion.assemble import Params, pixels_of
from common.conversion.structure import NO_PADDING, BatchNorm, Step, recognised
from symbols.architecture import TOTAL_STRIDE

ADDITIONS = ("elemwise_add", "broadcast_add", "add_n")
NEUTRAL = ("Flatten", "Reshape", "Dropout", "Cast", "amp_cast", "_copy", "BlockGrad")  # if their attributes are so
FLOATS = ("float16", "bfloat16", "float32", "float64")
GONE = -1  # the number of what a later node has changed, and nothing can use as it was
RAW = Preprocessing(mean=(0, 0, 0))  # pixels from 0 to 255, as a symbol takes them that itself normalises


def files_beside(path: str | Path) -> tuple[str, str]:
    """(PREFIX-symbol.json, PREFIX-preprocess.json) of PREFIX-0000.params."""
    prefix = prefix_of(path)
    if prefix is None:
        raise InputError(f"{path}: give the .params file of a checkpoint, PREFIX-0000.params, with PREFIX-symbol.json "
                         "beside it")
    return f"{prefix}-symbol.json", preprocessing_file(prefix)


def read_checkpoint(path: str | Path) -> tuple[Params, dict]:
    """As `common.conversion.structure.recognised` gives them, of PREFIX-0000.params and the files of its PREFIX. The
    description has "preprocessing" as far as PREFIX-preprocess.json, or the symbol itself, gives it, and "image_shape"
    if they tell for which size the symbol is.

    Raises InputError, with the first node that differs, for a network that is not MobileNetV2.
    """
    arg_params, aux_params = load_checkpoint_params(path)
    check_numbers(arg_params | aux_params, path)
    symbol_file, preprocess_file = files_beside(path)
    graph = load_symbol(symbol_file)
    given = None
    if Path(preprocess_file).exists():
        given = load_preprocessing(preprocess_file.removesuffix("-preprocess.json"))
    try:
        walk = _Walk(graph, arg_params | aux_params)
        params, description = recognised(walk.steps, None)
        shape = walk.image_shape(description.pop("image_shape", None), given)
        return params, description | ({"image_shape": shape} if shape else {}) | walk.preprocessing(given)
    except InputError as error:
        raise InputError(f"{symbol_file}: {error}") from None


class _Walk:
    """The steps of a graph, each from the result of the one before, up to the first node that no step of MobileNetV2
    has."""

    def __init__(self, graph: dict, params: dict[str, np.ndarray]) -> None:
        self.steps: list[Step] = []
        self._nodes, self._params = graph["nodes"], params
        self._scale, self._shift = np.ones(3), np.zeros(3)  # of the data, before the first step
        self._pads = NO_PADDING                             # of a Pad, which the next convolution has to take
        self._window = None                                 # of a pooling that is not global
        self._flat = False                                  # whether the last result is of shape (N, ...)
        values: dict[int, int] = {}  # node: the number of the step whose result it is, 0 for the data
        for number, node in enumerate(self._nodes):
            if node["op"] == "null":
                if node["name"] == INPUT:
                    values[number] = 0
                continue
            operands = [values[source] for source, *_ in node["inputs"] if source in values]
            if not operands:
                continue  # of parameters alone: a step that needs it finds none
            source, last = node["inputs"][0][0], len(self.steps)
            if node["op"] in (*ADDITIONS, *NEUTRAL, *self.OPERATORS) and (source not in values or (
                    max(operands), len(operands)) != (last, 2 if node["op"] in ADDITIONS else 1)):
                raise Attributes(node).error("does not take what is computed before it, as MobileNetV2's do")
            neutral = self._is_neutral(node)
            if not neutral and not self._take(node, min(operands)):
                self.steps.append(Step("?", _name(node)))
                return
            if not neutral and len(self.steps) == last:
                values[source] = GONE
            values[number] = len(self.steps)
        if values.get(graph["heads"][0][0]) != len(self.steps):
            raise InputError("its output is not the result of its last node")

    def image_shape(self, alike: tuple[int, int, int] | None, given: Preprocessing | None) -> tuple | None:
        """(3, H, W) of the images; None if nothing tells it. `alike`: a size for which SAME padding, which is the same
        for all that differ from it by multiples of 32, is laid out as here."""
        side = alike[1] % TOTAL_STRIDE if alike else 0
        if self._window:
            return 3, *(TOTAL_STRIDE * (cells - (side > 0)) + side for cells in self._window)
        if given and alike and given.crop % TOTAL_STRIDE == side:
            return 3, given.crop, given.crop
        return None

    def preprocessing(self, given: Preprocessing | None) -> dict:
        """What is done to an image before the first step: what is `given`, and then what the symbol does."""
        if not self._shift.any() and (self._scale == 1).all():
            return {"preprocessing": given._asdict()} if given else {}
        before = given or RAW
        mean, std = np.array(before.mean), np.array(before.std)
        if not (self._scale > 0).all() or (std / self._scale < MIN_STD).any():
            raise InputError(f"multiplies the data by {self._scale.tolist()}, which is no normalisation of images")
        found = pixels_of(self._scale, self._shift, mean, std)["preprocessing"]
        return {"preprocessing": {**(given._asdict() if given else {}), **found}}

    def _is_neutral(self, node):
        """Whether it leaves the numbers as they are."""
        attrs, op = Attributes(node), node["op"]
        if op in ("Flatten", "Reshape"):
            texts = node["attrs"]
            self._flat = bool(self.steps) and self.steps[-1].letter in "PF" and (
                op == "Flatten" or texts.get("reverse", "False") == "False"
                and bool(FLAT.fullmatch(texts.get("shape", ""))))
            return self._flat
        return (op in ("_copy", "BlockGrad") or op == "Dropout" and attrs["mode"] == "training"
                or op in ("Cast", "amp_cast") and node["attrs"].get("dtype") in FLOATS)

    def _take(self, node, other):
        """Add a node to the steps; False if MobileNetV2 has no such."""
        if self._pads != NO_PADDING and node["op"] != "Convolution":
            return False
        if node["op"] in ADDITIONS:
            self.steps.append(Step("A", _name(node), other))
            return True
        take = self.OPERATORS.get(node["op"])
        with np.errstate(all="ignore"):  # of numbers that are too large, which are refused when all are there
            return take is not None and take(self, node, Attributes(node))

    def _array(self, node, place):
        """The parameter that is the input of that place."""
        name = self._nodes[node["inputs"][place][0]]["name"]
        if self._nodes[node["inputs"][place][0]]["op"] != "null" or name not in self._params:
            raise Attributes(node).error(f"its input {name!r} is not among the parameters")
        return self._params[name]

    def _layer(self, node, attrs):
        return {"weight": self._array(node, 1), "bias": None if attrs["no_bias"] else self._array(node, 2)}

    def _convolution(self, node, attrs):
        layer, filters, groups = self._layer(node, attrs), attrs["num_filter"], attrs["num_group"]
        shape = layer["weight"].shape
        if len(shape) != 4 or shape[0] != filters or shape[2:] != attrs["kernel"]:
            raise attrs.error(f"has weights of shape {shape} for {filters} channels of {attrs['kernel']}")
        (stride, across), (down, right) = attrs["stride"], attrs["pad"]
        if stride != across or attrs["dilate"] != (1, 1) or attrs["layout"] not in ("None", "NCHW") \
                or groups not in (1, filters) or groups > 1 and shape[1] != 1:
            return False
        (top, bottom), (before, after) = self._pads
        pads, self._pads = ((top + down, bottom + down), (before + right, after + right)), NO_PADDING
        if any(step.letter == "P" for step in self.steps):
            if groups != 1 or shape[2:] != (1, 1) or pads != NO_PADDING or stride != 1:
                return False
            self.steps.append(Step("F", _name(node), weight=layer["weight"][:, :, 0, 0], bias=layer["bias"]))
        else:
            self.steps.append(Step("D" if groups > 1 else "C", _name(node), stride=stride, pads=pads, **layer))
        return True

    def _fully_connected(self, node, attrs):
        self.steps.append(Step("F", _name(node), **self._layer(node, attrs)))
        self._flat = True
        return True

    def _batchnorm(self, node, attrs):
        gamma, beta, mean, var = (self._array(node, place) for place in range(1, 5))
        norm = BatchNorm(np.ones_like(beta) if attrs["fix_gamma"] else gamma, beta, mean, var, attrs["eps"])
        if attrs["axis"] != 1:
            return False
        if not self.steps:
            if any(array.shape != (3,) for array in norm[:4]) or not (var.astype(np.float64) + norm.eps > 0).all():
                return False
            scale = norm.gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + norm.eps)
            return self._rescale(scale, beta - mean * scale)
        return self._follow(batchnorm=norm)

    def _clip(self, node, attrs):
        return (attrs["a_min"], attrs["a_max"]) == (0, 6) and self._activate("relu6")

    def _relu(self, node, attrs):
        return (node["op"] == "relu" or attrs["act_type"] == "relu") and self._activate("relu")

    def _activate(self, activation):
        return self._follow(activations=(activation,))

    def _follow(self, **what):
        """Put a BatchNorm or an activation into the convolution that it follows; False if it does not follow one, or
        follows another of its kind."""
        step = self.steps[-1] if self.steps else Step("?", "")
        if step.letter not in "CD" or step.activations != (None,) or "batchnorm" in what and step.batchnorm:
            return False
        self.steps[-1] = step._replace(**what)
        return True

    def _scalar(self, node, attrs):
        number = np.float64(attrs["scalar"])
        scale, shift = {"_mul_scalar": (number, 0), "_div_scalar": (1 / number, 0), "_plus_scalar": (1, number),
                        "_minus_scalar": (1, -number)}[node["op"]]
        return not self.steps and self._rescale(scale, shift)

    def _rescale(self, scale, shift):
        """Of the data: multiply by `scale`, and add `shift`; False for what is no normalisation."""
        self._scale, self._shift = self._scale * scale, self._shift * scale + shift
        return bool(np.isfinite([self._scale, self._shift]).all())

    def _pad(self, node, attrs):
        *outer, top, bottom, before, after = attrs["pad_width"]
        if any(outer) or attrs["mode"] != "constant" or attrs["constant_value"] != 0:
            return False
        self._pads = (top, bottom), (before, after)
        return True

    def _pooling(self, node, attrs):
        if attrs["pool_type"] != "avg" or attrs["layout"] not in ("None", "NCHW"):
            return False
        if not attrs["global_pool"]:
            if attrs["pad"] != (0, 0):
                return False
            self._window = attrs["kernel"]
        self.steps.append(Step("P", _name(node)))
        return True

    def _softmax(self, node, attrs):
        if node["op"] == "softmax" and (attrs["axis"] not in ((1, -1) if self._flat else (1,)) or attrs["use_length"]
                                        or attrs["temperature"] not in ("None", "1", "1.0")):
            return False
        self.steps.append(Step("S", _name(node)))
        return True

    OPERATORS = {
        "Convolution": _convolution, "FullyConnected": _fully_connected, "BatchNorm": _batchnorm, "clip": _clip,
        "Activation": _relu, "relu": _relu, "Pad": _pad, "Pooling": _pooling,
        **dict.fromkeys(("SoftmaxOutput", "softmax", "SoftmaxActivation"), _softmax),
        **dict.fromkeys(("_mul_scalar", "_div_scalar", "_plus_scalar", "_minus_scalar"), _scalar),
    }


def _name(node: dict) -> str:
    return f"node {node['name']!r} ({node['op']})"
