"""BatchNorm and the clip after it as one operator, for training on processors: native/batchnorm_clip.cc.

MXNet computes both one after the other, in layouts of their own; why that is slow, and what it gains to fuse them,
benchmarks/training.py measures. Only the graph that is trained has this operator: checkpoints have that of MXNet.
"""
import json
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np

from common.base.errors import last_line
from common.base.machine import load_library
from common.find_mxnet import mx

LIBRARY = Path(__file__).resolve().parents[2] / "native" / "build" / "libbatchnorm_clip.so"
OPERATOR = "_BatchNormClip"
DEFAULTS = {"eps": "1e-3", "momentum": "0.9", "axis": "1", "fix_gamma": "True", "use_global_stats": "False"}  # MXNet's
FUSED = {"axis": "1", "fix_gamma": "False", "use_global_stats": "False"}  # what the operator computes
UNLIMITED = {"a_min": "-inf", "a_max": "inf"}


class CannotFuse(Exception):
    """Why this MXNet has no such operator."""


def fused(symbol: mx.sym.Symbol, **shapes: tuple) -> mx.sym.Symbol:
    """`symbol` with its BatchNorms, and a clip that alone takes what one gives, as the operator, which is loaded; the
    names of parameters stay. BatchNorms that the operator does not compute are left; so are those whose output, for
    inputs of these `shapes`, is not (N, C, H, W)."""
    internals = symbol.get_internals()
    outputs = dict(zip(internals.list_outputs(), internals.infer_shape(**shapes)[1])) if shapes else {}
    flat = {name for name, shape in outputs.items() if len(shape) != 4}
    graph = json.loads(symbol.tojson())
    nodes, users = graph["nodes"], {}
    for number, node in enumerate(nodes):
        for source, *_ in node["inputs"]:
            users.setdefault(source, []).append(number)
    heads = {source for source, *_ in graph["heads"]}
    made, place = [], {}  # the new nodes; number of an old one: of the new one that computes it
    clips = set()
    for number, node in enumerate(nodes):
        if number in clips:
            place[number] = place[node["inputs"][0][0]]
            continue
        place[number] = len(made)
        inputs = [[place[source], *rest] for source, *rest in node["inputs"]]
        if node["op"] == "BatchNorm" and _can_be_fused(node) and f"{node['name']}_output" not in flat:
            clip = next((user for user in users.get(number, ()) if nodes[user]["op"] == "clip"), None)
            alone = clip is not None and len(users[number]) == 1 and number not in heads
            if alone:
                clips.add(clip)
            node = _operator(node, nodes[clip]["attrs"] if alone else UNLIMITED)
        made.append({**node, "inputs": inputs})
    return mx.sym.load_json(json.dumps({
        "nodes": made, "arg_nodes": [number for number, node in enumerate(made) if node["op"] == "null"],
        "heads": [[place[source], *rest] for source, *rest in graph["heads"]], "attrs": graph["attrs"]}))


def _can_be_fused(node):
    attrs = {**DEFAULTS, **node.get("attrs", {})}
    return all(attrs[name] == value for name, value in FUSED.items())


def _operator(node, limits):
    attrs = {**DEFAULTS, **node.get("attrs", {})}
    return {**node, "op": OPERATOR, "attrs": {**{name: attrs[name] for name in ("eps", "momentum")},
                                              **{name: limits[name] for name in UNLIMITED}}}


def check() -> None:
    """Raises CannotFuse if the operator, which is loaded, does not compute what MXNet's own do."""
    data = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=16, no_bias=True, name="convolution")
    network = mx.sym.clip(mx.sym.BatchNorm(data, fix_gamma=False, name="norm"), 0, 6)
    rng, shapes = np.random.RandomState(0), {"data": (2, 3, 10, 10)}
    arrays = {name: mx.nd.array(rng.uniform(1, 9, shape)) for name, shape in zip(
        network.list_arguments(), network.infer_shape(**shapes)[0])}
    head = mx.nd.array(rng.normal(0, 1, (2, 16, 8, 8)))
    answers = []
    for symbol in (network, fused(network)):
        executor = symbol.simple_bind(mx.cpu(), grad_req="write", **shapes)
        executor.copy_params_from(arrays)
        executor.forward(is_train=True)
        executor.backward(head)
        mx.nd.waitall()
        answers.append([array.asnumpy() for array in (*executor.outputs, *executor.grad_arrays, *executor.aux_arrays)])
    if not all(np.allclose(ours, theirs, rtol=1e-4, atol=1e-4) for theirs, ours in zip(*answers)):
        raise CannotFuse("it does not compute what MXNet computes")


@cache
def load(path: Path = LIBRARY) -> None:
    """Make MXNet know the operator. Raises CannotFuse."""
    if not path.exists():
        raise CannotFuse(f"{path.name} is not built: make setup builds it if there is g++ and MXNet's wheel for "
                         "processors")
    built_for = Path(f"{path}.txt")  # beside it, for a library of another MXNet might not even load
    if not built_for.exists() or built_for.read_text() != identity():
        raise CannotFuse(f"{path.name} was built for another MXNet: make setup builds it again")
    try:
        load_library(path).register_operators()
    except (OSError, AttributeError) as error:
        raise CannotFuse(f"{path.name} cannot be loaded: {last_line(error)}") from None


def identity() -> str:
    """Of MXNet's library: what is built with its C++ fits that one alone."""
    library, = mx.libinfo.find_lib_path()
    return f"{mx.__version__} {os.path.getsize(library)}\n"


if __name__ == "__main__":  # of native/Makefile: what was built, where it is to be
    built, library = map(Path, sys.argv[1:])
    about = Path(f"{built}.txt")
    about.write_text(identity())
    try:
        load(built.resolve())
        check()
    except CannotFuse as error:
        sys.exit(f"{library.name}: {error}")
    os.replace(about, f"{library}.txt")
    os.replace(built, library)
