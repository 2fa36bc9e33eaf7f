"""Images for training and evaluation from RecordIO, or synthetic ones to measure speed."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data import jpeg_box
from common.data.augmentation import Augmentation
from common.data.evaluation_images import EvaluationIter
from common.data.image_record_iter import CutBatches, image_record_iter, images_at_a_time, reading
from common.data.options import AUGMENTATION, BENCHMARK_BATCHES, DATA_BACKENDS
from common.data.training_images import TrainingImages, epoch_order, offsets_of
from common.dataset import packed_as
from common.errors import InputError
from common.find_mxnet import mx
from common.preprocessing_file import Preprocessing
from common.preprocessing_options import preprocessing_of
from common.recordio import check_records

MOST_PASSES = 100  # over all images in an epoch
SHORT_SIDE = 480  # of packed images where nothing tells, for crops of 224

# MXNet refuses them together with random_resized_crop, which takes their place
REPLACED_BY_RESIZED_CROP = ("rand_crop", "min_random_scale", "max_random_scale", "min_crop_size", "max_crop_size")

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
    short_side: int | None = None
    records: int | None = None


def training_set(args: argparse.Namespace) -> TrainingSet:
    """The images of --data-train. Raises InputError for files that are not whole or not of each other."""
    if not args.data_train:
        raise InputError("give the training images with --data-train FILE.rec (or --benchmark 1)")
    idx, records = check_records(args.data_train, args.data_train_idx)
    short_side, packed = packed_as(args.data_train)
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
    return READERS[args.data_backend](args, images, epoch, rank, workers, first)


def _opencv_iter(args, images, epoch, rank, workers, first):
    jpeg_box.library()  # warns here, once, where it is not there
    offsets = offsets_of(images.rec, images.idx)
    if images.records not in (None, len(offsets)):
        raise InputError(f"{images.rec}: {len(offsets)} records, {images.records} by dataset.json; one of them belongs "
                         "to other images")
    if images.examples > MOST_PASSES * len(offsets):
        raise InputError(f"--num-examples {images.examples}: {images.rec} has {len(offsets)} images; give "
                         f"{MOST_PASSES} times as many at most, and more epochs")
    augmentation = augmentation_of(args, images)
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


def augmentation_options(args: argparse.Namespace, short_side: int | None = None) -> dict:
    """ImageRecordIter's options for the augmentation that `args` ask for, of images packed with that shorter side."""
    options = {option: getattr(args, flag.replace("-", "_")) for flag, option, *_ in AUGMENTATION}
    if options["min_random_scale"] is None:  # a crop then sees at least what it sees in evaluation
        resize = preprocessing_of(args).resize if short_side else round(Preprocessing().crop / args.crop_ratio)
        options["min_random_scale"] = min(1.0, round(resize / (short_side or SHORT_SIDE), 3))
    return {option: value for option, value in options.items()
            if value is not None and not (args.random_resized_crop and option in REPLACED_BY_RESIZED_CROP)}


def evaluation_iter(args: argparse.Namespace, num_classes: int, part: int = 0, parts: int = 1) -> EvaluationIter:
    """Iterator over the images of --data-val, or one part of them, prepared as `args` say."""
    packed_as(args.data_val)  # a file that was not copied whole is an error
    return EvaluationIter(args.data_val, args.data_val_idx, args.batch_size, args.image_shape, preprocessing_of(args),
                          num_classes, args.data_nthreads, part, parts)
