"""MXNet's optimizer for a Module, and its state as plain arrays.

The optimizer runs in every worker, never on a parameter server (`MXNET_UPDATE_ON_KVSTORE=0`): its state can then be
saved and restored, and an error in it is seen.
"""
import argparse
import os
from pathlib import Path

import numpy as np

from common.base.errors import InputError, last_line
from common.find_mxnet import mx
from common.training.adamw import AdamW
from common.training.schedule import quiet
from symbols.architecture import CLASSIFIER

# without that which adds the gradient, for MXNet's own tests
REGISTRY = sorted({AdamW.__name__.lower(), *mx.optimizer.Optimizer.opt_registry} - {"test"})
MOMENTUM_OPTIMIZERS = ("sgd", "ccsgd", "nag", "dcasgd", "lbsgd", "lars", "signum")
# keep numbers of their own besides the arrays of their state, so that a resumed run is not exactly the same
NOT_EXACT = ("nadam", "lars", "sgld")
ADVICE = "give --optimizer, --mom, --train-from and --dtype as they were, or start from the weights by --load-epoch"


def check_optimizer(args: argparse.Namespace) -> None:
    """Raise InputError, with those that can, unless the optimizer of the common settings `args` can update weights."""
    fault = _fault(args)
    if fault:
        hint = "" if _fault(_changed(args, mom=0.0)) else "--mom 0, or "
        others = ", ".join(name for name in REGISTRY if not _fault(_changed(args, optimizer=name)))
        raise InputError(f"--optimizer {args.optimizer}: {fault}; give {hint}one of {others}")


def _changed(args, **settings):
    return argparse.Namespace(**{**vars(args), **settings})


def _fault(args):
    """What hinders the optimizer in two updates of weights and gradients with zeros in them, without decay; or None."""
    if args.optimizer not in REGISTRY:
        return "MXNet has none of this name"
    weights, gradients = ([mx.nd.array(np.arange(np.prod(shape)).reshape(shape) % 2, dtype=args.dtype)
                           for shape in ((2,), (2, 2), (2, 2, 1, 1))] for _ in range(2))
    try:
        scheduler = mx.lr_scheduler.FactorScheduler(1000, base_lr=0.1)
        update = mx.optimizer.get_updater(_create(_changed(args, wd=0.0), scheduler))
        for _ in range(2):
            update(list(range(len(weights))), gradients, weights)
        finite = all(np.isfinite(weight.asnumpy()).all() for weight in weights)
    except Exception as error:  # of any kind: they are MXNet's own faults
        return f"MXNet's cannot be used here ({type(error).__name__}: {last_line(error)})"
    return None if finite else "MXNet's makes weights that are not finite if gradients are 0"


def _create(args, scheduler, **options):
    if args.optimizer in MOMENTUM_OPTIMIZERS:
        options["momentum"] = args.mom
    with quiet():
        return mx.optimizer.create(args.optimizer, learning_rate=scheduler.base_lr, lr_scheduler=scheduler, wd=args.wd,
                                   multi_precision=args.dtype == "float16", **options)


def init_optimizer(module: mx.mod.Module, args: argparse.Namespace, scheduler: mx.lr_scheduler.LRScheduler,
                   kvstore: object, updates: int = 0) -> None:
    """Give `module` the optimizer that the common settings `args` ask for, after `updates` updates.

    `kvstore`: name of the one that sums the gradients of this machine's devices.
    """
    os.environ["MXNET_UPDATE_ON_KVSTORE"] = "0"
    names, devices = module._exec_group.param_names, len(module._context)
    optimizer = _create(args, scheduler, begin_num_update=updates, sym=module.symbol, param_idx2name={
        i * devices + k: name for i, name in enumerate(names) for k in range(devices)})
    optimizer.set_wd_mult({name: 0.0 for name in names if args.no_wd and name.endswith("_gamma")})
    optimizer.set_lr_mult({name: args.head_lr_mult for name in CLASSIFIER if args.head_lr_mult != 1})
    optimizer.rescale_grad = 1 / module._exec_group.batch_size  # as Module wants it; each stage sets its own
    module.init_optimizer(kvstore, optimizer)


def state_arrays(module: mx.mod.Module) -> dict:
    """{"fc_weight:0": NDArray}: each parameter's arrays of optimizer state, such as its momentum, on one device."""
    devices = len(module._context)
    return {f"{name}:{part}": array for i, name in enumerate(module._exec_group.param_names)
            for part, array in enumerate(_flat(module._updater.states.get(i * devices)))}


def restore_state(module: mx.mod.Module, arrays: dict, source: str | Path) -> None:
    """Set the optimizer's state to `arrays` of `state_arrays`, read from `source`, on all devices.

    Raises InputError if they are not those of this optimizer and network.
    """
    devices, used = len(module._context), set()
    group, updater = module._exec_group, module._updater
    kind = type(updater.optimizer).__name__.lower()
    for i, (name, weights) in enumerate(zip(group.param_names, group.param_arrays)):
        if group.grad_req[name] == "null":
            continue
        for k, weight in enumerate(weights):
            index = i * devices + k
            state = updater.optimizer.create_state_multi_precision(index, weight)
            for part, array in enumerate(_flat(state)):
                saved = arrays.get(f"{name}:{part}")
                if saved is None or saved.shape != array.shape:
                    raise InputError(f"{source}: not the state of --optimizer {kind} for this network ({name}); "
                                     f"{ADVICE}")
                array[:] = saved
                used.add(f"{name}:{part}")
            updater.states[index], updater.states_synced[index] = state, True
    if used != set(arrays):
        raise InputError(f"{source}: holds state that --optimizer {kind} does not have here "
                         f"({min(set(arrays) - used)}); {ADVICE}")


def master_weights(module: mx.mod.Module) -> dict:
    """{name: float32 NDArray} of all parameters and auxiliary states on the first device: for float16 the optimizer's
    own copies, which are what is trained."""
    devices, first = len(module._context), module._exec_group.execs[0]
    weights = {}
    for i, name in enumerate(module._exec_group.param_names):
        weight = first.arg_dict[name]
        if weight.dtype == mx.np.float32:
            weights[name] = weight
        else:
            state = module._updater.states.get(i * devices)
            weights[name] = weight.astype("float32") if state is None else _master(module._updater.optimizer, state)
    return {**weights, **first.aux_dict}


def _master(optimizer, state):
    """The float32 copy of a float16 weight in its state: (copy, state) for most of MXNet's optimizers, (state, copy)
    for those, such as sgd and nag, that have a way of their own."""
    usual = mx.optimizer.Optimizer.create_state_multi_precision
    return state[0 if type(optimizer).create_state_multi_precision is usual else 1]


def _flat(state):
    """The arrays in an optimizer's state: None, an array, or a tuple of such."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in _flat(part)]
    return [state]
