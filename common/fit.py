"""Train a network with MXNet's Module, as MXNet's image-classification examples do."""
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.arguments import amount, not_negative, positive
from common.checkpoint import load_params_for, save_checkpoint
from common.data import evaluation_iter, training_iter
from common.devices import contexts
from common.errors import InputError, last_line
from common.evaluate import metrics, score
from common.find_mxnet import mx

KV_STORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async")
MOMENTUM_OPTIMIZERS = ("sgd", "ccsgd", "nag", "dcasgd", "lbsgd", "lars", "signum")


def add_fit_args(parser) -> None:
    train = parser.add_argument_group("training")
    train.add_argument("--gpus", default="", help="GPUs to run on, as in 0,1; empty: the processor")
    train.add_argument("--kv-store", default="device", choices=KV_STORES, help="how devices and workers share "
                       "gradients")
    train.add_argument("--num-epochs", type=positive, default=480, help="train until this many epochs are completed")
    train.add_argument("--batch-size", type=positive, default=96, help="images in a batch of all devices")
    train.add_argument("--lr", type=amount, default=0.045, help="initial learning rate")
    train.add_argument("--lr-factor", type=amount, default=0.98, help="the rate is multiplied by it at each step")
    train.add_argument("--lr-step-epochs", default="", help="epochs at which it is, as in 30,60; empty: each")
    train.add_argument("--optimizer", type=str.lower, default="sgd", help="any of MXNet's optimizers")
    train.add_argument("--mom", type=amount, default=0.9, help="momentum, for the optimizers that have one")
    train.add_argument("--wd", type=amount, default=4e-5, help="weight decay")
    train.add_argument("--top-k", type=not_negative, default=5, help="report the top-k accuracy too; 0: only top-1")
    train.add_argument("--disp-batches", type=positive, default=20, help="log each so many batches")
    train.add_argument("--model-prefix", help="PREFIX of the checkpoints; none: nothing is saved")
    train.add_argument("--save-period", type=positive, default=1, help="save each so many epochs, and after the last")
    train.add_argument("--load-epoch", type=not_negative, default=None,
                       help="go on from the parameters PREFIX-%%04d.params, after so many epochs")
    train.add_argument("--seed", type=not_negative, default=0, help="of initial weights, shuffle and augmentation")


def fit(args, network) -> None:
    """Train `network` (a Symbol) as `args` say, log and save each epoch.

    `args` has what `add_fit_args` and `common.data`'s functions add. Raises InputError for anything in them that
    cannot be used, before training starts where it can be known then.
    """
    begin, end = args.load_epoch or 0, 1 if args.benchmark else args.num_epochs
    if not args.benchmark and end <= begin:
        raise InputError(f"--num-epochs {end}: {begin} epochs are completed already")
    mx.random.seed(args.seed)
    devices, kv = contexts(args.gpus), key_value_store(args.kv_store)
    arg_params = aux_params = None
    if args.load_epoch is not None:
        if not args.model_prefix:
            raise InputError("--load-epoch needs --model-prefix")
        arg_params, aux_params = load_params_for(network, args.model_prefix, args.load_epoch,
                                                 (args.batch_size, *args.image_shape))
    if args.optimizer not in mx.optimizer.Optimizer.opt_registry:
        raise InputError(f"--optimizer {args.optimizer}: MXNet has "
                         f"{', '.join(sorted(mx.optimizer.Optimizer.opt_registry))}")
    images, batches = training_iter(args, kv)
    validation = evaluation_iter(args, args.num_classes) if args.data_val and not args.benchmark else None

    schedule = optimizer_params(args, begin, end, batches)
    check_model_prefix(args)

    module = mx.mod.Module(network, context=devices)
    metric = mx.metric.CompositeEvalMetric(metrics(args.top_k, args.num_classes))
    with logging_redirect_tqdm(), callback_errors() as errors:
        module.fit(
            images, begin_epoch=begin, num_epoch=end, kvstore=kv, eval_metric=metric,
            optimizer=args.optimizer, optimizer_params=schedule,
            initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
            arg_params=arg_params, aux_params=aux_params,
            batch_end_callback=batch_callbacks(args, batches, errors),
            epoch_end_callback=[save(args, kv, end), validate(args, module, validation)])


def check_model_prefix(args):
    """An epoch is too long to learn only at its end that the checkpoint cannot be written."""
    if not args.model_prefix:
        return
    if args.model_prefix.endswith("/"):
        raise InputError(f"--model-prefix {args.model_prefix}: give the beginning of the files' names too")
    folder = Path(args.model_prefix).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--model-prefix {args.model_prefix}: {error.strerror}: {error.filename}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"--model-prefix {args.model_prefix}: {folder} cannot be written to")


def key_value_store(kind):
    if kind.startswith("dist") and "DMLC_ROLE" not in os.environ:
        raise InputError(f"--kv-store {kind}: start scheduler, servers and workers with a launcher that sets DMLC_ROLE "
                         "and its kin; one machine needs none (--kv-store device)")
    try:
        return mx.kvstore.create(kind)
    except mx.base.MXNetError as error:
        raise InputError(f"--kv-store {kind}: {last_line(error)}") from None


def optimizer_params(args, begin, end, batches) -> dict:
    """The optimizer's options; its learning rate is that of epoch `begin`, and steps on at the ends of epochs."""
    try:
        steps = [int(e) for e in args.lr_step_epochs.split(",")] if args.lr_step_epochs else list(range(1, end))
    except ValueError:
        raise InputError(f"--lr-step-epochs {args.lr_step_epochs}: give epochs with commas between, as in 30,60") \
            from None
    if not 0 < args.lr_factor <= 1:
        raise InputError(f"--lr-factor {args.lr_factor:g}: give a factor above 0, and 1 at most")
    params = {"learning_rate": args.lr * args.lr_factor ** sum(step <= begin for step in steps), "wd": args.wd}
    ahead = sorted({(step - begin) * batches for step in steps if step > begin})
    if ahead:
        params["lr_scheduler"] = mx.lr_scheduler.MultiFactorScheduler(
            step=ahead, factor=args.lr_factor, base_lr=params["learning_rate"])
    if args.optimizer in MOMENTUM_OPTIMIZERS:
        params["momentum"] = args.mom
    return params


@contextmanager
def callback_errors():
    """A list of the exceptions that are raised within this block in callbacks from C++.

    MXNet calls the optimizer like that, and Python would only print such an exception, Ctrl-C included, and go on.
    """
    errors, hook = [], sys.unraisablehook

    def keep(unraisable):
        if "ctypes callback" in (unraisable.err_msg or ""):
            errors.append(unraisable.exc_value)
        else:
            hook(unraisable)

    sys.unraisablehook = keep
    try:
        yield errors
    finally:
        sys.unraisablehook = hook


def batch_callbacks(args, batches, errors):
    """What follows each batch: errors of the optimizer are raised, Speedometer logs, and a terminal shows progress."""
    def stop(_):
        if errors and isinstance(errors[0], KeyboardInterrupt):
            raise errors[0]
        if errors:
            raise InputError(f"--optimizer {args.optimizer}: {type(errors[0]).__name__}: {last_line(errors[0])}")

    def settle(param):
        # BatchNorm's moving mean and variance are written in the backward pass, which MXNet does not wait for before
        # it copies them at the end of an epoch: the first layers would miss the last batch, now and then
        if param.nbatch == batches - 1:
            mx.nd.waitall()

    callbacks = [stop, settle, mx.callback.Speedometer(args.batch_size, args.disp_batches)]
    if sys.stderr.isatty():
        bar = tqdm(total=batches, unit="batch", leave=False, dynamic_ncols=True)

        def advance(param):
            if param.nbatch == 0:
                bar.reset()
                bar.set_description(f"epoch {param.epoch}")
            bar.update()
        callbacks.append(advance)
    return callbacks


def validate(args, module, images):
    """An epoch-end callback that scores the validation images, each of them once."""
    def callback(epoch, *_):
        if images is None:
            return
        metric = mx.metric.CompositeEvalMetric(metrics(args.top_k, args.num_classes))
        count = score(module, images, metric)
        for name, value in metric.get_name_value():
            logging.info("Epoch[%d] Validation-%s=%f", epoch, name, value)
        logging.info("Epoch[%d] Validation-images=%d", epoch, count)
    return callback


def save(args, kv, end):
    """An epoch-end callback that writes the checkpoint."""
    def callback(epoch, symbol, arg_params, aux_params):
        completed = epoch + 1
        due = completed % args.save_period == 0 or completed == end
        if args.model_prefix and not args.benchmark and due and kv.rank == 0:
            path = save_checkpoint(args.model_prefix, completed, symbol, arg_params, aux_params)
            logging.info('Saved checkpoint to "%s"', path)
    return callback
