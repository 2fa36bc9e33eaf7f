"""The random crops against ImageRecordIter's: equal pixels where nothing is left to chance, equal distributions
elsewhere."""
import random

import cv2
import numpy as np
import pytest

from common.base.errors import InputError
from common.data.augmentation import DRAWS, Augmentation
from common.data.jpeg_box import open_image
from common.data.pixels import change_hls
from common.find_mxnet import mx
from tests.samples import are_alike

SHAPE = (48, 40)
CROPS = 1000  # of ImageRecordIter's; three times as many of ours


def write_records(folder, records):
    rec = str(folder / "x.rec")
    writer = mx.recordio.MXRecordIO(rec, "w")
    for record in records:
        writer.write(record)
    writer.close()
    return rec


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """(record file, its encoded images): 8 of several sizes, of smooth colours."""
    records = []
    for i, (height, width) in enumerate([(80, 107), (107, 80), (80, 80), (81, 143), (95, 60), (64, 64), (60, 200),
                                         (90, 121)]):
        noise = np.random.RandomState(i).randint(0, 256, (height, width, 3)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 3)
        smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        records.append(mx.recordio.pack_img(mx.recordio.IRHeader(0, 0.0, i, 0), smooth, 95, ".jpg"))
    return write_records(tmp_path_factory.mktemp("images"), records), [mx.recordio.unpack(x)[1] for x in records]


@pytest.fixture(scope="module")
def square(images, tmp_path_factory):
    """(record file of CROPS times the same image, that image)"""
    content = images[1][2]
    record = mx.recordio.pack(mx.recordio.IRHeader(0, 0.0, 0, 0), content)
    return write_records(tmp_path_factory.mktemp("square"), [record] * CROPS), content


def of_mxnet(rec, count, shape=SHAPE, **options):
    images = mx.io.ImageRecordIter(path_imgrec=rec, data_shape=(3, *shape), batch_size=count, verbose=False,
                                   preprocess_threads=1, seed=1, **options)
    return next(images).data[0].asnumpy().transpose(0, 2, 3, 1)[..., ::-1]


def of_ours(contents, shape=SHAPE, seed=0, **options):
    augmentation = Augmentation(*shape, **options)
    augmentation.check()
    draw = random.Random(seed).random
    opened = {content: open_image(content) for content in set(contents)}
    return np.stack([augmentation(opened[content], draw) for content in contents]).astype(np.float32)


@pytest.mark.parametrize("options", [
    {}, {"min_random_scale": 0.85, "max_random_scale": 0.85}, {"min_random_scale": 0.533, "max_random_scale": 0.533},
    {"min_random_scale": 1.7, "max_random_scale": 1.7},
    {"min_random_scale": 0.3, "max_random_scale": 0.3},                       # too small, and enlarged
    {"pad": 30, "fill_value": 100}, {"pad": 5, "fill_value": 7, "min_random_scale": 0.6, "max_random_scale": 0.6},
    {"pad": 200, "fill_value": 100, "shape": (400, 420)},
    {"min_aspect_ratio": 1.3, "max_aspect_ratio": 1.3}, {"min_crop_size": 55, "max_crop_size": 55},
    {"min_crop_size": 58, "max_crop_size": 58, "min_random_scale": 1.1, "max_random_scale": 1.1},
    {"random_resized_crop": 1}, {"random_resized_crop": 1, "min_random_area": 1.3, "max_random_area": 1.3},
])
def test_without_chance_the_pixels_are_those_of_image_record_iter(images, options):
    rec, contents = images
    theirs, ours = of_mxnet(rec, len(contents), **options), of_ours(contents, **options)
    # OpenCV places pixels in steps of 1 / 32; where a place falls between two, its versions may differ
    difference = np.abs(theirs - ours)
    assert (difference > 0).mean() < 0.01 and difference.max() <= 8, options


@pytest.mark.parametrize("options", [
    {"resize": 64}, {"resize": 100}, {"resize": 200}, {"resize": 30}, {"resize": 90, "pad": 5},
    {"resize": 100, "min_crop_size": 60, "max_crop_size": 60}])
def test_images_are_resized_before_as_image_record_iter_does_it(images, options):
    """By one interpolation where it has one of its own for each."""
    rec, contents = images
    difference = np.abs(of_mxnet(rec, len(contents), **options) - of_ours(contents, **options))
    assert difference.mean() < 0.6 and difference.max() <= 12, (difference.mean(), difference.max())


@pytest.mark.parametrize(("option", "most", "arguments"), [
    ("random_h", 36, lambda change: (change, 0, 0)), ("random_l", 50, lambda change: (0, change, 0)),
    ("random_s", 50, lambda change: (0, 0, change))])
def test_colours_change_as_those_of_image_record_iter_and_as_often(square, option, most, arguments):
    """Each of its crops is one of ours for some change of hue, lightness or saturation, but for the rounding of
    OpenCV's versions; the changes that both find have one distribution."""
    rec, content = square
    plain = of_ours([content])[0].astype(np.uint8)
    ours_of = []
    for change in range(-most, most + 1):
        ours_of.append(plain.copy())
        change_hls(ours_of[-1], *arguments(change))
    ours_of = np.stack(ours_of).astype(np.float32)

    def changes(crops):
        for crop in crops:
            nearest = np.abs(ours_of[:, ::5, ::5] - crop[::5, ::5]).mean((1, 2, 3)).argmin()
            difference = np.abs(ours_of[nearest] - crop)
            assert difference.max() <= 4 and difference.mean() < 0.002
            yield nearest - most

    theirs = list(changes(of_mxnet(rec, CROPS, **{option: most})))
    ours = list(changes(of_ours([content] * 3 * CROPS, **{option: most})))
    assert are_alike(theirs, ours)
    assert abs(min(theirs + ours)) > 0.8 * most < max(theirs + ours)


@pytest.mark.parametrize("options", [
    {"brightness": 0.4}, {"contrast": 0.4}, {"saturation": 0.4}, {"pca_noise": 0.1},
    {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}])
def test_other_changes_of_colour_have_the_distribution_of_image_record_iters(square, options):
    """Of the mean and the spread of each colour."""
    rec, content = square
    theirs, ours = of_mxnet(rec, CROPS, **options), of_ours([content] * 3 * CROPS, **options)
    for statistic in (np.mean, np.std):
        for channel in range(3):
            values = (statistic(crops[..., channel], axis=(1, 2)) for crops in (theirs, ours))
            assert are_alike(*values), (statistic, channel)


@pytest.fixture(scope="module")
def slope(tmp_path_factory):
    """(record file of CROPS times the same image, that image): red brightens by 2 levels a pixel to the right, green
    downwards."""
    image = np.zeros((100, 120, 3), np.uint8)
    image[..., 2], image[..., 1] = np.arange(120) * 2, np.arange(100)[:, np.newaxis] * 2
    record = mx.recordio.pack_img(mx.recordio.IRHeader(0, 0.0, 0, 0), image, img_fmt=".png")
    return write_records(tmp_path_factory.mktemp("slope"), [record] * CROPS), mx.recordio.unpack(record)[1]


def places(crops):
    """Of each crop where its centre lies, and how red and green change to the right and downwards: all that scale,
    aspect ratio, angle, shear and place do."""
    middle = crops[:, 16:-16, 12:-12]
    found = [middle[..., channel].mean((1, 2)) for channel in (2, 1)]
    return found + [np.diff(middle[..., channel], axis=axis).mean((1, 2)) for channel in (2, 1) for axis in (1, 2)]


@pytest.mark.parametrize("options", [
    {"rand_crop": 1, "min_random_scale": 0.6, "rand_mirror": 1},
    {"min_random_scale": 0.8, "max_random_scale": 1.6, "rand_crop": 1},
    {"max_aspect_ratio": 0.25}, {"min_aspect_ratio": 0.7, "max_aspect_ratio": 1.4, "rand_crop": 1},
    {"max_rotate_angle": 20}, {"max_shear_ratio": 0.3}, {"rand_crop": 1, "pad": 10},
    {"max_rotate_angle": 10, "max_shear_ratio": 0.1, "min_random_scale": 0.7, "rand_crop": 1, "pad": 4},
    {"resize": 160, "min_random_scale": 0.6, "rand_crop": 1, "max_aspect_ratio": 0.2},
    {"min_crop_size": 50, "max_crop_size": 90, "rand_crop": 1},
    {"random_resized_crop": 1, "min_random_area": 0.2, "max_random_area": 0.9},
    {"random_resized_crop": 1, "min_random_area": 0.3, "min_aspect_ratio": 0.75, "max_aspect_ratio": 1.33},
])
def test_places_have_the_distribution_of_image_record_iters(slope, options):
    rec, content = slope
    theirs, ours = places(of_mxnet(rec, CROPS, **options)), places(of_ours([content] * 3 * CROPS, **options))
    for number, values in enumerate(zip(theirs, ours)):
        rounded = [np.round(value, 2) for value in values]  # those that differ by rounding alone are one
        assert are_alike(*rounded), (options, number)


def test_no_option_needs_more_numbers_than_are_drawn(images):
    _, contents = images
    for options in ({"random_resized_crop": 1, "min_random_area": 5, "max_random_area": 6, "min_aspect_ratio": 0.5,
                     "max_aspect_ratio": 2.0}, {"rand_crop": 1, "min_random_scale": 0.3, "pad": 2}):
        for policy in ("none", "ta_wide", "ra"):
            augmentation = Augmentation(
                *SHAPE, rand_mirror=1, random_h=9, random_s=9, random_l=9, brightness=1, contrast=1, saturation=1,
                pca_noise=1, max_rotate_angle=5, max_shear_ratio=0.1, auto_augment=policy, ra_num_ops=30, **options)
            numbers = iter(np.random.RandomState(0).uniform(size=DRAWS + augmentation.more_draws).tolist())
            augmentation(open_image(contents[0]), numbers.__next__)


@pytest.mark.parametrize(("options", "message"), [
    ({"min_crop_size": 50}, "--max-crop-size -1: give both"), ({"min_crop_size": 50, "max_crop_size": 40}, "give both"),
    ({"max_aspect_ratio": 1.5}, "from -0.5 to 2.5"),
    ({"min_aspect_ratio": 2, "max_aspect_ratio": 1.5}, "from 2 to 1.5"),
    ({"random_resized_crop": 1, "min_random_area": 1.5}, "--min-random-area 1.5"),
])
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        Augmentation(*SHAPE, **options).check()


def test_an_image_that_is_smaller_than_the_crop_that_is_resized(images):
    with pytest.raises(InputError, match="of 107x80 pixels when it is scaled, less than --max-crop-size 90"):
        of_ours(images[1], min_crop_size=50, max_crop_size=90)
