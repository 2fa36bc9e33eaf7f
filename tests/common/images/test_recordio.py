"""RecordIO files: ours are those of MXNet, and what is damaged is refused before MXNet reads it."""
import os
import random
import struct

import pytest

from common.base.errors import InputError
from common.find_mxnet import mx
from common.images.recordio import check_records, image_record, read_records, record_offsets, set_number

MAGIC_NUMBER = 0xCED7230A


@pytest.mark.parametrize("cut", [1, 4, 400, 3000])
def test_truncated_records_are_refused(packed, tmp_path, cut):
    path = tmp_path / "x.rec"
    path.write_bytes((packed.parent / "val.rec").read_bytes()[:-cut])
    with pytest.raises(InputError, match="truncated"):
        check_records(path)


def test_a_file_cut_between_two_records_is_refused_by_its_index(packed, tmp_path):
    offsets = [int(line.split()[1]) for line in (packed.parent / "val.idx").read_text().splitlines()]
    path = tmp_path / "x.rec"
    path.write_bytes((packed.parent / "val.rec").read_bytes()[:offsets[-1]])
    assert check_records(path) == ("", None)
    with pytest.raises(InputError, match="not belong together"):
        check_records(path, f"{packed}.idx")


def test_other_record_files_are_refused(tmp_path, packed):
    path = tmp_path / "x.rec"
    with pytest.raises(InputError, match="No such file"):
        check_records(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        check_records(path)
    path.write_bytes(b"not records " * 100)
    with pytest.raises(InputError, match="not a RecordIO file"):
        check_records(path)


def test_our_records_are_those_that_mxnet_writes(tmp_path):
    """Bit for bit, also where the content holds the number that begins a record, at any place."""
    magic, rng = b"\x0a\x23\xd7\xce", random.Random(0)
    writer = mx.recordio.MXIndexedRecordIO(str(tmp_path / "x.idx"), str(tmp_path / "x.rec"), "w")
    ours = b""
    for number in range(2000):
        content = b"".join(rng.choice([magic, magic, magic[:2], b"\0", rng.randbytes(rng.randint(0, 5))])
                           for _ in range(rng.randint(0, 9)))
        writer.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(0, float(number % 7), number, 0), content))
        record = bytearray(image_record(number % 7, 12345, content))
        set_number(record, number)
        assert record == image_record(number % 7, number, content)
        ours += record
    writer.close()
    assert (tmp_path / "x.rec").read_bytes() == ours


def test_the_magic_number_inside_an_image_is_no_record(tmp_path):
    magic = b"\x0a\x23\xd7\xce"
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    for payload in (b"a" * 7, b"b" + magic + b"c" * 9, magic * 3, b"d" * 3):
        writer.write(payload)
    writer.close()
    check_records(tmp_path / "x.rec")
    content = (tmp_path / "x.rec").read_bytes()
    (tmp_path / "x.rec").write_bytes(content[:-12])  # without the last record: whole again
    check_records(tmp_path / "x.rec")
    (tmp_path / "x.rec").write_bytes(content[:-16])
    with pytest.raises(InputError, match="truncated"):
        check_records(tmp_path / "x.rec")


def test_an_index_of_another_file_is_refused(packed, tmp_path):
    idx = tmp_path / "x.idx"
    whole = (packed.parent / "val.idx").read_text()
    check_records(f"{packed}.rec", f"{packed}.idx")
    half = "".join(whole.splitlines(keepends=True)[:50])
    for content in ("0\t0\n1\t999999999\n", "0\t0\n1\t10\n", "0 0\n", "a\tb\n", "", half, whole[:-3],
                    "0\t-100\n", whole + "103\t-4\n", f"0\t{10**40}\n"):
        idx.write_text(content)
        with pytest.raises(InputError, match=r"x\.idx"):
            check_records(f"{packed}.rec", idx)


@pytest.mark.parametrize("change", [lambda text: text + "\n", lambda text: text.replace("\t", " "),
                                    lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\t", "  \t"),
                                    lambda text: "\n" + text.removesuffix("\n")])
def test_an_index_with_other_white_space_is_read_as_mxnet_reads_it(packed, tmp_path, change):
    (tmp_path / "val.rec").symlink_to(f"{packed}.rec")
    (tmp_path / "val.idx").write_text(change((packed.parent / "val.idx").read_text()), newline="")
    assert check_records(tmp_path / "val.rec") == (str(tmp_path / "val.idx"), 103)
    assert (record_offsets(tmp_path / "val.rec", tmp_path / "val.idx") == record_offsets(f"{packed}.rec")).all()
    images = mx.io.ImageRecordIter(path_imgrec=str(tmp_path / "val.rec"), path_imgidx=str(tmp_path / "val.idx"),
                                   data_shape=(3, 40, 40), batch_size=103, shuffle=True, round_batch=False)
    assert sum(103 - batch.pad for batch in images) == 103


def test_an_index_that_lists_a_record_twice_is_refused(packed, tmp_path):
    last = (packed.parent / "val.idx").read_text().splitlines()[-1]
    (tmp_path / "x.idx").write_text(f"{last}\n" * 103)
    with pytest.raises(InputError, match="does not list the records"):
        check_records(f"{packed}.rec", tmp_path / "x.idx")


def test_of_many_parts_no_more_than_the_head_is_kept(tmp_path):
    """It took minutes: each part added up all those before it."""
    parts = 300_000
    word = struct.Struct("<II")
    with open(tmp_path / "x.rec", "wb") as file:
        file.write(word.pack(MAGIC_NUMBER, 1 << 29) + word.pack(MAGIC_NUMBER, 2 << 29) * parts
                   + word.pack(MAGIC_NUMBER, 3 << 29))
    (_, whole), = read_records(tmp_path / "x.rec")
    assert whole == struct.pack("<I", MAGIC_NUMBER) * (parts + 1)
    (_, head), = read_records(tmp_path / "x.rec", head=10)
    assert whole.startswith(head) and 8 <= len(head) <= 10


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.rec")
    with pytest.raises(InputError, match="x.rec: is a pipe or a device"):
        check_records(tmp_path / "x.rec")
