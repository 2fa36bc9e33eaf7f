"""What train_imagenet.py can be told: flags named as in MXNet's image-classification examples, where those have them.

A flag belongs to a recipe's common settings (COMMON), to each of its stages (STAGE), or to neither: where the data is,
which devices, what to save.
"""
import argparse

from common.base.arguments import amount, fraction, not_negative, positive, positive_amount, switch, whole_numbers
from common.data.options import AUGMENTATION, BENCHMARK_BATCHES, add_data_args, add_data_aug_args
from common.images.options import PREPROCESSING
from symbols.architecture import PADDINGS, REPEATS, STRIDES

NETWORKS = ("mobilenetv2", "mobilenetv2_gluon")
KV_STORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync")
LR_MODES = ("step", "cosine", "poly")
DTYPES = ("float32", "float16")
OF_PRETRAINED = " (default: as in --pretrained-model, else %(default)s)"

# (flag, options of add_argument)
NETWORK = (
    ("network", dict(choices=NETWORKS, default=NETWORKS[0], help="Symbol or Gluon definition")),
    ("multiplier", dict(type=amount, default=1.0, help="width multiplier, 0.1 to 2" + OF_PRETRAINED)),
    ("channels", dict(type=whole_numbers(9), help="in its place, for networks that round otherwise: channels of the "
                      "first convolution, the seven stages and the last convolution, with commas between")),
    ("repeats", dict(type=whole_numbers(7), help="blocks of each stage, with commas between (default: those of "
                     f"--pretrained-model, else {','.join(map(str, REPEATS))})")),
    ("strides", dict(choices=STRIDES, default="published", help="stride table; first: that of the first public "
                     "version" + OF_PRETRAINED)),
    ("padding", dict(choices=PADDINGS, default="symmetric", help="of 3x3 convolutions; same: as TensorFlow pads"
                     + OF_PRETRAINED)),
)
TRAINING = (
    ("optimizer", dict(type=str.lower, default="sgd", help="one of MXNet's optimizers (a wrong name lists them)")),
    ("mom", dict(type=amount, default=0.9, help="momentum, for the optimizers that have one")),
    ("wd", dict(type=amount, default=4e-5, help="weight decay")),
    ("no-wd", dict(type=switch, default=0, help="1: none on BatchNorm's gamma (on biases and beta there is none "
                   "anyway)")),
    ("label-smoothing", dict(type=fraction, default=0.0, help="share of the target given to the other classes, 0.1 "
                             "say")),
    ("ema", dict(type=fraction, default=0.0, help="decay of an exponential moving average of the weights, 0.9999 say, "
                 "which is evaluated and saved beside them as PREFIX-ema; 0: none")),
    ("lr-for-batch", dict(type=not_negative, default=0, help="the rates are meant for a global batch of so many "
                          "images, and are changed in proportion for another; 0: they are taken as they are")),
    ("dtype", dict(choices=DTYPES, default="float32", help="of weights and activations; float16 keeps master weights "
                   "in float32, and needs a GPU")),
    ("loss-scale", dict(type=positive_amount, default=None, help="the loss is multiplied by it, the gradient divided "
                        "(default: 128 with float16, else 1)")),
    ("pretrained-model", dict(metavar="FILE", default=None, help="start from the weights in this FILE.params; its fc "
                              "layer is made anew where --num-classes differs. Network and images are as it and the "
                              "files of its PREFIX say, where no flag says otherwise")),
    ("train-from", dict(metavar="LAYER", default=None, help="train this layer and those after it only, as in fc or "
                        "last-1x1-conv")),
    ("head-lr-mult", dict(type=amount, default=1.0, help="the rate of the fc layer is multiplied by it")),
    ("seed", dict(type=not_negative, default=0, help="of initial weights, shuffle, augmentation and mixup")),
)
SCHEDULE = (
    ("batch-size", dict(type=positive, default=96, help="images in a batch of all devices of one worker")),
    ("lr", dict(type=amount, default=0.045, help="initial learning rate")),
    ("lr-mode", dict(choices=LR_MODES, default="step", help="how it falls: by a factor at steps, or along a curve")),
    ("lr-factor", dict(type=positive_amount, default=0.98, help="step: the rate is multiplied by it at each step")),
    ("lr-step-epochs", dict(default="", help="step: epochs at which it is, as in 30,60, counted from the "
                           "beginning of the stage, its warm-up included; empty: each")),
    ("lr-final", dict(type=amount, default=0.0, help="cosine, poly: the rate at the end")),
    ("lr-power", dict(type=positive_amount, default=2.0, help="poly: the power")),
    ("warmup-epochs", dict(type=amount, default=0.0, help="epochs in which the rate rises to --lr")),
    ("warmup-lr", dict(type=amount, default=0.0, help="the rate from which it rises")),
    ("mixup", dict(type=amount, default=0.0, help="alpha of mixup, 0.2 say; 0: none")),
)
RUN = (
    ("recipe", dict(metavar="NAME|FILE", default=None, help="recipes/NAME.toml, a TOML file, or the .json of a "
                    "checkpoint; flags override it")),
    ("num-epochs", dict(type=positive, default=480, help="train until so many epochs are completed (default: "
                        "those of the recipe, else %(default)s)")),
    ("epoch-scale", dict(type=positive_amount, default=1.0, help="multiply the epochs of the recipe by it; the rates "
                         "fall as far in the shorter or longer time")),
    ("benchmark", dict(type=switch, default=0, help=f"1: measure the speed on {BENCHMARK_BATCHES} batches of "
                       "synthetic images, and save nothing")),
    ("test-io", dict(type=switch, default=0, help="1: measure the input pipeline alone")),
)
CHECKPOINTS = (
    ("model-prefix", dict(help="PREFIX of the checkpoints; none: nothing is saved")),
    ("resume", dict(action="store_true", help="go on from the newest whole checkpoint of PREFIX, exactly")),
    ("load-epoch", dict(type=not_negative, default=None, help="start from the weights of PREFIX-%%04d.params, after so "
                        "many epochs, without optimizer state")),
    ("overwrite", dict(type=switch, default=0, help="1: remove the checkpoints of an earlier run with this PREFIX")),
    ("save-period", dict(type=positive, default=1, help="save each so many epochs, and after the last")),
    ("save-every", dict(type=amount, default=30.0, help="save inside long epochs too, each so many minutes; 0: not")),
    ("keep", dict(type=not_negative, default=5, help="keep the last so many checkpoints, and the best; 0: all")),
)
DEVICES = (
    ("gpus", dict(default="", help="GPUs to run on, as in 0,1; empty: the processor")),
    ("fused-batchnorm", dict(type=switch, default=1, help="1: on the processor, BatchNorm and clip are one operator, "
                             "where make setup has built it; 0: MXNet's own")),
    ("kv-store", dict(default="device", choices=KV_STORES, help="how devices and workers share gradients")),
    ("gc-type", dict(choices=("none", "2bit"), default="none", help="gradient compression between workers")),
    ("gc-threshold", dict(type=positive_amount, default=0.5, help="its threshold")),
)
REPORT = (
    ("top-k", dict(type=not_negative, default=5, help="report the top-k accuracy too; 0: only top-1")),
    ("disp-batches", dict(type=positive, default=20, help="report each so many batches")),
    ("tensorboard", dict(metavar="FOLDER", default=None, help="write TensorBoard events there")),
)
# flags of common/data/options.py that a recipe may set
DATA_COMMON = ("num-classes", *(flag for flag, *_ in PREPROCESSING))
PADS = ("pad-size", "fill-value")

COMMON = tuple(flag for flag, _ in NETWORK + TRAINING) + DATA_COMMON
STAGE = tuple(flag for flag, _ in SCHEDULE) + PADS + tuple(flag for flag, *_ in AUGMENTATION)


def add_train_args(parser: argparse.ArgumentParser) -> None:
    for title, table in (("run", RUN), ("checkpoints", CHECKPOINTS), ("devices", DEVICES), ("report", REPORT),
                         ("network", NETWORK)):
        _add(parser.add_argument_group(title), table)
    add_data_args(parser)
    _add(parser.add_argument_group("training"), TRAINING)
    _add(parser.add_argument_group("schedule (of each stage)"), SCHEDULE)
    add_data_aug_args(parser)


def _add(group, table):
    for flag, options in table:
        group.add_argument(f"--{flag}", **options)
