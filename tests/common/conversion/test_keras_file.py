"""Damaged and crafted files of Keras's: HDF5's library reads them in a process of its own, within bounds."""
import io
import lzma
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.base.errors import InputError
from common.conversion.convert import convert
from common.conversion.keras_file import MAX_ARRAYS
from tests.converters.keras_skeleton import fill


def in_order(path, fill, names=("w",)):
    """An older file of one layer, which `fill` puts something in, with weights of those `names`."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        fill(file.create_group("layer"))
        file["layer"].attrs["weight_names"] = [name.encode() for name in names]


def large(group):
    group.create_dataset("w", (2 ** 26,), "f4", chunks=(2 ** 20,))  # 256 MB, of which nothing is in the file


def small(group):
    group["w"] = np.zeros(1, np.float32)


def virtual(group):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(group.file.filename.replace("x.h5", "secret.h5"), "secret", (4,))
    group.create_virtual_dataset("w", layout)


def external_link(group):
    group["w"] = h5py.ExternalLink(group.file.filename.replace("x.h5", "secret.h5"), "secret")


def soft_link(group):
    group["w"] = h5py.SoftLink("/layer/w")


def external_data(group):
    group.create_dataset("w", (4,), "f4", external=[(group.file.filename.replace("x.h5", "secret.h5"), 0, 16)])


@pytest.mark.parametrize("fill, names, reason", [
    (large, ["w"] * 30, "holds 7.5 GB, which no MobileNetV2 has"),
    (small, ["w"] * (MAX_ARRAYS + 1), "has more than 1000 arrays"),
    (virtual, ["w"], "'w' is no array of numbers in this file"),
    (external_data, ["w"], "'w' is no array of numbers in this file"),
    (external_link, ["w"], "'w' is a link, perhaps out of this file"),
    (soft_link, ["w"], "'w' is a link, perhaps out of this file"),
    (lambda group: group.update({"a\nb": "text"}), ["a\nb"], r"'a\\nb' is no array"),
])
def test_what_no_file_of_keras_holds_is_refused(tmp_path, fill, names, reason):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.ones(4, np.float32)
    in_order(tmp_path / "x.h5", fill, names)
    with pytest.raises(InputError, match=reason) as error:
        convert(tmp_path / "x.h5", "keras")
    assert str(error.value).startswith(f"{tmp_path}/x.h5: ") and "\n" not in str(error.value)


def test_layers_that_lie_elsewhere_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["layers"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "layers")
    with pytest.raises(InputError, match="'layers' is a link"):
        convert(tmp_path / "x.h5", "keras")


def test_a_small_archive_does_not_fill_the_memory(tmp_path):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for number in range(5):
            variables = file.create_group(f"layers/conv2d_{number}/vars")
            variables.create_dataset("0", (2 ** 26,), "f4", chunks=(2 ** 20,))
    with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", content.getvalue())
    assert (tmp_path / "x.keras").stat().st_size < 100_000
    with pytest.raises(InputError, match="holds 1.2 GB"):
        convert(tmp_path / "x.keras", "keras")


def test_models_within_models_without_end_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        model = file.create_group("layers/functional")
        model["layers/functional"] = model
    with pytest.raises(InputError, match="models within models"):
        convert(tmp_path / "x.h5", "keras")


EXPECTED = Path(__file__).parents[2] / "converters" / "expected"


def kept(name, path):
    path.write_bytes(fill(lzma.decompress((EXPECTED / f"{name}.xz").read_bytes()), 0))
    return path


@pytest.mark.parametrize("change, reason", [
    (lambda file: file["layers"].copy(file["layers/dense/vars"], "embedding/vars"), "holds 'embedding/0'"),
    (lambda file: file["layers"].copy(file["layers/dense"], "dense_1"), "linear layers"),
    (lambda file: file["layers/functional/layers"].pop("conv2d_7"), "has no block_3_project/kernel"),
    (lambda file: file["layers"].pop("dense"), "has no classifier"),
    (lambda file: file.create_dataset("layers/normalization/vars/0", data=np.ones(3, "f4")), "give the complete model"),
])
def test_weights_of_another_network_are_refused(tmp_path, change, reason):
    """Without a configuration, by the names of its layers alone."""
    path = kept("keras_3_operators.weights.h5", tmp_path / "x.weights.h5")
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(InputError, match=reason):
        convert(path, "keras", image_shape=(3, 40, 52))


def test_layers_are_found_by_their_names_whatever_their_order(tmp_path):
    path = kept("keras_2_operators.h5", tmp_path / "x.h5")
    with h5py.File(path) as file:
        groups = {name: file["model_weights"][name] for name in file["model_weights"].attrs["layer_names"]}
        nested = [str(name) for name in next(group for name, group in groups.items()
                                             if name.startswith("mobilenetv2")).attrs["weight_names"]]
    assert "Conv1/" not in nested[0], "trainable weights come first"
    expected = convert(path, "keras", image_shape=(3, 40, 52))
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]  # as a file of weights alone, and in an order that no Keras has
        group = next(file["model_weights"][name] for name in groups if name.startswith("mobilenetv2"))
        group.attrs["weight_names"] = sorted(nested, reverse=True)
    found = convert(path, "keras", image_shape=(3, 40, 52))
    for name, array in (expected.arg_params | expected.aux_params).items():
        np.testing.assert_array_equal((found.arg_params | found.aux_params)[name], array)
