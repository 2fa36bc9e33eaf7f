"""What conversion makes good, and what it refuses; each framework's own answers are in tests/converters/."""
import os
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from common.base.errors import InputError
from common.checkpoint.arrays import Checkpoint
from common.checkpoint.preprocessing import Preprocessing
from common.conversion.assemble import IDENTITY, with_batchnorms, with_expansion, without_expansion
from common.conversion.convert import KINDS, convert, eight
from common.conversion.outgoing import save_npz, save_timm, save_torchvision
from common.find_mxnet import mx
from symbols import mobilenetv2
from symbols.architecture import REPEATS, TABLE, widths
from tests.networks import forward, random_params

SIZE = 64


def rounded(multiplier):
    return (eight(32 * multiplier), *(eight(c * multiplier) for _, c, _, _ in TABLE),
            eight(1280 * max(1, multiplier)))


def network_for(channels, strides="published", padding="symmetric", repeats=REPEATS, activation="relu6"):
    return {"channels": channels, "repeats": repeats, "strides": strides, "padding": padding, "activation": activation,
            "image_shape": (3, SIZE, SIZE) if padding == "same" else None}


def random_checkpoint(network, expansion=True, preprocessing=Preprocessing(96, SIZE, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))):  # noqa: B008
    """Without `expansion` the first block's is an identity, as conversion makes it."""
    symbol = mobilenetv2.get_symbol(10, **network)
    arg_params, aux_params = random_params(symbol, (1, 3, SIZE, SIZE))
    if not expansion:
        params = {**arg_params, **aux_params}
        params = with_expansion({name: array for name, array in params.items() if not name.startswith(IDENTITY)})
        arg_params, aux_params = ({name: params[name] for name in group} for group in (arg_params, aux_params))
    return Checkpoint(network, 10, arg_params, aux_params, preprocessing)


def run(params, outputs, x, is_train, activation="relu6"):
    """Arrays of internal `outputs` of the network of multiplier 0.35 for `x`."""
    symbol = mobilenetv2.get_symbol(10, multiplier=0.35, activation=activation)
    symbol = mx.sym.Group([symbol.get_internals()[name] for name in outputs])
    executor = symbol.simple_bind(mx.cpu(), data=x.shape, grad_req="write" if is_train else "null")
    executor.copy_params_from(*({name: mx.nd.array(params[name]) for name in names if name in params}
                                for names in (symbol.list_arguments(), symbol.list_auxiliary_states())))
    return [output.asnumpy() for output in executor.forward(is_train=is_train, data=mx.nd.array(x))]


def test_the_expansion_that_others_lack_is_an_identity():
    checkpoint = random_checkpoint(network_for(widths(0.35)))
    lacking = {name: array for name, array in (checkpoint.arg_params | checkpoint.aux_params).items()
               if not name.startswith(IDENTITY)}
    x = np.random.RandomState(1).normal(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    probabilities, = run(with_expansion(lacking), ["softmax_output"], x, is_train=False)
    np.testing.assert_allclose(np.log(probabilities), np.log(forward(lacking, x)), atol=1e-4, rtol=0)
    other = forward(checkpoint.arg_params | checkpoint.aux_params, x)
    assert np.abs(np.log(other) - np.log(probabilities)).max() > 0.5, "an expansion would make no difference"


@pytest.mark.parametrize("activation", ["relu6", "relu"])
def test_the_identity_is_nearly_one_in_training_too(activation):
    """Where a plain one, of mean 0 and variance 1, would lose the lower half of each channel."""
    params = random_checkpoint(network_for(widths(0.35)))
    lacking = {name: array for name, array in (params.arg_params | params.aux_params).items()
               if not name.startswith(IDENTITY)}
    lacking["first-3x3-conv-batchnorm_beta"][::2] += 5  # which a clip at 6 changes
    x = np.random.RandomState(1).normal(0, 1, (16, 3, SIZE, SIZE)).astype(np.float32)
    names = [f"first-3x3-conv-{activation}_output", f"{IDENTITY}-{activation}_output"]
    before, after = run(with_expansion(lacking, activation), names, x, True, activation)
    assert np.abs(after - before).mean() < 0.02 * before.mean()
    channels = len(lacking["first-3x3-conv-batchnorm_gamma"])
    plain = with_batchnorms({f"{IDENTITY}-conv2d_weight": np.eye(channels).reshape(channels, channels, 1, 1),
                             f"{IDENTITY}-conv2d_bias": np.zeros(channels)})
    before, after = run(lacking | plain, names, x, True, activation)
    assert np.abs(after - before).mean() > 0.3 * before.mean()


def test_an_expansion_that_is_no_identity_is_kept():
    checkpoint = random_checkpoint(network_for(widths(0.35)))
    params = checkpoint.arg_params | checkpoint.aux_params
    assert without_expansion(params) == params
    identity = with_expansion({name: array for name, array in params.items() if not name.startswith(IDENTITY)})
    assert not any(name.startswith(IDENTITY) for name in without_expansion(identity))
    identity[f"{IDENTITY}-batchnorm_gamma"][3] *= 1.001
    assert f"{IDENTITY}-conv2d_weight" in without_expansion(identity)


@pytest.mark.parametrize(("save", "kind", "checkpoint"), [
    (save_npz, "npz", random_checkpoint(network_for(widths(0.35)))),
    (save_npz, "npz", random_checkpoint(network_for(widths(1.4), "first", "same", activation="relu"))),
    (save_torchvision, "torchvision", random_checkpoint(network_for(widths(0.35)))),
    (save_torchvision, "torchvision", random_checkpoint(network_for(widths(1.4), "first"))),
    (save_torchvision, "torchvision", random_checkpoint(network_for(rounded(0.5)), expansion=False)),
    (save_torchvision, "torchvision", random_checkpoint(network_for(rounded(0.75), repeats=(1, 1, 2, 5, 2, 2, 1)))),
    (save_timm, "timm", random_checkpoint(network_for(rounded(0.35)), expansion=False)),
    (save_timm, "timm", random_checkpoint(network_for((32, *rounded(1.1)[1:8], 1280), repeats=(1, 3, 4, 5, 4, 4, 1)),
                                          expansion=False)),
])
def test_out_and_in_again_is_the_identity(tmp_path, save, kind, checkpoint):
    save(checkpoint, tmp_path / "x.safetensors")
    again = convert(tmp_path / "x.safetensors", kind)
    assert again.network == checkpoint.network
    assert (again.num_classes, again.preprocessing) == (10, checkpoint.preprocessing)
    for group, wanted in zip(again[2:4], checkpoint[2:4]):
        assert set(group) == set(wanted)
        for name in wanted:
            np.testing.assert_array_equal(group[name], wanted[name], err_msg=name)


def test_another_identity_goes_out_as_it_is(tmp_path):
    """Which conversion would not make again; timm, which has no place for it, gets the same function."""
    checkpoint = random_checkpoint(network_for(rounded(0.35)), expansion=False)
    channels = checkpoint.network["channels"][0]
    eye = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    plain = with_batchnorms({f"{IDENTITY}-conv2d_weight": eye,
                             f"{IDENTITY}-conv2d_bias": np.zeros(channels, np.float32)})
    params = checkpoint.arg_params | checkpoint.aux_params | plain
    groups = [{name: params[name] for name in group} for group in checkpoint[2:4]]
    checkpoint = checkpoint._replace(arg_params=groups[0], aux_params=groups[1])
    assert "1.000001" in save_torchvision(checkpoint, tmp_path / "x")
    again = convert(tmp_path / "x", "torchvision")
    assert all(np.array_equal(array, params[name]) for name, array in (again.arg_params | again.aux_params).items())
    save_timm(checkpoint, tmp_path / "y")
    again = convert(tmp_path / "y", "timm")
    x = np.random.RandomState(1).normal(0, 1, (1, 3, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_allclose(forward(again.arg_params | again.aux_params, x), forward(params, x), atol=1e-6)


@pytest.mark.parametrize(("kind", "network", "model"), [
    ("torchvision", network_for(rounded(0.35)), "torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10)"),
    ("torchvision", network_for(rounded(1.4)), "torchvision.models.mobilenet_v2(width_mult=1.4, num_classes=10)"),
    ("timm", network_for(rounded(0.5)), "timm.create_model('mobilenetv2_050', num_classes=10)"),
])
def test_the_model_that_loads_a_state_dict_is_named_in_it(tmp_path, kind, network, model):
    save = {"torchvision": save_torchvision, "timm": save_timm}[kind]
    assert save(random_checkpoint(network, expansion=False), tmp_path / "x") == model
    with safetensors.safe_open(tmp_path / "x", "numpy") as file:
        assert file.metadata()["model"] == model


@pytest.mark.parametrize(("save", "checkpoint", "message"), [
    (save_torchvision, random_checkpoint(network_for(rounded(0.35), padding="same")), "pads all sides alike"),
    (save_timm, random_checkpoint(network_for(rounded(0.35), padding="same")), "pads all sides alike"),
    (save_torchvision, random_checkpoint(network_for(rounded(0.35), activation="relu")), "relu"),
    (save_timm, random_checkpoint(network_for(rounded(0.35))), "is not an identity"),
    (save_timm, random_checkpoint(network_for(widths(0.35)), expansion=False), "no mobilenetv2 with widths"),
    (save_timm, random_checkpoint(network_for(rounded(0.35), "first"), expansion=False), "first strides"),
    (save_torchvision, random_checkpoint(network_for((8, 8, *rounded(0.35)[2:]))), "shortcut in the first block of "
                                                                                   "stage 0 .8 channels"),
    (save_torchvision, random_checkpoint(network_for((32, *rounded(0.35)[1:8], 640))), "cannot have 32 channels"),
])
def test_what_the_other_framework_cannot_compute_is_refused(tmp_path, save, checkpoint, message):
    with pytest.raises(InputError, match=message) as error:
        save(checkpoint, tmp_path / "x")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def torchvision_file(path, change=None, channels=rounded(0.35)):  # noqa: B008
    save_torchvision(random_checkpoint(network_for(channels), expansion=False), path)
    arrays = safetensors.numpy.load_file(path)
    if change:
        change(arrays)
    safetensors.numpy.save_file(arrays, path)  # without the description
    return path


@pytest.mark.parametrize(("change", "message"), [
    (lambda arrays: arrays.pop("features.7.conv.1.0.weight"), "has no features.7.conv.1.0.weight"),
    (lambda arrays: arrays.pop("classifier.1.bias"), "has no classifier.1.bias"),
    (lambda arrays: arrays.update({"features.19.0.weight": np.zeros(3)}), "holds .features.19.0.weight., which"),
    (lambda arrays: arrays.update({"features.0.1.bias": np.zeros(7, np.float32)}), "expected .16,."),
    (lambda arrays: arrays.update({"features.0.0.weight": np.zeros((16, 27), np.float32)}), "of four dimensions"),
    (lambda arrays: arrays.update({"classifier.1.weight": np.zeros(10, np.float32)}), "expected of two dimensions"),
    (lambda arrays: arrays.update({"classifier.1.bias": np.zeros((10, 1), np.float32)}), "expected of one dimension"),
    (lambda arrays: arrays.update({"classifier.1.weight": np.zeros((), np.float32)}), "expected of two dimensions"),
    (lambda arrays: arrays.update({"classifier.1.bias": np.zeros(10, bool)}), "'fc_bias' is of type bool"),
    (lambda arrays: arrays.update({"features.18.0.weight": arrays["features.18.0.weight"][:, :-8]}), "has shape"),
    (lambda arrays: arrays["features.9.conv.1.1.running_var"].fill(np.inf), "infinity"),
    (lambda arrays: arrays.clear() or arrays.update(x=np.zeros(1)), "has no features.0.0.weight"),
])
def test_files_that_are_not_the_networks_are_refused(tmp_path, change, message):
    path = torchvision_file(tmp_path / "x.safetensors", change)
    with pytest.raises(InputError, match=message) as error:
        convert(path, "torchvision")
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_names_and_types_that_training_scripts_leave(tmp_path):
    """DataParallel's prefix, float16 and bfloat16, and any file name."""
    path = torchvision_file(tmp_path / "x.safetensors")
    plain, arrays = convert(path, "torchvision"), safetensors.numpy.load_file(path)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        safetensors.numpy.save_file({f"module.{name}": array.astype(dtype) if array.dtype == np.float32 else array
                                     for name, array in arrays.items()}, tmp_path / "weights")
        arg_params = convert(tmp_path / "weights", "torchvision").arg_params
        assert all(array.dtype == np.float32 for array in arg_params.values())
        assert np.array_equal(arg_params["fc_weight"], plain.arg_params["fc_weight"].astype(dtype).astype(np.float32))


@pytest.mark.parametrize(("kind", "save", "fc"), [("torchvision", save_torchvision, "classifier.1"),
                                                  ("timm", save_timm, "classifier")])
@pytest.mark.parametrize(("prefix", "head"), [
    ("module.", None), ("_orig_mod.", None), ("model.", None), ("model.backbone.", "model.head"), ("backbone.", "fc"),
    ("net.encoder.", "net.classifier"), ("", "head")])
def test_wrapped_modules_and_heads_of_any_name(tmp_path, kind, save, fc, prefix, head):
    """DataParallel, torch.compile, Lightning, a backbone with a linear layer of another name; the average's counter."""
    save(random_checkpoint(network_for(rounded(0.35)), expansion=False), tmp_path / "x")
    plain, arrays = convert(tmp_path / "x", kind), safetensors.numpy.load_file(tmp_path / "x")
    wrapped = {"n_averaged": np.array(7)}
    for name, array in arrays.items():
        to_head = head and name.startswith(f"{fc}.")
        wrapped[head + name.removeprefix(fc) if to_head else prefix + name] = array
    safetensors.numpy.save_file(wrapped, tmp_path / "wrapped")
    converted = convert(tmp_path / "wrapped", kind)
    assert converted.network == plain.network
    for name, array in plain.arg_params.items():
        np.testing.assert_array_equal(converted.arg_params[name], array)


def test_heads_and_networks_that_are_not_one(tmp_path):
    path = torchvision_file(tmp_path / "x.safetensors")
    arrays = safetensors.numpy.load_file(path)
    two = {**arrays, "classifier.4.weight": np.zeros((5, 10), np.float32), "classifier.4.bias": np.zeros(5, np.float32)}
    safetensors.numpy.save_file(two, path)
    with pytest.raises(InputError, match="classifier.4"):
        convert(path, "torchvision")
    safetensors.numpy.save_file({f"{prefix}.{name}": array for prefix in ("student", "teacher")
                                 for name, array in arrays.items()}, path)
    with pytest.raises(InputError, match="several networks, student., teacher."):
        convert(path, "torchvision")
    no_bias = {name: array for name, array in arrays.items() if not name.startswith("classifier")}
    safetensors.numpy.save_file({**no_bias, "fc.weight": arrays["classifier.1.weight"]}, path)
    assert not convert(path, "torchvision").arg_params["fc_bias"].any()


@pytest.mark.parametrize("place", ["model_ema.module.", "ema.", "swa_model.module.", "state_dict_ema."])
def test_a_moving_average_beside_the_weights(tmp_path, place):
    path = torchvision_file(tmp_path / "x.safetensors")
    arrays = safetensors.numpy.load_file(path)
    plain = convert(path, "torchvision")
    average = {name: array * 2 if array.dtype == np.float32 else array for name, array in arrays.items()}
    doubled = {**{f"net.{name}": array for name, array in arrays.items()},
               **{f"{place}{name}": array for name, array in average.items()}}
    safetensors.numpy.save_file(doubled, path)
    for ema, factor, word in ((False, 1, "--ema"), (True, 2, "average is taken")):
        lines = []
        found = convert(path, "torchvision", ema=ema, tell=lines.append)
        assert word in lines[0] and str(path) in lines[0]
        np.testing.assert_array_equal(found.arg_params["fc_weight"], plain.arg_params["fc_weight"] * factor)
    safetensors.numpy.save_file({f"{place}{name}": array for name, array in average.items()}, path)
    for ema in (False, True):
        found = convert(path, "torchvision", ema=ema).arg_params["fc_weight"]
        np.testing.assert_array_equal(found, plain.arg_params["fc_weight"] * 2)
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(InputError, match="x.safetensors: holds no moving average"):
        convert(path, "torchvision", ema=True)
    with pytest.raises(InputError, match="--ema is for"):
        convert(path, "keras", ema=True)


def test_what_stands_beside_the_layers_is_left_out_and_named(tmp_path):
    """Counts and means of metrics, and a loss's weights of classes; a layer that the network lacks is refused."""
    path = torchvision_file(tmp_path / "x.safetensors")
    arrays = {f"model.{name}": array for name, array in safetensors.numpy.load_file(path).items()}
    others = {"criterion.weight": np.ones(10, np.float32), "val_acc.tp": np.zeros(10, np.int64),
              "matrix.confmat": np.zeros((10, 10), np.int64), "loss.mean_value": np.array(1, np.float32)}
    plain = convert(path, "torchvision")
    safetensors.numpy.save_file(arrays | others, path)
    lines = []
    found = convert(path, "torchvision", tell=lines.append)
    assert all(np.array_equal(array, plain.arg_params[name]) for name, array in found.arg_params.items())
    assert all(name in lines[0] for name in others)
    for layer in ({"layernorm.weight": 10, "layernorm.bias": 10}, {"prelu.weight": 1280}, {"normalize.mean": 3},
                  {"fc.weight": (3, 10), "fc.bias": 3}):
        safetensors.numpy.save_file(arrays | {name: np.zeros(shape, np.float32) for name, shape in layer.items()}, path)
        with pytest.raises(InputError, match=next(iter(layer)).partition(".")[0]):
            convert(path, "torchvision")


def test_a_width_that_gives_others_a_shortcut_more_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint = random_checkpoint(network_for((8, 8, *rounded(0.35)[2:])))
    save_npz(checkpoint, tmp_path / "x.npz")
    assert convert(tmp_path / "x.npz", "npz").network == checkpoint.network
    torchvision_file(path, channels=(16, 8, *rounded(0.35)[2:]))
    arrays = safetensors.numpy.load_file(path)
    for name in list(arrays):  # the first convolution, and what reads it, cut to the 8 channels that 0.25 has
        if name.startswith(("features.0.", "features.1.conv.0.")) and arrays[name].ndim:
            arrays[name] = arrays[name][:8]
    arrays["features.1.conv.1.weight"] = arrays["features.1.conv.1.weight"][:, :8]
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    with pytest.raises(InputError, match="first block of stage 0 .8 channels in and out. has a shortcut"):
        convert(path, "torchvision")


def test_what_is_asked_for_is_checked_or_recorded(tmp_path):
    path = torchvision_file(tmp_path / "x.safetensors")
    assert convert(path, "torchvision", 0.35).preprocessing == Preprocessing(
        256, 224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    with pytest.raises(InputError, match="those of multiplier 0.5 would be"):
        convert(path, "torchvision", 0.5)
    assert convert(path, "torchvision", image_shape=(3, 160, 160)).preprocessing[:2] == (183, 160)
    assert convert(path, "torchvision", resize=232).preprocessing[:2] == (232, 224)
    with pytest.raises(InputError, match="--resize.*: resize 200 is less than crop 224"):
        convert(path, "torchvision", resize=200)
    with pytest.raises(InputError, match="resize: give a number of pixels from 28 to 4096"):
        convert(path, "torchvision", resize=10 ** 9)
    with pytest.raises(InputError, match="--multiplier 1e.308: give one from 0.1 to 2"):
        convert(path, "torchvision", 1e308)
    with pytest.raises(InputError, match="--strides first"):
        convert(path, "torchvision", strides="first")
    with pytest.raises(InputError, match="--keep-background is for .tflite files"):
        convert(path, "torchvision", keep_background=True)


def test_flags_say_what_an_npz_file_does_not(tmp_path):
    checkpoint = random_checkpoint(network_for(widths(0.35)))
    np.savez(tmp_path / "x.npz", **checkpoint.arg_params, **checkpoint.aux_params)
    network = convert(tmp_path / "x.npz", "npz", strides="first", padding="same", image_shape=(3, 97, 97)).network
    assert (network["strides"], network["padding"], network["image_shape"]) == ("first", "same", (3, 97, 97))
    with pytest.raises(InputError, match="x.npz: .*--image-shape"):
        convert(tmp_path / "x.npz", "npz", padding="same")
    save_npz(checkpoint, tmp_path / "x.npz")
    assert convert(tmp_path / "x.npz", "npz", strides="published").network == checkpoint.network
    with pytest.raises(InputError, match="--padding same"):
        convert(tmp_path / "x.npz", "npz", padding="same")


def test_what_is_assumed_is_told_with_the_flags_that_change_it(tmp_path):
    checkpoint = random_checkpoint(network_for(widths(0.35)))
    np.savez(tmp_path / "x.npz", **checkpoint.arg_params, **checkpoint.aux_params)
    images = {"image_shape": (3, 96, 96), "resize": 230, "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)}
    network = {"strides": "published", "padding": "symmetric", "activation": "relu6"}
    size = {"image_shape": "--image-shape 3,224,224", "resize": "--resize 256"}
    for path, kind, given, flags in (
            (torchvision_file(tmp_path / "x.safetensors"), "torchvision", images,
             {**size, "mean": "--rgb-mean 123.675,116.28,103.53", "std": "--rgb-std 58.395,57.12,57.375"}),
            (tmp_path / "x.npz", "npz", images | network,
             {**size, "mean": "--rgb-mean 123.68,116.78,103.94", "std": "--rgb-std 1,1,1",
              "strides": "--strides published", "padding": "--padding symmetric",
              "activation": "--activation relu6"})):
        lines = []
        convert(path, kind, tell=lines.append)
        line, = lines
        assert str(path) in line and all(flag in line for flag in flags.values())
        assert convert(path, kind, **given, tell=lines.append).preprocessing == (230, 96, (1, 2, 3), (4, 5, 6))
        assert len(lines) == 1, "nothing is assumed"
        for name in given:
            convert(path, kind, **{**given, name: None}, tell=lines.append)
            _, line = lines
            assert {other for other, flag in flags.items() if f"{flag.split()[0]} " in line} == {name}
            del lines[1:]


def test_what_a_file_says_is_not_assumed_and_flags_go_before_it(tmp_path):
    checkpoint = random_checkpoint(network_for(widths(0.35)))
    save_npz(checkpoint, tmp_path / "x.npz")
    lines = []
    assert convert(tmp_path / "x.npz", "npz", tell=lines.append).preprocessing == checkpoint.preprocessing
    assert convert(tmp_path / "x.npz", "npz", image_shape=(3, 32, 32), std=(7.0, 8.0, 9.0),
                   tell=lines.append).preprocessing == (48, 32, (1, 2, 3), (7, 8, 9))
    assert not lines


def test_a_crop_that_is_not_square_is_told(tmp_path):
    lines = []
    checkpoint = convert(torchvision_file(tmp_path / "x.safetensors"), "torchvision", image_shape=(3, 96, 160),
                         tell=lines.append)
    assert checkpoint.preprocessing[:2] == (183, 160)
    save_npz(random_checkpoint({**network_for(widths(0.35), padding="same"), "image_shape": (3, 96, 160)}),
             tmp_path / "x.npz")
    convert(tmp_path / "x.npz", "npz", tell=lines.append)
    assert sum("give --image-shape 3,96,160" in line for line in lines) == 2


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "m8[s]", "U9", "S9", "?", [("x", "f4"), ("y", "i2")], "V4"], ids=str)
def test_weights_that_are_no_numbers_are_refused(tmp_path, dtype):
    checkpoint = random_checkpoint(network_for(widths(0.35)))
    arrays = checkpoint.arg_params | checkpoint.aux_params
    for name in ("fc_weight", f"{IDENTITY}-batchnorm_moving_var"):
        np.savez(tmp_path / "x.npz", **arrays | {name: np.zeros(arrays[name].shape, dtype)})
        with pytest.raises(InputError, match=f"x.npz: '{name}' is of type .*; expected numbers"):
            convert(tmp_path / "x.npz", "npz")


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"


@pytest.mark.parametrize("header", [HEADER % f"{2 ** 70},", HEADER % "5" + "((", HEADER % f"{2 ** 40},",
                                    HEADER % "True,", "[" * 5000, "\0"], ids=range(6))
def test_an_array_whose_header_is_damaged_is_refused(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode())
    with pytest.raises(InputError, match="x.npz: not an .npz file, or a damaged one") as error:
        convert(tmp_path / "x.npz", "npz")
    assert "\n" not in str(error.value)


def test_a_file_in_an_archive_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("fc_weight.npy", "text")
    with pytest.raises(InputError, match="x.npz: 'fc_weight(.npy)?' is no array"):
        convert(tmp_path / "x.npz", "npz")


def test_a_member_of_an_archive_that_is_damaged_is_refused(tmp_path):
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr("x.npy", bytes(10_000))
        content = (tmp_path / "x.npz").read_bytes()
        (tmp_path / "x.npz").write_bytes(content[:45] + bytes(9) + content[54:])
        for kind in ("npz", "keras"):
            with pytest.raises(InputError, match="or a damaged one"):
                convert(tmp_path / "x.npz", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_end_is_not_read(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            convert(path, kind)
    with open(tmp_path / "long", "wb") as file:
        file.truncate(2 ** 31)  # which takes no room on the disk
    with pytest.raises(InputError, match="long: has more than 1024 MiB"):
        convert(tmp_path / "long", kind)
