"""The flags that say which images there are, and how those for training are augmented, with the names and defaults of
MXNet's image-classification examples."""
import argparse

from common.base.arguments import amount, grey, not_negative, positive, probability, side_or_stored, switch, whole_from
from common.base.machine import usable_processors
from common.images.options import add_preprocessing_args, add_preprocessing_texts

BENCHMARK_BATCHES = 50
NUM_CLASSES = 1000  # if nothing tells
DATA_BACKENDS = ("opencv", "mxnet")

# flag, option of ImageRecordIter, type, default, help
AUGMENTATION = (
    ("random-crop", "rand_crop", switch, 1, "1: crop at a random place, 0: at the centre"),
    ("random-mirror", "rand_mirror", switch, 1, "1: mirror half of the images, at random"),
    ("resize", "resize", side_or_stored, -1, "shorter side, in pixels, that each image is given first, enlarged if "
     "need be, and that the scales are relative to; -1: as it is stored (default of train_imagenet.py: 480 for a crop "
     "of 224, and in that proportion for others)"),
    ("min-random-scale", "min_random_scale", amount, 1.0, "smallest factor an image is scaled by (default of "
     "train_imagenet.py: that which leaves what evaluation sees, by --crop-ratio: 0.533 = 256 / 480)"),
    ("max-random-scale", "max_random_scale", amount, 1.0, "largest factor an image is scaled by"),
    ("max-random-h", "random_h", not_negative, 0, "largest change of hue (0 to 180)"),
    ("max-random-s", "random_s", not_negative, 0, "largest change of saturation (0 to 255)"),
    ("max-random-l", "random_l", not_negative, 0, "largest change of lightness (0 to 255)"),
    ("min-random-aspect-ratio", "min_aspect_ratio", amount, None, "smallest aspect ratio; "
     "--max-random-aspect-ratio is the largest one then"),
    ("max-random-aspect-ratio", "max_aspect_ratio", amount, 0.0, "largest change of the aspect ratio"),
    ("max-random-rotate-angle", "max_rotate_angle", not_negative, 0, "largest rotation in degrees"),
    ("max-random-shear-ratio", "max_shear_ratio", amount, 0.0, "largest shear"),
    ("random-resized-crop", "random_resized_crop", switch, 0, "1: crop of random area and aspect ratio, then resized"),
    ("max-random-area", "max_random_area", amount, 1.0, "largest area (with --random-resized-crop)"),
    ("min-random-area", "min_random_area", amount, 1.0, "smallest area (with --random-resized-crop)"),
    ("min-crop-size", "min_crop_size", int, -1, "smallest crop, resized to the input; -1: the input's size"),
    ("max-crop-size", "max_crop_size", int, -1, "largest crop, resized to the input; -1: the input's size"),
    ("brightness", "brightness", amount, 0.0, "largest relative change of brightness (0 to 1)"),
    ("contrast", "contrast", amount, 0.0, "largest relative change of contrast (0 to 1)"),
    ("saturation", "saturation", amount, 0.0, "largest relative change of saturation (0 to 1)"),
    ("pca-noise", "pca_noise", amount, 0.0, "PCA noise on the colours (0 to 1)"),
)
# flag, options of add_argument: what ImageRecordIter lacks, with the names of torchvision's training script
OPENCV_AUGMENTATION = (
    ("auto-augment", dict(choices=("none", "ra", "ta_wide"), default="none", help="after crop, colour and mirror: "
                          "RandAugment or TrivialAugment, as torchvision's; what they move in is of --fill-value")),
    ("ra-magnitude", dict(type=whole_from(0, 30), default=9, help="strength of RandAugment's operations, 0 to 30")),
    ("ra-num-ops", dict(type=whole_from(1, 30), default=2, help="RandAugment's operations on each image")),
    ("random-erase", dict(type=probability, default=0.0, help="probability that a rectangle of an image is made the "
                          "colour of --rgb-mean")),
)
AUGMENTATION_FLAGS = (*(flag for flag, *_ in AUGMENTATION), *(flag for flag, _ in OPENCV_AUGMENTATION))

# what each level of augmentation of MXNet's examples adds to those below it
LEVELS = (
    {"random_crop": 1, "random_mirror": 1},
    {"max_random_h": 36, "max_random_s": 50, "max_random_l": 50},
    {"max_random_rotate_angle": 10, "max_random_shear_ratio": 0.1, "max_random_aspect_ratio": 0.25},
)


def add_image_args(group: argparse._ActionsContainer, owner: str) -> None:
    """What evaluation needs to know of the images; `owner` as for `add_preprocessing_args`."""
    _add_validation_args(group)
    add_preprocessing_args(group, owner)


def _add_validation_args(group):
    group.add_argument("--data-val-idx", default="", help="index of --data-val; empty: beside it, if there is one")
    group.add_argument("--data-nthreads", type=positive, help="threads that decode images (default: one for each core "
                       "that may be used)")
    group.add_argument("--skip-damaged", action="store_true", help="evaluate without the images of --data-val that "
                       "cannot be decoded, and say how many there are, in place of an error")


def decoding_threads(args: argparse.Namespace) -> int:
    """--data-nthreads, or what it is by default here."""
    return args.data_nthreads or usable_processors()


def add_data_args(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Which images training reads, how many there are, and how they are prepared."""
    data = parser.add_argument_group("data")
    data.add_argument("--data-train", metavar="REC", help="RecordIO file of the training images, several with commas "
                      "between, or a folder of the parts of one set")
    data.add_argument("--data-train-idx", default="", help="its index; empty: beside it, if there is one")
    data.add_argument("--data-val", metavar="REC", help="the same of the validation images; none: no validation")
    _add_validation_args(data)
    add_preprocessing_texts(data)
    data.add_argument("--check-data", type=switch, default=0, help="1: decode every image of --data-val before "
                      "training begins; 0: look at labels and headers only")
    data.add_argument("--data-backend", choices=DATA_BACKENDS, default="opencv", help="what reads and augments the "
                      "training images: OpenCV in threads, or MXNet's ImageRecordIter, which is slower")
    data.add_argument("--num-classes", type=positive, default=None, help="number of classes (default: that of "
                      "dataset.json beside the records, else 1000)")
    data.add_argument("--num-examples", type=positive, default=None, help="images that the learning rate's schedule "
                      "takes for an epoch (default: those there are); an epoch trains on every image all the same")
    data.add_argument("--pad-size", type=not_negative, default=0, help="pixels added on every side before the crop")
    data.add_argument("--fill-value", type=grey, default=127, help="grey level, 0 to 255, of what is added")
    data.add_argument("--benchmark", type=switch, default=0, help=f"1: measure the speed on {BENCHMARK_BATCHES} "
                      "batches of synthetic images, and save nothing")
    data.add_argument("--seed", type=not_negative, default=0, help="seed of initial weights, shuffle, augmentation, "
                      "mixup and CutMix")
    return data


def add_data_aug_args(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How the training images are augmented: AUGMENTATION_FLAGS."""
    group = parser.add_argument_group("augmentation of the training images")
    for flag, _, kind, default, text in AUGMENTATION:
        group.add_argument(f"--{flag}", type=kind, default=default, help=text)
    for flag, options in OPENCV_AUGMENTATION:
        group.add_argument(f"--{flag}", **options)
    return group


def set_data_aug_level(parser: argparse.ArgumentParser, level: int) -> None:
    """Set the defaults of `parser` to crop and mirror (1), with colour too (2), with rotation, shear and aspect ratio
    too (3)."""
    for options in LEVELS[:level]:
        parser.set_defaults(**options)
