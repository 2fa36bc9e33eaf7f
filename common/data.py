"""Images for training and evaluation: ImageRecordIter over RecordIO, or synthetic ones to measure speed."""
import argparse

import numpy as np

from common.arguments import image_shape, numbers, positive
from common.errors import InputError
from common.find_mxnet import mx
from common.preprocess import RGB_MEAN, RGB_STD, resize_for
from common.recordio import check_records

AREA_INTERPOLATION = 3
BENCHMARK_BATCHES = 50

# flag of MXNet's image-classification examples, option of ImageRecordIter, type, default, help.
# The defaults are the first stage of the published 1.0 weights.
AUGMENTATION = (
    ("random-crop", "rand_crop", int, 1, "1: crop at a random place, 0: at the centre"),
    ("random-mirror", "rand_mirror", int, 1, "1: mirror every other image"),
    ("min-random-scale", "min_random_scale", float, 0.533, "smallest factor the packed image is scaled by"),
    ("max-random-scale", "max_random_scale", float, 1.0, "largest factor the packed image is scaled by"),
    ("max-random-h", "random_h", int, 36, "largest change of hue (0 to 180)"),
    ("max-random-s", "random_s", int, 50, "largest change of saturation (0 to 255)"),
    ("max-random-l", "random_l", int, 50, "largest change of lightness (0 to 255)"),
    ("min-random-aspect-ratio", "min_aspect_ratio", float, None, "smallest aspect ratio (with --random-resized-crop)"),
    ("max-random-aspect-ratio", "max_aspect_ratio", float, 0.0, "largest change of the aspect ratio"),
    ("max-random-rotate-angle", "max_rotate_angle", int, 0, "largest rotation in degrees"),
    ("max-random-shear-ratio", "max_shear_ratio", float, 0.0, "largest shear"),
    ("random-resized-crop", "random_resized_crop", int, 0, "1: crop of random area and aspect ratio, then resized"),
    ("max-random-area", "max_random_area", float, 1.0, "largest area (with --random-resized-crop)"),
    ("min-random-area", "min_random_area", float, 1.0, "smallest area (with --random-resized-crop)"),
    ("min-crop-size", "min_crop_size", int, -1, "smallest crop, resized to the input; -1: the input's size"),
    ("max-crop-size", "max_crop_size", int, -1, "largest crop, resized to the input; -1: the input's size"),
    ("brightness", "brightness", float, 0.0, "largest relative change of brightness (0 to 1)"),
    ("contrast", "contrast", float, 0.0, "largest relative change of contrast (0 to 1)"),
    ("saturation", "saturation", float, 0.0, "largest relative change of saturation (0 to 1)"),
    ("pca-noise", "pca_noise", float, 0.0, "PCA noise on the colours (0 to 1)"),
)


def add_image_args(group) -> None:
    """What evaluation and training both need to know of the images."""
    group.add_argument("--data-val-idx", default="", help="index of --data-val; empty: beside it, where there is one")
    group.add_argument("--image-shape", type=image_shape, default=(3, 224, 224), help="input of the network")
    group.add_argument("--rgb-mean", type=numbers(3), default=RGB_MEAN, help="subtracted from the image")
    group.add_argument("--rgb-std", type=numbers(3), default=RGB_STD, help="the image is divided by it")
    group.add_argument("--data-nthreads", type=positive, default=4, help="threads to decode with")


def add_data_args(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data-train", help="RecordIO file of the training images")
    data.add_argument("--data-train-idx", default="", help="its index; empty: beside it, where there is one")
    data.add_argument("--data-val", help="RecordIO file of the validation images; none: no validation")
    add_image_args(data)
    data.add_argument("--num-classes", type=positive, default=1000, help="number of classes")
    data.add_argument("--num-examples", type=positive, default=None, help="training images in an epoch (default: all "
                      "that the index lists)")
    data.add_argument("--pad-size", type=int, default=0, help="pixels added on every side before the crop")
    data.add_argument("--fill-value", type=int, default=127, help="grey level of what is added")
    data.add_argument("--benchmark", type=int, default=0,
                      help=f"1: measure the speed on {BENCHMARK_BATCHES} batches of synthetic images, and save nothing")


def add_data_aug_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("augmentation of the training images")
    for flag, _, kind, default, text in AUGMENTATION:
        group.add_argument(f"--{flag}", type=kind, default=default, help=text)


class LabelCheckedIter(mx.io.DataIter):
    """The batches of `make()`, an iterator over `source`; a label outside the classes is an InputError.

    With `renew`, each pass is over a new iterator. ImageRecordIter borrows images to fill the last batch and skips them
    in the next pass (round_batch), or fills it with garbage and does not say so (no round_batch).
    """

    def __init__(self, make, num_classes, source, renew=False):
        self._make, self._num_classes, self._source, self._renew = make, num_classes, source, renew
        self._iter, self._fresh = make(), True
        super().__init__(self._iter.batch_size)

    provide_data = property(lambda self: self._iter.provide_data)
    provide_label = property(lambda self: self._iter.provide_label)

    def reset(self):
        if self._renew:
            if not self._fresh:
                self._iter, self._fresh = self._make(), True
        else:
            self._iter.reset()

    def next(self):
        self._fresh = False
        batch = self._iter.next()
        labels = batch.label[0].asnumpy()
        outside = labels[~np.isin(labels, np.arange(self._num_classes))]
        if outside.size:
            raise InputError(f"{self._source}: holds label {outside[0]:g}, but the network's classes are 0 to "
                             f"{self._num_classes - 1}: give the right --num-classes or pack the images again")
        return batch


class SyntheticIter(mx.io.DataIter):
    """The same random batch, `batches` times: what a training step costs without its input."""

    def __init__(self, num_classes, data_shape, batches):
        super().__init__(data_shape[0])
        rng = np.random.RandomState(0)
        data = mx.nd.array(rng.uniform(-1, 1, data_shape).astype(np.float32))
        label = mx.nd.array(rng.randint(0, num_classes, data_shape[:1]).astype(np.float32))
        self.provide_data = [mx.io.DataDesc("data", data.shape)]
        self.provide_label = [mx.io.DataDesc("softmax_label", label.shape)]
        self._batch = mx.io.DataBatch([data], [label], pad=0)
        self._batches, self._given = batches, 0

    def reset(self):
        self._given = 0

    def next(self):
        if self._given == self._batches:
            raise StopIteration
        self._given += 1
        return self._batch


def training_iter(args, kv):
    """(iterator, batches in an epoch) over this worker's part of the training images."""
    if args.benchmark:
        return SyntheticIter(args.num_classes, (args.batch_size, *args.image_shape), BENCHMARK_BATCHES), \
            BENCHMARK_BATCHES
    if not args.data_train:
        raise InputError("give the training images with --data-train FILE.rec (or --benchmark 1)")
    idx, records = check_records(args.data_train, args.data_train_idx)
    examples = args.num_examples or records
    if not examples:
        raise InputError(f"{args.data_train}: has no .idx beside it, so give --num-examples (or --data-train-idx)")
    if examples < args.batch_size * kv.num_workers:
        raise InputError(f"--batch-size {args.batch_size} is more than the {examples} training images"
                         + (f" of {kv.num_workers} workers" if kv.num_workers > 1 else ""))
    options = {option: getattr(args, flag.replace("-", "_")) for flag, option, *_ in AUGMENTATION}

    def make():
        return mx.io.ImageRecordIter(
            path_imgrec=args.data_train, path_imgidx=idx, shuffle=True, seed=args.seed, seed_aug=args.seed,
            pad=args.pad_size, fill_value=args.fill_value, num_parts=kv.num_workers, part_index=kv.rank,
            **{option: value for option, value in options.items() if value is not None},
            **_common_options(args))
    batches = examples // (args.batch_size * kv.num_workers)
    # every epoch, and every worker, has the same number of batches; the iterator goes on where it was
    return mx.io.ResizeIter(LabelCheckedIter(make, args.num_classes, args.data_train), batches,
                            reset_internal=False), batches


def evaluation_iter(args, num_classes):
    """Iterator over all images of --data-val: shorter side 256, centre crop 224, in proportion for other sizes.

    The last batch of each pass is filled up; `batch.pad` says with how many (`common.evaluate.score` leaves them out).
    """
    check_records(args.data_val, args.data_val_idx)
    return LabelCheckedIter(lambda: mx.io.ImageRecordIter(
        path_imgrec=args.data_val, shuffle=False, resize=resize_for(max(args.image_shape[1:])),
        inter_method=AREA_INTERPOLATION, **_common_options(args)), num_classes, args.data_val, renew=True)


def _common_options(args):
    names = ("mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b")
    return dict(data_name="data", label_name="softmax_label", data_shape=args.image_shape,
                batch_size=args.batch_size, preprocess_threads=args.data_nthreads, verbose=False,
                **dict(zip(names, (*args.rgb_mean, *args.rgb_std))))
