"""Class weights, against scikit-learn and NumPy."""
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from common.base.errors import InputError
from common.data.heads import class_counts
from common.find_mxnet import mx
from common.images.recordio import image_record, record_files
from common.training.class_weights import balanced, image_weights
from tests.common.training.test_training_math import head_gradient, softmax

RNG = np.random.RandomState(5)


def test_the_records_are_counted(packed, tmp_path):
    assert class_counts(record_files(f"{packed}.rec"), 4).tolist() == [52, 51, 0, 0]
    with pytest.raises(InputError, match=r"val.rec: record 52 has label 1, but the network's classes are 0 to 0"):
        class_counts(record_files(f"{packed}.rec"), 1)
    for name, labels in (("a_0.rec", [0, 2, 2]), ("a_1.rec", [1])):
        (tmp_path / name).write_bytes(b"".join(image_record(label, 0, b"no image") for label in labels))
    assert class_counts(record_files(str(tmp_path)), 3).tolist() == [1, 1, 2]


def test_balanced_is_that_of_scikit_learn():
    labels = RNG.choice([0, 1, 2, 4], 500, p=[0.6, 0.3, 0.08, 0.02])  # none of class 3
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 2, 4]), y=labels)
    weights = balanced(np.bincount(labels))
    np.testing.assert_allclose(weights, [*expected[:3], 0, expected[3]], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weight_of_an_image(smoothing):
    """Of a blended one the mean by its shares, whatever the smoothing."""
    weights, labels = RNG.uniform(0.2, 3, 6).astype(np.float32), RNG.randint(0, 6, 40)
    plain = image_weights(mx.nd.array(labels), mx.nd.array(weights), smoothing)
    np.testing.assert_array_equal(plain.asnumpy(), weights[labels][:, np.newaxis])
    shares = RNG.dirichlet(np.ones(6), 40)
    targets = (1 - smoothing) * shares + smoothing / 5 * (1 - shares)
    mixed = image_weights(mx.nd.array(targets), mx.nd.array(weights), smoothing).asnumpy()
    np.testing.assert_allclose(mixed, shares @ weights[:, np.newaxis], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"loss_scale": 64.0},
                                     {"distillation": (4.0, 0.3)}], ids=lambda options: next(iter(options), "plain"))
def test_the_gradient_of_each_image_is_multiplied(options):
    x, label, weights = RNG.normal(0, 2, (8, 5)), RNG.randint(0, 5, 8), RNG.uniform(0.2, 3, (8, 1))
    weights[0] = 1e5  # of a class with few images of very many
    answers = {"teacher_answers": RNG.dirichlet(np.ones(5), 8)} if "distillation" in options else {}
    plain = head_gradient(label, x, **options, targets=answers)
    weighted = head_gradient(label, x, **options, weighted=True, targets={**answers, "image_weights": weights})
    np.testing.assert_allclose(weighted, weights * plain, rtol=1e-4, atol=1e-4)
    smoothing = options.get("label_smoothing", 0)
    if not answers:
        target = np.where(np.eye(5)[label] == 1, 1 - smoothing, smoothing / 4)
        np.testing.assert_allclose(weighted, options.get("loss_scale", 1) * weights * (softmax(x) - target), rtol=1e-4,
                                   atol=1e-4)
