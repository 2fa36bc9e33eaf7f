"""A checkpoint says itself what is done to its images, and evaluation, from_mxnet.py and training do that."""
import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import eval_imagenet
import from_mxnet
import train_imagenet
from common.base.errors import InputError
from common.checkpoint import arrays as checkpoint_arrays
from common.checkpoint.ndarrays import load_checkpoint
from common.checkpoint.params import load_checkpoint_params
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, save_preprocessing
from common.compiler.relay_network import load_network
from common.evaluation.score import predict
from common.find_mxnet import mx
from common.images.preprocess import read_image
from common.training.recipe import resolve
from symbols.architecture import REPEATS, widths
from symbols.mobilenetv2 import get_symbol
from tests.checkpoints import save_random
from tests.commands import run
from tests.foreign import Caffe, save_foreign
from tests.networks import forward, random_params
from tools import convert_weights

ODD = Preprocessing(resize=77, crop=64, mean=(127.5, 110.0, 90.5), std=(60.0, 55.5, 70.0))
NETWORK = {"channels": (8, 8, 16, 16, 24, 32, 40, 64, 96), "repeats": (1, 1, 2, 1, 1, 2, 1), "strides": "first",
           "padding": "same", "activation": "relu"}
pytestmark = pytest.mark.usefixtures("logged_to_stderr")



@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """PREFIX of a checkpoint as a converter writes it: 3 classes, SAME padding, widths of no multiplier."""
    prefix = tmp_path_factory.mktemp("converted") / "x"
    network = {**NETWORK, "image_shape": (3, 64, 64)}
    params = random_params(get_symbol(num_classes=3, **network), (1, 3, 64, 64), seed=1)
    checkpoint_arrays.save(checkpoint_arrays.Checkpoint(network, 3, *params, ODD), prefix)
    return prefix


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """PREFIX of a checkpoint with such images, that TVM compiles in a second: one convolution, 3 classes."""
    prefix = tmp_path_factory.mktemp("tiny") / "x"
    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), stride=(4, 4), num_filter=8, name="conv")
    net = mx.sym.flatten(mx.sym.Pooling(mx.sym.clip(net, 0, 6), global_pool=True, pool_type="avg", kernel=(1, 1)))
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=3, name="fc"), name="softmax")
    save_random(prefix, 0, net, (1, 3, 64, 64))
    save_preprocessing(prefix, ODD)
    return prefix


def prepared(image, size=64):
    """A BGR image by hand: shorter side, centre crop, RGB, mean and deviation."""
    resize = {64: 77, 96: 116}[size]  # 115.5
    shorter = min(image.shape[:2])
    image = cv2.resize(image, [resize * n // shorter for n in image.shape[1::-1]],
                       interpolation=cv2.INTER_LINEAR if resize > shorter else cv2.INTER_AREA)
    top, left = ((n - size) // 2 for n in image.shape[:2])
    rgb = image[top:top + size, left:left + size, ::-1].astype(np.float64)
    return ((rgb - [127.5, 110, 90.5]) / [60, 55.5, 70]).transpose(2, 0, 1)[np.newaxis].astype(np.float32)


def images(packed, size=64):
    """(labels, prepared images), read with MXNet's reader."""
    reader = mx.recordio.MXIndexedRecordIO(f"{packed}.idx", f"{packed}.rec", "r")
    unpacked = [mx.recordio.unpack_img(reader.read_idx(key)) for key in reader.keys]
    return (np.array([int(header.label) for header, _ in unpacked]),
            np.concatenate([prepared(image, size) for _, image in unpacked]))


def evaluate(packed, prefix, table, *arguments, epoch=0):
    """Probabilities (images, classes) that eval_imagenet.py finds."""
    eval_imagenet.main(["--model-prefix", str(prefix), "--epoch", str(epoch), "--data-val", f"{packed}.rec",
                        "--predictions", str(table), *arguments])
    with open(table, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = sum(column.startswith("p-") for column in rows[0])
    found = np.zeros((len(rows), classes))
    for row, probabilities in zip(rows, found):
        for rank in range(1, classes + 1):
            probabilities[int(row[f"top-{rank}"])] = float(row[f"p-{rank}"])
    return found


def numpy_answers(prefix, data):
    arg_params, aux_params = load_checkpoint_params(f"{prefix}-0000.params")
    return forward({**arg_params, **aux_params}, data, *(NETWORK[name] for name in (
        "strides", "padding", "repeats", "activation")))


def close(found, expected):
    assert expected.std(axis=0).min() > 0.002  # it does depend on the image
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_evaluation_obeys_the_checkpoint(packed, converted, tmp_path):
    """And a flag wins over what it says; 96 pixels are padded as 64 are."""
    expected = numpy_answers(converted, images(packed)[1])
    close(evaluate(packed, converted, tmp_path / "x.csv"), expected)
    close(evaluate(packed, converted, tmp_path / "x.csv", "--image-shape", "3,96,96"),
          numpy_answers(converted, images(packed, 96)[1]))
    shutil.copy(f"{converted}-symbol.json", tmp_path / "y-symbol.json")
    shutil.copy(f"{converted}-0000.params", tmp_path / "y-0000.params")
    close(evaluate(packed, tmp_path / "y", tmp_path / "y.csv", "--image-shape", "3,64,64", "--rgb-mean",
                   "127.5,110,90.5", "--rgb-std", "60,55.5,70", "--crop-ratio", str(64 / 77)), expected)


def test_all_programs_prepare_alike(packed, tiny, photographs, tmp_path):
    """Evaluation with MXNet and TVM, from_mxnet.py, and an image that is prepared by hand."""
    expected = predict(tiny, 0, images(packed)[1])
    for arguments in ([], ["--backend", "tvm", "--target", "llvm"]):
        close(evaluate(packed, tiny, tmp_path / "x.csv", *arguments), expected)
    (tmp_path / "synset.txt").write_text("a\nb\nc\n")
    photograph = str(next(photographs.glob("*/*.jpg")))
    answers, = from_mxnet.main([photograph, "--model-prefix", str(tiny), "--synset", str(tmp_path / "synset.txt"),
                                "--target", "llvm", "--repeat", "1", "--verify"])
    probabilities = [probability for _, _, probability in sorted(answers)]
    np.testing.assert_allclose([probabilities], predict(tiny, 0, prepared(read_image(photograph))), atol=1e-5)


def test_same_padding_for_another_size_is_refused(converted):
    """Where SAME would not pad as the symbol does."""
    for size in (64, 96, 224):
        load_checkpoint(converted, 0, (1, 3, size, size))
    for load in (load_checkpoint, load_network):
        for shape in ((1, 3, 65, 64), (1, 3, 64, 80)):
            with pytest.raises(InputError, match=f"x-symbol.json: .*SAME.* 3,{shape[2]},{shape[3]}\\b.* 3,32,32\\b"):
                load(converted, 0, shape)


@pytest.mark.parametrize("arguments", [["--crop-ratio", "0.001"], ["--rgb-std", "1e-30,1,1"]])
def test_flags_that_no_file_could_hold(packed, tiny, tmp_path, arguments):
    with pytest.raises(InputError, match="--crop-ratio, .*: (resize|std): give"):
        evaluate(packed, tiny, tmp_path / "x.csv", *arguments)


@pytest.mark.parametrize("content", ["{", "[]", '{"resize": 256, "crop": 224, "mean": [1, 2, 3], "std": [1, 1, 0]}',
                                     '{"resize": 40, "crop": 27, "mean": [1, 2, 3], "std": [1, 1, 1]}'])
def test_files_that_cannot_be_used(packed, tiny, tmp_path, content):
    for name in ("symbol.json", "0000.params"):
        shutil.copy(f"{tiny}-{name}", tmp_path / f"x-{name}")
    (tmp_path / "x-preprocess.json").write_text(content)
    with pytest.raises(InputError, match="x-preprocess.json: ") as error:
        evaluate(packed, tmp_path / "x", tmp_path / "x.csv")
    assert "\n" not in str(error.value)


def test_what_is_assumed_of_another_repositorys_checkpoint_is_said(packed, tiny, tmp_path, capfd):
    """In one line, by evaluation and from_mxnet.py, unless a flag or PREFIX-preprocess.json says it; Gluon's export of
    its zoo's network is such a one. This repository's own names stand for its usual preprocessing."""
    net = mx.gluon.model_zoo.vision.mobilenet_v2_0_25(classes=2)
    net.initialize()
    net.hybridize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    prefix, shape = tmp_path / "zoo", ["--image-shape", "3,32,32"]
    net.export(str(prefix))

    def warnings(*flags):
        eval_imagenet.main(["--model-prefix", str(prefix), "--epoch", "0", "--data-val", f"{packed}.rec", *shape,
                            *flags])
        return [line for line in capfd.readouterr().err.splitlines() if "preprocess.json" in line]
    line, = warnings()
    assert "--rgb-mean 123.68,116.78,103.94" in line and "--rgb-std 1,1,1" in line and "--image-shape" not in line
    assert f"python tools/convert_weights.py {prefix}-0000.params OUT_PREFIX --from gluon" in line
    assert not warnings("--rgb-mean", "1,2,3", "--rgb-std", "1,2,3", "--crop-ratio", "1")
    save_preprocessing(prefix, ODD)
    assert not warnings()

    for path in Path(tiny).parent.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "x-preprocess.json").unlink()
    image = str(tmp_path / "image.png")
    cv2.imwrite(image, np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    from_mxnet.main([image, "--model-prefix", f"{tmp_path}/x", "--target", "llvm", *shape, "--synset",
                     f"{tmp_path}/names.txt"])
    line, = (line for line in capfd.readouterr().err.splitlines() if "preprocess.json" in line)
    assert "--rgb-mean" in line and "--from mxnet" in line


def train(packed, prefix, *arguments):
    train_imagenet.main(["--data-train", f"{packed}.rec", "--data-val", f"{packed}.rec", "--batch-size", "20",
                         "--model-prefix", str(prefix), *arguments])


def validations(prefix):
    lines = map(json.loads, Path(f"{prefix}-metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "validation"]


def test_fine_tuning_begins_where_the_checkpoint_is(packed, converted, tmp_path, capfd):
    """At a rate of 0, with the statistics held: its loss in validation is that of the checkpoint by NumPy, and what is
    written evaluates to the same without a flag."""
    train(packed, tmp_path / "y", "--pretrained-model", f"{converted}-0000.params", "--num-classes", "3", "--lr", "0",
          "--train-from", "fc", "--num-epochs", "1", "--ema", "0.5")
    log = capfd.readouterr().err
    assert re.search(r"As in \S+x-0000.params: channels 8,8,16,16,24,32,40,64,96, repeats 1,1,2,1,1,2,1, strides first"
                     r", padding same, activation relu, image-shape 3,64,64, crop-ratio 0.831169, rgb-mean "
                     "127.5,110,90.5, rgb-std 60,55.5,70\n", log), log
    labels, data = images(packed)
    expected = numpy_answers(converted, data)
    result, = validations(tmp_path / "y")
    assert result["top-1"] == result["ema-top-1"] == (expected.argmax(axis=1) == labels).mean()
    assert result["loss"] == pytest.approx(-np.log(expected[np.arange(len(labels)), labels]).mean(), abs=1e-4)
    for prefix in (tmp_path / "y", tmp_path / "y-ema"):
        assert load_preprocessing(prefix) == ODD
        close(evaluate(packed, prefix, tmp_path / "y.csv", epoch=1), expected)


def test_another_repositorys_checkpoint_is_fine_tuned(packed, tmp_path):
    """Converted, then a step on other classes: the network stays what it was."""
    source = save_foreign(tmp_path / "x", Caffe().symbol())
    run(convert_weights, source, tmp_path / "y", "--from", "mxnet", "--image-shape", "3,64,64")
    train(packed, tmp_path / "z", "--recipe", "finetune", "--pretrained-model", f"{tmp_path}/y-0000.params",
          "--num-classes", "3", "--num-epochs", "1", "--warmup-epochs", "0")
    before, after = (checkpoint_arrays.load(tmp_path / name, epoch) for name, epoch in (("y", 0), ("z", 1)))
    assert after.network == before.network and after.network["activation"] == "relu"
    assert (before.num_classes, after.num_classes) == (5, 3)
    moved = [name for name, array in before.arg_params.items() if not np.array_equal(array, after.arg_params[name])]
    assert "first-3x3-conv-conv2d_weight" in moved and np.isfinite(validations(tmp_path / "z")[0]["loss"])


def test_fine_tuning_to_other_classes_resumes_without_the_checkpoint(packed, converted, tmp_path):
    """Bit for bit; with SAME padding laid out for another size, and a flag that says otherwise than the checkpoint."""
    shutil.copytree(converted.parent, tmp_path / "before")
    command = [packed, tmp_path / "y", "--recipe", "finetune", "--pretrained-model",
               f"{tmp_path}/before/x-0000.params", "--num-classes", "20", "--num-epochs", "2", "--image-shape",
               "3,49,49", "--rgb-std", "58,58,58"]
    train(*command)
    assert load_preprocessing(tmp_path / "y") == ODD._replace(resize=59, crop=49, std=(58, 58, 58))
    final = {path.name: path.read_bytes() for path in tmp_path.glob("y-0002.*") if path.suffix != ".json"}
    assert len(final) == 2
    before, after = ({name: array.shape for name, array in load_checkpoint_params(path)[0].items()}
                     for path in (f"{converted}-0000.params", tmp_path / "y-0002.params"))
    assert {name for name in before if before[name] != after[name]} == {"fc_weight", "fc_bias"}
    for path in (*tmp_path.glob("y-0002.*"), tmp_path / "y-preprocess.json"):
        path.unlink()
    shutil.rmtree(tmp_path / "before")
    train(*command, "--resume")
    assert final == {name: (tmp_path / name).read_bytes() for name in final}
    assert load_preprocessing(tmp_path / "y").resize == 59


def test_a_run_that_goes_on_otherwise_says_so(packed, tiny, tmp_path, capfd):
    command = ["--multiplier", "0.1", "--num-classes", "2", "--image-shape", "3,32,32", "--lr", "0.01"]
    train(packed, tmp_path / "y", *command, "--num-epochs", "1")
    assert load_preprocessing(tmp_path / "y") == Preprocessing(37, 32)
    capfd.readouterr()
    train(packed, tmp_path / "y", "--resume", "--num-epochs", "2")
    assert "y-preprocess.json" not in capfd.readouterr().err
    save_preprocessing(tmp_path / "y", ODD)
    train(packed, tmp_path / "y", "--resume", "--num-epochs", "3")
    assert re.search("y-preprocess.json .*resize 37, crop 32", capfd.readouterr().err)
    assert load_preprocessing(tmp_path / "y") == Preprocessing(37, 32)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--multiplier", "0.25"], "--multiplier 0.25: .*x-0000.params .*--channels 8,8,16,16,24,32,40,64,96;"),
    (["--channels", "8,8,16,16,24,32,40,64,97"], "--channels 8,.*,97: .* --channels 8,"),
    (["--repeats", "1,2,3,4,3,3,1"], "--repeats 1,2,3,4,3,3,1: .* --repeats 1,1,2,1,1,2,1;"),
    (["--strides", "published"], "--strides published: .* --strides first"),
    (["--padding", "symmetric"], "--padding symmetric: .* --padding same"),
    (["--activation", "relu6"], "--activation relu6: .* --activation relu"),
    (["--multiplier", "1e20"], "multiplier must be from 0.1 to 2.0"),
    (["--channels", "8,8,16,16,24,32,40,64,99999999"], "--channels"),
    (["--recipe", "digits"], "--multiplier 0.25: "),
])
def test_flags_that_contradict_the_checkpoint(packed, converted, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        train(packed, tmp_path / "y", "--pretrained-model", f"{converted}-0000.params", *arguments)
    assert "\n" not in str(error.value)


def resolved(*arguments, saved=None):
    parser = train_imagenet.get_args_parser()
    return resolve(parser, parser.given(list(arguments)), saved)


def test_weights_alone_tell_their_widths(converted, tmp_path):
    """No more: strides, padding and images are then as the flags say."""
    shutil.copy(f"{converted}-0000.params", tmp_path / "x.params")
    recipe = resolved("--recipe", "finetune", "--pretrained-model", f"{tmp_path}/x.params")
    assert recipe.inherited == {name: NETWORK[name] for name in ("channels", "repeats")}
    assert (recipe.common["padding"], recipe.common["activation"]) == ("symmetric", "relu6")
    assert recipe.common["rgb_std"] == (1, 1, 1)


def test_what_weights_alone_do_not_tell_is_said(converted, tmp_path, caplog):
    """In one line, and no more than flags and files leave open."""
    shutil.copy(f"{converted}-0000.params", tmp_path / "x-0000.params")
    path = f"{tmp_path}/x-0000.params"

    def told(*arguments):
        caplog.clear()
        resolved("--pretrained-model", path, *arguments)
        return [record.getMessage() for record in caplog.records]

    def assumed(*arguments):
        message, = told(*arguments)
        assert message.startswith(f"{path}: ")
        return re.findall(r"--\S+ [^\s;]+(?<!,)", message)
    network, images = ["--padding symmetric", "--activation relu6"], ["--rgb-mean 123.68,116.78,103.94",
                                                                      "--rgb-std 1,1,1"]
    assert assumed() == ["--strides published", *network, *images]
    assert assumed("--strides", "first") == [*network, *images]
    shutil.copy(f"{converted}-preprocess.json", tmp_path / "x-preprocess.json")
    assert assumed() == ["--strides published", *network]
    assert told("--strides", "first", "--padding", "same", "--activation", "relu") == []
    shutil.copy(f"{converted}-symbol.json", tmp_path / "x-symbol.json")
    (tmp_path / "x-preprocess.json").unlink()
    assert told() == []


def test_what_the_flags_say_anyway_is_not_taken(tmp_path):
    """Of a published network: the recipe is as it would be without the checkpoint."""
    network = {"channels": widths(1.0), "repeats": REPEATS, "strides": "published", "padding": "symmetric",
               "activation": "relu6"}
    params = random_params(get_symbol(10, 1.0), (1, 3, 32, 32))
    checkpoint_arrays.save(checkpoint_arrays.Checkpoint(network, 10, *params, Preprocessing()), tmp_path / "x")
    path = f"{tmp_path}/x-0000.params"
    recipe = resolved("--recipe", "finetune", "--pretrained-model", path)
    assert recipe.inherited == {}
    assert recipe.common == {**resolved("--recipe", "finetune").common, "pretrained_model": path}


def test_a_multiplier_wins_over_channels_that_were_saved(converted):
    saved = resolved("--recipe", "finetune", "--pretrained-model", f"{converted}-0000.params").as_json()
    for again in ([], ["--recipe", "finetune", "--pretrained-model", "gone.params"]):
        assert resolved(*again, saved=saved).common["channels"] == NETWORK["channels"]
        changed = resolved(*again, "--multiplier", "0.5", saved=saved)
        assert changed.common["channels"] is None and changed.common["repeats"] == NETWORK["repeats"]


def test_the_symbol_of_another_network_is_refused(packed, tiny, converted, tmp_path):
    shutil.copy(f"{converted}-0000.params", tmp_path / "x-0000.params")
    shutil.copy(f"{tiny}-symbol.json", tmp_path / "x-symbol.json")
    with pytest.raises(InputError, match="x-0000.params: .*symbol"):
        train(packed, tmp_path / "y", "--pretrained-model", f"{tmp_path}/x-0000.params")
