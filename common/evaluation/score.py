"""Score a network so that every image counts once; what MXNet itself answers, the reference for compiled networks."""
import json
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from common.checkpoint.ndarrays import run_by_mxnet
from common.checkpoint.params import checkpoint_files
from common.checkpoint.symbol import ends_in_logits
from common.evaluation.answers import check_finite
from common.find_mxnet import mx

EPSILON = 1e-12  # the least probability that the loss takes; mx.metric.CrossEntropy adds it to each


@dataclass(frozen=True)
class Score:
    """Sums over images; those of several parts of a set add up (`+`) to those of the set."""
    images: int = 0
    right: int = 0        # the label is the first answer
    right_top_k: int = 0  # the label is among the first k
    loss: float = 0.0     # cross-entropy in nats, summed
    skipped: int = 0      # damaged images, which are not among `images`

    def __add__(self, other: "Score") -> "Score":
        return Score(*(a + b for a, b in zip(astuple(self), astuple(other))))

    @property
    def top_1(self) -> float:
        """Part of the images that are right, 0 to 1; NaN if there are none, as the other means are."""
        return self._mean(self.right)

    @property
    def top_k(self) -> float:
        return self._mean(self.right_top_k)

    @property
    def mean_loss(self) -> float:
        return self._mean(self.loss)

    def _mean(self, total):
        return total / self.images if self.images else float("nan")


def score(predict: Callable, images: mx.io.DataIter, top_k: int, on_batch: Callable | None = None) -> Score:
    """Score `predict` on all `images`; the places that fill up a batch (its `pad`) are not counted.

    `predict(data)`: the NDArray (N, 3, H, W) of a batch in, probabilities (N, classes) out, as NDArray or NumPy array.
    `top_k`: how many answers `right_top_k` looks at; with 0 or 1 it is the same as `right`.
    `on_batch(records, labels, probabilities, data)` is called with the arrays (n,), (n,), (n, classes) that were
    counted, and the NDArray (N, 3, H, W), whose first n images they are of.
    `records` are the images' numbers: the `index` of a batch, or counted from 0 if a batch has none.
    Raises InputError if the output is not finite.
    """
    images.reset()
    total = Score()
    for batch in images:
        probabilities = predict(batch.data[0])
        kept = len(probabilities) - (batch.pad or 0)
        probabilities = _as_numpy(probabilities)[:kept]
        labels = batch.label[0].asnumpy()[:kept].reshape(-1).astype(np.int64)
        numbered = batch.index is not None
        records = batch.index[:kept] if numbered else np.arange(total.images, total.images + kept)
        for record, answer in zip(records, probabilities):
            check_finite(f"{'record' if numbered else 'image'} {record}", answer)
        total += count(probabilities, labels, top_k)
        if on_batch:
            on_batch(records, labels, probabilities, batch.data[0])
    return replace(total, skipped=getattr(images, "skipped", 0))


def count(probabilities: np.ndarray, labels: np.ndarray, top_k: int) -> Score:
    """Score of answers (N, classes) to images of `labels` (N,), int64, ranked as by `top_answers`. NaN is not right."""
    of_label = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
    classes = probabilities.shape[1]
    smaller = np.arange(classes) < labels[:, np.newaxis]
    ranks = (~(probabilities <= of_label) | (probabilities == of_label) & smaller).sum(axis=1)
    loss = -np.log(np.maximum(of_label.astype(np.float64), EPSILON)).sum()
    return Score(len(labels), int((ranks == 0).sum()), int((ranks < min(max(top_k, 1), classes)).sum()), float(loss))


def module_predictor(module: mx.mod.Module) -> Callable[[mx.io.DataBatch], mx.nd.NDArray]:
    """`predict` of `score` by a bound Module, one in training too. An output of logits is given a softmax."""
    logits = ends_in_logits(json.loads(module.symbol.tojson()))  # as Gluon's export does

    def predict(data):
        mx.nd.waitall()  # operators of a training step that have yet to run would take is_train from this call
        module.forward(mx.io.DataBatch([data]), is_train=False)
        output, = module.get_outputs()
        return mx.nd.softmax(output) if logits else output
    return predict


def _as_numpy(array):
    return array.asnumpy() if isinstance(array, mx.nd.NDArray) else array


def predict(prefix: str | Path, epoch: int, data: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) of the checkpoint for `data`, float32 (N, 3, H, W), on the processor."""
    with run_by_mxnet(checkpoint_files(prefix, epoch)[0]):
        symbol, arg_params, aux_params = mx.model.load_checkpoint(str(prefix), epoch)
        executor = symbol.simple_bind(mx.cpu(), data=data.shape, grad_req="null")
        executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
        output, = executor.forward(is_train=False, data=mx.nd.array(data))
        if ends_in_logits(json.loads(symbol.tojson())):  # as Gluon's export does
            output = mx.nd.softmax(output)
        return output.asnumpy()
