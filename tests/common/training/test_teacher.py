"""The teacher of a distillation: what it sees, what it answers, and what is refused as one."""
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.params import load_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing, save_preprocessing
from common.find_mxnet import mx
from common.training.teacher import load_teacher, teacher_file
from tests.checkpoints import save_checkpoint
from tests.common.training.test_training_math import head_gradient, softmax
from tests.networks import forward

RNG = np.random.RandomState(5)
MEAN, STD = (123.68, 116.78, 103.94), (1.0, 1.0, 1.0)
PIXELS = np.stack([cv2.resize(np.random.RandomState(i).randint(0, 256, (9, 9, 3)).astype(np.float32), (64, 64),
                              interpolation=cv2.INTER_LINEAR) for i in range(4)]).transpose(0, 3, 1, 2)


def settings(teacher, **changes):
    return SimpleNamespace(**{**dict(teacher=str(teacher), temperature=3.0, rgb_mean=MEAN, rgb_std=STD), **changes})


def normalised(pixels, mean, std):
    return (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))


@pytest.fixture
def teacher(checkpoint, tmp_path):
    """PREFIX of a copy of the small checkpoint, and its parameters."""
    for end in ("0000.params", "symbol.json"):
        shutil.copy(f"{checkpoint}-{end}", f"{tmp_path}/big-{end}")
    arg_params, aux_params = load_checkpoint_params(f"{checkpoint}-0000.params")
    return f"{tmp_path}/big", {**arg_params, **aux_params}


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((127.5, 127.5, 127.5), (58.4, 57.1, 127.5))])
@pytest.mark.parametrize("crop", [64, 96, 48])
@pytest.mark.parametrize("devices", [1, 2])
def test_it_answers_to_the_same_image_prepared_as_it_was_trained(teacher, mean, std, crop, devices):
    """Against the independent network in float64, with pixels normalised by the teacher's own numbers, resized by
    OpenCV, whose greys are those of MXNet to 0.001."""
    prefix, params = teacher
    save_preprocessing(prefix, Preprocessing(crop + 8, crop, mean, std))
    loaded = load_teacher(settings(prefix), PIXELS.shape, 10, [mx.cpu(i) for i in range(devices)])
    answers = loaded.answers(mx.nd.array(normalised(PIXELS, MEAN, STD))).asnumpy()
    seen = np.stack([cv2.resize(image.transpose(1, 2, 0), (crop, crop), interpolation=cv2.INTER_LINEAR)
                     for image in PIXELS]).transpose(0, 3, 1, 2)
    expected = softmax(np.log(forward(params, normalised(seen, mean, std))) / 3)
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(answers, expected, atol=2e-5 if crop == 64 else 2e-4)


def test_images_keep_their_proportions_and_batches_and_sizes_may_change(teacher):
    prefix, _ = teacher
    save_preprocessing(prefix, Preprocessing(96, 96, MEAN, STD))
    loaded = load_teacher(settings(prefix), (4, 3, 32, 64), 10, [mx.cpu()])
    assert loaded.size == (48, 96)
    first = loaded.answers(mx.nd.array(PIXELS[:, :, :32])).asnumpy()
    np.testing.assert_allclose(loaded.answers(mx.nd.array(PIXELS[:2, :, :32])).asnumpy(), first[:2], atol=1e-6)
    larger = np.stack([cv2.resize(image.transpose(1, 2, 0), (96, 48), interpolation=cv2.INTER_LINEAR)
                       for image in PIXELS[:, :, :32]]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(loaded.answers(mx.nd.array(larger)).asnumpy(), first, atol=2e-4)


def test_a_network_that_ends_in_logits(tmp_path):
    data = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=4, name="fc")
    weight = RNG.normal(0, 0.001, (4, 3 * 32 * 32)).astype(np.float32)
    save_checkpoint(tmp_path / "flat", 12, data, {"fc_weight": mx.nd.array(weight), "fc_bias": mx.nd.zeros(4)}, {})
    save_preprocessing(tmp_path / "flat", Preprocessing(32, 32, MEAN, STD))
    loaded = load_teacher(settings(f"{tmp_path}/flat"), (4, 3, 32, 32), 4, [mx.cpu()])
    assert loaded.file.endswith("flat-0012.params")
    x = PIXELS[:, :, ::2, ::2]
    np.testing.assert_allclose(loaded.answers(mx.nd.array(x)).asnumpy(),
                               softmax(x.reshape(4, -1).astype(np.float64) @ weight.T / 3), atol=1e-5)


@pytest.mark.parametrize("hard_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("soft_label", [False, True])
def test_the_gradient_of_distillation(hard_weight, soft_label):
    """Of a CE(label, softmax(z)) + (1 - a) T^2 CE(answers, softmax(z / T)): a (p - label) + (1 - a) T (p_T - answers).
    The label may be smoothed, and blended by mixup; the answers are those to the blended image."""
    z, answers = RNG.normal(0, 2, (8, 5)), RNG.dirichlet(np.ones(5), 8)
    number = RNG.randint(0, 5, 8)
    label = RNG.dirichlet(np.ones(5), 8) if soft_label else np.where(np.eye(5)[number] == 1, 0.9, 0.1 / 4)
    gradient = head_gradient(label if soft_label else number, z, distillation=(4.0, hard_weight), loss_scale=2.0,
                             label_smoothing=0.0 if soft_label else 0.1, targets={"teacher_answers": answers})
    expected = hard_weight * (softmax(z) - label) + (1 - hard_weight) * 4 * (softmax(z / 4) - answers)
    np.testing.assert_allclose(gradient, 2 * expected, atol=1e-5)


def test_the_last_epoch_or_the_one_named(teacher):
    prefix, _ = teacher
    for name in ("big-0003.params", "big-0011.params", "big-0011-b00003.params", "big-ema-0020.params"):
        shutil.copy(f"{prefix}-0000.params", f"{prefix.removesuffix('big')}{name}")
    assert teacher_file(prefix) == f"{prefix}-0011.params"
    assert teacher_file(f"{prefix}-0003.params") == f"{prefix}-0003.params"


def test_what_is_no_teacher(teacher, tmp_path):
    prefix, _ = teacher
    (tmp_path / "cut-0000.params").write_bytes((tmp_path / "big-0000.params").read_bytes()[:-100])
    shutil.copy(f"{prefix}-symbol.json", tmp_path / "cut-symbol.json")
    shutil.copy(f"{prefix}-0000.params", tmp_path / "alone-0000.params")
    for value, classes, message in (
            (f"{tmp_path}/nothing", 10, "nothing: there is no "), ("a\0", 10, "there is no"),
            (f"{tmp_path}/nothing-0003.params", 10, "nothing-"), (f"{tmp_path}/alone", 10, "alone-symbol.json: "),
            (f"{tmp_path}/cut", 10, "cut-0000.params: "), (f"{prefix}-symbol.json", 10, "give the PREFIX"),
            (prefix, 7, "big-0000.params: has 10 classes, the network in training 7; ")):
        with pytest.raises(InputError, match=re.escape(message)) as error:
            load_teacher(settings(value), (4, 3, 64, 64), classes, [mx.cpu()])
        assert "\n" not in str(error.value)
