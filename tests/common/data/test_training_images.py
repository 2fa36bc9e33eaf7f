"""What this repository's reader of training images promises beyond what ImageRecordIter does."""
import numpy as np
import pytest

from common.data.iterators import training_iter, training_set
from common.data.training_images import epoch_order
from common.errors import InputError
from common.find_mxnet import mx
from common.recordio import record_offsets
from tests.common.data.test_iterators import options

PLAIN = dict(random_crop=0, random_mirror=0, min_random_scale=1.0, max_random_h=0, max_random_s=0, max_random_l=0)


def batches(args, epoch=0, first=0, **worker):
    images = training_iter(args, training_set(args), epoch, first=first, **worker)
    return np.stack([batch.data[0].asnumpy() for batch in images])


def test_neither_threads_nor_where_an_epoch_is_entered_change_an_image(packed):
    """A run that is resumed inside an epoch goes on at once."""
    whole = batches(options(packed, data_nthreads=1), epoch=2)
    for threads, first in ((1, 0), (3, 0), (2, 4), (7, 9)):
        assert (batches(options(packed, data_nthreads=threads), epoch=2, first=first) == whole[first:]).all()


def test_every_image_of_a_batch_is_augmented_for_itself(packed):
    """Those of one image, many times in an epoch, all differ."""
    one = options(packed, batch_size=5, num_examples=103 * 20)
    seen = [image.tobytes() for batch in batches(one) for image in batch]
    assert len(set(seen)) == len(seen) == 103 * 20


def test_each_image_is_met_once_before_any_is_met_again(packed):
    args = options(packed, num_examples=230, **PLAIN)
    images = [image.tobytes() for batch in batches(args) for image in batch]
    assert len(set(images[:103])) == 103 == len(set(images[103:206])) and images[:103] != images[103:206]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_workers_share_an_epoch(workers):
    order = epoch_order(1000, 990, 3, 7)
    assert len(set(order.tolist())) == 990 and order.min() >= 0 and order.max() < 1000
    shares = [set(order[rank::workers].tolist()) for rank in range(workers)]
    assert sum(map(len, shares)) == 990 and set.union(*shares) == set(order.tolist())
    assert (epoch_order(1000, 990, 3, 8) != order).any() and (epoch_order(1000, 990, 4, 7) != order).any()
    assert (order[:500] == epoch_order(1000, 500, 3, 7)).all()


def test_without_an_index_the_records_are_found(packed, tmp_path):
    alone = tmp_path / "alone.rec"
    alone.write_bytes((packed.parent / "val.rec").read_bytes())
    assert (record_offsets(alone) == record_offsets(f"{packed}.rec", f"{packed}.idx")).all()
    args = options(tmp_path / "alone", num_examples=103, **PLAIN)
    assert (batches(args) == batches(options(packed, **PLAIN))).all()


def test_a_record_whose_payload_holds_the_magic_number(tmp_path):
    """It is stored in parts."""
    image = np.random.RandomState(0).randint(0, 256, (60, 60, 3)).astype(np.uint8)
    whole = mx.recordio.pack_img(mx.recordio.IRHeader(0, 1.0, 0, 0), image, img_fmt=".png")
    whole += bytes(-len(whole) % 4) + b"\x0a\x23\xd7\xce" * 2  # after the image, which does not mind
    writer = mx.recordio.MXIndexedRecordIO(str(tmp_path / "x.idx"), str(tmp_path / "x.rec"), "w")
    for number in range(3):
        writer.write_idx(number, whole)
    writer.close()
    args = options(tmp_path / "x", batch_size=3, rgb_mean=(0, 0, 0), **PLAIN)
    centre = image[6:54, 6:54, ::-1].transpose(2, 0, 1)
    assert (batches(args)[0] == centre).all()


def test_labels_are_those_of_the_images(packed):
    args = options(packed, batch_size=103, **PLAIN)
    batch = next(training_iter(args, training_set(args)))
    reader = mx.recordio.MXIndexedRecordIO(f"{packed}.idx", f"{packed}.rec", "r")
    labels = [mx.recordio.unpack(reader.read_idx(key))[0].label for key in reader.keys]
    order = epoch_order(103, 103, 0, 0)
    assert (batch.label[0].asnumpy() == np.array(labels)[order]).all() and batch.pad == 0


def test_no_more_batches_are_in_memory_than_threads_need(packed):
    args = options(packed, batch_size=50, num_examples=5000)
    images = training_iter(args, training_set(args))
    assert images.ahead == 2 and next(images).data[0].shape == (50, 3, 48, 48)
    assert len(images._begun) <= 2
    images = training_iter(options(packed, batch_size=1, num_examples=5000), training_set(args))
    assert images.ahead == 33


@pytest.mark.parametrize(("changes", "message"), [
    ({"min_crop_size": 40}, "--max-crop-size -1: give both"),
    ({"min_crop_size": 100, "max_crop_size": 200}, "record [0-9]+ of [0-9]+x[0-9]+ pixels"),
])
def test_options_that_the_images_do_not_allow(packed, changes, message):
    with pytest.raises(InputError, match=message):
        batches(options(packed, **changes))


def test_a_file_that_changes_under_the_run(packed, tmp_path):
    """Cut, or written over, after training has begun."""
    for suffix in (".rec", ".idx"):
        (tmp_path / f"x{suffix}").write_bytes((packed.parent / f"val{suffix}").read_bytes())
    args = options(tmp_path / "x")
    images = training_iter(args, training_set(args))
    with open(tmp_path / "x.rec", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(InputError, match=r"x.rec: record [0-9]+ (cannot be read|is not an image)"):
        list(images)
