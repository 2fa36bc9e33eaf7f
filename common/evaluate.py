"""Score a network so that every image counts once, and tabulate what it answered, by image and by class."""
import csv
from collections import Counter
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import written_atomically
from common.find_mxnet import mx

EPSILON = 1e-12  # the least probability that the loss takes; mx.metric.CrossEntropy adds it to each


@dataclass(frozen=True)
class Score:
    """Sums over images; those of several parts of a set add up (`+`) to those of the set."""
    images: int = 0
    right: int = 0        # the label is the first answer
    right_top_k: int = 0  # the label is among the first k
    loss: float = 0.0     # cross-entropy in nats, summed

    def __add__(self, other):
        return Score(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def top_1(self) -> float:
        """Part of the images that are right, 0 to 1; NaN of no images, as the other means."""
        return self._mean(self.right)

    @property
    def top_k(self) -> float:
        return self._mean(self.right_top_k)

    @property
    def mean_loss(self) -> float:
        return self._mean(self.loss)

    def _mean(self, total):
        return total / self.images if self.images else float("nan")


def score(predict, images, top_k: int, on_batch=None) -> Score:
    """Score `predict` on all `images`, an EvaluationIter; the places that fill up its last batch are not counted.

    `predict(data)`: the NDArray (N, 3, H, W) of a batch in, probabilities (N, classes) out, as NDArray or NumPy array.
    `top_k`: how many answers `right_top_k` looks at; with 0 or 1 it is the same as `right`.
    `on_batch(records, labels, probabilities)` is called with the arrays (n,), (n,), (n, classes) that were counted;
    `records` are the images' numbers in the file. Raises InputError where the output is not finite.
    """
    images.reset()
    total = Score()
    for batch in images:
        probabilities = predict(batch.data[0])
        kept = len(probabilities) - (batch.pad or 0)
        probabilities = _as_numpy(probabilities)[:kept]
        labels = batch.label[0].asnumpy()[:kept].astype(np.int64)
        not_finite = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        if not_finite.size:
            raise InputError(f"the network's output for record {batch.index[not_finite[0]]} is not finite: its weights "
                             "hold NaN or infinity, or numbers that lead there (training may have diverged)")
        total += count(probabilities, labels, top_k)
        if on_batch:
            on_batch(batch.index[:kept], labels, probabilities)
    return total


def count(probabilities: np.ndarray, labels: np.ndarray, top_k: int) -> Score:
    """Score of answers (N, classes) to images of `labels` (N,), int64, ranked as by `top_answers`. NaN is not right."""
    of_label = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
    classes = probabilities.shape[1]
    smaller = np.arange(classes) < labels[:, np.newaxis]
    ranks = (~(probabilities <= of_label) | (probabilities == of_label) & smaller).sum(axis=1)
    loss = -np.log(np.maximum(of_label.astype(np.float64), EPSILON)).sum()
    return Score(len(labels), int((ranks == 0).sum()), int((ranks < min(max(top_k, 1), classes)).sum()), float(loss))


def top_answers(probabilities: np.ndarray, k: int) -> np.ndarray:
    """The k (or all) most probable classes, (N, k), best first; of equals the smaller number, as argmax has it."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :k]


def module_predictor(module):
    """`predict` of `score` by a bound Module, one in training too. An output of logits is given a softmax."""
    logits = "softmax" not in module.output_names[0]  # Gluon's export

    def predict(data):
        mx.nd.waitall()  # operators of a training step that have yet to run would take is_train from this call
        module.forward(mx.io.DataBatch([data]), is_train=False)
        output, = module.get_outputs()
        return mx.nd.softmax(output) if logits else output
    return predict


def _as_numpy(array):
    return array.asnumpy() if isinstance(array, mx.nd.NDArray) else array


@contextmanager
def predictions_table(path, num_classes: int, top_k: int, names=None):
    """An `on_batch` of `score` that writes a CSV row for each image; the file is there when this block has ended well.

    The columns are record, label, top-1, p-1, ..., top-k, p-k (classes and their probabilities); with `names` of the
    classes label-name and name-1 to name-k too. Raises InputError or OSError at once where it cannot be written.
    """
    columns = [f"{column}-{rank}" for rank in range(1, top_k + 1) for column in ("top", "name", "p")]
    with _table(path, ["record", "label", "label-name", *columns], names) as write:
        names = names or [""] * num_classes

        def on_batch(records, labels, probabilities):
            for record, label, p, answers in zip(records, labels, probabilities, top_answers(probabilities, top_k)):
                row = {"record": record, "label": label, "label-name": names[label]}
                for rank, answer in enumerate(answers, start=1):
                    row |= {f"top-{rank}": answer, f"name-{rank}": names[answer], f"p-{rank}": f"{p[answer]:.6g}"}
                write(row)
        yield on_batch


@contextmanager
def classes_table(path, num_classes: int, top_k: int, names=None):
    """An `on_batch` of `score` that counts, and a CSV row for each class when this block has ended well.

    The columns are class, images, top-1 and top-k (0 to 1; empty for a class without images), wrong-answer (its most
    frequent one, of equals the smallest number) and times; with `names` name and wrong-name too. Raises as
    `predictions_table`.
    """
    scores, wrong = [Score()] * num_classes, [Counter() for _ in range(num_classes)]

    def on_batch(_, labels, probabilities):
        for label, answer, p in zip(labels, top_answers(probabilities, 1)[:, 0], probabilities):
            scores[label] += count(p[np.newaxis], label[np.newaxis], top_k)
            wrong[label].update([answer] if answer != label else [])

    columns = ["class", "name", "images", "top-1", f"top-{top_k}", "wrong-answer", "wrong-name", "times"]
    with _table(path, columns, names) as write:
        yield on_batch
        names = names or [""] * num_classes
        for label, (total, answers) in enumerate(zip(scores, wrong)):
            row = {"class": label, "name": names[label], "images": total.images}
            if total.images:
                row |= {"top-1": f"{total.top_1:.6f}", f"top-{top_k}": f"{total.top_k:.6f}"}
            if answers:
                answer, times = min(answers.items(), key=lambda item: (-item[1], item[0]))
                row |= {"wrong-answer": answer, "wrong-name": names[answer], "times": times}
            write(row)


@contextmanager
def _table(path, columns, names):
    """A function that writes a row, given as a dict, to a CSV file; columns of names only where there are names."""
    if not Path(path).name or Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path}: cannot be written, not the name of a file")
    with written_atomically(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column for column in dict.fromkeys(columns) if names or "name" not in column],
                                extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        yield writer.writerow
