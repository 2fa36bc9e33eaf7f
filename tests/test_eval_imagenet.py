"""eval_imagenet.py as a user runs it: MXNet and TVM, one device and several, and the tables it writes."""
import csv
import re
import shutil
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

import eval_imagenet
from common.base.errors import InputError
from common.checkpoint.preprocessing import Preprocessing
from common.evaluation import confusion
from common.evaluation.score import predict
from common.find_mxnet import mx
from common.images.preprocess import preprocess, read_image
from common.images.recordio import image_record, record_offsets
from symbols.mobilenetv2 import get_symbol
from tests.checkpoints import save_checkpoint
from tests.conftest import ROOT
from tests.images import images
from tests.networks import random_params

SMALL = ["--image-shape", "3,48,48"]
LINE = re.compile(r"top-1 (\d\.\d{4}) top-(\d+) (\d\.\d{4}) \((\d+) images\)\n")


def saved(prefix, symbol, **changes):
    """PREFIX of a checkpoint with random weights, but for `changes`."""
    params = random_params(symbol, (1, 3, 48, 48))
    params[0].update(changes)
    save_checkpoint(prefix, 0, symbol, *({name: mx.nd.array(array) for name, array in part.items()} for part in params))
    return prefix


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """PREFIX of a network that TVM compiles in a second: one convolution and what else MobileNetV2 has, 7 classes."""
    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), stride=(4, 4), num_filter=8, name="conv")
    net = mx.sym.clip(mx.sym.BatchNorm(net, fix_gamma=False, name="bn"), 0, 6)
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1)))
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=7, name="fc"), name="softmax")
    return saved(tmp_path_factory.mktemp("tiny") / "tiny", net)


def evaluate(packed, prefix, *arguments):
    return eval_imagenet.main(["--model-prefix", str(prefix), "--epoch", "0", "--data-val", f"{packed}.rec", *SMALL,
                               *map(str, arguments)])


def rows(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected(packed, prefix):
    """(labels, probabilities) of the images, read with MXNet's reader."""
    reader = mx.recordio.MXIndexedRecordIO(f"{packed}.idx", f"{packed}.rec", "r")
    unpacked = [mx.recordio.unpack_img(reader.read_idx(key)) for key in reader.keys]
    data = np.concatenate([preprocess(image, (3, 48, 48)) for _, image in unpacked])
    return np.array([int(header.label) for header, _ in unpacked]), predict(prefix, 0, data)


def test_evaluation_counts_103_images(packed, tmp_path, capsys):
    prefix = saved(tmp_path / "x", get_symbol(num_classes=2, multiplier=0.1))
    labels, probabilities = expected(packed, prefix)
    right = (probabilities.argmax(axis=1) == labels).sum()
    assert 0 < right < 103
    for arguments in (["--batch-size", 10], ["--batch-size", 200], ["--batch-size", 1]):
        evaluate(packed, prefix, *arguments)
        output = capsys.readouterr()
        assert output.out == f"top-1 {right / 103:.4f} top-2 1.0000 (103 images)\n" and output.err == ""
    result = evaluate(packed, prefix, "--top-k", 1)
    assert capsys.readouterr().out == f"top-1 {right / 103:.4f} (103 images)\n"
    assert (result.images, result.right, result.skipped) == (103, right, 0)


@pytest.mark.parametrize("backend", [["mxnet"], ["tvm", "--target", "fpga"]])
def test_names_of_other_classes_are_refused_before_anything_is_compiled(packed, tiny, tmp_path, backend):
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"two\.txt: .*\b2 .*\b7\b"):
        evaluate(packed, tiny, "--backend", *backend, "--predictions", tmp_path / "x.csv", "--synset",
                 tmp_path / "two.txt")


def test_evaluation_of_a_gluon_export(packed, checkpoint, tmp_path, capsys):
    """Its output is logits, whose probabilities are those of the checkpoint it came from."""
    from symbols.mobilenetv2_gluon import MobileNetV2
    net = MobileNetV2(10, 0.35)
    net.load_parameters(f"{checkpoint}-0000.params")
    net.hybridize()
    net(mx.nd.zeros((1, 3, 48, 48)))
    net.export(str(tmp_path / "x"))
    for number, prefix in enumerate((checkpoint, tmp_path / "x")):
        evaluate(packed, prefix, "--predictions", tmp_path / f"{number}.csv")
    first, second = LINE.findall(capsys.readouterr().out)
    assert first == second and first[1] == "5" and first[3] == "103"
    for one, other in zip(rows(tmp_path / "0.csv"), rows(tmp_path / "1.csv")):
        assert one["top-1"] == other["top-1"] and float(one["p-1"]) == pytest.approx(float(other["p-1"]), rel=1e-4)


def test_the_parts_of_a_set_are_scored_as_one(packed, checkpoint, tmp_path, capsys):
    """In the order of their names, records counted over all of them."""
    offsets, content = record_offsets(f"{packed}.rec").tolist(), packed.with_name("val.rec").read_bytes()
    (tmp_path / "val-0.rec").write_bytes(content[:offsets[40]])
    (tmp_path / "val-1.rec").write_bytes(content[offsets[40]:])
    listed = packed.with_suffix(".lst").read_text().splitlines(keepends=True)
    (tmp_path / "val-0.lst").write_text("".join(listed[:40]))
    (tmp_path / "val-1.lst").write_text("".join(listed[40:]))
    tables = []
    for given in (f"{packed}.rec", tmp_path, f"{tmp_path}/val-0.rec,{tmp_path}/val-1.rec"):
        eval_imagenet.main(["--model-prefix", str(checkpoint), "--epoch", "0", "--image-shape", "3,32,32", "--data-val",
                            str(given), "--predictions", f"{tmp_path}/{len(tables)}.csv"])
        tables.append((capsys.readouterr().out, (tmp_path / f"{len(tables)}.csv").read_text()))
    assert tables[0] == tables[1] == tables[2] and "(103 images)" in tables[0][0]


def test_the_tables_add_up_to_the_line(packed, checkpoint, tmp_path, capsys):
    for ending in ("symbol.json", "0000.params"):
        shutil.copy(f"{checkpoint}-{ending}", tmp_path / f"x-{ending}")
    (tmp_path / "x-synset.txt").write_text("".join(f"n{i:08d} class {i}\n" for i in range(10)))
    evaluate(packed, tmp_path / "x", "--batch-size", 10, "--top-k", 3, "--predictions", tmp_path / "images.csv",
             "--per-class", tmp_path / "classes.csv")
    (top_1, k, top_3, count), = LINE.findall(capsys.readouterr().out)
    assert (k, count) == ("3", "103")

    images = rows(tmp_path / "images.csv")
    assert [row["record"] for row in images] == [str(number) for number in range(103)]
    labels, probabilities = expected(packed, checkpoint)
    for row, label, p in zip(images, labels, probabilities):
        assert int(row["label"]) == label and row["label-name"] == f"n{label:08d} class {label}"
        for rank, answer in enumerate(np.argsort(-p)[:3], start=1):
            assert int(row[f"top-{rank}"]) == answer and row[f"name-{rank}"] == f"n{answer:08d} class {answer}"
            assert float(row[f"p-{rank}"]) == pytest.approx(p[answer], abs=1e-5)
    assert top_1 == f"{sum(row['top-1'] == row['label'] for row in images) / 103:.4f}"
    assert top_3 == f"{sum(row['label'] in [row[f'top-{rank}'] for rank in (1, 2, 3)] for row in images) / 103:.4f}"

    classes = rows(tmp_path / "classes.csv")
    assert [int(row["class"]) for row in classes] == list(range(10)) and classes[3]["name"] == "n00000003 class 3"
    assert [int(row["images"]) for row in classes] == [52, 51] + [0] * 8
    for column, printed in (("top-1", top_1), ("top-3", top_3)):
        right = [float(row[column]) * int(row["images"]) for row in classes[:2]]
        assert right == pytest.approx(np.round(right), abs=1e-4) and f"{sum(np.round(right)) / 103:.4f}" == printed
        assert {row[column] for row in classes[2:]} == {""}
    for row in classes[:2]:
        wrong = Counter(image["top-1"] for image in images if image["label"] == row["class"] != image["top-1"])
        assert int(row["times"]) == max(wrong.values()) == wrong[row["wrong-answer"]]


def test_the_picture_of_what_is_confused(packed, checkpoint, tmp_path):
    """Of the same images as the tables, prepared as for them."""
    for end in ("symbol.json", "0000.params"):
        shutil.copy(f"{checkpoint}-{end}", tmp_path / f"x-{end}")
    (tmp_path / "x-synset.txt").write_text("".join(f"n{i:08d} class {i}\n" for i in range(10)))
    drawn, draw = [], confusion.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confusion, "draw", lambda *given: drawn.append(given) or draw(*given))
        evaluate(packed, tmp_path / "x", "--predictions", tmp_path / "x.csv", "--confusion", tmp_path / "x.png",
                 "--rgb-std", "50,60,70")
    (counts, mistakes, num_classes, names), = drawn
    images = rows(tmp_path / "x.csv")
    assert counts == Counter((int(row["label"]), int(row["top-1"])) for row in images) and num_classes == 10
    assert names[3] == "n00000003 class 3"
    reader = mx.recordio.MXIndexedRecordIO(f"{packed}.idx", f"{packed}.rec", "r")
    for mistake in mistakes:
        image = mx.recordio.unpack_img(reader.read_idx(-mistake.minus_record))[1]
        seen = preprocess(image, (3, 48, 48), Preprocessing(mean=(0, 0, 0)))[0].transpose(1, 2, 0)
        assert np.abs(mistake.image - seen).max() <= 1
    assert cv2.imread(str(tmp_path / "x.png")).shape[1] == 1199
    assert sorted(path.name for path in tmp_path.glob("*x.*")) == ["x.csv", "x.png"]


def test_the_files_are_named_if_a_list_tells(packed, tiny, tmp_path, capsys):
    """By the records' own numbers, over the parts of a set, lines of images that are not packed among them; and no name
    is guessed."""
    numbers, labels = [7, 3, 9, 0], [1, 0, 1, 1]
    image = images()["usual.jpg"][0]
    for part in (0, 1):
        (tmp_path / f"val-{part}.rec").write_bytes(b"".join(
            image_record(label, number, image) for number, label in [*zip(numbers, labels)][2 * part:2 * part + 2]))
    (tmp_path / "val-0.lst").write_text("3\t0.000000\tb/é 3.jpg\n5\t1.000000\tb/damaged.jpg\n7\t1\ta/7,7.jpg\n")
    table = tmp_path / "x.csv"

    def named():
        eval_imagenet.main(["--model-prefix", str(tiny), "--epoch", "0", "--data-val", str(tmp_path), *SMALL,
                            "--predictions", str(table)])
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        return [row.get("file") for row in rows(table)], said

    assert named() == ([None] * 4, [])
    (tmp_path / "val-1.lst").write_text("0\t1.000000\ta/0.jpg\n9\t1.000000\ta/9.jpg\n")
    assert named() == (["a/7,7.jpg", "b/é 3.jpg", "a/9.jpg", "a/0.jpg"], [])
    for other, why in (("0\t1\ta/0.jpg\n", "lacks record 9 of label 1"), ("9\t0\ta\n0\t0\tb\n", "lacks record 9"),
                       ("9", "not the list of a RecordIO file"), ("\0\t1\t2\n", "not the list of")):
        (tmp_path / "val-1.lst").write_text(other)
        files, (said,) = named()
        assert files == [None] * 4 and f"val-1.lst: {why}" in said and said.endswith("x.csv will not name files")
    evaluate(packed, tiny, "--predictions", table)
    assert [row["file"] for row in rows(table)] == [
        line.split("\t")[2] for line in packed.with_suffix(".lst").read_text().splitlines()]


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.long), 4])
def test_several_devices_score_as_one(packed, checkpoint, tmp_path, monkeypatch, count):
    """Batches that do not divide among them, and ones with fewer images than there are devices, included."""
    evaluate(packed, checkpoint, "--predictions", tmp_path / "one.csv")
    one = rows(tmp_path / "one.csv")
    monkeypatch.setattr("common.find_mxnet.contexts", lambda gpus: [mx.cpu(i) for i in range(count)])
    for batch_size in (3, 7, 32):
        evaluate(packed, checkpoint, "--batch-size", batch_size, "--predictions", tmp_path / "several.csv")
        several = rows(tmp_path / "several.csv")
        assert len(several) == 103
        for row, other in zip(one, several):
            assert [row[f"top-{rank}"] for rank in (1, 2, 3)] == [other[f"top-{rank}"] for rank in (1, 2, 3)]
            assert float(row["p-1"]) == pytest.approx(float(other["p-1"]), abs=1e-5)


def agree(packed, prefix, target, tmp_path, capsys):
    """MXNet's answers and TVM's; returns the device line."""
    for backend, *flags in (["mxnet"], ["tvm", "--target", target]):
        evaluate(packed, prefix, "--backend", backend, *flags, "--batch-size", 10,
                 "--predictions", tmp_path / f"{backend}.csv")
    captured = capsys.readouterr()
    assert re.search(r"^(un)?tuned: ", captured.err, re.MULTILINE)
    lines = captured.out.splitlines()
    assert len(lines) == 3 and lines[0] == lines[2] and "(103 images)" in lines[0]
    for one, other in zip(rows(tmp_path / "mxnet.csv"), rows(tmp_path / "tvm.csv")):
        assert one["record"] == other["record"] and one["top-1"] == other["top-1"]
        assert float(one["p-1"]) == pytest.approx(float(other["p-1"]), abs=1e-4)
    return lines[1]


def test_tvm_scores_as_mxnet_does_on_this_processor(packed, tiny, tmp_path, capsys):
    assert agree(packed, tiny, "llvm", tmp_path, capsys).startswith("device: this processor (")


@pytest.mark.long
def test_tvm_scores_as_mxnet_does_on_opencl(packed, tiny, tmp_path, capsys):
    assert agree(packed, tiny, "opencl", tmp_path, capsys).startswith("device: ")


@pytest.mark.long
@pytest.mark.parametrize("target", ["llvm", "opencl"])
def test_tvm_scores_a_mobilenetv2_as_mxnet_does(packed, checkpoint, target, tmp_path, capsys):
    agree(packed, checkpoint, target, tmp_path, capsys)


def test_the_published_weights_know_the_photographs(testdata, tmp_path, capsys):
    content = bytearray()
    for number, (label, name) in enumerate([(162, "beagle"), (285, "cat")]):
        image = read_image(testdata / "images" / f"{name}_rot180.jpg")
        content += image_record(label, number, cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "x.rec").write_bytes(content)
    evaluate(tmp_path / "x", testdata / "pretrained" / "imagenet1k-mnetv2-1_0", "--image-shape", "3,224,224",
             "--predictions", tmp_path / "x.csv", "--synset", ROOT / "data" / "imagenet1k-synset.txt")
    assert capsys.readouterr().out == "top-1 1.0000 top-5 1.0000 (2 images)\n"
    beagle, cat = rows(tmp_path / "x.csv")
    assert "beagle" in beagle["name-1"] and float(beagle["p-1"]) == pytest.approx(0.585, abs=0.02)
    assert "Egyptian cat" in cat["name-1"] and float(cat["p-1"]) == pytest.approx(0.370, abs=0.02)


def test_weights_that_are_not_numbers_are_reported(packed, tmp_path):
    symbol = get_symbol(num_classes=10, multiplier=0.1)
    prefix = saved(tmp_path / "x", symbol, fc_bias=np.float32([0, np.nan] + [0] * 8))
    with pytest.raises(InputError, match="record 0 is not finite") as error:
        evaluate(packed, prefix, "--predictions", tmp_path / "x.csv")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*csv*"))


def test_evaluation_refuses_what_it_cannot_use(packed, checkpoint, tmp_path):
    (tmp_path / "synset.txt").write_text("one\n")
    table, names, own = tmp_path / "x.csv", tmp_path / "synset.txt", tmp_path / "own.csv"
    own.write_text("a\n" * 10)
    for arguments, message in [
        (["--backend", "tvm", "--gpus", "0"], "--gpus 0"),
        (["--target", "llvm"], "--target llvm needs --backend tvm"),
        (["--precision", "int8"], "--precision int8 needs --backend tvm"),
        (["--backend", "tvm", "--target", "llvm", "--precision", "int8"], "needs"),
        (["--backend", "tvm", "--target", "fpga"], "unknown target 'fpga'"),
        (["--backend", "tvm", "--target", "llvm", "--epoch", "1"], "small-0001.params: No such file"),
        (["--gpus", "7"], "--gpus 7: MXNet sees"),
        (["--epoch", "1"], "small-0001.params: No such file"),
        (["--data-val", tmp_path], f"{tmp_path}: "),
        (["--predictions", table, "--per-class", tmp_path / "." / "x.csv"], "--per-class"),
        (["--predictions", tmp_path], f"{tmp_path}: "),
        (["--confusion", table], "x.csv: pictures are PNG; give a name that ends in .png"),
        (["--predictions", tmp_path / "x.png"], "x.png: tables are CSV; give a name that ends in .csv"),
        (["--confusion", tmp_path / "none" / "x.png"], "x.png: No such file"),
        (["--confusion", "/proc/x.png"], "/proc/x.png"),
        (["--predictions", f"{packed}.rec"], ".rec: "),
        (["--predictions", own, "--synset", own], "own.csv: is read here"),
        (["--data-val", "."], ".: no .rec files in it"),
        (["--synset", ROOT / "data" / "cat.jpg"], "cat.jpg: "),
        (["--synset", names, "--per-class", table], "synset.txt: "),
    ]:
        with pytest.raises((InputError, FileNotFoundError), match=re.escape(message)) as error:
            evaluate(packed, checkpoint, *arguments)
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.csv", "synset.txt"]
    assert own.read_text() == "a\n" * 10


@pytest.mark.parametrize(("damaged", "line"), [
    ([], "(5 images)"), (["half.jpg"], "(4 images, 1 damaged one skipped)"),
    (["half.jpg", "half.png"], "(3 images, 2 damaged ones skipped)")])
def test_damaged_images_are_counted_where_they_are_skipped(checkpoint, tmp_path, capsys, damaged, line):
    names = [*damaged, *["usual.jpg"] * (5 - len(damaged))]
    (tmp_path / "x.rec").write_bytes(b"".join(image_record(1, number, images()[name][0])
                                              for number, name in enumerate(names)))
    evaluate(tmp_path / "x", checkpoint, "--skip-damaged", "--batch-size", 2, "--predictions", tmp_path / "x.csv")
    assert capsys.readouterr().out.endswith(f" {line}\n")
    assert [int(row["record"]) for row in rows(tmp_path / "x.csv")] == list(range(len(damaged), 5))
    if damaged:
        with pytest.raises(InputError, match="x.rec: record 0"):
            evaluate(tmp_path / "x", checkpoint)


def test_labels_outside_of_the_classes_are_refused(packed, tmp_path):
    prefix = saved(tmp_path / "x", get_symbol(num_classes=1, multiplier=0.1))
    with pytest.raises(InputError, match="label 1"):
        evaluate(packed, prefix)


def test_the_program_fails_in_one_line(packed, checkpoint, tmp_path):
    truncated = shutil.copy(f"{packed}.rec", tmp_path / "truncated.rec")
    with open(truncated, "r+b") as file:
        file.truncate(truncated.stat().st_size - 500)
    command = [sys.executable, "eval_imagenet.py", "--model-prefix", checkpoint, "--epoch", "0", *SMALL, "--data-val"]
    for arguments, words in [
        ([truncated], [str(truncated), "truncated"]),
        ([f"{packed}.rec", "--predictions", tmp_path / "none" / "x.csv"], ["x.csv: No such file"]),
    ]:
        process = subprocess.run([*map(str, command), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
                                 check=False)
        line, = process.stderr.splitlines()
        assert process.returncode == 1 and line.startswith("eval_imagenet.py: error: "), process.stderr
        assert all(word in line for word in words) and process.stdout == ""
