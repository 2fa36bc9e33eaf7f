"""Images for training and evaluation from RecordIO, or synthetic ones to measure speed, as the flags ask for them."""
import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.base.errors import InputError
from common.data import jpeg_box, pixels
from common.data.augmentation import Augmentation
from common.data.evaluation_images import EvaluationIter
from common.data.heads import check_heads
from common.data.image_record_iter import CutBatches, image_record_iter, images_at_a_time, reading
from common.data.options import (
    AUGMENTATION,
    BENCHMARK_BATCHES,
    DATA_BACKENDS,
    NUM_CLASSES,
    OPENCV_AUGMENTATION,
    decoding_threads,
)
from common.data.training_images import TrainingImages, epoch_order, offsets_of
from common.find_mxnet import mx
from common.images.class_names import names_beside
from common.images.dataset import batches_in_epoch, classes_beside, packed_as
from common.images.options import as_values, preprocessing_of
from common.images.recordio import check_records, record_files
from symbols.architecture import check_image_shape

SHORT_SIDE, CROP = 480, 224  # of the published training: the shorter side of its records, and what it cropped

# random_resized_crop takes the place of these (MXNet refuses most of them together with it): it draws parts of the
# stored image
REPLACED_BY_RESIZED_CROP = ("resize", "rand_crop", "min_random_scale", "max_random_scale", "min_crop_size",
                            "max_crop_size")


class SyntheticIter(mx.io.DataIter):
    """The same random batch, `batches` times: what a training step costs without its input."""

    def __init__(self, num_classes: int, data_shape: Sequence[int], batches: int = BENCHMARK_BATCHES) -> None:
        super().__init__(data_shape[0])
        rng = np.random.RandomState(0)
        data = mx.nd.array(rng.uniform(-1, 1, data_shape).astype(np.float32))
        label = mx.nd.array(rng.randint(0, num_classes, data_shape[:1]).astype(np.float32))
        self.provide_data = [mx.io.DataDesc("data", data.shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", label.shape)]
        self._batch = mx.io.DataBatch([data], [label], pad=0)
        self.batches, self._given = batches, 0

    def __str__(self) -> str:
        return "synthetic"

    def reset(self) -> None:
        self._given = 0

    def seek(self, epoch: int, batch: int = 0) -> None:
        self._given = batch

    def next(self) -> mx.io.DataBatch:
        if self._given == self.batches:
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
    """The images of --data-train. Raises InputError for files that are incomplete, or not of each other."""
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


def training_iter(args: argparse.Namespace, images: TrainingSet, epoch: int = 0, rank: int = 0, workers: int = 1,
                  first: int = 0) -> mx.io.DataIter:
    """Iterator over this worker's batches of an epoch, from number `first` on: the images, their order and augmentation
    are those of (--seed, epoch, rank); with --data-backend mxnet on any machine with as many decoding threads."""
    return READERS[args.data_backend](args, images, epoch, rank, workers, first)


def _opencv_iter(args, images, epoch, rank, workers, first):
    for module in (jpeg_box, pixels):
        module.library()  # warns here, once, if it is not there
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


class TrainingIter(mx.io.DataIter):
    """Epoch after epoch of this worker's batches of `images`, as `args` ask for them; `seek` goes to any batch of any
    epoch. What training wants to know of them beside:

    `batches`: in an epoch. `conditions`: {name: value} of what the images depend on. `preprocessing`: what is to be
    done to a photograph for the network trained on them. `class_names`: a name for each class, if a file beside the
    records has them.
    """

    def __init__(self, args: argparse.Namespace, images: TrainingSet, rank: int = 0, workers: int = 1) -> None:
        super().__init__(args.batch_size)
        if images.examples < args.batch_size * workers:
            raise InputError(f"--batch-size {args.batch_size} is more than the {images.examples} training images"
                             + (f" over {workers} workers" if workers > 1 else "")
                             + f"; give {images.examples // workers} at most")
        augmentation_of(args, images)  # what does not go together is refused before any epoch
        self._args, self.images, self._rank, self._workers = args, images, rank, workers
        self.batches = batches_in_epoch(images.examples, args.batch_size, workers)
        self.conditions = {"examples": images.examples, "data_backend": args.data_backend, "resize": resize_of(args),
                           **({"data_nthreads": decoding_threads(args)} if args.data_backend == "mxnet" else {})}
        self.preprocessing = preprocessing_of(args)
        self.class_names = names_beside(args.data_train, args.num_classes)
        self.provide_data = [mx.io.DataDesc("data", (args.batch_size, *args.image_shape))]
        self.provide_label = [mx.io.DataDesc("softmax_label", (args.batch_size,))]
        self._epoch, self.to_read_over = -1, 0
        self._opened: mx.io.DataIter | None = None

    def __str__(self) -> str:
        packed = f", packed by --short-side {self.images.short_side}" if self.images.short_side else ""
        return f"{self.images}, {self.images.examples:,} in an epoch{packed}"

    def check(self) -> None:
        """Raise InputError now for what a pass would meet, as far as it can be seen without decoding images; warn if
        the records are said to be of another number of classes."""
        listed = classes_beside(self._args.data_train)
        if listed not in (None, self._args.num_classes):
            logging.warning("dataset.json beside %s lists %d classes, the network has %d", self.images, listed,
                            self._args.num_classes)
        if self._args.data_backend == "mxnet":  # which ends the process on it
            check_heads(self.images.files, self._args.num_classes, self._rank, self._workers)

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Go to batch number `batch` of an epoch, both counted from 0. `to_read_over` batches come before it, which can
        only be read."""
        self._epoch = epoch
        self._opened = training_iter(self._args, self.images, epoch, self._rank, self._workers, batch)
        self.to_read_over = self._opened.to_read_over

    def reset(self) -> None:
        """Go to the beginning of the next epoch, as MXNet's iterators do."""
        self.seek(self._epoch + 1)

    def next(self) -> mx.io.DataBatch:
        if self._opened is None:
            self.reset()
        assert self._opened
        return self._opened.next()


def record_iterators(args: argparse.Namespace, rank: int = 0, workers: int = 1) -> tuple:
    """(training, validation) iterators, as `common.data.get_rec_iter` describes them."""
    args = argparse.Namespace(**as_values(vars(args)))
    try:
        check_image_shape(args.image_shape)
    except ValueError as error:
        raise InputError(f"--image-shape: {error}") from None
    if args.benchmark:
        return SyntheticIter(args.num_classes, (args.batch_size, *args.image_shape)), None
    if args.num_classes is None:
        args.num_classes = classes_beside(args.data_train) or NUM_CLASSES if args.data_train else NUM_CLASSES
    train = TrainingIter(args, training_set(args), rank, workers)
    return train, evaluation_iter(args, args.num_classes, rank, workers) if args.data_val else None


def augmentation_of(args: argparse.Namespace, images: TrainingSet) -> Augmentation:
    """The random crops that `args` ask for. Raises InputError for options that do not go together."""
    beyond = {name: getattr(args, name) for name in (flag.replace("-", "_") for flag, _ in OPENCV_AUGMENTATION)}
    augmentation = Augmentation(*args.image_shape[1:], **{"pad": args.pad_size, "fill_value": args.fill_value,
                                                          **augmentation_options(args, images.short_side), **beyond})
    augmentation.check()
    if args.data_backend == "mxnet" and augmentation.more_draws:
        raise InputError("--data-backend mxnet has no --auto-augment and no --random-erase; --data-backend opencv has")
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
        packed_as(rec)  # a file that was not copied completely is an error
    return EvaluationIter(args.data_val, args.data_val_idx, args.batch_size, args.image_shape, preprocessing_of(args),
                          num_classes, decoding_threads(args), part, parts, args.skip_damaged)
