"""What the tests share. MXNet is imported here, then all of TVM: both come before what imports TVM's runtime alone."""
import logging
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.find_mxnet import mx

# isort: split
import common.compiler  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def testdata():
    """The folder with real ImageNet weights and photographs; tests that need it are skipped without."""
    folder = os.environ.get("MOBILENETV2_TESTDATA")
    if not folder:
        pytest.skip("MOBILENETV2_TESTDATA is not set")
    return Path(folder)


class StandardError(logging.StreamHandler):
    """What is logged, on standard error as it is at that moment."""

    def emit(self, record):
        self.setStream(sys.stderr)
        super().emit(record)


@pytest.fixture
def logged_to_stderr():
    """As the scripts log; their `main` leaves the handlers of the tests alone."""
    root, handler = logging.getLogger(), StandardError()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield
    root.setLevel(level)
    root.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def compiled_networks(tmp_path_factory):
    """The folder of compiled networks, of this run of the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compiled")
        patch.setenv("MOBILENETV2_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """An ImageNet-like tree of 103 small JPEGs of two classes, 52 and 51 of them: val/<class>/*.jpg; returns val."""
    folder = tmp_path_factory.mktemp("photographs") / "val"
    rng = np.random.RandomState(0)
    for i in range(103):
        path = folder / ("n0001", "n0002")[i % 2] / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.randint(60, 120, 2)
        blurred = cv2.resize(rng.randint(0, 256, (9, 9, 3)).astype(np.uint8), (int(width), int(height)),
                             interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), blurred)
    return folder


@pytest.fixture(scope="session")
def packed(photographs, tmp_path_factory):
    """PREFIX of the photographs packed in RecordIO, in order, shorter side 80 at most."""
    from common.packing.prepare import prepare
    folder = tmp_path_factory.mktemp("packed")
    assert prepare(photographs.parent, folder, short_side=80, any_count=True)["parts"]["val"]["images"] == 103
    return folder / "val"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """PREFIX of a checkpoint (epoch 0) of a small network with random weights: multiplier 0.35, 10 classes."""
    from symbols.mobilenetv2 import get_symbol
    from tests.checkpoints import save_random
    prefix = tmp_path_factory.mktemp("checkpoint") / "small"
    save_random(prefix, 0, get_symbol(num_classes=10, multiplier=0.35), (1, 3, 64, 64))
    return prefix


@pytest.fixture(scope="session")
def one_convolution(tmp_path_factory):
    """PREFIX of a checkpoint (epoch 0) that TVM compiles in a second: a convolution for 8x8 images, 3 classes."""
    from tests.checkpoints import save_random
    prefix = tmp_path_factory.mktemp("one_convolution") / "one"
    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=4, name="conv")
    net = mx.sym.flatten(mx.sym.Pooling(mx.sym.clip(net, 0, 6), global_pool=True, pool_type="avg", kernel=(1, 1)))
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=3, name="fc"), name="softmax")
    save_random(prefix, 0, net, (1, 3, 8, 8))
    return prefix


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory):
    """(PREFIX of a network of one block and what is around it, with a calibration of epoch 0; images to try it on)."""
    from common.checkpoint.int8 import save_calibration
    from common.compiler.calibration import measure
    from common.compiler.relay_network import load_network
    from tests.checkpoints import one_block, save_random
    prefix = tmp_path_factory.mktemp("calibrated") / "small"
    save_random(prefix, 0, one_block(), (1, 3, 32, 32))
    images = np.random.RandomState(3).normal(0, 1, (24, 1, 3, 32, 32)).astype(np.float32)
    save_calibration(prefix, 0, *measure(load_network(prefix, 0, (1, 3, 32, 32)), images[:16]))
    return prefix, images[16:]
