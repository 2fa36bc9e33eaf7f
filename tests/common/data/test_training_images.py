"""What this repository's reader of training images promises beyond what ImageRecordIter does."""
import numpy as np
import pytest

from common.base.errors import InputError
from common.data.iterators import TrainingIter, training_iter, training_set
from common.data.training_images import epoch_order
from common.find_mxnet import mx
from common.images.recordio import record_files, record_offsets
from tests.common.data.test_iterators import options

PLAIN = dict(random_crop=0, random_mirror=0, min_random_scale=1.0, max_random_h=0, max_random_s=0, max_random_l=0)


def batches(args, epoch=0, first=0, **worker):
    images = training_iter(args, training_set(args), epoch, first=first, **worker)
    return np.stack([batch.data[0].asnumpy() for batch in images])


@pytest.mark.parametrize("changes", [{}, {"auto_augment": "ta_wide", "random_erase": 0.5},
                                     {"auto_augment": "ra", "ra_num_ops": 5, "random_erase": 1.0}])
def test_neither_threads_nor_where_an_epoch_is_entered_change_an_image(packed, changes):
    """A run that is resumed inside an epoch goes on at once."""
    whole = batches(options(packed, data_nthreads=1, **changes), epoch=2)
    for threads, first in ((1, 0), (3, 0), (2, 4), (7, 9), (None, 0)):
        args = options(packed, data_nthreads=threads, **changes)
        assert (batches(args, epoch=2, first=first) == whole[first:]).all()


def test_crops_are_the_same_with_random_erasing_and_without(packed):
    """But for a rectangle, which has the colour of the mean."""
    plain, some, all_ = (batches(options(packed, random_erase=p)) for p in (0.0, 0.3, 1.0))
    for erased, least, most in ((some, 0.15, 0.45), (all_, 1, 1)):
        changed = erased != plain
        assert (erased[changed] == 0).all() and least <= changed.any((2, 3, 4)).mean() <= most
    assert 0.02 < (all_ != plain).mean() < 0.33


def test_crops_are_the_same_under_auto_augment(packed):
    """As the identity shows, which is as likely as any other operation."""
    plain, augmented = (batches(options(packed, auto_augment=policy)) for policy in ("none", "ta_wide"))
    same = (plain == augmented).all((2, 3, 4))
    assert 1 / 14 - 0.06 < same.mean() < 0.3


def test_every_image_of_a_batch_is_augmented_for_itself(packed):
    """Those of one image, in many epochs and twice in one, all differ."""
    one = options(packed, batch_size=5)
    seen = [image.tobytes() for epoch in range(20) for batch in batches(one, epoch) for image in batch]
    assert len(set(seen)) == len(seen) == 105 * 20


@pytest.mark.parametrize("batch_size", [10, 52, 103])
def test_an_epoch_meets_every_image_and_fills_its_last_batch_with_others_each_time(packed, batch_size):
    args, filled = options(packed, batch_size=batch_size, **PLAIN), []
    for epoch in range(3):
        images = [image.tobytes() for batch in batches(args, epoch) for image in batch]
        assert len(images) == -(-103 // batch_size) * batch_size and len(set(images[:103])) == 103
        filled.append(images[103:])
    assert batch_size == 103 or filled[0] != filled[1] != filled[2]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_workers_share_an_epoch(workers):
    order = epoch_order(1000, 990, 3, 7)
    assert len(set(order.tolist())) == 990 and order.min() >= 0 and order.max() < 1000
    shares = [set(order[rank::workers].tolist()) for rank in range(workers)]
    assert sum(map(len, shares)) == 990 and set.union(*shares) == set(order.tolist())
    assert (epoch_order(1000, 990, 3, 8) != order).any() and (epoch_order(1000, 990, 4, 7) != order).any()
    assert (order[:500] == epoch_order(1000, 500, 3, 7)).all()


@pytest.mark.parametrize("named", ["folder", "files"])
def test_several_record_files_are_one_set(packed, tmp_path, named):
    """The parts of one, in the order of their names: the images of its epochs, in their order."""
    offsets = [*record_offsets(f"{packed}.rec").tolist(), (packed.parent / "val.rec").stat().st_size]
    content = (packed.parent / "val.rec").read_bytes()
    names = [tmp_path / f"val_{part}.rec" for part in range(3)]
    for name, begin, end in zip(names, (0, 40, 41), (40, 41, 103)):
        name.write_bytes(content[offsets[begin]:offsets[end]])
    given = str(tmp_path) if named == "folder" else ",".join(map(str, names))
    args = options(packed, data_train=given, **PLAIN)
    assert (batches(args) == batches(options(packed, **PLAIN))).all()
    with pytest.raises(InputError, match="--data-backend mxnet reads one record file"):
        batches(options(packed, data_train=given, data_backend="mxnet"))
    names[2].write_bytes(content[offsets[41]:offsets[42]] + content[offsets[0]:offsets[1]][:24] + bytes(
        offsets[1] - offsets[0] - 24))
    with pytest.raises(InputError, match=f"{names[2]}: record 1: "):
        batches(args)


@pytest.mark.parametrize(("files", "message"), [
    ([], "no .rec files in it"), (["train.rec", "val.rec"], r"the records of several sets \(train, val\)"),
    (["train-00000-of-00002.rec", "train-00001-of-00002.rec", "val-00000-of-00001.rec"], r"\(train, val\)"),
])
def test_folders_that_are_not_the_parts_of_a_set(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        record_files(str(tmp_path))


def test_an_index_for_each_of_several_files(tmp_path):
    assert record_files("a.rec,b.rec", "a.idx,b.idx") == [("a.rec", "a.idx"), ("b.rec", "b.idx")]
    with pytest.raises(InputError, match="1 indices for 2 record files"):
        record_files("a.rec,b.rec", "a.idx")
    (tmp_path / "a,b.rec").touch()
    assert record_files(f"{tmp_path}/a,b.rec") == [(f"{tmp_path}/a,b.rec", "")]


def test_without_an_index_the_records_are_found(packed, tmp_path):
    alone = tmp_path / "alone.rec"
    alone.write_bytes((packed.parent / "val.rec").read_bytes())
    assert (record_offsets(alone) == record_offsets(f"{packed}.rec", f"{packed}.idx")).all()
    args = options(tmp_path / "alone", **PLAIN)
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
    args = options(tmp_path / "x", batch_size=3, rgb_mean=(0, 0, 0), resize=-1, **PLAIN)
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
    args = options(packed, batch_size=30)
    images = training_iter(args, training_set(args))
    assert images.ahead == 3 and next(images).data[0].shape == (30, 3, 48, 48)
    assert len(images._begun) <= 3
    images = training_iter(options(packed, batch_size=1), training_set(args))
    assert images.ahead == 33


@pytest.mark.parametrize(("changes", "message"), [
    ({"min_crop_size": 40}, "--max-crop-size -1: give both"),
    ({"min_crop_size": 100, "max_crop_size": 200}, "record [0-9]+ of [0-9]+x[0-9]+ pixels"),
])
def test_options_that_the_images_do_not_allow(packed, changes, message):
    with pytest.raises(InputError, match=message):
        batches(options(packed, **changes))


@pytest.mark.parametrize("changes", [{"auto_augment": "ra"}, {"random_erase": 0.1}])
def test_image_record_iter_does_not_leave_out_what_it_lacks(packed, changes):
    args = options(packed, data_backend="mxnet", **changes)
    with pytest.raises(InputError, match="^--data-backend mxnet has no --auto-augment and no --random-erase"):
        TrainingIter(args, training_set(args))


def test_a_file_that_changes_under_the_run(packed, tmp_path):
    """Cut, or written over, after training has begun."""
    for suffix in (".rec", ".idx"):
        (tmp_path / f"x{suffix}").write_bytes((packed.parent / f"val{suffix}").read_bytes())
    args = options(tmp_path / "x")
    images = training_iter(args, training_set(args))
    with open(tmp_path / "x.rec", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(InputError, match=r"x.rec: record [0-9]+ (cannot be read|: not an image)"):
        list(images)
