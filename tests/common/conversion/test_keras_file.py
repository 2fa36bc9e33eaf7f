"""Damaged and crafted files of Keras's: HDF5's library reads them in a process of its own, within bounds."""
import io
import zipfile

import h5py
import numpy as np
import pytest

from common.base.errors import InputError
from common.conversion.convert import convert
from common.conversion.keras_file import MAX_ARRAYS, read_keras
from common.conversion.readers import IMAGE_SHAPE


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
    (virtual, ["w"], "'w' is no array of floating-point numbers in this file"),
    (external_data, ["w"], "'w' is no array of floating-point numbers in this file"),
    (external_link, ["w"], "'w' is a link, perhaps out of this file"),
    (soft_link, ["w"], "'w' is a link, perhaps out of this file"),
    (lambda group: group.update({"a\nb": 1}), ["a\nb"], r"'a\\nb' is no array"),
])
def test_what_no_file_of_keras_holds_is_refused(tmp_path, fill, names, reason):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.ones(4, np.float32)
    in_order(tmp_path / "x.h5", fill, names)
    with pytest.raises(InputError, match=reason) as error:
        convert(tmp_path / "x.h5", "keras")
    assert str(error.value).startswith(f"{tmp_path}/x.h5: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("configuration, expected", [
    ('{"config": [{"batch_shape": [null, null, null, 3]}, {"batch_shape": [null, 96, 160, 3]}]}', [3, 96, 160]),
    ('{"batch_input_shape": [8, 160, 160, 3], "batch_shape": 5}', [3, 160, 160]),
    ('{"batch_shape": [null, 96, 96, 1]}', None), ('{"batch_shape": [null, true, -5, 3]}', None),
    ('{"batch_shape": [null, 1e99, 96, 3]}', None), ("[" * 200_000, None), ("{", None), ("5", None), (5, None)])
def test_the_size_of_images_is_what_the_configuration_says(tmp_path, configuration, expected):
    in_order(tmp_path / "x.h5", small)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file.attrs["model_config"] = configuration
    found = {name: array.tolist() for name, array in read_keras(tmp_path / "x.h5")}
    assert found == {"w": [0]} | ({IMAGE_SHAPE: expected} if expected else {})


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
