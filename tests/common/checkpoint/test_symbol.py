import ctypes
import json

import numpy as np
import onnxruntime
import pytest

from common.base.errors import InputError
from common.checkpoint.fold import fold_batch_norm
from common.checkpoint.params import load_checkpoint_params, save_checkpoint_params
from common.checkpoint.symbol import OPERATORS, load_symbol, num_classes_of, parameter_names
from common.conversion.onnx_model import to_onnx
from common.evaluation.score import predict
from common.find_mxnet import mx
from common.images.preprocess import preprocess, read_image
from symbols.mobilenetv2 import get_symbol
from tests.networks import random_params


def run(graph, params, x):
    symbol = mx.sym.load_json(json.dumps({**graph, "arg_nodes": [i for i, node in enumerate(graph["nodes"])
                                                                 if node["op"] == "null"]}))
    executor = symbol.simple_bind(mx.cpu(), data=x.shape, grad_req="null")
    states = symbol.list_auxiliary_states()
    executor.copy_params_from({name: mx.nd.array(a) for name, a in params.items() if name not in states},
                              {name: mx.nd.array(a) for name, a in params.items() if name in states})
    return executor.forward(is_train=False, data=mx.nd.array(x))[0].asnumpy()


def check_folding(symbol, x, tmp_path, batch_norms_left, seed=0):
    symbol.save(str(tmp_path / "x-symbol.json"))
    graph = load_symbol(tmp_path / "x-symbol.json")
    arg_params, aux_params = random_params(symbol, x.shape, seed)
    params = {**arg_params, **aux_params}
    before = json.dumps(graph), {name: array.copy() for name, array in params.items()}
    folded, folded_params = fold_batch_norm(graph, params)
    assert [node["op"] for node in folded["nodes"]].count("BatchNorm") == batch_norms_left
    assert set(parameter_names(folded)) == set(folded_params)
    expected = run(graph, params, x)
    np.testing.assert_allclose(run(folded, folded_params, x), expected, atol=2e-5 * max(1, np.abs(expected).max()))
    assert json.dumps(graph) == before[0] and all((params[name] == before[1][name]).all() for name in params)


def test_folding_leaves_mobilenetv2_its_answer(tmp_path):
    x = np.random.RandomState(1).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    check_folding(get_symbol(10, 0.35), x, tmp_path, batch_norms_left=0)
    check_folding(get_symbol(10, 0.5, padding="same", image_shape=(3, 64, 64)), x, tmp_path, batch_norms_left=0)


def test_folding_other_networks(tmp_path):
    """Biases, MXNet's defaults of BatchNorm (eps 1e-3, gamma fixed at 1), and what must not be folded."""
    x = np.random.RandomState(1).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    convolution = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="a")
    softmax = lambda data: mx.sym.softmax(mx.sym.Flatten(data), name="softmax")  # noqa: E731
    check_folding(softmax(mx.sym.BatchNorm(convolution, name="b")), x, tmp_path, 0)
    check_folding(softmax(mx.sym.BatchNorm(convolution, fix_gamma=False, eps=0.1, name="b")), x, tmp_path, 0)
    used_twice = mx.sym.BatchNorm(convolution, name="b") + convolution
    check_folding(softmax(used_twice), x, tmp_path, 1)
    shared_weight = mx.sym.Variable("w")
    first = mx.sym.Convolution(mx.sym.Variable("data"), shared_weight, num_filter=3, kernel=(1, 1), no_bias=True)
    second = mx.sym.BatchNorm(mx.sym.Convolution(first, shared_weight, num_filter=3, kernel=(1, 1), no_bias=True))
    check_folding(softmax(second), x, tmp_path, 1)
    check_folding(softmax(mx.sym.BatchNorm(mx.sym.Variable("data"), name="b")), x, tmp_path, 1)


def inverted_residual():
    """What MobileNetV2 is made of, with values that are nobody's defaults."""
    data = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), stride=(2, 2), pad=(1, 1),
                              no_bias=True, name="conv")
    data = mx.sym.clip(mx.sym.BatchNorm(data, fix_gamma=False, eps=0.3, name="norm"), 0, 6, name="relu6")
    depthwise = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), pad=(1, 1), num_group=4, name="depthwise")
    data = mx.sym.elemwise_add(data, mx.sym.BatchNorm(depthwise, eps=0.2, name="fixed"), name="shortcut") * 0.7
    data = mx.sym.Flatten(mx.sym.Pooling(data, global_pool=True, kernel=(1, 1), pool_type="avg"), name="flatten")
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(data, num_hidden=5, name="fc"), name="softmax")


def spelled(*keys):
    """Attributes under the last of the keys, others under those before it in the file."""
    def change(content):
        for node in content["nodes"]:
            attrs = node.pop("attrs", {})
            node.update({**{key: {**attrs, "eps": "0.9"} for key in keys if "eps" in attrs}, keys[-1]: attrs})
    change.__name__ = "-".join(keys)
    return change


def with_attributes_of_the_user(content):
    """As MXNet 0.8 wrote them, for groups of devices and the learning rate."""
    spelled("param")(content)
    for node in content["nodes"]:
        if node["op"] != "null":
            node["attr"] = {"ctx_group": "stage1", "force_mirroring": "True"}
    next(node for node in content["nodes"] if node["name"] == "norm")["attr"] |= {"gamma_lr_mult": "2", "eps": "0.5"}


def without_states(content):
    """As before 0.9: BatchNorm's moving statistics are no inputs."""
    nodes = content["nodes"]
    kept = [i for i, node in enumerate(nodes) if "_moving_" not in node["name"]]
    for node in nodes:
        node["inputs"] = [[kept.index(i), output] for i, output, _ in node["inputs"] if i in kept]
    content.update(nodes=[nodes[i] for i in kept], heads=[[len(kept) - 1, 0]],
                   arg_nodes=[kept.index(i) for i in content["arg_nodes"] if i in kept])


def renamed(content):
    old = {"elemwise_add": "_Plus", "Flatten": "flatten", "_mul_scalar": "_MulScalar", "SoftmaxOutput": "Softmax"}
    for node in content["nodes"]:
        node["op"] = old.get(node["op"], node["op"])


def summed(content):
    node, = (node for node in content["nodes"] if node["op"] == "elemwise_add")
    node.update(op="ElementWiseSum", attrs={"num_args": "2"})


def with_longs(content):
    """As Python 2 wrote numbers in tuples."""
    for node in content["nodes"]:
        node["attrs"] = {key: text.replace(",", "L,").replace(")", "L)") if text[0] == "(" else text
                         for key, text in node.get("attrs", {}).items()}


def with_pairs(content):
    for node in content["nodes"]:
        node["inputs"] = [entry[:2] for entry in node["inputs"]]
    content["heads"] = [entry[:2] for entry in content["heads"]]


def with_a_node_that_nothing_needs(content):
    content["nodes"].append({"op": "clip", "name": "left", "attrs": {"a_min": "0", "a_max": "1"},
                             "inputs": [[0, 0, 0]]})


CHANGES = (spelled("attr"), spelled("param"), spelled("attrs", "attr"), spelled("attr", "attrs"), renamed, summed,
           with_longs, with_pairs, with_a_node_that_nothing_needs)


@pytest.mark.parametrize(("change", "version"), [
    *((change, version) for change in CHANGES for version in (None, 800, 10901)),
    *((change, version) for change in (with_attributes_of_the_user, without_states) for version in (None, 800)),
    (with_attributes_of_the_user, 10900)])
def test_what_other_versions_wrote_is_read_as_mxnet_reads_it(tmp_path, change, version):
    """ONNX Runtime answers by what is read as MXNet by the file."""
    symbol, x = inverted_residual(), np.random.RandomState(1).normal(0, 1, (2, 3, 16, 16)).astype(np.float32)
    content = json.loads(symbol.tojson())
    change(content)
    content["attrs"] = {"mxnet_version": ["int", version]}
    if version is None:
        del content["attrs"]
    (tmp_path / "x-symbol.json").write_text(json.dumps(content))
    params = random_params(symbol, x.shape)
    save_checkpoint_params(tmp_path / "x-0000.params", *params)
    model = to_onnx(load_symbol(tmp_path / "x-symbol.json"), params[0] | params[1], x.shape)
    answer, = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"data": x})
    np.testing.assert_allclose(answer, predict(tmp_path / "x", 0, x), atol=1e-6)


@pytest.mark.parametrize("name", ["bnattr", "attr+param", "py2long", "v0.8-noaux"])
def test_published_weights_with_symbols_of_other_versions(testdata, tmp_path, name):
    for source, ending in ((testdata / "cases" / "symbols" / f"{name}-symbol.json", "-symbol.json"),
                           (testdata / "pretrained" / "imagenet1k-mnetv2-1_0-0000.params", "-0000.params")):
        (tmp_path / f"x{ending}").symlink_to(source)
    x = preprocess(read_image(testdata / "images" / "beagle_rot180.jpg"))
    arg_params, aux_params = load_checkpoint_params(tmp_path / "x-0000.params")
    graph = load_symbol(tmp_path / "x-symbol.json")
    model = to_onnx(graph, arg_params | aux_params, x.shape)
    answer, = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"data": x})
    assert answer[0, [162, 167]] == pytest.approx([0.5854416, 0.1678608], abs=1e-6)
    assert predict(tmp_path / "x", 0, x)[0, [162, 167]] == pytest.approx([0.5854416, 0.1678608], abs=1e-6)
    assert graph["nodes"][-1]["op"] == "SoftmaxOutput" and num_classes_of(graph) == 1000


def test_logits_are_given_a_softmax(tmp_path):
    logits = get_symbol(10, 0.1).get_internals()["fc_output"]
    logits.save(str(tmp_path / "x-symbol.json"))
    graph = load_symbol(tmp_path / "x-symbol.json")
    assert graph["nodes"][graph["heads"][0][0]]["op"] == "softmax"


@pytest.mark.parametrize("content", [
    "", "{", "[]", "{}", '{"nodes": []}', '{"nodes": [], "heads": []}', '{"nodes": [], "heads": [[0, 0, 0]]}',
    '{"nodes": [{"op": "null", "name": "data"}], "heads": [[0, 0, 0]]}',
    '{"nodes": [{"op": "clip", "name": "x", "inputs": [[0, 0, 0]]}], "heads": [[0, 0, 0]]}', "\0\1\2",
])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x-symbol.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        load_symbol(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_graph_that_would_fill_the_stack_is_refused(tmp_path):
    nodes = [{"op": "null", "name": "data", "inputs": []}]
    nodes += [{"op": "relu", "name": f"relu{i}", "inputs": [[i, 0, 0]]} for i in range(5000)]
    path = tmp_path / "x-symbol.json"
    path.write_text(json.dumps({"nodes": nodes, "heads": [[5000, 0, 0]]}))
    with pytest.raises(InputError, match="x-symbol.json: 5001 nodes, more than"):
        load_symbol(path)


def test_a_graph_with_a_cycle_is_refused(tmp_path):
    nodes = [{"op": "null", "name": "data", "inputs": []}, {"op": "relu", "name": "a", "inputs": [[2, 0, 0]]},
             {"op": "relu", "name": "b", "inputs": [[1, 0, 0]]}]
    path = tmp_path / "x-symbol.json"
    path.write_text(json.dumps({"nodes": nodes, "heads": [[2, 0, 0]]}))
    with pytest.raises(InputError, match="not the symbol"):
        load_symbol(path)


def test_the_names_of_an_operator_are_mxnets():
    def handle(name):
        found = ctypes.c_void_p()
        mx.base.check_call(mx.base._LIB.NNGetOpHandle(name.encode(), ctypes.byref(found)))
        return found.value
    assert all(handle(old) == handle(new) for old, new in OPERATORS.items()) and "_Plus" in OPERATORS


def test_states_are_missed_where_a_later_version_left_them_out(tmp_path):
    content = json.loads(inverted_residual().tojson())
    without_states(content)
    (tmp_path / "x-symbol.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"node 'norm' \(BatchNorm\): has 3 inputs, not 5"):
        load_symbol(tmp_path / "x-symbol.json")
    with pytest.raises(mx.base.MXNetError):
        mx.sym.load(str(tmp_path / "x-symbol.json")).infer_shape(data=(1, 3, 16, 16))


@pytest.mark.parametrize(("name", "change", "said"), [
    ("data", {"name": "image"}, "no variable has the name 'data'"),
    ("conv_weight", {"name": "data"}, "two variables have the name 'data'"),
    ("conv_weight", {"name": "fc_weight"}, "two variables have the name 'fc_weight'"),
    ("norm", (3, "conv", 0), "node 'norm' (BatchNorm): its moving_mean is 'conv', not a parameter"),
    ("norm", (4, "data", 0), "node 'norm' (BatchNorm): its moving_var is 'data', not a parameter"),
    ("depthwise", (0, "norm", 1), "node 'depthwise' (Convolution): takes output 1 of 'norm', which has none"),
    ("relu6", (0, "data", 50_000), "node 'relu6' (clip): takes output 50000 of 'data', which has none"),
    ("relu6", {"attrs": {"a_min": "7", "a_max": "6"}}, "node 'relu6' (clip): a_min, 7, is above a_max, 6"),
    ("conv", {"name": "co$nv"}, "node 'co$nv' (Convolution): '$' in names"),
    ("softmax", {"op": "BlockGrad", "inputs": []}, "node 'softmax' (BlockGrad): has 0 inputs, not 1"),
    ("flatten", {"op": "Reshape", "inputs": []}, "node 'flatten' (Reshape): has 0 inputs, not 1"),
])
def test_what_mxnet_cannot_run_or_crashes_on_is_refused(tmp_path, name, change, said):
    """A node with other values, or one of whose inputs comes from elsewhere."""
    content = json.loads(inverted_residual().tojson())
    positions = {node["name"]: i for i, node in enumerate(content["nodes"])}
    node = content["nodes"][positions[name]]
    if isinstance(change, dict):
        node.update(change)
    else:
        at, source, output = change
        node["inputs"][at] = [positions[source], output, 0]
    path = tmp_path / "x-symbol.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        load_symbol(path)
    assert str(error.value).startswith(f"{path}: {said}") and "\n" not in str(error.value)


@pytest.mark.parametrize(("layers", "classes"), [
    (lambda pooled, _: mx.sym.SoftmaxOutput(mx.sym.FullyConnected(pooled, num_hidden=3), name="softmax"), 3),
    (lambda pooled, _: mx.sym.FullyConnected(pooled, num_hidden=4), 4),
    (lambda pooled, _: mx.sym.softmax(mx.sym.Cast(mx.sym.Dropout(mx.sym.FullyConnected(pooled, num_hidden=4) * 2),
                                                  dtype="float32")), 4),
    (lambda pooled, _: mx.sym.Flatten(mx.sym.Convolution(pooled, num_filter=5, kernel=(1, 1))), 5),
    (lambda pooled, _: mx.sym.softmax(mx.sym.Reshape(mx.sym.Convolution(pooled, num_filter=5, kernel=(1, 1)),
                                                     shape=(0, -1))), 5),
    (lambda _, maps: mx.sym.Flatten(mx.sym.Pooling(mx.sym.Convolution(maps, num_filter=6, kernel=(3, 3)),
                                                   global_pool=True, kernel=(1, 1))), 6),
    (lambda _, maps: mx.sym.Flatten(mx.sym.Convolution(maps, num_filter=5, kernel=(3, 3))), None),
    (lambda _, maps: mx.sym.Flatten(mx.sym.Convolution(maps, num_filter=5, kernel=(1, 1))), None),
    (lambda _, maps: mx.sym.Flatten(mx.sym.FullyConnected(maps, num_hidden=5, flatten=False)), None),
    (lambda pooled, _: mx.sym.Concat(*[mx.sym.FullyConnected(pooled, num_hidden=5) for _ in range(2)]), None),
])
def test_number_of_classes(tmp_path, layers, classes):
    """That of the output, wherever the symbol tells it."""
    maps = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=8, kernel=(3, 3))
    symbol = layers(mx.sym.Pooling(maps, global_pool=True, kernel=(1, 1), pool_type="avg"), maps)
    symbol.save(str(tmp_path / "x-symbol.json"))
    assert num_classes_of(load_symbol(tmp_path / "x-symbol.json")) == classes
    (shape,) = symbol.infer_shape(data=(2, 3, 8, 8))[1]
    assert classes in (None, shape[1])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_symbol(tmp_path / "x-symbol.json")
