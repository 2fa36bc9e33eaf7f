import os
import struct

import ml_dtypes
import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.params import load_checkpoint_params, load_params, save_checkpoint_params
from common.find_mxnet import mx

# what mx.nd.array and cast can make in MXNet 1.9.1
DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")


def same_bits(ours, theirs):
    theirs = theirs.asnumpy()
    return ours.shape == theirs.shape and ours.dtype.itemsize == theirs.dtype.itemsize \
        and ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (4, 1, 3, 3), (2, 1, 2, 1, 2)])
def test_equals_mxnet_for_every_dtype(tmp_path, dtype, shape):
    values = np.random.RandomState(0).randint(-120, 120, shape).astype(dtype)
    path = str(tmp_path / "x.params")
    mx.nd.save(path, {"arg:x": mx.nd.array(values, dtype=dtype), "aux:y": mx.nd.array(values[:1], dtype=dtype)})
    ours, theirs = load_params(path), mx.nd.load(path)
    assert list(ours) == list(theirs)
    assert ours["arg:x"].dtype == np.dtype(dtype)
    assert all(same_bits(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_the_bytes_that_mxnet_writes(tmp_path, dtype):
    values = np.random.RandomState(0).randint(-120, 120, (4, 1, 3, 3)).astype(dtype)
    groups = {"weight": values, "\u00e4": values[:, 0]}, {"moving_mean": values.ravel()}
    save_checkpoint_params(tmp_path / "ours.params", *groups)
    mx.nd.save(str(tmp_path / "theirs.params"), {
        f"{kind}:{name}": mx.nd.array(array, dtype=dtype) for kind, group in zip(("arg", "aux"), groups)
        for name, array in group.items()})
    assert (tmp_path / "ours.params").read_bytes() == (tmp_path / "theirs.params").read_bytes()


def test_a_type_that_the_format_does_not_have_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="x: .params files have no complex64"):
        save_checkpoint_params(tmp_path / "x.params", {"x": np.zeros(1, np.complex64)}, {})
    assert not list(tmp_path.iterdir())


def test_bfloat16(tmp_path):
    values = np.float32([1.5, -2.7, 1e30, np.inf])
    mx.nd.save(str(tmp_path / "x.params"), {"arg:x": mx.nd.amp_cast(mx.nd.array(values), dtype="bfloat16")})
    ours = load_params(tmp_path / "x.params")["arg:x"]
    assert ours.dtype == ml_dtypes.bfloat16
    assert same_bits(ours, mx.nd.load(str(tmp_path / "x.params"))["arg:x"])
    np.testing.assert_allclose(ours.astype(np.float32), values, rtol=2 ** -8)


def test_numpy_shapes_of_version_3(tmp_path):
    with mx.util.np_shape(True), mx.util.np_array(True):
        arrays = {"arg:scalar": mx.np.array(3.5), "arg:none": mx.np.zeros((2, 0)), "arg:some": mx.np.ones((2, 3))}
        mx.npx.save(str(tmp_path / "x.params"), arrays)
    ours = load_params(tmp_path / "x.params")
    assert ours["arg:scalar"].shape == () and ours["arg:scalar"] == 3.5
    assert ours["arg:none"].shape == (2, 0)
    assert (ours["arg:some"] == 1).all()


def old_array(version, shape, values):
    """An array as MXNet wrote it before 1.0 (version 1) and before 0.12 (version 0, which has no magic number)."""
    head = struct.pack("<I", 0xF993FAC8) if version == 1 else b""
    dimensions = struct.pack(f"<I{len(shape)}{'q' if version == 1 else 'I'}", len(shape), *shape)
    return head + dimensions + struct.pack("<iii", 1, 0, 0) + np.float32(values).tobytes()


@pytest.mark.parametrize("version", [0, 1])
def test_older_versions(tmp_path, version):
    name = b"arg:x"
    path = tmp_path / "x.params"
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 1) + old_array(version, (2, 3), range(6))
                     + struct.pack("<QQ", 1, len(name)) + name)
    ours, theirs = load_params(path), mx.nd.load(str(path))
    assert same_bits(ours["arg:x"], theirs["arg:x"])
    assert ours["arg:x"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_real_checkpoint(testdata):
    path = testdata / "pretrained" / "imagenet1k-mnetv2-1_0-0000.params"
    ours, theirs = load_params(path), mx.nd.load(str(path))
    assert list(ours) == list(theirs) and len(ours) == 267
    assert all(same_bits(ours[name], theirs[name]) for name in theirs)
    arg_params, aux_params = load_checkpoint_params(path)
    assert len(arg_params) == 161 and len(aux_params) == 106 and "fc_weight" in arg_params


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.params"
    mx.nd.save(str(path), {"arg:x": mx.nd.ones((2, 3)), "aux:y": mx.nd.ones((4,))})
    return path


def refuses(path):
    with pytest.raises(InputError) as error:
        load_params(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_every_truncation_is_refused(small):
    content = small.read_bytes()
    for size in range(len(content)):
        small.write_bytes(content[:size])
        refuses(small)


def test_longer_files_are_refused(small):
    small.write_bytes(small.read_bytes() + b"\0")
    assert "1 bytes follow" in refuses(small)


def test_foreign_files_are_refused(tmp_path, small):
    for content in (b"", b"PK\3\4" + b"x" * 1000, b"\x80\4\x95" * 100, b"\x93NUMPY" + b" " * 500):
        path = tmp_path / "foreign.params"
        path.write_bytes(content)
        refuses(path)
    assert "No such file" in refuses(tmp_path / "missing.params")
    assert "directory" in refuses(tmp_path)


def test_huge_counts_and_shapes_are_refused_without_allocating(small):
    content = small.read_bytes()
    for position in range(0, len(content) - 8, 4):
        small.write_bytes(content[:position] + b"\xff\xff\xff\x7f" + content[position + 4:])
        try:
            load_params(small)
        except InputError:
            continue
    small.write_bytes(content[:16] + struct.pack("<Q", 2 ** 60) + content[24:])
    assert "truncated or damaged" in refuses(small)


def test_lists_are_refused(tmp_path):
    path = tmp_path / "x.params"
    mx.nd.save(str(path), [mx.nd.ones((2,))])
    assert "not a checkpoint" in refuses(path)


def save_sparse(path, **arrays):
    """{name: (array, storage type)}; MXNet saves the shape of what it still computes."""
    arrays = {name: array.tostype(storage) for name, (array, storage) in arrays.items()}
    mx.nd.waitall()
    mx.nd.save(str(path), arrays)


@pytest.mark.parametrize("kept", [0, 1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
@pytest.mark.parametrize(("storage", "shape"), [("row_sparse", (5,)), ("row_sparse", (5, 3)), ("csr", (5, 3)),
                                                ("row_sparse", (5, 2, 1, 3))])
def test_sparse_arrays_are_read_as_dense_ones(tmp_path, storage, shape, dtype, kept):
    values = np.random.RandomState(0).randint(1, 9, shape).astype(dtype)
    values[kept:] = 0
    save_sparse(tmp_path / "x.params", x=(mx.nd.array(values, dtype=dtype), storage), y=(mx.nd.ones((2,)), "default"))
    ours, theirs = load_params(tmp_path / "x.params"), mx.nd.load(str(tmp_path / "x.params"))
    assert theirs["x"].stype == storage and same_bits(ours["x"], theirs["x"]) and (ours["x"] == values).all()
    assert (ours["y"] == 1).all()


@pytest.mark.parametrize("storage", ["row_sparse", "csr"])
def test_indices_that_lead_out_of_a_sparse_array_are_refused(tmp_path, storage):
    path = tmp_path / "x.params"
    save_sparse(path, x=(mx.nd.array([[0, 0], [1, 2], [0, 3]]), storage))
    content = path.read_bytes()
    tail = len(struct.pack("<QQ", 1, 1) + b"x")  # the names; before them, the indices
    last = struct.unpack("<q", content[-tail - 8:-tail])[0]
    assert last == {"row_sparse": 2, "csr": 1}[storage]
    for wrong in (-1, last + 1, 2 ** 62):
        path.write_bytes(content[:-tail - 8] + struct.pack("<q", wrong) + content[-tail:])
        assert "the indices of a sparse array do not fit it" in refuses(path)
    if storage == "csr":  # where the rows begin: 0, 0, 2, 3; and three columns
        for begins in ((0, 0, 2, 2), (0, 2, 1, 3), (1, 1, 2, 3), (0, -5, 2, 3), (0, 2 ** 62, 2, 3)):
            path.write_bytes(content[:-tail - 56] + struct.pack("<4q", *begins) + content[-tail - 24:])
            assert "the indices of a sparse array do not fit it" in refuses(path)


def test_what_a_file_stands_for_is_bounded_before_it_is_read(tmp_path):
    """200 GB of rows that are not there, and a file of 200 GB of holes."""
    path = tmp_path / "x.params"
    save_sparse(path, x=(mx.nd.zeros((3, 2)), "row_sparse"))
    shape = struct.pack("<iqq", 2, 3, 2)
    assert path.read_bytes().count(shape) == 1
    path.write_bytes(path.read_bytes().replace(shape, struct.pack("<iqq", 2, 25 * 10 ** 9, 2)))
    assert "its sparse arrays stand for more than 256 MiB" in refuses(path)
    path.write_bytes(path.read_bytes()[:24])
    os.truncate(path, 200 * 10 ** 9)
    assert "has more than 1024 MiB" in refuses(path)


def test_names_without_prefix_are_no_checkpoint(tmp_path):
    path = tmp_path / "x.params"
    mx.nd.save(str(path), {"features.0.weight": mx.nd.ones((2,))})
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint_params(path)


@pytest.mark.long
def test_fuzzed_files_are_read_or_refused(small):
    content = small.read_bytes()
    rng = np.random.RandomState(0)
    for _ in range(50_000):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randint(len(changed))] = rng.randint(256)
        small.write_bytes(changed[:rng.randint(len(changed)) + 1] if rng.rand() < 0.3 else changed)
        try:
            load_params(small)
        except InputError as error:
            assert "\n" not in str(error)
