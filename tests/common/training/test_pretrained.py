"""What --pretrained-model takes: a file, a PREFIX, a name of published weights, a Gluon file."""
import re
import shutil

import numpy as np
import pytest

import train_imagenet
from common.base.errors import InputError
from common.checkpoint.params import load_params
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, save_preprocessing
from common.conversion.convert import IMAGENET, convert
from common.find_mxnet import mx
from common.training.pretrained import arrays_of, files_beside, inherited, weights_of
from common.zoo.manifest import entry_of
from tests.converters.facts import read_facts
from tests.converters.test_expected import EXPECTED, write_legacy_h5


def test_of_a_prefix_it_is_the_last_epoch(checkpoint, tmp_path):
    for epoch in ("0000", "0009", "0010", "0002-b00003"):
        shutil.copy(f"{checkpoint}-0000.params", tmp_path / f"x-{epoch}.params")
    shutil.copy(f"{checkpoint}-0000.params", tmp_path / "x-ema-0011.params")
    prefix = f"{tmp_path}/x"
    assert weights_of(prefix) == f"{prefix}-0010.params"
    assert weights_of(f"{prefix}-0009.params") == f"{prefix}-0009.params"
    assert weights_of(f"{prefix}-ema") == f"{prefix}-ema-0011.params"
    assert weights_of(f"{prefix}-0012.params") == f"{prefix}-0012.params"  # an error where it is read
    with pytest.raises(InputError, match=f"{re.escape(prefix)}y: .*common.modelzoo list"):
        weights_of(f"{prefix}y")


def test_of_published_weights_it_is_the_name(tmp_path, monkeypatch):
    """From wherever common.modelzoo finds them; of other frameworks they are converted."""
    monkeypatch.setenv("MOBILENETV2_MODELS", str(tmp_path))
    facts, weights, _, _ = read_facts(EXPECTED / "keras.json")
    classifier = np.random.RandomState(0).normal(0, 0.1, (1280, 1000)).astype(np.float32)
    weights |= {"predictions/kernel": classifier, "predictions/bias": classifier[0]}
    write_legacy_h5(tmp_path / entry_of("keras-0_35").file, facts, weights)
    assert weights_of("keras-0_35") == "keras-0_35"
    assert inherited("keras-0_35", {"image_shape": (3, 96, 96)}) == {
        "channels": (16, 8, 8, 16, 24, 32, 56, 112, 1280), "padding": "same", "rgb_mean": (127.5,) * 3,
        "rgb_std": (127.5,) * 3}
    np.testing.assert_array_equal(arrays_of("keras-0_35")[0]["fc_weight"], classifier.T)
    assert files_beside("keras-0_35") == [str(tmp_path / entry_of("keras-0_35").file)]
    with pytest.raises(InputError, match="--padding symmetric: keras-0_35 is of"):
        inherited("keras-0_35", {"padding": "symmetric"})


@pytest.fixture
def gluon(tmp_path):
    """PREFIX of what Gluon's export of its zoo's network writes, with random weights."""
    net = mx.gluon.model_zoo.vision.mobilenet_v2_0_25(classes=2)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.zeros((1, 3, 48, 48)))
    net.export(str(tmp_path / "zoo"))
    return tmp_path / "zoo"


@pytest.mark.usefixtures("logged_to_stderr")
def test_a_gluon_file_is_converted_in_memory(packed, gluon, tmp_path, capfd):
    expected = convert(f"{gluon}-0000.params", "gluon")
    train_imagenet.main(["--data-train", f"{packed}.rec", "--pretrained-model", str(gluon), "--model-prefix",
                         f"{tmp_path}/y", "--num-epochs", "1", "--lr", "0", "--train-from", "fc", "--top-k", "0",
                         "--image-shape", "3,48,48", "--batch-size", "20"])
    found = load_params(tmp_path / "y-0001.params")
    assert found.keys() == {*(f"arg:{name}" for name in expected.arg_params),
                            *(f"aux:{name}" for name in expected.aux_params)}
    for name, array in (expected.arg_params | expected.aux_params).items():
        kind = "arg" if name in expected.arg_params else "aux"
        np.testing.assert_array_equal(found[f"{kind}:{name}"], array, err_msg=name)
    assert load_preprocessing(tmp_path / "y")[2:] == IMAGENET[2:]
    log = capfd.readouterr().err
    assert re.search("zoo-0000.params: .*assuming --crop-ratio .*--rgb-mean 123.675,116.28,103.53, --rgb-std 58.3", log)


def test_what_a_gluon_file_does_not_say_is_said(gluon, caplog):
    path = f"{gluon}-0000.params"
    known = {"image_shape": (3, 48, 48), "crop_ratio": 0.9, "rgb_mean": (1.0, 2.0, 3.0), "rgb_std": (4.0, 5.0, 6.0)}
    assert inherited(path, known) == {"channels": convert(path, "gluon").network["channels"]}
    assert not caplog.records
    assert inherited(path, {})["rgb_mean"] == IMAGENET.mean
    assert [path in record.getMessage() for record in caplog.records] == [True]
    save_preprocessing(gluon, Preprocessing(64, 56, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    assert inherited(path, {})["rgb_std"] == (4, 5, 6)
    assert len(caplog.records) == 1
