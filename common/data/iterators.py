"""Images for training and evaluation from RecordIO, or synthetic ones to measure speed."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.base.errors import InputError
from common.data import jpeg_box
from common.data.augmentation import Augmentation
from common.data.evaluation_images import EvaluationIter
from common.data.image_record_iter import CutBatches, image_record_iter, images_at_a_time, reading
from common.data.options import AUGMENTATION, BENCHMARK_BATCHES, DATA_BACKENDS, decoding_threads
from common.data.training_images import TrainingImages, epoch_order, offsets_of
from common.find_mxnet import mx
from common.images.dataset import packed_as
from common.images.options import preprocessing_of
from common.images.recordio import check_records, record_files

SHORT_SIDE, CROP = 480, 224  # of the published training: the shorter side of its records, and what it cropped

# random_resized_crop takes the place of these (MXNet refuses most of them together with it): it draws parts of the
# stored image
REPLACED_BY_RESIZED_CROP = ("resize", "rand_crop", "min_random_scale", "max_random_scale", "min_crop_size",
                            "max_crop_size")


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
    """Images to train on: `examples` of them, in `files`, [(record file, its index or "")]; `short_side` as they were
    packed, None if nothing tells."""
    files: tuple[tuple[str, str], ...]
    examples: int
    short_side: int | None = None

    def __str__(self) -> str:
        return ", ".join(rec for rec, _ in self.files)


def training_set(args: argparse.Namespace) -> TrainingSet:
    """The images of --data-train. Raises InputError for files that are not whole or not of each other."""
    if not args.data_train:
        raise InputError("give the training images with --data-train FILE.rec (or --benchmark 1)")
    files, examples, short_sides = [], 0, set()
    for rec, given_idx in record_files(args.data_train, args.data_train_idx):
        idx, records = check_records(rec, given_idx)
        short_side, packed = packed_as(rec)
        records = records or len(offsets_of(((rec, ""),))[0])
        if packed not in (None, records):
            raise InputError(f"{rec}: {records} images by its {'index' if idx else 'records'}, {packed} by "
                             "dataset.json; one of them belongs to other records")
        files.append((rec, idx))
        short_sides.add(short_side)
        examples += records
    return TrainingSet(tuple(files), examples, short_sides.pop() if len(short_sides) == 1 else None)


def batches_in_epoch(examples: int, batch_size: int, workers: int = 1) -> int:
    """The same number for every epoch and worker: as many as it takes for every image to be met."""
    return -(-examples // (batch_size * workers))


def training_iter(args: argparse.Namespace, images: TrainingSet, epoch: int = 0, rank: int = 0, workers: int = 1,
                  first: int = 0) -> mx.io.DataIter:
    """Iterator over this worker's batches of an epoch, from number `first` on: the images, their order and augmentation
    are those of (--seed, epoch, rank); with --data-backend mxnet on any machine with as many decoding threads."""
    return READERS[args.data_backend](args, images, epoch, rank, workers, first)


def _opencv_iter(args, images, epoch, rank, workers, first):
    jpeg_box.library()  # warns here, once, where it is not there
    wanted = batches_in_epoch(images.examples, args.batch_size, workers) * args.batch_size * workers
    numbers = epoch_order(images.examples, wanted, args.seed, epoch)[rank::workers]
    return TrainingImages(images.files, numbers, args.batch_size, augmentation_of(args, images), args.rgb_mean,
                          args.rgb_std, args.num_classes, decoding_threads(args), (args.seed, epoch, rank), first)


def _mxnet_iter(args, images, epoch, rank, workers, first):
    if len(images.files) > 1:
        raise InputError(f"{images}: --data-backend mxnet reads one record file; --data-backend opencv reads several")
    (rec, idx), = images.files
    seed = int(np.random.SeedSequence([args.seed, epoch, rank]).generate_state(1)[0] >> 1)
    batches = batches_in_epoch(images.examples, args.batch_size, workers)
    # the last worker's part, which is what the others leave of an index; without one, parts are of as many bytes
    fewest = images.examples - (workers - 1) * -(-images.examples // workers) if idx else images.examples // workers
    if fewest < args.batch_size:
        raise InputError(f"--batch-size {args.batch_size}: --data-backend mxnet gives one of {workers} workers "
                         f"{max(fewest, 0)} of the {images.examples} images; give less, or --data-backend opencv")
    at_a_time = images_at_a_time(args.batch_size, batches, fewest)
    with reading(rec):
        records = image_record_iter(
            path_imgrec=rec, path_imgidx=idx, shuffle=True, seed=seed, seed_aug=seed,
            data_name="data", label_name="softmax_label", data_shape=args.image_shape, batch_size=at_a_time,
            preprocess_threads=decoding_threads(args), verbose=False, pad=args.pad_size, fill_value=args.fill_value,
            prefetch_buffer=1,  # more of them would not be freed
            num_parts=workers, part_index=rank, **augmentation_options(args, images.short_side),
            **dict(zip(("mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b"), (*args.rgb_mean, *args.rgb_std))))
    return CutBatches(records, batches, args.batch_size, args.num_classes, rec, first)


READERS = dict(zip(DATA_BACKENDS, (_opencv_iter, _mxnet_iter)))


def synthetic_iter(args: argparse.Namespace) -> SyntheticIter:
    """As `training_iter`, over images that cost nothing."""
    return SyntheticIter(args.num_classes, (args.batch_size, *args.image_shape), BENCHMARK_BATCHES)


def augmentation_of(args: argparse.Namespace, images: TrainingSet) -> Augmentation:
    """The random crops that `args` ask for. Raises InputError for options that do not go together."""
    augmentation = Augmentation(*args.image_shape[1:], **{"pad": args.pad_size, "fill_value": args.fill_value,
                                                          **augmentation_options(args, images.short_side)})
    augmentation.check()
    return augmentation


def resize_of(args: argparse.Namespace) -> int:
    """The shorter side that images are given before they are augmented, -1: as they are stored. The published training
    had records of 480 pixels, to which smaller images were enlarged, for crops of 224."""
    return round(SHORT_SIDE * min(args.image_shape[1:]) / CROP) if args.resize is None else args.resize


def augmentation_options(args: argparse.Namespace, short_side: int | None = None) -> dict:
    """ImageRecordIter's options for the augmentation that `args` ask for, of images packed with that shorter side."""
    options = {option: getattr(args, flag.replace("-", "_")) for flag, option, *_ in AUGMENTATION}
    options["resize"] = resize_of(args)
    if options["min_random_scale"] is None:  # a crop then sees at least what it sees in evaluation
        before = short_side or SHORT_SIDE if options["resize"] == -1 else options["resize"]
        options["min_random_scale"] = min(1.0, round(preprocessing_of(args).resize / before, 3))
    return {option: value for option, value in options.items()
            if value is not None and not (args.random_resized_crop and option in REPLACED_BY_RESIZED_CROP)}


def evaluation_iter(args: argparse.Namespace, num_classes: int, part: int = 0, parts: int = 1) -> EvaluationIter:
    """Iterator over the images of --data-val, or one part of them, prepared as `args` say."""
    for rec, _ in record_files(args.data_val, args.data_val_idx):
        packed_as(rec)  # a file that was not copied whole is an error
    return EvaluationIter(args.data_val, args.data_val_idx, args.batch_size, args.image_shape, preprocessing_of(args),
                          num_classes, decoding_threads(args), part, parts, args.skip_damaged)
