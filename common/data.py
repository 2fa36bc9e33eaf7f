"""Images for training and evaluation from RecordIO, or synthetic ones to measure speed."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import jpeg_box
from common.arguments import amount, not_negative, positive, switch
from common.augmentation import Augmentation
from common.dataset import describe
from common.errors import InputError
from common.evaluation_data import EvaluationIter
from common.find_mxnet import mx
from common.image_record_iter import CutBatches, image_record_iter, images_at_a_time, reading
from common.preprocessing_file import Preprocessing
from common.preprocessing_options import add_preprocessing_args, preprocessing_of
from common.recordio import check_records
from common.training_images import TrainingImages, epoch_order, offsets_of

BENCHMARK_BATCHES = 50
SHORT_SIDE = 480  # of packed images where nothing tells, for crops of 224

# MXNet refuses them together with random_resized_crop, which takes their place
REPLACED_BY_RESIZED_CROP = ("rand_crop", "min_random_scale", "max_random_scale", "min_crop_size", "max_crop_size")

# flag of MXNet's image-classification examples, option of ImageRecordIter, type, default, help.
# The defaults are the first stage of the published 1.0 weights.
AUGMENTATION = (
    ("random-crop", "rand_crop", switch, 1, "1: crop at a random place, 0: at the centre"),
    ("random-mirror", "rand_mirror", switch, 1, "1: mirror every other image"),
    ("min-random-scale", "min_random_scale", amount, None, "smallest factor the packed image is scaled by (default: "
     "0.533 = 256 / 480, or from --crop-ratio and the shorter side that dataset.json beside the records says)"),
    ("max-random-scale", "max_random_scale", amount, 1.0, "largest factor the packed image is scaled by"),
    ("max-random-h", "random_h", not_negative, 36, "largest change of hue (0 to 180)"),
    ("max-random-s", "random_s", not_negative, 50, "largest change of saturation (0 to 255)"),
    ("max-random-l", "random_l", not_negative, 50, "largest change of lightness (0 to 255)"),
    ("min-random-aspect-ratio", "min_aspect_ratio", amount, None, "smallest aspect ratio (with --random-resized-crop)"),
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


def add_image_args(group: argparse._ActionsContainer, owner: str) -> None:
    """What evaluation and training both need to know of the images; `owner` as for `add_preprocessing_args`."""
    group.add_argument("--data-val-idx", default="", help="index of --data-val; empty: beside it, where there is one")
    add_preprocessing_args(group, owner)
    group.add_argument("--data-nthreads", type=positive, default=4, help="threads to decode with")


def add_data_args(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data-train", help="RecordIO file of the training images")
    data.add_argument("--data-train-idx", default="", help="its index; empty: beside it, where there is one")
    data.add_argument("--data-val", help="RecordIO file of the validation images; none: no validation")
    add_image_args(data, "--pretrained-model")
    data.add_argument("--data-backend", choices=tuple(BACKENDS), default="opencv", help="what reads and augments the "
                      "training images: OpenCV in threads, or MXNet's ImageRecordIter, which is slower")
    data.add_argument("--num-classes", type=positive, default=1000, help="number of classes")
    data.add_argument("--num-examples", type=positive, default=None, help="training images in an epoch (default: all "
                      "that dataset.json or the index lists)")
    data.add_argument("--pad-size", type=not_negative, default=0, help="pixels added on every side before the crop")
    data.add_argument("--fill-value", type=not_negative, default=127, help="grey level of what is added")


def add_data_aug_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("augmentation of the training images")
    for flag, _, kind, default, text in AUGMENTATION:
        group.add_argument(f"--{flag}", type=kind, default=default, help=text)


class SyntheticIter(mx.io.DataIter):
    """The same random batch, `batches` times: what a training step costs without its input."""

    def __init__(self, num_classes: int, data_shape: Sequence[int], batches: int) -> None:
        super().__init__(data_shape[0])
        rng = np.random.RandomState(0)
        data = mx.nd.array(rng.uniform(-1, 1, data_shape).astype(np.float32))
        label = mx.nd.array(rng.randint(0, num_classes, data_shape[:1]).astype(np.float32))
        self.provide_data = [mx.io.DataDesc("data", data.shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", label.shape)]
        self._batch = mx.io.DataBatch([data], [label], pad=0)
        self._batches, self._given = batches, 0

    def reset(self) -> None:
        self._given = 0

    def next(self) -> mx.io.DataBatch:
        if self._given == self._batches:
            raise StopIteration
        self._given += 1
        return self._batch


@dataclass(frozen=True)
class TrainingSet:
    """Images to train on: `examples` of them in an epoch of all workers. `short_side` as they were packed, and
    `records`, how many there are: None where nothing tells."""
    rec: str
    idx: str
    examples: int
    short_side: int = None
    records: int = None


def training_set(args: argparse.Namespace) -> TrainingSet:
    """The images of --data-train. Raises InputError for files that are not whole or not of each other."""
    if not args.data_train:
        raise InputError("give the training images with --data-train FILE.rec (or --benchmark 1)")
    idx, records = check_records(args.data_train, args.data_train_idx)
    short_side, packed = describe(args.data_train)
    if packed and records and packed != records:
        raise InputError(f"{args.data_train}: {records} images by its index, {packed} by dataset.json; one of them "
                         "belongs to other records")
    examples = args.num_examples or packed or records
    if not examples:
        raise InputError(f"{args.data_train}: has no .idx beside it, so give --num-examples (or --data-train-idx)")
    return TrainingSet(args.data_train, idx, examples, short_side, packed or records)


def batches_in_epoch(images: TrainingSet, batch_size: int, workers: int = 1) -> int:
    """The same number for every epoch and worker."""
    if images.examples < batch_size * workers:
        raise InputError(f"--batch-size {batch_size} is more than the {images.examples} training images"
                         + (f" of {workers} workers" if workers > 1 else ""))
    return images.examples // (batch_size * workers)


def training_iter(args: argparse.Namespace, images: TrainingSet, epoch: int = 0, rank: int = 0, workers: int = 1,
                  first: int = 0) -> mx.io.DataIter:
    """Iterator over this worker's batches of an epoch, from number `first` on: the images, their order and augmentation
    are those of (--seed, epoch, rank); with --data-backend mxnet on any machine with as many decoding threads."""
    return BACKENDS[args.data_backend](args, images, epoch, rank, workers, first)


def _opencv_iter(args, images, epoch, rank, workers, first):
    jpeg_box.library()  # warns here, once, where it is not there
    offsets = offsets_of(images.rec, images.idx)
    augmentation = Augmentation(*args.image_shape[1:], pad=args.pad_size, fill_value=args.fill_value,
                                **augmentation_options(args, images.short_side))
    augmentation.check()
    wanted = batches_in_epoch(images, args.batch_size, workers) * args.batch_size * workers
    numbers = epoch_order(len(offsets), wanted, args.seed, epoch)[rank::workers]
    return TrainingImages(images.rec, offsets, numbers, args.batch_size, augmentation, args.rgb_mean, args.rgb_std,
                          args.num_classes, args.data_nthreads, (args.seed, epoch, rank), first)


def _mxnet_iter(args, images, epoch, rank, workers, first):
    seed = int(np.random.SeedSequence([args.seed, epoch, rank]).generate_state(1)[0] >> 1)
    batches = batches_in_epoch(images, args.batch_size, workers)
    at_a_time = images_at_a_time(args.batch_size, batches, (images.records or images.examples) // workers)
    # an epoch leaves out less than a batch of each worker, unless it is to have fewer images than there are
    near_its_end = (images.records or images.examples) <= 1.5 * images.examples
    with reading(images.rec):
        records = image_record_iter(
            path_imgrec=images.rec, path_imgidx=images.idx, shuffle=True, seed=seed, seed_aug=seed,
            data_name="data", label_name="softmax_label", data_shape=args.image_shape, batch_size=at_a_time,
            preprocess_threads=args.data_nthreads, verbose=False, pad=args.pad_size, fill_value=args.fill_value,
            prefetch_buffer=1,  # more of them would not be freed
            num_parts=workers, part_index=rank, **augmentation_options(args, images.short_side),
            **dict(zip(("mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b"), (*args.rgb_mean, *args.rgb_std))))
    return CutBatches(records, batches, args.batch_size, args.num_classes, images.rec, near_its_end, first)


BACKENDS = {"opencv": _opencv_iter, "mxnet": _mxnet_iter}


def synthetic_iter(args: argparse.Namespace) -> SyntheticIter:
    """As `training_iter`, over images that cost nothing."""
    return SyntheticIter(args.num_classes, (args.batch_size, *args.image_shape), BENCHMARK_BATCHES)


def augmentation_options(args: argparse.Namespace, short_side: int | None = None) -> dict:
    """ImageRecordIter's options for the augmentation that `args` ask for, of images packed with that shorter side."""
    options = {option: getattr(args, flag.replace("-", "_")) for flag, option, *_ in AUGMENTATION}
    if options["min_random_scale"] is None:  # a crop then sees at least what it sees in evaluation
        resize = preprocessing_of(args).resize if short_side else round(Preprocessing().crop / args.crop_ratio)
        options["min_random_scale"] = min(1.0, round(resize / (short_side or SHORT_SIDE), 3))
    if options["min_random_scale"] > options["max_random_scale"]:
        raise InputError(f"--min-random-scale {options['min_random_scale']:g} is more than --max-random-scale "
                         f"{options['max_random_scale']:g}")
    return {option: value for option, value in options.items()
            if value is not None and not (args.random_resized_crop and option in REPLACED_BY_RESIZED_CROP)}


def evaluation_iter(args: argparse.Namespace, num_classes: int, part: int = 0, parts: int = 1) -> EvaluationIter:
    """Iterator over the images of --data-val, or one part of them, prepared as `args` say."""
    describe(args.data_val)  # a file that was not copied whole is an error
    return EvaluationIter(args.data_val, args.data_val_idx, args.batch_size, args.image_shape, preprocessing_of(args),
                          num_classes, args.data_nthreads, part, parts)
