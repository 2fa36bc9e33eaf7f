"""The workers of a distributed run: MXNet's parameter server sums their gradients and carries their few words."""
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from common.base.errors import InputError, last_line
from common.evaluation.score import Score
from common.find_mxnet import mx
from common.training.clipping import clipped


class Do(IntEnum):
    """What a worker may do after a batch."""
    GO_ON = 0
    SAVE = 1
    STOP = 2  # save, then end
    FAIL = 3  # end at once


class Order(NamedTuple):
    """What all workers do after a batch: the greatest of their wishes. `signal`: the number of that which asks to
    stop."""
    do: Do = Do.GO_ON
    signal: int = 0


class Workers:
    """This worker among `count` of them, of number `rank`; a lone one unless `kind` is one of the dist_ kinds.

    What the workers tell each other (`gather`) is sent as bits, each 0 or the threshold of the gradient compression,
    which then leaves it as it is: the compression of a store holds for all that is sent through it, and a worker
    cannot have a second store.
    """

    def __init__(self, kind: str, gc_type: str = "none", gc_threshold: float = 0.5) -> None:
        self.kv, self.rank, self.count = None, 0, 1
        self._keys: set = set()
        self._bit = np.nextafter(np.float32(gc_threshold), np.float32(np.inf))  # never just below it
        self._asked = None
        if not kind.startswith("dist"):
            if gc_type != "none":
                raise InputError(f"--gc-type {gc_type}: compresses what goes between machines; give --kv-store "
                                 "dist_sync too")
            return
        if "DMLC_ROLE" not in os.environ:
            raise InputError(f"--kv-store {kind}: start scheduler, servers and workers with tools/launch.py; one "
                             "machine needs none (--kv-store device)")
        try:
            self.kv = mx.kvstore.create(kind)
            if gc_type != "none":
                self.kv.set_gradient_compression({"type": gc_type, "threshold": gc_threshold})
        except mx.base.MXNetError as error:
            raise InputError(f"--kv-store {kind}: {last_line(error)}") from None
        self.rank, self.count = self.kv.rank, self.kv.num_workers

    def store(self) -> mx.kvstore.KVStore:
        """The key-value store as MXNet's data loaders take it, for its `rank` and `num_workers`."""
        return self.kv or mx.kvstore.create("local")

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """(workers, k) float64: the k numbers of every worker, exact and in the order of their ranks."""
        values = np.asarray(numbers, "<f8")
        if self.kv is None:
            return values[np.newaxis]
        return self._receive(self._send(f"control/{len(values)}", values))

    def agree(self, wish: Order) -> Order:
        """The greatest wish that any worker had when it last called this: all get the same answer at the same batch,
        and hardly wait for it. A lone worker has its wish at once."""
        if self.kv is None:
            return wish
        # before the next is sent: MXNet's server would take two of one worker for one of each of two
        wishes = [[0.0, 0.0]] if self._asked is None else self._receive(self._asked).tolist()
        self._asked = self._send("control/wish", np.array(wish, "<f8"))
        do, signal = max(wishes)
        return Order(Do(int(do)), int(signal))

    def total(self, score: Score) -> Score:
        """The sum of the workers' scores."""
        parts = (Score(int(a), int(b), int(c), d, int(e)) for a, b, c, d, e in self.gather(astuple(score)).tolist())
        return sum(parts, Score())

    def mean(self, arrays: dict) -> dict:
        """{name: NDArray}, each the mean over the workers."""
        if self.kv is None:
            return arrays
        flat = np.concatenate([array.asnumpy().ravel() for array in arrays.values()] or [np.zeros(0)])
        flat, means = self.gather(flat).mean(axis=0), {}
        for name, array in arrays.items():
            means[name] = mx.nd.array(flat[:array.size].reshape(array.shape).astype(array.dtype))
            flat = flat[array.size:]
        return means

    def broadcast(self, module: mx.mod.Module) -> None:
        """Give every worker's `module` the weights of worker 0."""
        if self.kv is None:
            return
        arg_params, aux_params = module.get_params()
        for kind, params in (("arg", arg_params), ("aux", aux_params)):
            for name, array in params.items():
                self.kv.init(f"{kind}/{name}", array)
                self.kv.pull(f"{kind}/{name}", out=array)
        module.set_params(arg_params, aux_params)

    def update(self, module: mx.mod.Module, max_norm: float = 0.0) -> None:
        """Sum the gradients over all devices and workers, and let the optimizer of each update its weights; with the
        gradients `clipped` to `max_norm`.

        As Module.update, which can neither clip their sum, nor do it with compression: MXNet's pushpull refuses that.
        """
        if self.kv is None and not max_norm:
            module.update()
            return
        group = module._exec_group
        kv, prefix = (self.kv, "arg/") if self.kv else (module._kvstore, "")
        for i, (name, gradients) in enumerate(zip(group.param_names, group.grad_arrays)):
            if kv and gradients[0] is not None:
                kv.push(f"{prefix}{name}", gradients, priority=-i)
                kv.pull(f"{prefix}{name}", out=gradients, priority=-i)
        module._params_dirty = True
        with clipped(module, max_norm):
            mx.model._update_params(group.param_arrays, group.grad_arrays, updater=module._updater,
                                    num_device=len(module._context))

    def _send(self, key, values):
        if key not in self._keys:
            self._keys.add(key)
            self.kv.init(key, mx.nd.zeros((self.count, values.size * 64)))
        bits = np.zeros((self.count, values.size * 64), np.float32)
        bits[self.rank] = np.unpackbits(values.view(np.uint8)) * self._bit
        array = mx.nd.array(bits)
        self.kv.push(key, array)
        self.kv.pull(key, out=array)
        return array

    @staticmethod
    def _receive(array: mx.nd.NDArray) -> np.ndarray:
        return np.packbits(array.asnumpy() > 0, axis=1).view("<f8")


@contextmanager
def no_waiting_at_exit() -> Iterator[None]:
    """Around a worker's program: one that fails ends at once. MXNet's store, at its end, waits for all workers,
    and these wait for the one that fails; the launcher ends them when it is gone."""
    try:
        yield
    except SystemExit as end:
        if end.code == 1:  # an error, which was printed
            _leave()
        raise
    except Exception:
        traceback.print_exc()
        _leave()


def _leave():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
