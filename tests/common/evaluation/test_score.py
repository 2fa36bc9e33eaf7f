"""Scores against independent counts; parts of a set against the whole."""
import csv
import math
import os
from collections import Counter

import numpy as np
import pytest

from common.base.errors import InputError
from common.checkpoint.ndarrays import load_checkpoint
from common.checkpoint.preprocessing import Preprocessing
from common.data.evaluation_images import EvaluationIter
from common.evaluation.answers import top_answers
from common.evaluation.score import Score, count, module_predictor, score
from common.evaluation.score import predict as mxnet_predict
from common.evaluation.tables import classes_table, predictions_table
from common.find_mxnet import mx
from tests.checkpoints import save_checkpoint

SHAPE = (3, 48, 48)


def images_of(packed, batch_size=10, num_classes=10, **part):
    return EvaluationIter(f"{packed}.rec", "", batch_size, SHAPE, Preprocessing(), num_classes, 2, **part)


def linear(data):
    """Probabilities of 10 classes that depend on the image alone, often equal ones."""
    weights = np.random.RandomState(0).normal(0, 1e-3, (int(np.prod(SHAPE)), 10))
    logits = np.round(data.asnumpy().reshape(len(data), -1) @ weights)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def ties():
    """(probabilities (500, 12) of which many are equal, labels)"""
    rng = np.random.RandomState(3)
    probabilities = rng.choice([0, 0.05, 0.1, 0.2], (500, 12)).astype(np.float32)
    probabilities[7] = 0
    return probabilities, rng.randint(0, 12, 500)


@pytest.mark.parametrize("k", [0, 1, 2, 5, 11, 12, 50])
def test_a_score_counts_as_sorting_by_hand_does(k):
    probabilities, labels = ties()
    ranks = [sorted(range(12), key=lambda c: (-p[c], c)).index(label) for p, label in zip(probabilities, labels)]
    result = count(probabilities, labels, k)
    assert (result.images, result.right) == (500, sum(rank == 0 for rank in ranks))
    assert result.right == (probabilities.argmax(axis=1) == labels).sum()
    assert result.right_top_k == sum(rank < max(k, 1) for rank in ranks)
    assert result.loss == pytest.approx(sum(-math.log(max(float(p[label]), 1e-12))
                                            for p, label in zip(probabilities, labels)), rel=1e-12)
    assert (result.top_1, result.top_k) == (result.right / 500, result.right_top_k / 500)
    assert result.mean_loss == result.loss / 500


def test_the_loss_and_the_accuracies_are_those_of_mxnets_metrics():
    rng = np.random.RandomState(4)
    probabilities, labels = rng.dirichlet(np.full(12, 0.3), 400).astype(np.float32), rng.randint(0, 12, 400)
    result = count(probabilities, labels, 5)
    for metric, value in ((mx.metric.Accuracy(), result.top_1), (mx.metric.TopKAccuracy(top_k=5), result.top_k),
                          (mx.metric.CrossEntropy(), result.mean_loss)):
        metric.update([mx.nd.array(labels)], [mx.nd.array(probabilities)])
        assert metric.get()[1] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_nan_is_never_the_right_answer(k):
    result = count(np.float32([[np.nan] * 3, [0.1, np.nan, 0.3], [0.1, 0.2, np.nan], [0.7, 0.2, 0.1]]),
                   np.array([0, 1, 1, 0]), k)
    assert result.right == 1 and result.right_top_k == (1 if k == 1 else 2) and math.isnan(result.loss)


def test_no_images_have_no_accuracy():
    assert math.isnan(Score().top_1) and math.isnan(Score().top_k) and math.isnan(Score().mean_loss)
    assert count(np.zeros((0, 10)), np.zeros(0, int), 5) == Score()


@pytest.mark.parametrize(("parts", "batch_size"), [
    (1, 10), (2, 10), (2, 1), (3, 200), (5, 21), (102, 10), (103, 10), (110, 10)])
def test_parts_are_disjoint_and_cover_the_set(packed, parts, batch_size):
    seen = []
    for part in range(parts):
        images = images_of(packed, batch_size, part=part, parts=parts)
        numbers = [number for batch in images for number in batch.index]
        assert numbers == list(range(part, 103, parts)) and images.num_images == len(numbers)
        seen += numbers
    assert sorted(seen) == list(range(103))


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 110])
def test_parts_add_up_to_the_whole(packed, parts):
    whole = score(linear, images_of(packed, 103), 3)
    assert 0 < whole.right < whole.right_top_k < whole.images == 103
    scores = [score(linear, images_of(packed, 10, part=part, parts=parts), 3) for part in range(parts)]
    total = sum(scores, Score())
    assert (total.images, total.right, total.right_top_k) == (103, whole.right, whole.right_top_k)
    assert total.loss == pytest.approx(whole.loss, rel=1e-12)


def test_a_part_names_a_record_by_its_number_in_the_file(packed, tmp_path):
    reader, writer = mx.recordio.MXRecordIO(f"{packed}.rec", "r"), mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    for number in range(103):
        content = reader.read()
        writer.write(content[:24] + b"x" * 100 if number == 71 else content)
    writer.close()
    images_of(tmp_path / "x", part=0, parts=3).next()
    assert score(linear, images_of(tmp_path / "x", part=0, parts=3), 3).images == 35
    assert images_of(tmp_path / "x", part=0, parts=3).num_images is None  # there is no index
    with pytest.raises(InputError, match="record 71: not an image"):
        score(linear, images_of(tmp_path / "x", part=2, parts=3), 3)


def test_any_data_iter_is_scored(packed):
    """MXNet's own too, whose batches may lack an index or a pad, and who count no damaged images."""
    batches = list(images_of(packed, 10))
    data, labels = (mx.nd.concat(*[getattr(batch, part)[0] for batch in batches], dim=0)[:103].asnumpy()
                    for part in ("data", "label"))
    expected, seen = score(linear, images_of(packed, 10), 3), []
    for last in ("pad", "discard"):
        images = mx.io.NDArrayIter(data, labels, 10, last_batch_handle=last)
        result = score(linear, images, 3, on_batch=lambda records, *_: seen.extend(records))
        assert result.images == len(data) - (len(data) % 10 if last == "discard" else 0)
        if last == "pad":
            assert result == expected

    class Unnumbered(mx.io.DataIter):
        def reset(self):
            self.left = iter(batches)

        def next(self):
            batch = next(self.left)
            return mx.io.DataBatch(batch.data, batch.label, pad=batch.pad or None)
    seen.clear()
    assert score(linear, Unnumbered(), 3, on_batch=lambda records, *_: seen.extend(records)) == expected
    assert seen == list(range(103))


@pytest.mark.parametrize(("part", "parts"), [(2, 2), (-1, 2), (0, 0)])
def test_parts_that_do_not_exist(packed, part, parts):
    with pytest.raises(ValueError, match=f"part {part} of {parts}"):
        images_of(packed, part=part, parts=parts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_no_answer(packed, value):
    batches = iter(range(99))

    def predict(data):
        probabilities = linear(data)
        if next(batches) == 1:
            probabilities[8, 2] = value  # of image 18 of this part
        return probabilities
    with pytest.raises(InputError, match="output for record 36 is not finite"):
        score(predict, images_of(packed, part=0, parts=2), 5)


def test_places_that_fill_up_the_last_batch_are_not_looked_at(packed):
    def predict(data):
        probabilities = linear(data)
        probabilities[(data.asnumpy() == 0).all(axis=(1, 2, 3))] = np.nan
        return probabilities
    assert score(predict, images_of(packed, 200), 3) == score(linear, images_of(packed, 103), 3)


def bound(checkpoint, params=None, for_training=False):
    symbol, *loaded = load_checkpoint(checkpoint, 0, (10, *SHAPE))
    module = mx.mod.Module(symbol)
    module.bind([("data", (10, *SHAPE))], [("softmax_label", (10,))], for_training=for_training)
    module.set_params(*(params or loaded))
    return module


def test_a_module_in_training_is_scored_as_one_for_inference(packed, checkpoint):
    images, module = images_of(packed), bound(checkpoint, for_training=True)
    before = {name: array.asnumpy() for name, array in module.get_params()[1].items()}
    data = next(images).data[0]
    np.testing.assert_allclose(module_predictor(module)(data).asnumpy(),
                               mxnet_predict(checkpoint, 0, data.asnumpy()), atol=1e-5)
    result, expected = (score(module_predictor(m), images, 5) for m in (module, bound(checkpoint)))
    assert (result.images, result.right, result.right_top_k) == (103, expected.right, expected.right_top_k)
    assert result.loss == pytest.approx(expected.loss, rel=1e-4)
    for name, array in module.get_params()[1].items():  # BatchNorm's means have not moved
        assert (array.asnumpy() == before[name]).all()


def test_a_training_step_that_is_still_running_is_waited_for(packed, checkpoint):
    batch = next(images_of(packed))
    for _ in range(5):
        module = bound(checkpoint, for_training=True)
        module.init_optimizer()
        module.forward_backward(batch)
        module.update()
        answers = module_predictor(module)(batch.data[0]).asnumpy()
        trained = bound(checkpoint, module.get_params())
        np.testing.assert_allclose(answers, module_predictor(trained)(batch.data[0]).asnumpy(), atol=1e-5)


@pytest.mark.parametrize("softmax", [True, False])
def test_logits_are_told_by_the_operator_not_by_its_name(softmax, tmp_path):
    net = mx.sym.FullyConnected(mx.sym.flatten(mx.sym.Variable("data")), num_hidden=4, name="softmax_fc")
    net = mx.sym.SoftmaxOutput(net, name="answers") if softmax else net
    weights, bias = np.zeros((4, 3), np.float32), np.arange(4, dtype=np.float32)
    save_checkpoint(tmp_path / "x", 0, net, {"softmax_fc_weight": mx.nd.array(weights),
                                             "softmax_fc_bias": mx.nd.array(bias)}, {})
    data = np.zeros((2, 3, 1, 1), np.float32)
    module = mx.mod.Module(net, label_names=["answers_label"] if softmax else None)
    module.bind([("data", data.shape)], for_training=False)
    module.set_params(*load_checkpoint(tmp_path / "x", 0, data.shape)[1:], allow_missing=True)
    expected = [np.exp(bias) / np.exp(bias).sum()] * 2
    np.testing.assert_allclose(module_predictor(module)(mx.nd.array(data)).asnumpy(), expected, atol=1e-6)
    np.testing.assert_allclose(mxnet_predict(tmp_path / "x", 0, data), expected, atol=1e-6)


def test_the_answers_are_sorted_as_a_stable_sort_does():
    assert top_answers(np.array([[0.2, 0.4, 0.4, 0.0]]), 3).tolist() == [[1, 2, 0]]


def test_tables_name_ranks_and_classes(tmp_path):
    """Three classes, the last of them without an image."""
    probabilities = np.float32([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.3, 0.6], [0.9, 0, 0.1], [0, 1, 0]])
    batch = np.array([4, 6, 8, 10, 12]), np.array([0, 0, 1, 1, 1]), probabilities
    with predictions_table(tmp_path / "p.csv", 3, 2, ["zero", "one, or so", "two"]) as images, \
            classes_table(tmp_path / "c.csv", 3, 2, ["zero", "one, or so", "two"]) as classes:
        for half in (slice(0, 2), slice(2, 5)):
            images(*(array[half] for array in batch))
            classes(*(array[half] for array in batch))
        assert not (tmp_path / "p.csv").exists() and not (tmp_path / "c.csv").exists()
    assert (tmp_path / "p.csv").read_text().splitlines()[:3] == [
        "record,label,label-name,top-1,name-1,p-1,top-2,name-2,p-2",
        '4,0,zero,0,zero,0.5,1,"one, or so",0.25', "6,0,zero,2,two,0.6,0,zero,0.2"]
    assert (tmp_path / "c.csv").read_text().splitlines() == [
        "class,name,images,top-1,top-2,wrong-answer,wrong-name,times", "0,zero,2,0.500000,1.000000,2,two,1",
        '1,"one, or so",3,0.333333,0.666667,0,zero,1', "2,two,0,,,,,"]


def test_tables_without_names_and_ranks(tmp_path):
    probabilities, labels = ties()
    with predictions_table(tmp_path / "p.csv", 12, 1) as images, classes_table(tmp_path / "c.csv", 12, 1) as classes:
        images(np.arange(500), labels, probabilities)
        classes(np.arange(500), labels, probabilities)
    with open(tmp_path / "p.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["record", "label", "top-1", "p-1"]
    answers = probabilities.argmax(axis=1)
    assert [(int(row["label"]), int(row["top-1"])) for row in rows] == list(zip(labels, answers))
    with open(tmp_path / "c.csv") as file:
        for row in csv.DictReader(file):
            assert list(row) == ["class", "images", "top-1", "wrong-answer", "times"]
            of_class = answers[labels == int(row["class"])]
            wrong = Counter(of_class[of_class != int(row["class"])].tolist())
            assert int(row["images"]) == len(of_class) and int(row["times"]) == max(wrong.values())
            assert int(row["wrong-answer"]) == min(c for c in wrong if wrong[c] == max(wrong.values()))
            assert round(float(row["top-1"]) * len(of_class)) == (of_class == int(row["class"])).sum()


@pytest.mark.parametrize("table", [predictions_table, classes_table])
def test_tables_that_cannot_be_written_say_so_at_once(table, tmp_path):
    with pytest.raises(OSError, match="No such file") as error, table(tmp_path / "none" / "x.csv", 3, 2):
        pytest.fail("opened")
    assert error.value.filename == str(tmp_path / "none" / "x.csv")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, "", tmp_path / "pipe"):
        with pytest.raises(InputError, match="cannot be written"), table(path, 3, 2):
            pytest.fail("opened")


@pytest.mark.parametrize("table", [predictions_table, classes_table])
def test_an_evaluation_that_fails_leaves_the_table_as_it_was(table, tmp_path):
    (tmp_path / "x.csv").write_text("old")
    with pytest.raises(InputError, match="halfway"), table(tmp_path / "x.csv", 12, 2) as on_batch:
        probabilities, labels = ties()
        on_batch(np.arange(500), labels, probabilities)
        raise InputError("halfway")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.csv", "old")]
