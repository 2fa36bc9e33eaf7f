"""What commands that write do on a full disk, in a read-only folder and without memory: docs/reliability.md."""
import shlex
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from common.checkpoint.preprocessing import Preprocessing, save_preprocessing
from tests.conftest import ROOT

# OUT is the folder, of which those names may stay that a line gives
COMMANDS = {
    "train": ("train_imagenet.py --data-train PACKED.rec --data-val PACKED.rec --num-classes 2 --multiplier 0.1 --lr 0 "
              "--image-shape 3,32,32 --batch-size 20 --num-epochs 1 --model-prefix OUT/x", ["x-metrics.jsonl"]),
    "evaluate": ("eval_imagenet.py NETWORK --data-val PACKED.rec --predictions OUT/x.csv", []),
    "table": ("from_mxnet.py PHOTOGRAPHS NETWORK --synset SYNSET --target llvm --output OUT/x.json", []),
    "bundle": ("from_mxnet.py --export OUT/x NETWORK --synset SYNSET --target llvm", []),
    "onnx": ("tools/export_weights.py CHECKPOINT OUT/x.onnx --to onnx", []),
    "npz": ("tools/export_weights.py CHECKPOINT OUT/x.npz --to npz", []),
    "safetensors": ("tools/export_weights.py CHECKPOINT OUT/x.safetensors --to torchvision", []),
    "convert": ("tools/convert_weights.py WEIGHTS.npz OUT/x --from npz", []),
    "pack": ("tools/prepare_imagenet.py PHOTOGRAPHS/.. OUT/x --any-count --short-side 60", ["x", ".prepare", "lock"]),
    "calibrate": ("tools/calibrate.py OUT/small --image-shape 3,64,64 --images PACKED.rec --count 4", []),
    "tune": ("tools/tune.py --target llvm NETWORK --trials 1 --output OUT/x.json", []),
    "plot": ("tools/plot_training.py --published 1_0 -o OUT/x.png", []),
    "inspect": ("tools/inspect_rec.py PACKED.rec --contact-sheet OUT/x.png", []),
    "digits": ("tools/make_digits.py OUT/x", ["x", "images", "val", "digit0", "0000.jpg"]),
}
IN_A_FOLDER_OF_ITS_OWN = """
set -e
mount -t tmpfs -o size=4m none "$1"
cp "$3"-* "$1"
ls -A "$1" > "$2/before"
{fault}
if {command} > "$2/out" 2> "$2/err"; then echo 0 > "$2/status"; else echo $? > "$2/status"; fi
rm -f "$1/filling" || true
find "$1" -mindepth 1 -printf '%f\\n' > "$2/after"
"""
FAULTS = {  # how, and what is said of it
    "full": ('dd if=/dev/zero of="$1/filling" bs=4k 2> "$2/out" || true', ("No space left", "the disk is full")),
    "read-only": ('mount -o remount,ro "$1"', ("Read-only file system",)),
}


@pytest.fixture(scope="module")
def words(packed, photographs, checkpoint, tmp_path_factory):
    """What the words in COMMANDS stand for."""
    folder = tmp_path_factory.mktemp("words")
    save_preprocessing(checkpoint, Preprocessing(73, 64))
    (folder / "synset.txt").write_text("".join(f"n{i:08d} class {i}\n" for i in range(10)))
    subprocess.run([sys.executable, "tools/export_weights.py", checkpoint, folder / "w.npz", "--to", "npz"], cwd=ROOT,
                   check=True, capture_output=True)
    return {"PACKED": packed, "PHOTOGRAPHS": photographs, "CHECKPOINT": checkpoint, "WEIGHTS": folder / "w",
            "SYNSET": folder / "synset.txt", "NETWORK": f"--model-prefix {checkpoint} --epoch 0 --image-shape 3,64,64"}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [name if name == "train" else pytest.param(name, marks=pytest.mark.long)
                                  for name in COMMANDS])
def test_one_line_and_nothing_half_written(words, checkpoint, tmp_path, name, fault):
    out, about = tmp_path / "out", tmp_path / "about"
    out.mkdir()
    about.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", out], capture_output=True).returncode:
        pytest.skip("needs unshare and a mount of its own")
    command, may_stay = COMMANDS[name]
    for word, stands_for in {"OUT": out, **words}.items():
        command = command.replace(word, str(stands_for))
    happens, messages = FAULTS[fault]
    script = IN_A_FOLDER_OF_ITS_OWN.format(fault=happens, command=f"{shlex.quote(sys.executable)} {command}")
    subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", out, about, checkpoint], cwd=ROOT, check=True)
    err, before, after = ((about / name).read_text() for name in ("err", "before", "after"))
    assert (about / "status").read_text() == "1\n" and "Traceback" not in err, err
    last, program = err.splitlines()[-1], command.split()[0].rpartition("/")[-1]
    assert last.startswith(f"{program}: error: ") and str(out) in last, err
    assert any(message in last for message in messages), err
    assert set(after.split()) - set(before.split()) <= set(may_stay if fault == "full" else []), after


WITHOUT_MEMORY = """
import resource, runpy, sys
from common.find_mxnet import mx
import common.fit, common.packing.prepare
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 300_000_000,) * 2)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def out_of_memory(*command):
    """Run it with 300 MB more than MXNet takes; returns the last line that it says."""
    process = subprocess.run([sys.executable, "-c", WITHOUT_MEMORY, *map(str, command)], cwd=ROOT, text=True,
                             capture_output=True)
    assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
    return process.stderr.splitlines()[-1]


def test_training_without_memory(packed, tmp_path):
    last = out_of_memory("train_imagenet.py", "--data-train", f"{packed}.rec", "--num-classes", 2, "--multiplier", 0.1,
                         "--lr", 0, "--image-shape", "3,1200,1200", "--batch-size", 100, "--num-epochs", 1,
                         "--model-prefix", tmp_path / "x")
    assert last.startswith("train_imagenet.py: error: out of memory (")
    assert not list(tmp_path.glob("*.params*"))


@pytest.mark.long
def test_packing_without_memory(photographs, tmp_path):
    """No image is left out for it, and the same command packs all where there is enough."""
    images = tmp_path / "images" / "val"
    shutil.copytree(photographs, images)
    cv2.imwrite(str(images / "n0001" / "large.png"), np.zeros((9000, 9000, 3), np.uint8))
    command = ["tools/prepare_imagenet.py", images.parent, tmp_path / "x", "--any-count", "--short-side", 60]
    assert out_of_memory(*command).startswith("prepare_imagenet.py: error: out of memory")
    assert not list(tmp_path.glob("x/*.rec"))
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0 and "104 images of 2 classes, 0 skipped" in done.stdout + done.stderr
