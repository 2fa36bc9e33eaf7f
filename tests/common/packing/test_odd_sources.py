"""What is not as it should be is told, and what looks like more than it is does no harm."""
import io
import os
import shutil
import tarfile

import cv2
import numpy as np
import pytest

from common.base.digest import digest
from common.base.errors import InputError
from common.images.dataset import read_dataset
from common.packing import prepare as prepare_module
from common.packing.find import find_sources
from common.packing.imagenet import ARCHIVES, DEVKIT, Archive
from tests.archives import odd_files, tar, write_devkit, write_folders
from tests.conftest import ROOT
from tests.fuzzing import cases, changed_bytes
from tests.packing import contents, records, run, without_description


def test_a_damaged_archive_is_an_error_and_nothing_looks_finished(archives, tmp_path):
    whole = (archives[0] / "ILSVRC2012_img_train.tar").read_bytes()
    for cut in (10240, 20000, 60000):
        source = shutil.copytree(archives[0], tmp_path / f"source{cut}")
        (source / "ILSVRC2012_img_train.tar").write_bytes(whole[:-cut])
        with pytest.raises(InputError, match="damaged or cut off at byte"):
            run(source, tmp_path / "out")
    for at in (0, 512, 1536 + 40_000, len(whole) // 2):
        content = bytearray(whole)
        header = content.index(b"ustar", at) - 257
        content[header:header + 512] = b"\xa5" * 512
        source = shutil.copytree(archives[0], tmp_path / f"source-at{at}")
        (source / "ILSVRC2012_img_train.tar").write_bytes(content)
        out = tmp_path / f"out{at}"
        with pytest.raises(InputError, match="damaged or cut off at byte"):
            run(source, out)
        assert not out.exists() or [path.name for path in out.iterdir()] == [".prepare"]


def test_other_members_than_images(tmp_path):
    """Links, folders, devices and names that lead elsewhere: listed or harmless, and nothing is ever extracted."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as images:
        good = odd_files()["grey.JPEG"][0]
        for name, kind, content in (("../../up.JPEG", tarfile.REGTYPE, good), ("/abs.JPEG", tarfile.REGTYPE, good),
                                    ("a\tb.JPEG", tarfile.REGTYPE, good), ("link.JPEG", tarfile.SYMTYPE, b""),
                                    ("folder", tarfile.DIRTYPE, b""), ("tty", tarfile.CHRTYPE, b""),
                                    ("x" * 300 + ".JPEG", tarfile.REGTYPE, good), ("a/..", tarfile.REGTYPE, good),
                                    ("..", tarfile.REGTYPE, good), ("../", tarfile.REGTYPE, good),
                                    (".", tarfile.REGTYPE, good), ("caf\u00e9.JPEG", tarfile.REGTYPE, good)):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
            images.addfile(member, io.BytesIO(content))
    source = tmp_path / "source"
    source.mkdir()
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar({"n1.tar": archive.getvalue()}))
    dataset = run(source, tmp_path / "out")
    assert dataset["parts"]["train"]["images"] == 4 and dataset["parts"]["train"]["skipped"] == 8
    assert (tmp_path / "out" / "skipped.csv").read_text().count("its name is not that of a file\n") == 4
    assert set(records(tmp_path / "out", "train")) == {"n1/up.JPEG", "n1/abs.JPEG", f"n1/{'x' * 300}.JPEG",
                                                       "n1/caf\u00e9.JPEG"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"Z"])
def test_a_member_of_negative_size(tmp_path, kind):
    """It would be read again and again."""
    member = tarfile.TarInfo("x.JPEG")
    member.type, member.size = kind, -512
    header = member.tobuf(tarfile.GNU_FORMAT)
    source = tmp_path / "source"
    source.mkdir()
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar({"n1.tar": tar({"good": odd_files()["grey.JPEG"][0]})[:-10240]
                                                           + header + bytes(1024)}))
    with pytest.raises(InputError, match="damaged or cut off"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("headers", [
    [(tarfile.GNUTYPE_LONGNAME, 2 << 20)], [(tarfile.XHDTYPE, -512)], [(tarfile.XGLTYPE, 8 << 30)],
    [(tarfile.GNUTYPE_LONGLINK, 5)] * 10, [(tarfile.XHDTYPE, b"22 GNU.sparse.map=a,b\n")],
], ids=["long", "negative", "huge", "many", "no number"])
def test_headers_about_a_member(tmp_path, headers):
    """tarfile would hold them in memory, whatever they claim to have, and end with a trace for some."""
    content = b""
    for kind, size in headers:
        data = size if isinstance(size, bytes) else bytes(max(0, min(size, 4096)))
        member = tarfile.TarInfo("x")
        member.type, member.size = kind, size if isinstance(size, int) else len(size)
        content += member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)
    images = tar({"good": b"x"})
    source = tmp_path / "source"
    source.mkdir()
    (source / "ILSVRC2012_img_train.tar").write_bytes(tar({"n1.tar": content + images}))
    with pytest.raises(InputError, match=r"img_train.tar: damaged or cut off at byte (0|512) of \d+"):
        find_sources(source, any_count=True)


@pytest.mark.parametrize("count", [20, pytest.param(5000, marks=pytest.mark.long)])
def test_damaged_archives_are_read_or_refused(tmp_path, count):
    """Of each form that tars have, with names that need more than the field of a header."""
    names = ["n1_0.JPEG", "caf\u00e9" * 40 + ".JPEG", "n1_2.JPEG"]
    seeds = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        inner = tar(dict.fromkeys(names if form != tarfile.USTAR_FORMAT else names[::2], b"content" * 100), form)
        seeds.append(tar({"n1.tar": inner, "n2.tar": inner[:-8192]}, form))
    path, answers = tmp_path / "ILSVRC2012_img_train.tar", []
    for number in cases(count, answers):
        rng = np.random.RandomState(number)
        path.write_bytes(changed_bytes(rng, seeds[number % 3], seeds))
        try:
            source, = find_sources(tmp_path, any_count=True).values()
            for image in source.images():
                assert isinstance(image.content, InputError) or len(image.content) <= path.stat().st_size
                assert 0 <= image.label < len(source.classes) and "\n" not in source.classes[image.label]
            answers.append("read")
        except InputError as error:
            assert "\n" not in str(error) and str(error).startswith(str(path))
            answers.append("refused")
    assert set(answers) == {"read", "refused"}


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_a_pipe_in_the_place_of_an_archive_is_not_waited_for(archives, tmp_path, name):
    source = shutil.copytree(archives[0], tmp_path / "source")
    (source / name).unlink()
    os.mkfifo(source / name)
    with pytest.raises(InputError, match=f"{name}: is a pipe or a device"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["a\u202fb.jpg", "\u3000.jpg", "a\u200db.jpg", "a\u00a0b.jpg",
                                  "$(touch x) `touch x`; touch x & '\".jpg", "-rf.jpg"])
def test_names_that_a_list_can_hold(tmp_path, name):
    folder = tmp_path / "source" / "train" / f"class of {name}"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "cat.jpg", folder / name)
    assert run(tmp_path / "source", tmp_path / "out")["parts"]["train"]["skipped"] == 0
    assert list(records(tmp_path / "out", "train")) == [f"class of {name}/{name}"]


def test_enlarging_has_its_bounds(tmp_path):
    """One pixel high, it would become 1.4 million wide."""
    folder = tmp_path / "source" / "train" / "a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "thin.png"), np.zeros((1, 3000), np.uint8))
    shutil.copy(ROOT / "data" / "cat.jpg", folder)
    run(tmp_path / "source", tmp_path / "out", short_side=480, enlarge=True)
    assert "thin.png,1440000x480 pixels" in (tmp_path / "out" / "skipped.csv").read_text()


def test_a_bomb_is_skipped(tmp_path):
    """A picture of 400 million pixels in a few hundred kilobytes."""
    folder = tmp_path / "source" / "train" / "a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "bomb.png"), np.zeros((20_000, 20_000), np.uint8))
    shutil.copy(ROOT / "data" / "cat.jpg", folder)
    assert run(tmp_path / "source", tmp_path / "out")["parts"]["train"]["skipped"] == 1
    assert "20000x20000 pixels, more than 89478485" in (tmp_path / "out" / "skipped.csv").read_text()


def test_strict(archives, tmp_path):
    with pytest.raises(InputError, match=r"ILSVRC2012_img_train.tar: n000000\d\d/n\d+_\w+.JPEG: .*--strict"):
        run(archives[0], tmp_path / "out", strict=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".prepare"]
    run(archives[0], tmp_path / "out")  # without it, the same work goes on
    assert (tmp_path / "out" / "dataset.json").exists()


def change_devkit(folder):
    write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [1, 2])


def swap_archives(folder):
    os.replace(folder / "ILSVRC2012_img_val.tar", folder / "ILSVRC2012_img_train.tar")


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda folder: None, {"any_count": False}, r"devkit_t12.tar.gz: \d+ bytes, the official one has 2568145"),
    (lambda folder: (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink(), {}, "has the classes of the validation images"),
    (lambda folder: (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"x"), {}, "t12.tar.gz: damaged, or not"),
    (lambda folder: (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(
        (folder / "ILSVRC2012_devkit_t12.tar.gz").read_bytes()[:-200]), {}, "devkit_t12.tar.gz: "),
    (change_devkit, {}, "ILSVRC2012_img_val.tar: 'ILSVRC2012_val_00000010.JPEG' in it is not one of the 2"),
    (lambda folder: write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [1] * 11), {}, "holds 10 images, .* of 11"),
    (lambda folder: write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", [1] * 10, {"n00000042": 1}), {},
     "holds 3 class archives, .* names 1 classes; n00000007 is in one of them only"),
    (swap_archives, {}, "not ImageNet's training archive"),
    (lambda folder: (folder / "ILSVRC2012_img_train.tar").write_bytes(b""), {}, "damaged or cut off at byte 0 of 0"),
    (lambda folder: (folder / "train").mkdir(), {}, "which one"),
    (shutil.rmtree, {}, "not a folder"),
    (lambda folder: [path.unlink() for path in folder.iterdir()], {}, "holds neither"),
    (lambda folder: None, {"quality": 101}, "quality 101"),
])
def test_sources_that_cannot_be_used(archives, tmp_path, change, options, message):
    source = shutil.copytree(archives[0], tmp_path / "source")
    change(source)
    with pytest.raises(InputError, match=message) as error:
        run(source, tmp_path / "out", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "message"), [
    ("a one\nc three\n", "train/b: not one of the 2 classes of .*classes.txt"),
    ("a\nb\na again\n", "classes.txt: has more than one class 'a'"), ("\n", "classes.txt: names no classes"),
    ("a\nb\n../victim\n", "class '../victim': its name is not that of a folder"),
    ("a\nb\n..\n", "class '..': its name is not that of a file"), (None, "classes.txt: No such file")])
def test_a_synset_that_cannot_be_used(tmp_path, text, message):
    for name in ("a", "b"):
        (tmp_path / "source" / "train" / name / "x.jpg").mkdir(parents=True)
    if text is not None:
        (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        run(tmp_path / "source", tmp_path / "out", synset=tmp_path / "classes.txt")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folders", "options", "message"), [
    (["train/a", "train/b"], {}, "no images in folders of classes"),
    (["train"], {}, "no classes"),
    (["train/a/x.jpg", "val/b/x.jpg"], {}, "val/b: not one of the 1 classes"),
    (["train/a/x.jpg"], {"any_count": False}, r"train: 1 classes instead of ImageNet's 1000 \(--any-count"),
    (["train/a\tb/x.jpg"], {}, "cannot hold"),
])
def test_folders_that_cannot_be_used(tmp_path, folders, options, message):
    for path in folders:
        (tmp_path / "source" / path).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "source", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_only_unreadable_images(tmp_path):
    (tmp_path / "source" / "train" / "a" / "x.jpg").mkdir(parents=True)
    with pytest.raises(InputError, match=r"train: none of its images can be packed \(a/x.jpg: a folder, not an image"):
        run(tmp_path / "source", tmp_path / "out")


def test_what_is_there_is_never_overwritten(archives, reference, tmp_path, capsys):
    before = contents(reference)
    assert run(archives[0], reference) == read_dataset(reference)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(InputError, match="made with other options"):
        run(archives[0], reference, quality=90)
    assert contents(reference) == before

    out = shutil.copytree(reference, tmp_path / "out")
    os.truncate(out / "train.rec", 1000)
    with pytest.raises(InputError, match="train.rec: missing, .*dataset.json"):
        run(archives[0], out)
    (out / "dataset.json").unlink()
    with pytest.raises(InputError, match="exists, and nothing says how it was made"):
        run(archives[0], out)


@pytest.mark.parametrize("name", ["synset.txt", "skipped.csv", "val.rec", "dataset.json"])
def test_the_files_of_others_are_kept(tmp_path, name):
    folder = tmp_path / "source" / "train" / "a"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "cat.jpg", folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(InputError, match=f"{name}: exists, and nothing says how it was made"):
        run(tmp_path / "source", tmp_path / "out")
    with pytest.raises(InputError, match="lies in .*train, whose folders are classes"):
        run(tmp_path / "source", tmp_path / "source" / "train" / "out")
    with pytest.raises(InputError, match="cat.jpg: not a folder"):
        run(tmp_path / "source", folder / "cat.jpg")


def test_what_is_left_out_is_told(tmp_path, capsys):
    for name in ("a/x.jpg", "loose.jpg"):
        (tmp_path / "source" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "data" / "cat.jpg", tmp_path / "source" / "train" / name)
    (tmp_path / "source" / "train" / "a" / "nested").mkdir()
    (tmp_path / "source" / "train" / "empty").mkdir()
    run(tmp_path / "source", tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "train: 1 files that are in no class's folder are left out ('loose.jpg', say)",
        "train: 1 classes have no images (empty, say)"]
    assert "a/nested,\"a folder, not an image\"" in (tmp_path / "out" / "skipped.csv").read_text()


def test_a_validation_image_twice(archives, tmp_path):
    source = shutil.copytree(archives[0], tmp_path / "source")
    jpeg = odd_files()["grey.JPEG"][0]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as images:
        for _ in range(10):
            member = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
            member.size = len(jpeg)
            images.addfile(member, io.BytesIO(jpeg))
    (source / "ILSVRC2012_img_val.tar").write_bytes(archive.getvalue())
    with pytest.raises(InputError, match="holds ILSVRC2012_val_00000001.JPEG twice"):
        run(source, tmp_path / "out")


def test_what_passes_for_imagenet(tmp_path, monkeypatch, capsys):
    """Its 1,000 classes, two tiny images of each, in archives whose sizes and sums are declared to be the official
    ones: no --any-count is needed, nor for the folders that they are extracted to."""
    wnids = [line.split()[0] for line in (ROOT / "data" / "imagenet1k-synset.txt").read_text().splitlines()]
    numbers = np.random.RandomState(0).permutation(1000) + 1
    source, jpeg = tmp_path / "source", odd_files()["grey.JPEG"][0]
    source.mkdir()
    images = {"train": {f"{wnid}/{wnid}_{i}.JPEG": (jpeg, None) for wnid in wnids for i in range(2)},
              "val": {f"{wnid}/ILSVRC2012_val_{i:08d}.JPEG": (jpeg, None) for i, wnid in enumerate(wnids, 1)}}
    (source / "ILSVRC2012_img_train.tar").write_bytes(
        tar({f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": jpeg for i in range(2)}) for wnid in wnids}))
    (source / "ILSVRC2012_img_val.tar").write_bytes(tar({path.split("/")[1]: jpeg for path in images["val"]}))
    write_devkit(source / "ILSVRC2012_devkit_t12.tar.gz", numbers, dict(zip(wnids, numbers.tolist())))

    def declared(archive, images):
        path = source / archive.name
        return Archive(archive.name, path.stat().st_size, digest(path, "md5"), images)
    monkeypatch.setitem(ARCHIVES, "train", declared(ARCHIVES["train"], 2000))
    monkeypatch.setitem(ARCHIVES, "val", declared(ARCHIVES["val"], 1000))
    monkeypatch.setattr("common.packing.find.DEVKIT", declared(DEVKIT, 0))
    dataset = run(source, tmp_path / "out", any_count=False, strict=True, verify_first=True)
    assert dataset["classes"] == wnids and set(dataset["parts"]["train"]["images_of_class"].values()) == {2}
    assert (tmp_path / "out" / "synset.txt").read_text() == (ROOT / "data" / "imagenet1k-synset.txt").read_text()
    assert capsys.readouterr().out.count(", the official one\n") == 4  # both archives, first and at the end
    for path, (label, _) in records(tmp_path / "out", "val").items():
        assert wnids[label] == path.split("/")[0]

    write_folders(tmp_path / "tree", images)
    run(tmp_path / "tree", tmp_path / "of-tree", any_count=False)
    assert without_description(tmp_path / "of-tree") == without_description(tmp_path / "out")
    next((tmp_path / "tree" / "train").glob("*/*")).unlink()
    with pytest.raises(InputError, match="train: 1999 images instead of ImageNet's 2000"):
        run(tmp_path / "tree", tmp_path / "fewer", any_count=False)


def test_a_wrong_md5_is_told(archives, tmp_path, monkeypatch, capsys):
    """With archives of the official sizes and classes it would be found at the end, or first with verify_first."""
    monkeypatch.setattr(prepare_module, "find_sources", lambda folder, *_: find_sources(folder, any_count=True))
    with pytest.raises(InputError, match="--any-count and --val-share are for other sets"):
        run(archives[0], tmp_path / "out", verify_first=True)
    with pytest.raises(InputError, match="img_val.tar: its MD5 is .* not the official 29b22e2961454d5413ddabcf34fc562"):
        run(archives[0], tmp_path / "out", any_count=False, verify_first=True)
    assert [path.name for path in (tmp_path / "out" / ".prepare").iterdir() if path.is_dir()] == []
    run(archives[0], tmp_path / "out", any_count=False)
    assert "not the official 1d675b47d978889d74fa0da5fadfb00e" in capsys.readouterr().err
