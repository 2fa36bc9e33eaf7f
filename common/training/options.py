"""The flags of a training run, with the names of MXNet's image-classification examples and, for those that these have,
their defaults.

A flag belongs to a recipe's common settings (COMMON), to each of its stages (STAGE), or to neither: where the data is,
which devices, what to save. The size of images is in both: a stage without one has the common one.
"""
import argparse
from importlib.util import find_spec
from typing import Any

from common.base.arguments import (
    ArgumentParser,
    amount,
    fraction,
    not_negative,
    positive,
    positive_amount,
    probability,
    switch,
    whole_numbers,
)
from common.data.options import AUGMENTATION_FLAGS
from common.images.options import PREPROCESSING
from symbols.architecture import ACTIVATIONS, PADDINGS, REPEATS, STRIDES

NETWORKS = ("mobilenetv2", "mobilenetv2_gluon")
KV_STORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync")
LR_MODES = ("step", "cosine", "poly")
DTYPES = ("float32", "float16")
CLASS_WEIGHTS = ("none", "balanced")
OF_PRETRAINED = " (default: as in --pretrained-model, else %(default)s)"


class Network(argparse.Action):
    """A name that is given is that of a module in symbols/. (A script's own default is its own business.)"""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any,
                 option_string: str | None = None) -> None:
        if not value.isidentifier() or not find_spec(f"symbols.{value}"):
            if isinstance(parser, ArgumentParser):  # whose errors are one line
                raise argparse.ArgumentError(self, no_network(value))
            parser.exit(2, f"{parser.prog}: error: --network: {no_network(value)}\n")
        setattr(namespace, self.dest, value)


def no_network(name: str) -> str:
    return (f"symbols/ has no {name!r}; give {' or '.join(NETWORKS)}, or train a Symbol of your own by common.fit.fit "
            "(docs/from-the-original.md)")


# (flag, options of add_argument)
NETWORK = (
    ("network", dict(action=Network, default=NETWORKS[0], help=f"module of symbols/: {' or '.join(NETWORKS)}, the "
                     "Symbol or the Gluon definition")),
    ("multiplier", dict(type=amount, default=1.0, help="width multiplier, 0.1 to 2" + OF_PRETRAINED)),
    ("channels", dict(type=whole_numbers(9), help="in its place, for networks that round otherwise: channels of the "
                      "first convolution, the seven stages and the last convolution, with commas between")),
    ("repeats", dict(type=whole_numbers(7), help="blocks of each stage, with commas between (default: those of "
                     f"--pretrained-model, else {','.join(map(str, REPEATS))})")),
    ("strides", dict(choices=STRIDES, default="published", help="stride table; first: that of the first public "
                     "version" + OF_PRETRAINED)),
    ("padding", dict(choices=PADDINGS, default="symmetric", help="of 3x3 convolutions; same: as TensorFlow pads"
                     + OF_PRETRAINED)),
    ("activation", dict(choices=ACTIVATIONS, default="relu6", help="relu: as some other repositories have it"
                        + OF_PRETRAINED)),
)
TRAINING = (
    ("optimizer", dict(type=str.lower, default="sgd", help="one of MXNet's optimizers, or adamw (a wrong name "
                       "lists them)")),
    ("mom", dict(type=amount, default=0.9, help="momentum, for the optimizers that have one")),
    ("wd", dict(type=amount, default=1e-4, help="weight decay")),
    ("no-wd", dict(type=switch, default=0, help="1: none on BatchNorm's gamma (on biases and beta there is none "
                   "anyway)")),
    ("label-smoothing", dict(type=fraction, default=0.0, help="share of the target given to the other classes, such "
                             "as 0.1")),
    ("class-weights", dict(choices=CLASS_WEIGHTS, default="none", help="balanced: the loss of an image is multiplied "
                           "by N / (K n) if n of the N images are of its class, one of K; counted in --data-train")),
    ("teacher", dict(metavar="PREFIX", default=None, help="distillation: a checkpoint (its last epoch, or that of "
                     "PREFIX-%%04d.params) of a network with the same classes, whose answers are targets too")),
    ("temperature", dict(type=positive_amount, default=20.0, help="of both networks' answers, with --teacher")),
    ("hard-weight", dict(type=probability, default=0.5, help="weight of the labels' loss, with --teacher; the rest is "
                         "that of the answers'")),
    ("clip-grad-norm", dict(type=amount, default=0.0, help="the gradients of a batch are scaled down if their norm, "
                            "that of all parameters together, is more than this; 0: never")),
    ("ema", dict(type=fraction, default=0.0, help="decay of an exponential moving average of the weights, such as "
                 "0.9999, which is evaluated and saved beside them as PREFIX-ema; 0: none")),
    ("lr-for-batch", dict(type=not_negative, default=0, help="images in the global batch that the rates are meant "
                          "for; they change in proportion for another; 0: they are taken as they are")),
    ("dtype", dict(choices=DTYPES, default="float32", help="of weights and activations; float16 keeps master weights "
                   "in float32, and needs a GPU")),
    ("loss-scale", dict(type=positive_amount, default=None, help="the loss is multiplied by it, the gradient divided "
                        "(default: 128 with float16, else 1)")),
    ("pretrained-model", dict(metavar="FILE|PREFIX|NAME", default=None, help="start from the weights in FILE.params, "
                              "of this network or Gluon's, in the last epoch of PREFIX, or published as NAME "
                              "(python -m common.modelzoo list); their fc layer is made anew if --num-classes "
                              "differs. Network and images are as they and the files of the PREFIX say, unless a flag "
                              "says otherwise")),
    ("train-from", dict(metavar="LAYER", default=None, help="train only this layer and those after it, as in fc or "
                        "last-1x1-conv")),
    ("head-lr-mult", dict(type=amount, default=1.0, help="the rate of the fc layer is multiplied by it")),
)
SCHEDULE = (
    ("batch-size", dict(type=positive, default=128, help="images in a batch of all devices of one worker")),
    ("lr", dict(type=amount, default=0.1, help="initial learning rate")),
    ("lr-mode", dict(choices=LR_MODES, default="step", help="how it falls: by a factor at steps, or along a curve")),
    ("lr-factor", dict(type=positive_amount, default=0.1, help="step: the rate is multiplied by it at each step")),
    ("lr-step-epochs", dict(default="", help="step: the epochs, as in 30,60, counted from the beginning of the "
                            "stage with its warm-up; empty: every epoch; pow2: in place of steps --lr-mode poly with "
                            "--lr-power 2")),
    ("lr-final", dict(type=amount, default=0.0, help="cosine, poly: the rate at the end")),
    ("lr-power", dict(type=positive_amount, default=2.0, help="poly: the power")),
    ("warmup-epochs", dict(type=amount, default=0.0, help="epochs in which the rate rises to --lr")),
    ("warmup-lr", dict(type=amount, default=0.0, help="the rate from which it rises")),
    ("mixup", dict(type=amount, default=0.0, help="alpha of mixup, such as 0.2; 0: none")),
    ("cutmix", dict(type=amount, default=0.0, help="alpha of CutMix, such as 1; 0: none; with --mixup too, each batch "
                    "has one of them, by chance")),
)
RUN = (
    ("num-epochs", dict(type=positive, default=100, help="train until this number of epochs is completed")),
    ("test-io", dict(type=switch, default=0, help="1: measure the input pipeline alone")),
)
RECIPE = (
    ("recipe", dict(metavar="NAME|FILE", default=None, help="recipes/NAME.toml, a TOML file, or the .json of a "
                    "checkpoint; it sets the epochs too; flags override it")),
    ("epoch-scale", dict(type=positive_amount, default=1.0, help="multiply the epochs of the recipe by it; the rates "
                         "fall as far in the shorter or longer time")),
)
CHECKPOINTS = (
    ("model-prefix", dict(help="PREFIX of the checkpoints; none: nothing is saved")),
    ("resume", dict(action="store_true", help="go on from the newest complete checkpoint of PREFIX, exactly")),
    ("load-epoch", dict(type=not_negative, default=None, help="start from the weights of PREFIX-%%04d.params, after "
                        "this many epochs, without optimizer state")),
    ("overwrite", dict(type=switch, default=0, help="1: remove the checkpoints of an earlier run with this PREFIX")),
    ("save-period", dict(type=positive, default=1, help="save every N epochs, and after the last")),
    ("save-every", dict(type=amount, default=30.0, help="save inside long epochs too, every N minutes; 0: never")),
    ("keep", dict(type=not_negative, default=5, help="keep the last N checkpoints, and the best; 0: all")),
)
DEVICES = (
    ("gpus", dict(default="", help="GPUs to run on, as in 0,1; empty: the processor")),
    ("fused-batchnorm", dict(type=switch, default=1, help="1: on the processor, BatchNorm and clip are one operator, "
                             "if make setup has built it; 0: MXNet's own")),
    ("kv-store", dict(default="device", choices=KV_STORES, help="how devices and workers share gradients")),
    ("gc-type", dict(choices=("none", "2bit"), default="none", help="gradient compression between workers")),
    ("gc-threshold", dict(type=positive_amount, default=0.5, help="its threshold")),
)
REPORT = (
    ("top-k", dict(type=not_negative, default=0, help="report the top-k accuracy too; 0: only top-1")),
    ("disp-batches", dict(type=positive, default=100, help="report every N batches, and at least every 30 s")),
    ("tensorboard", dict(metavar="FOLDER", default=None, help="write TensorBoard events there")),
)
# flags of common/data/options.py that a recipe may set
DATA_COMMON = ("seed", "num-classes", *(flag for flag, *_ in PREPROCESSING))
DATA_STAGE = ("image-shape", "pad-size", "fill-value", *AUGMENTATION_FLAGS)

COMMON = tuple(flag for flag, _ in NETWORK + TRAINING) + DATA_COMMON
STAGE = tuple(flag for flag, _ in SCHEDULE) + DATA_STAGE


def add_fit_args(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What `common.fit.fit` needs to know beside the flags of `common.data`."""
    for title, table in (("run", RUN), ("checkpoints", CHECKPOINTS), ("devices", DEVICES), ("report", REPORT),
                         ("network", NETWORK), ("schedule (of each stage)", SCHEDULE), ("training", TRAINING)):
        group = _add(parser, title, table)
    return group


def add_recipe_args(parser: argparse.ArgumentParser) -> None:
    """What `common.training.recipe.parse` reads."""
    _add(parser, "recipe", RECIPE)


def _add(parser, title, table):
    group = parser.add_argument_group(title)
    for flag, options in table:
        group.add_argument(f"--{flag}", **options)
    return group


# flags of MXNet's examples, of gluon-cv, torchvision and timm
ELSEWHERE = {
    "--epochs": "give --num-epochs", "--momentum": "give --mom", "--weight-decay": "give --wd",
    "--learning-rate": "give --lr", "-b": "give --batch-size", "-j": "give --data-nthreads",
    "--workers": "give --data-nthreads", "--num-workers": "give --data-nthreads", "-lr": "give --lr",
    "--opt": "give --optimizer", "--sched": "give --lr-mode", "--lr-scheduler": "give --lr-mode",
    "--lr-decay": "give --lr-factor", "--lr-decay-epoch": "give --lr-step-epochs",
    "--lr-step-size": "give --lr-step-epochs", "--lr-gamma": "give --lr-factor",
    "--lr-warmup-epochs": "give --warmup-epochs", "--smoothing": "give --label-smoothing",
    "--mixup-alpha": "give --mixup", "--cutmix-alpha": "give --cutmix", "--reprob": "give --random-erase",
    "--aa": "give --auto-augment", "--model": "give --network", "--model-ema": "give --ema",
    "--model-ema-decay": "give --ema", "--img-size": "give --image-shape", "--input-size": "give --image-shape",
    "--mean": "give --rgb-mean", "--std": "give --rgb-std", "--crop-pct": "give --crop-ratio",
    "--rec-train": "give --data-train", "--rec-val": "give --data-val", "--data-dir": "give --data-train",
    "--save-dir": "give --model-prefix", "--output": "give --model-prefix", "--output-dir": "give --model-prefix",
    "--save-frequency": "give --save-period", "--log-interval": "give --disp-batches",
    "--print-freq": "give --disp-batches", "--resume-epoch": "give --load-epoch", "--num-gpus": "give --gpus",
    "--amp": "give --dtype float16", "--pretrained": "give --pretrained-model FILE.params, PREFIX or NAME",
    "--num-layers": "MobileNetV2's size is --multiplier", "--width-mult": "give --multiplier",
    "--initializer": "weights begin as Xavier's, gaussian, by fan-in, magnitude 2",
    "--monitor": "weights and losses that are not finite end the run; leave it out",
    "--loss": "the cross-entropy is always shown; leave it out",
    "--macrobatch-size": "give --lr-for-batch", "--warmup-strategy": "--warmup-epochs rises in a line",
    "--use-imagenet-data-augmentation": "give --recipe cosine-150", "--norm-weight-decay": "give --no-wd 1 for none",
    "--decay-rate": "give --lr-factor", "--data-path": "give --data-train and --data-val",
    "--weights": "give --pretrained-model FILE.params", "--initial-checkpoint": "give --pretrained-model FILE.params",
    "--train-crop-size": "give --image-shape", "--val-resize-size": "give --crop-ratio",
    "--test-only": "run eval_imagenet.py", "--model-path": "give --model-prefix, and --load-epoch",
    "--clip-grad": "give --clip-grad-norm", "--clip-mode": "--clip-grad-norm bounds the norm of all gradients",
    "--teacher-model": "give --teacher", "--distillation-tau": "give --temperature", "--distillation-alpha":
    "give --hard-weight, which is 1 - alpha",
    "--opt-betas": "those of adam and adamw are 0.9 and 0.999", "--opt-eps": "that of adam and adamw is 1e-8",
    "--layer-before-fullc": "fc is replaced if the number of classes differs; leave it out",
}
