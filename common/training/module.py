"""A network in training: a Module, its optimizer, and the moving average of its weights."""
import argparse
import logging
from collections.abc import Callable

import numpy as np

from common.base.errors import InputError
from common.evaluation.score import Score, count, module_predictor
from common.find_mxnet import mx
from common.training.class_weights import image_weights
from common.training.distributed import Workers
from common.training.fused_batchnorm import CannotFuse, fused, load
from common.training.optimizer import init_optimizer, master_weights, restore_state, state_arrays
from common.training.saved_state import TrainingState
from common.training.teacher import Teacher
from common.training.training_symbol import TEACHER, WEIGHTS, params_before, training_symbol

LOSS_SCALE = {"float32": 1.0, "float16": 128.0}


class TrainedModule:
    """Trains `network` as the `settings` of a run say, from the arrays of `state`.

    `batches`: (provide_data, provide_label) of the first stage's iterator. `workers`:
    common.training.distributed.Workers. `updates` counts those of the run. All devices together take a batch.
    `teacher`: whose answers are targets too; `class_weights`: (classes,), what images of each count in the loss.
    """

    def __init__(self, network: mx.sym.Symbol, settings: argparse.Namespace, state: TrainingState, batches: tuple,
                 scheduler: mx.lr_scheduler.LRScheduler, devices: list, workers: Workers, updates: int,
                 teacher: Teacher | None = None, class_weights: np.ndarray | None = None) -> None:
        self.network, self.settings, self.workers, self.updates = network, settings, workers, updates
        self._devices = devices
        self._loss_scale = settings.loss_scale or LOSS_SCALE[settings.dtype]
        frozen = params_before(network, settings.train_from) if settings.train_from else []
        # {what the network needs of a batch besides its label: (columns, function of the batch)}
        self._targets: dict[str, tuple[int, Callable]] = {}
        if teacher:
            self._targets[TEACHER] = (settings.num_classes, lambda batch: teacher.answers(batch.data[0]))
        if class_weights is not None:
            weights = mx.nd.array(class_weights)
            self._targets[WEIGHTS] = (1, lambda batch: image_weights(batch.label[0], weights,
                                                                     settings.label_smoothing))
        data, label = batches[0], self._with_targets(*batches)
        symbol = training_symbol(network, settings.label_smoothing, settings.dtype, self._loss_scale, frozen,
                                 (settings.temperature, settings.hard_weight) if teacher else None,
                                 weighted=class_weights is not None)
        if settings.fused_batchnorm and all(device.device_type == "cpu" for device in devices):
            symbol = _fused_where_possible(symbol, [*data, *label])
        self._module = mx.mod.Module(symbol, [desc[0] for desc in data], [desc[0] for desc in label], context=devices,
                                     fixed_param_names=frozen)
        self._module.bind(data, label)
        mx.random.seed(settings.seed)
        np.random.seed(settings.seed)
        self._module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
                                 arg_params=state.arg_params, aux_params=state.aux_params, allow_missing=True)
        workers.broadcast(self._module)
        init_optimizer(self._module, settings, scheduler, settings.kv_store if len(devices) > 1 and not workers.kv
                       else None, updates)
        if state.optimizer:
            restore_state(self._module, state.optimizer, "the checkpoint to resume")
        self.average = None
        if settings.ema:
            start = {**state.average[0], **state.average[1]} if state.average else master_weights(self._module)
            self.average = WeightAverage(settings.ema, {name: start[name].as_in_context(array.context)
                                                        for name, array in master_weights(self._module).items()})

    def begin_stage(self, data: list, label: list) -> None:
        """Go on with batches of other shapes: `provide_data` and `provide_label` of their iterator."""
        self._module.reshape(data, self._with_targets(data, label))
        self._module._optimizer.rescale_grad = 1 / (data[0][1][0] * self.workers.count * self._loss_scale)

    def _with_targets(self, data, label):
        """`provide_label` of batches, with those of what is added to them."""
        return [*label, *(mx.io.DataDesc(name, (data[0][1][0], columns)) for name, (columns, _) in
                          self._targets.items())]

    def forward_backward(self, batch: mx.io.DataBatch) -> None:
        """The gradients of a batch; nothing is waited for."""
        targets = [target(batch) for _, target in self._targets.values()]
        self._module.forward_backward(mx.io.DataBatch(batch.data, [*batch.label, *targets]) if targets else batch)

    def update(self) -> None:
        """The weights, by the gradients of all devices and workers; then their average, for which they are waited
        for."""
        self.workers.update(self._module, self.settings.clip_grad_norm)
        self.updates += 1
        if self.average:
            settle()
            self.average.update(master_weights(self._module), self.updates)

    def score(self, batch: mx.io.DataBatch, top_k: int) -> Score:
        """That of the last step; of a mixed image, the label with the greater part counts."""
        return count(self._module.get_outputs()[0].asnumpy(), _labels(batch).asnumpy().astype(np.int64), top_k)

    def update_metric(self, metric: mx.metric.EvalMetric, batch: mx.io.DataBatch) -> None:
        """Count the answers to the last step's batch, as Module.fit does."""
        metric.update([_labels(batch)], self._module.get_outputs()[:1])

    def learning_rate(self) -> float:
        """Of the last update."""
        return self._module._optimizer.learning_rate

    def params(self) -> tuple:
        """(arg_params, aux_params), float32 on the processor; with several devices BatchNorm's statistics are means."""
        settle()
        arg_params, aux_params = self._module.get_params()
        masters = master_weights(self._module) if self.settings.dtype != "float32" else {}
        return {name: masters.get(name, array).as_in_context(mx.cpu()) for name, array in arg_params.items()}, \
            dict(aux_params)

    def share_statistics(self) -> None:
        """Give all workers the mean of their BatchNorm statistics, which each has from the images of its own part."""
        if self.workers.count == 1:
            return
        arg_params, aux_params = self.params()
        self._module.set_params(arg_params, self.workers.mean(aux_params))
        if self.average:
            shared = self.workers.mean({name: self.average.arrays[name] for name in aux_params})
            for name, array in shared.items():
                self.average.arrays[name][:] = array

    def versions(self) -> dict:
        """{"": parameters} and, if there is an average, {"ema-": those of the average}."""
        average = self.averaged_params()
        return {"": self.params(), **({"ema-": average} if average else {})}

    def averaged_params(self) -> tuple[dict, dict] | None:
        """As `params`, of the moving average; None without one."""
        return self.average.params(*self.params()) if self.average else None

    def optimizer_state(self) -> dict:
        return state_arrays(self._module)

    def predictor(self, params: tuple[dict, dict], data: list) -> Callable:
        """`predict` of common.evaluation.score by the network, in float32, with these (arg_params, aux_params); `data`:
        provide_data of the images' iterator."""
        # a new Module each time: MXNet fuses convolution and BatchNorm for inference, and keeps the fused weights of
        # the first forward pass when others are set
        module = mx.mod.Module(self.network, [desc[0] for desc in data], label_names=None, context=self._devices)
        module.bind(data, for_training=False)
        module.set_params(*params, allow_missing=True)  # softmax_label
        return module_predictor(module)


def _labels(batch):
    """Classes (N,), of mixed images those with the greatest part."""
    label = batch.label[0]
    return label.argmax(axis=1) if label.ndim == 2 and label.shape[1] > 1 else label.reshape(-1)


def check_batch_size(batch_size: int, devices: list) -> None:
    """Raise InputError unless all devices get the same number of images."""
    if batch_size % len(devices):
        raise InputError(f"--batch-size {batch_size} does not divide by the {len(devices)} devices")


def _fused_where_possible(symbol, inputs=()):
    try:
        load()
    except CannotFuse as error:
        logging.warning("Training without BatchNorm and clip in one operator, which is slower: %s", error)
        return symbol
    return fused(symbol, **{desc[0]: desc[1] for desc in inputs})


def settle() -> None:
    """Wait for all that was begun. BatchNorm's moving mean and variance are written in the backward pass, and MXNet
    does not wait for that before it reads them: the first layers would miss the last batch, now and then."""
    mx.nd.waitall()


class WeightAverage:
    """average <- d average + (1 - d) weights after each update, BatchNorm's moving mean and variance included.

    d = min(`decay`, (1 + n) / (10 + n)) after n updates, so that the first weights are soon forgotten (as in
    tf.train.ExponentialMovingAverage with num_updates). `arrays`: {name: float32 NDArray}, which are copied.
    """

    def __init__(self, decay: float, arrays: dict) -> None:
        self._decay = decay
        self.arrays = {name: array.copy() for name, array in arrays.items()}

    def update(self, weights: dict, updates: int) -> None:
        """`weights` after this many updates of the run."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        for name, average in self.arrays.items():
            average *= decay
            average += (1 - decay) * weights[name]

    def params(self, arg_params: dict, aux_params: dict) -> tuple:
        """The average as (arg_params, aux_params), with the names of these."""
        return tuple({name: self.arrays[name].as_in_context(mx.cpu()) for name in params}
                     for params in (arg_params, aux_params))
