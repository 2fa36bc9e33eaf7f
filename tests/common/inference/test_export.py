"""The bundle of from_mxnet.py --export as it is used: elsewhere, with its own two runners, without this repository."""
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import venv
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tvm
from PIL import Image

from common.base.errors import InputError
from common.base.files import _exchanged
from common.base.machine import usable_cores
from common.checkpoint.fold import load_folded
from common.checkpoint.preprocessing import Preprocessing
from common.images.preprocess import preprocess, read_image
from common.inference import export as exporting
from common.inference.export import check_destination, export, export_params
from common.inference.network import compile_elsewhere, open_network
from common.inference.plugin import fitted_processor
from common.inference.runtime import opencl_device, processors
from tests.checkpoints import save_like
from tests.conftest import ROOT
from tests.control_groups import CONTROL_GROUPS, put
from tests.fuzzing import changed_bytes, changed_json
from tests.images import images

CAT = ROOT / "data" / "cat.jpg"
SHAPE, PREPROCESSING = (3, 64, 64), Preprocessing(resize=73, crop=64, std=(58.4, 57.1, 57.4))
AARCH64 = 183  # e_machine of the ELF specification
# what the bundle's README.md has one install, where each package has its files
RUNTIME = ("tvm", "numpy", "numpy.libs", "ml_dtypes", "decorator.py", "cv2", "opencv_python_headless.libs")


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def synset(tmp_path_factory):
    path = tmp_path_factory.mktemp("synset") / "synset.txt"
    path.write_text("n0 class 0\nn1 class 1, and its häufige name\nn2 class 2\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compiled(one_convolution):
    return open_network(one_convolution, 0, (1, *SHAPE), "llvm")


@pytest.fixture(scope="module")
def device(compiled, synset, tmp_path_factory):
    """A device: a Python with what the runners need and no more, and the bundle in a folder that was empty."""
    if not os.environ.get("CI") and not has_libjpeg():
        pytest.skip("no jpeglib.h: install libjpeg-dev")
    home = tmp_path_factory.mktemp("device")
    venv.create(home / "venv", symlinks=True)
    packages = next((home / "venv" / "lib").glob("python*")) / "site-packages"
    for name in RUNTIME:
        source = Path(np.__file__).parent.parent / name
        if source.exists():
            (packages / name).symlink_to(source)
    python = home / "venv" / "bin" / "python"
    export(compiled.folder, home / "bundle", compiled.params, synset, PREPROCESSING, "llvm")
    make(python, home / "bundle")
    return SimpleNamespace(python=python, bundle=home / "bundle")


def make(python, bundle):
    process = run("make", f"PYTHON={python}", cwd=bundle, env=clean_environment())
    assert process.returncode == 0, process.stderr


def has_libjpeg():
    return run("g++", "-xc++", "-E", "-include", "cstdio", "-include", "jpeglib.h", "/dev/null").returncode == 0


def clean_environment():
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@pytest.fixture(params=["predict.py", "predict"])
def runner(request, device):
    """Runs one of the two with arguments, in another folder; with a thread, as several wait for each other where other
    tests run. What is None is not in the environment."""
    program = [device.python, device.bundle / "predict.py"] if request.param == "predict.py" else \
        [device.bundle / "predict"]

    def start(*arguments, **more):
        environment = {**clean_environment(), "TVM_NUM_THREADS": "1", **more}
        return run(*program, *arguments, cwd="/", env={name: value for name, value in environment.items() if value})
    return start


def fails_in_one_line(process, *words):
    assert process.returncode == 1 and process.stdout == "", process
    line, = process.stderr.strip().splitlines()
    assert re.match(r"predict(\.py)?: error: ", line) and all(word in line for word in words), line


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEGs of every kind: sizes that are shrunk (by whole numbers too), kept and enlarged, of one, three and four
    channels, of every subsampling and orientation, progressive or not."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    sizes = [(73, 90), (90, 73), (146, 292), (219, 146 * 3), (60, 70), (8, 9), (500, 341), (256, 256), (512, 768),
             (768, 1024), (300, 225), (225, 300), (72, 1000), (1000, 74), (257, 258), (400, 512), (100, 30), (640, 640)]
    paths = []
    for i, (height, width) in enumerate(sizes * 2):
        blurred = cv2.resize(rng.randint(0, 256, (9, 9, 3)).astype(np.uint8), (width, height),
                             interpolation=cv2.INTER_CUBIC)
        noise = rng.randint(-20, 20, blurred.shape)
        image = Image.fromarray(np.clip(blurred + noise, 0, 255).astype(np.uint8)).convert(
            {5: "L", 11: "CMYK"}.get(i % 12, "RGB"))
        exif = Image.Exif()
        exif[0x010F] = "a maker whose name is longer than four bytes"
        exif[0x0112] = i % 9  # 0 means nothing
        content = io.BytesIO()
        image.save(content, "JPEG", quality=60 + i, progressive=i % 3 == 0, exif=exif,
                   **({"subsampling": i % 3} if image.mode == "RGB" else {}))
        paths.append(folder / f"{i}.jpg")
        paths[-1].write_bytes(content.getvalue())
    return paths


def test_the_device_has_nothing_of_ours(device):
    for module in ("mxnet", "common", "symbols", "PIL", "pyopencl", "scipy"):
        process = run(device.python, "-c", f"import {module}", cwd=device.bundle, env=clean_environment())
        assert f"No module named '{module}'" in process.stderr


def test_both_runners_print_the_top_5_of_the_compiled_network(compiled, device, synset, photos):
    print_the_top_5(compiled, device.python, device.bundle, PREPROCESSING, synset, [CAT, *photos])


def print_the_top_5(compiled, python, bundle, preprocessing, synset, photos):
    names = synset.read_text(encoding="utf-8").splitlines()
    expected = []
    for path in photos:
        probabilities = compiled.predict(preprocess(read_image(path), compiled.data_shape[1:], preprocessing))[0]
        expected.append(str(path))
        expected += [f"top-{rank}: {label} {names[label]} ({probabilities[label]:.4f})"
                     for rank, label in enumerate(np.argsort(-probabilities, kind="stable")[:5], start=1)]
    for program in ([python, "predict.py"], ["./predict"]):
        process = run(*program, *photos, cwd=bundle, env=clean_environment())
        assert process.returncode == 0 and process.stderr == "", process.stderr
        assert process.stdout.splitlines() == expected


@pytest.mark.long
def test_published_weights(testdata, device, photos, tmp_path):
    names = ROOT / "data" / "imagenet1k-synset.txt"
    compiled = open_network(testdata / "pretrained" / "imagenet1k-mnetv2-1_0", 0, (1, 3, 224, 224), "llvm")
    export(compiled.folder, tmp_path / "bundle", compiled.params, names, Preprocessing(), "llvm")
    make(device.python, tmp_path / "bundle")
    photos = [CAT, *sorted((testdata / "images").glob("*.jpg")), *photos]
    print_the_top_5(compiled, device.python, tmp_path / "bundle", Preprocessing(), names, photos)


def test_the_network_sees_the_same_numbers(device, photos, tmp_path):
    expected = [preprocess(read_image(path), SHAPE, PREPROCESSING)[0] for path in photos]
    process = run(device.bundle / "predict", *photos, "--dump-input", tmp_path / "input")
    assert process.returncode == 0, process.stderr
    np.testing.assert_array_equal(np.fromfile(tmp_path / "input", np.float32).reshape(-1, *SHAPE), expected)

    runner = loaded(device)
    description = json.loads((device.bundle / "preprocess.json").read_text())
    np.testing.assert_array_equal([runner.preprocess(runner.read_image(path), **description) for path in photos],
                                  expected)


def loaded(device):
    """predict.py as a module."""
    specification = importlib.util.spec_from_file_location("runner", device.bundle / "predict.py")
    runner = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(runner)
    return runner


def test_times_on_request(runner):
    assert "elapsed" not in runner(CAT).stdout
    process = runner(CAT, "--repeat", "3")
    assert re.search(r"^elapsed: \d+\.\dms \(median of 3 runs\)$", process.stdout, re.MULTILINE), process.stderr


def test_an_image_that_cannot_be_used(runner, tmp_path):
    whole, damaged = CAT.read_bytes(), tmp_path / "damaged.jpg"
    for content in (whole[:20000], b""):  # the rest: test_what_is_whole_is_read_and_nothing_else
        damaged.write_bytes(content)
        fails_in_one_line(runner(damaged), "damaged.jpg")
    fails_in_one_line(runner(tmp_path / "missing.jpg"), "missing.jpg", "No such file")
    fails_in_one_line(runner(tmp_path), str(tmp_path), "Is a directory")
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/zero"):
        fails_in_one_line(runner(path), str(path), "is a pipe or a device")
    fails_in_one_line(runner(CAT, tmp_path / "missing\nas well.jpg"), "as well.jpg", "No such file")


def encoded(kind, mode="RGB", **options):
    content = io.BytesIO()
    Image.open(CAT).resize((90, 80)).convert(mode).save(content, kind, **options)
    return content.getvalue()


def of_three_scans(count):
    """A JPEG of three components, of each of which a scan is there, or of the first `count`."""
    grey = encoded("JPEG", "L")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    scans = b"".join(grey[scan:scan + 5] + bytes([number]) + grey[scan + 6:-2] for number in range(1, count + 1))
    header = grey[:frame + 2] + b"\0\x11" + grey[frame + 4:frame + 9] + b"\3" + components + grey[frame + 13:scan]
    return header + scans + b"\xff\xd9"


def png(pixels):
    """Of 90x80 RGB, from what its chunk inflates to."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 90, 80, 8, 2, 0, 0, 0)), (b"iCCP", b"a warning of libpng"),
              (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + kind + data
                                           + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)


def with_bytes(content, at, *values):
    return content[:at] + bytes(values) + content[at + len(values):]


JPEG, PROGRESSIVE, LINES = encoded("JPEG"), encoded("JPEG", progressive=True), bytes(80 * (1 + 3 * 90))
ANIMATION = encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (90, 80))])
SIZE = PROGRESSIVE.index(b"\xff\xc2") + 5
# what is refused, and by which word; None: read. The C++ program reads no more than JPEG
DECISIONS = {
    "whole": (JPEG, None),
    "without its end": (JPEG[:-2], None),
    "without the half of its end": (JPEG[:-1], None),
    "with more after its end": (JPEG + b"a video, say", None),
    "truncated": (JPEG[:-40], "premature end"),
    "truncated, and ended": (JPEG[:-40] + JPEG[-2:], "premature end"),
    "with a half of zeros": (JPEG[:len(JPEG) // 2] + bytes(len(JPEG) // 2) + JPEG[-2:], "premature end"),
    "with bytes before its end": (JPEG[:-2] + b"bytes" + JPEG[-2:], "extraneous bytes"),
    "progressive without its end": (PROGRESSIVE[:-2], None),
    "with another marker for its end": (JPEG[:-1] + b"\x5b" + JPEG[-1:], "damaged"),
    "with a segment for its end": (JPEG[:-1] + b"\xc4" + JPEG[-1:], "damaged"),
    "progressive without its last scan": (PROGRESSIVE[:PROGRESSIVE.rindex(b"\xff\xda")], "scans are missing"),
    "three scans": (of_three_scans(3), None),
    "two scans of three": (of_three_scans(2), "scans are missing"),
    "progressive of 13300x13300": (with_bytes(PROGRESSIVE, SIZE, *2 * divmod(13300, 256)), "has 13300x13300 pixels"),
    "PNG": (encoded("PNG"), None),
    "PNG with a warning": (png(LINES), None),
    "PNG, truncated": (encoded("PNG")[:-40], "is damaged"),
    "PNG with half of its lines": (png(LINES[:len(LINES) // 2]), "is damaged"),
    "PNG with a chunk of 2 GiB": (with_bytes(encoded("PNG"), 33, 127), "is damaged (a chunk is longer than the file)"),
    "WebP": (encoded("WEBP"), None),
    "WebP, lossless": (encoded("WEBP", lossless=True), None),
    "WebP, animated": (ANIMATION, None),
    "WebP, truncated": (encoded("WEBP")[:-40], "is damaged"),
    "WebP of 60x2097192": (with_bytes(ANIMATION, 24, 59, 0, 0, 39, 0, 32), "has 60x2097192 pixels"),
    "BMP": (encoded("BMP"), None),
    "BMP, truncated": (encoded("BMP")[:-1], "is damaged"),
    "TIFF": (encoded("TIFF"), "is not a JPEG, PNG, WebP or BMP"),
    "AVI": (b"RIFF1234AVI LIST", "is not a JPEG, PNG, WebP or BMP"),
}


@pytest.fixture(params=["predict.py", "predict"])
def said(request, device, tmp_path, monkeypatch, capfd):
    """What one of the two says of the content of an image: "" where it reads it."""
    module, path = loaded(device), tmp_path / "image"

    def of_python(content, **environment):
        path.write_bytes(content)
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                module.read_image(path)
                return ""
            except module.InputError as error:
                return str(error)
            finally:
                assert capfd.readouterr() == ("", "")

    def of_cc(content, **environment):
        path.write_bytes(content)
        process = run(device.bundle / "predict", path, "--dump-input", tmp_path / "input",
                      env={**clean_environment(), **environment})
        assert (process.returncode, process.stderr.count("\n")) in ((0, 0), (1, 1))
        return process.stderr
    of_cc.only_jpeg, of_python.only_jpeg = True, False
    return of_cc if request.param == "predict" else of_python


@pytest.mark.parametrize("name", DECISIONS)
def test_what_is_whole_is_read_and_nothing_else(said, name):
    content, refusal = DECISIONS[name]
    if said.only_jpeg and not content.startswith(b"\xff\xd8"):
        refusal = "Not a JPEG file"
    assert refusal in said(content) if refusal else not said(content)


@pytest.mark.parametrize("name", [name for name in images() if name.endswith(".jpg")])
def test_jpegs_are_whole_for_a_bundle_as_for_the_rest(said, name):
    """One table for all that read images."""
    content, refusal = images()[name]
    assert bool(said(content)) == bool(refusal)


def test_the_environment_says_how_many_pixels(said):
    names = ("whole", "progressive without its end", "PNG", "WebP", "WebP, lossless", "WebP, animated", "BMP")
    for name in names[:2] if said.only_jpeg else names:
        content, _ = DECISIONS[name]
        assert not said(content, MOBILENETV2_MAX_PIXELS="7200"), name
        refusal = said(content, MOBILENETV2_MAX_PIXELS="7199")
        assert "image: has 90x80 pixels, more than 7199 " in refusal and "MOBILENETV2_MAX_PIXELS" in refusal, name


def test_a_number_of_pixels_that_is_none(said):
    for value in ("0", "-1", "1e9", "", " 1", "x"):
        refusal = said(JPEG, MOBILENETV2_MAX_PIXELS=value)
        assert f"the environment's MOBILENETV2_MAX_PIXELS is '{value}': give" in refusal
    assert not said(JPEG, MOBILENETV2_MAX_PIXELS="9" * 30)


@pytest.mark.parametrize("more", [(), pytest.param(("PNG with a chunk of 2 GiB", "WebP of 60x2097192"),
                                                   marks=pytest.mark.long)], ids=len)
def test_what_claims_to_be_large_takes_no_memory(device, tmp_path, more):
    measured = ("import resource, subprocess, sys; process = subprocess.run(sys.argv[1:], capture_output=True); "
                "print(process.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    for program in ([device.python, device.bundle / "predict.py"], [device.bundle / "predict"]):
        usual = None
        for name in ("whole", "progressive of 13300x13300", *more):
            (tmp_path / "image").write_bytes(DECISIONS[name][0])
            status, kilobytes = map(int, run(device.python, "-c", measured, *program, tmp_path / "image",
                                             env=clean_environment()).stdout.split())
            usual = usual or kilobytes
            assert status == (name != "whole") and kilobytes < usual + (64 << 10), name


def test_an_opencv_that_says_nothing_of_damage_is_not_used(device, tmp_path):
    (tmp_path / "cv2.py").write_text("import numpy as np\nIMREAD_COLOR, error = 1, ValueError\n"
                                     "imencode = lambda *_: (True, np.zeros(9, np.uint8))\n"
                                     "imdecode = lambda *_: np.zeros((8, 8, 3), np.uint8)\n")
    fails_in_one_line(run(device.python, device.bundle / "predict.py", CAT,
                          env={**clean_environment(), "PYTHONPATH": str(tmp_path)}), "this OpenCV", "README.md")


def test_a_strip_that_would_need_gigabytes(runner, tmp_path):
    Image.new("L", (1, 65500)).save(tmp_path / "strip.jpg")
    fails_in_one_line(runner(tmp_path / "strip.jpg"),
                      "strip.jpg: has 1x65500 pixels: too many when the shorter side has 73")


def test_photographs_are_prepared_a_batch_at_a_time(runner, tmp_path):
    """What comes before one that is broken is answered; a name without a file is told before anything is."""
    (tmp_path / "broken.jpg").write_bytes(CAT.read_bytes()[:20000])
    process = runner(CAT, tmp_path / "broken.jpg", CAT)
    assert process.returncode == 1 and process.stdout == runner(CAT).stdout != ""
    assert "broken.jpg" in process.stderr and process.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["exec {} > /dev/full", "exec {} >&-"])
def test_answers_that_cannot_be_written(device, command):
    for program in (f"{device.python} {device.bundle / 'predict.py'}", device.bundle / "predict"):
        fails_in_one_line(run("sh", "-c", command.format(f"{program} {CAT}"), env=clean_environment()),
                          "standard output", "No space left" if "full" in command else "closed")


def test_a_reader_that_has_seen_enough(device):
    for program in ([device.python, device.bundle / "predict.py"], [device.bundle / "predict"]):
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.run([*program, CAT], stdout=writing, stderr=subprocess.PIPE, env=clean_environment(),
                                 check=False)
        os.close(writing)
        assert process.returncode in (128 + signal.SIGPIPE, -signal.SIGPIPE) and process.stderr == b""


def test_arguments_that_cannot_be_used(runner):
    for arguments in ([], ["--repeat", "0", CAT], [CAT, "--repeat"], [CAT, "--bogus"]):
        fails_in_one_line(runner(*arguments))


@pytest.fixture
def altered(device):
    """Puts other bytes in the place of a file of the bundle, or nothing (None), until the test ends."""
    kept = {path: path.read_bytes() for path in device.bundle.iterdir() if path.is_file()}

    def alter(name, content):
        path = device.bundle / name
        path.unlink(missing_ok=True)  # a program that runs it goes on with the old one
        if content is not None:
            path.write_bytes(content)
    yield alter
    for path, content in kept.items():
        if not path.exists() or path.read_bytes() != content:
            alter(path.name, content)


def test_a_package_without_its_library_is_one_line(device, tmp_path):
    for code, words in (("raise ImportError('libGL.so.1: cannot open shared object file')", ["libGL.so.1", "README"]),
                        ("raise RuntimeError('Cannot find libraries:\\n/x/libtvm.so')", ["libraries: /x/libtvm.so"])):
        name = "cv2" if "libGL" in code else "tvm"
        (tmp_path / f"{name}.py").write_text(code)
        process = run(device.python, device.bundle / "predict.py", CAT,
                      env={**clean_environment(), "PYTHONPATH": str(tmp_path)})
        fails_in_one_line(process, *words)
        (tmp_path / f"{name}.py").unlink()


@pytest.mark.parametrize(("given", "threads"), [({}, str(usable_cores())), ({"OMP_NUM_THREADS": "1"}, None),
                                                ({"TVM_NUM_THREADS": "7"}, "7")])
def test_tvm_is_given_a_thread_for_each_core(runner, altered, tmp_path, given, threads):
    (tmp_path / "print.c").write_text("""
        #include <stdio.h>
        #include <stdlib.h>
        __attribute__((constructor)) void f(void) {
          const char* threads = getenv("TVM_NUM_THREADS");
          printf("threads %s\\n", threads ? threads : "None");
          exit(0);
        }""")
    assert run("g++", "-xc", "-shared", "-fPIC", "-o", tmp_path / "p.so", tmp_path / "print.c").returncode == 0
    altered("network.so", (tmp_path / "p.so").read_bytes())
    assert runner(CAT, **{"TVM_NUM_THREADS": None, **given}).stdout == f"threads {threads}\n"


def test_the_quota_of_control_groups_bounds_threads(device, tmp_path):
    for number, (files, _) in enumerate(CONTROL_GROUPS):
        put(tmp_path / str(number), files)
    roots = [tmp_path / str(number) for number in range(len(CONTROL_GROUPS))]
    (tmp_path / "print.cc").write_text("""
        #include <cstdio>
        #include "cores.h"
        int main(int count, char** roots) {
          for (int i = 1; i < count; ++i) std::printf("%d %d\\n", cores::Granted(roots[i]), cores::Usable(roots[i]));
        }""")
    assert not run("g++", "-I", device.bundle, "-o", tmp_path / "print", tmp_path / "print.cc").returncode
    printed = [tuple(map(int, line.split())) for line in run(tmp_path / "print", *roots).stdout.splitlines()]
    module = loaded(device)
    for root, (_, granted), (of_cc, usable_of_cc) in zip(roots, CONTROL_GROUPS, printed, strict=True):
        assert module.granted_processors(root) == (granted or sys.maxsize) and of_cc == (granted or 2 ** 31 - 1)
        assert module.usable_cores(root) == usable_of_cc == usable_cores(root)


@pytest.mark.parametrize("damages", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_bundle_that_is_not_whole(device, runner, altered, damages):
    """Each file half, empty or gone; one of these for each file unless all are asked for. Weights without an end."""
    names = ("network.so", "network.json", "preprocess.json", "graph.json", "labels.txt", "network.params")
    for number, name in enumerate(names):
        whole = (device.bundle / name).read_bytes()
        contents = (whole[:len(whole) // 2], b"", None) * 2
        for content in contents[number % 3:][:damages]:
            altered(name, content)
            fails_in_one_line(runner(CAT), *([name] if content is None else []))
        altered(name, whole)
    assert runner(CAT).returncode == 0
    altered("network.params", whole[:-1])
    fails_in_one_line(runner(CAT), "network.params is damaged: copy it again")
    altered("network.params", whole)


@pytest.mark.parametrize(("name", "content"), [
    ("labels.txt", b"\xff\xfe"), ("graph.json", b"\xff\xfe"), ("network.so", b"\x7fELF"),
    ("preprocess.json", b'{"mean": ' + b"[" * 100_000), ("preprocess.json", b'{"resize": ' + b"9" * 5000 + b"}"),
    ("network.json", b"[" * 100_000)])
def test_a_file_of_a_bundle_that_is_damaged(runner, altered, name, content):
    altered(name, content)
    fails_in_one_line(runner(CAT))


def test_a_folder_in_the_place_of_the_network(device, tmp_path):
    shutil.copytree(device.bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "network.so").unlink()
    (tmp_path / "bundle" / "network.so").mkdir()
    for program in ([device.python, tmp_path / "bundle" / "predict.py"], [tmp_path / "bundle" / "predict"]):
        fails_in_one_line(run(*program, CAT, env=clean_environment()), "network.so")


# of preprocess.json: what it says in their place would be read from outside an image, or take all memory
DAMAGED = [("resize", 63), ("resize", 1 << 20), ("resize", "x"), ("resize", True), ("crop", [64]), ("mean", "abc"),
           ("mean", [1]), ("mean", [1, 2, float("nan")]), ("mean", [1, 2, 1e40]), ("std", [1, 1]), ("std", [1, 0, 1]),
           ("std", [1, -1, 1]), ("shape", 5), ("shape", [1, 3, 64]), ("shape", [1, 3, -32, -32]),
           ("shape", [0, 3, 64, 64]), ("shape", [1, 4, 64, 64]), ("shape", [1, 3, 64, 1 << 33]),
           ("shape", [1 << 60, 3, 64, 64]), ("layout", "NHWC"), ("input", 5)]


@pytest.fixture(scope="module")
def sanitized(device, tmp_path_factory):
    """The C++ runner that ends with another status than 1 where it reads or writes what is not its own."""
    bundle = tmp_path_factory.mktemp("sanitized") / "bundle"
    shutil.copytree(device.bundle, bundle)
    (bundle / "predict").unlink()
    flags = "-O0 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    if run("make", f"PYTHON={device.python}", f"CXXFLAGS={flags}", cwd=bundle, env=clean_environment()).returncode:
        pytest.skip("no libasan or libubsan")
    return bundle


def run_sanitized(bundle, image, tmp_path):
    options = {"ASAN_OPTIONS": "detect_leaks=0:exitcode=99", "UBSAN_OPTIONS": "exitcode=99"}
    process = run(bundle / "predict", image, "--dump-input", tmp_path / "input", env={**clean_environment(), **options})
    assert process.returncode == 0 or (process.returncode == 1 and process.stderr.count("\n") == 1), process.stderr
    return process


def test_what_a_bundle_cannot_want_of_an_image(device, sanitized, runner, altered, tmp_path, monkeypatch):
    whole = json.loads((device.bundle / "preprocess.json").read_text())
    module = loaded(device)
    monkeypatch.setattr(module, "HERE", sanitized)
    for key, value in DAMAGED:
        content = json.dumps({**whole, key: value})
        (sanitized / "preprocess.json").write_text(content)
        assert "is damaged: export the bundle again" in run_sanitized(sanitized, CAT, tmp_path).stderr, (key, value)
        with pytest.raises(module.InputError, match="preprocess.json is damaged: export the bundle again"):
            module.read_json("preprocess.json", module.is_preprocessing)
    altered("preprocess.json", content.encode())
    fails_in_one_line(runner(CAT), "preprocess.json", "is damaged: export the bundle again")
    altered("preprocess.json", json.dumps(whole).encode())
    about = json.loads((device.bundle / "network.json").read_text())
    for key, value in (("device", "foo"), ("target", 5), ("params_bytes", "5")):
        altered("network.json", json.dumps({**about, key: value}).encode())
        fails_in_one_line(runner(CAT), "network.json", "is damaged: export the bundle again")


@pytest.mark.parametrize("count", [20, pytest.param(2000, marks=pytest.mark.long)])
def test_bytes_changed_at_random(device, sanitized, tmp_path, monkeypatch, count):
    """Of what is done to an image, and of images: an answer or one line, of a JPEG of both alike, and no memory of
    others."""
    module, description = loaded(device), (device.bundle / "preprocess.json").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"
    images = [encoded("JPEG", exif=exif), PROGRESSIVE, of_three_scans(3), encoded("PNG"), encoded("WEBP"), ANIMATION,
              encoded("BMP")]
    monkeypatch.setattr(module, "HERE", sanitized)
    for number in range(count):
        rng, of_image = np.random.RandomState(number), number % 2
        image = images[number // 2 % len(images)]
        (sanitized / "preprocess.json").write_bytes(
            description if of_image else changed_json(rng, description, [description]))
        (tmp_path / "image.jpg").write_bytes(changed_bytes(rng, image, [image]) if of_image else image)
        read = run_sanitized(sanitized, tmp_path / "image.jpg", tmp_path).returncode == 0
        try:
            module.prepared(tmp_path / "image.jpg", module.read_json("preprocess.json", module.is_preprocessing))
            read_too = True
        except module.InputError:
            read_too = False
        assert read == read_too or not of_image or not image.startswith(b"\xff\xd8"), number


def test_an_output_that_is_not_finite(runner, altered, device):
    """As where training has diverged: NaN is never among the most probable classes."""
    params = tvm.runtime.load_param_dict((device.bundle / "network.params").read_bytes())
    params = {name: tvm.nd.array(np.full(array.shape, np.nan, np.float32)) for name, array in params.items()}
    altered("network.params", bytes(tvm.runtime.save_param_dict(params)))
    fails_in_one_line(runner(CAT), f"the network's output for {CAT} is not finite")


def test_a_processor_without_the_instructions(runner, altered, tmp_path):
    (tmp_path / "trap.c").write_text("__attribute__((constructor)) void f(void) { __builtin_trap(); }")
    assert run("g++", "-xc", "-shared", "-fPIC", "-o", tmp_path / "trap.so", tmp_path / "trap.c").returncode == 0
    altered("network.so", (tmp_path / "trap.so").read_bytes())
    fails_in_one_line(runner(CAT), "instructions", "compiled for llvm on ")


@pytest.fixture(scope="module", params=["llvm -mtriple=aarch64-linux-gnu",
                                        "opencl -device=mali -mtriple=aarch64-linux-gnu"])
def elsewhere(request, one_convolution, tmp_path_factory):
    """(target, the folder of what is compiled for it)"""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder))  # where no cross compiler is
        compile_elsewhere(folder, one_convolution, 0, (1, *SHAPE), request.param)
    return request.param, folder


def test_another_machine(elsewhere, one_convolution, device, runner, altered, synset, tmp_path):
    target, folder = elsewhere
    bundle = tmp_path / "bundle"
    export(folder, bundle, load_folded(one_convolution, 0, (1, *SHAPE))[1], synset, PREPROCESSING, target)
    objects = list((bundle / "objects").iterdir())
    assert objects and all(machine(path) == AARCH64 for path in objects)
    assert not (bundle / "network.so").exists() and not (bundle / "libtvm_opencl.so").exists()
    assert (bundle / "opencl" / "Makefile").exists() == target.startswith("opencl")
    about = json.loads((bundle / "network.json").read_text())
    kind = "processor" if target.startswith("llvm") else ""  # what OpenCL device it will be is not known
    assert (about["target"], about["device_name"], about["device_kind"]) == (target, "", kind)
    fails_in_one_line(run(device.python, bundle / "predict.py", CAT), "network.so", "make")
    if machine(device.bundle / "network.so") != AARCH64:
        process = run("make", f"PYTHON={device.python}", cwd=bundle, env=clean_environment())
        assert process.returncode and "objects/" in process.stderr and target in process.stderr.splitlines()[0]
        assert not (bundle / "predict").exists() and not (bundle / "network.so").exists()

    altered("network.so", objects[0].read_bytes())
    fails_in_one_line(runner(CAT), "network.so", "another machine")


def machine(elf):
    return int.from_bytes(elf.read_bytes()[18:20], "little")


def test_a_cross_compiler_links(one_convolution, synset, tmp_path):
    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("no aarch64-linux-gnu-g++")
    target = "llvm -mtriple=aarch64-linux-gnu"
    compile_elsewhere(tmp_path, one_convolution, 0, (1, *SHAPE), target)
    params = load_folded(one_convolution, 0, (1, *SHAPE))[1]
    export(tmp_path, tmp_path / "bundle", params, synset, PREPROCESSING, target)
    assert machine(tmp_path / "bundle" / "network.so") == AARCH64
    assert not (tmp_path / "bundle" / "objects").exists()


def exported_for(target, folder, one_convolution, synset):
    (folder / "compiled").mkdir()
    compile_elsewhere(folder / "compiled", one_convolution, 0, (1, *SHAPE), target)
    params = load_folded(one_convolution, 0, (1, *SHAPE))[1]
    export(folder / "compiled", folder / "bundle", params, synset, PREPROCESSING, target)
    return folder / "bundle"


def test_a_bundle_for_android_is_a_project_for_its_ndk(one_convolution, synset, tmp_path):
    bundle = exported_for("opencl -device=mali -mtriple=aarch64-linux-android28", tmp_path, one_convolution, synset)
    assert {path.name for path in bundle.iterdir()} == {
        "objects", "graph.json", "network.params", "weights.json", "network.json", "preprocess.json", "labels.txt",
        "README.md", "CMakeLists.txt", "predict.cc", "cores.h", "image.h", "ppm.h", "resize.h", "tvm"}
    assert all(machine(path) == AARCH64 for path in (bundle / "objects").iterdir())
    assert (bundle / "tvm" / "src" / "runtime" / "opencl" / "opencl_module.cc").exists()
    readme = (bundle / "README.md").read_text()
    assert "ANDROID_ABI=arm64-v8a" in readme and "ANDROID_PLATFORM=android-28" in readme and "apt-get" not in readme
    if shutil.which("cmake") and platform.machine() != "aarch64":
        process = run("cmake", "-B", "build", cwd=bundle)
        assert process.returncode and "aarch64-linux-android28" in process.stderr and "ANDROID_ABI" in process.stderr
    (bundle / "build").mkdir(exist_ok=True)
    (bundle / "build" / "predict").write_text("")
    check_destination(bundle)
    (bundle / "tvm" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="tvm/notes.txt"):
        check_destination(bundle)


@pytest.mark.long
@pytest.mark.parametrize(("processor", "kind"), [("x86_64", "opencl"), ("aarch64", "llvm")])
def test_the_project_for_android_answers_as_predict_does(one_convolution, device, synset, photos, tmp_path, processor,
                                                         kind):
    """Built for Linux: by this machine's compiler, or by a cross compiler and run under QEMU."""
    cross = [] if processor == platform.machine() else [f"-DCMAKE_CXX_COMPILER={processor}-linux-gnu-g++",
                                                        "-DCMAKE_SYSTEM_NAME=Linux",
                                                        f"-DCMAKE_SYSTEM_PROCESSOR={processor}"]
    emulator = [f"qemu-{processor}-static", "-L", f"/usr/{processor}-linux-gnu"] if cross else []
    for program in ("cmake", *emulator[:1], *([f"{processor}-linux-gnu-g++"] if cross else [])):
        if not shutil.which(program):
            pytest.skip(f"no {program}")
    if kind == "opencl" and any(map(fitted_processor, processors(opencl_device().device_name))):
        pytest.skip("this PoCL may compile nothing here, where no plug-in chooses a processor")
    bundle = exported_for(f"{kind} -mtriple={processor}-linux-android", tmp_path, one_convolution, synset)
    for command in (["cmake", "-B", "build", *cross], ["cmake", "--build", "build", "-j2"]):
        process = run(*command, cwd=bundle)
        assert process.returncode == 0, process.stderr
    for name in ("predict", "network.so"):
        shutil.copy(bundle / "build" / name, bundle / name)
    pixels = [tmp_path / f"{path.stem}.ppm" for path in photos]
    for path, ppm in zip(photos, pixels):
        cv2.imwrite(str(ppm), cv2.imread(str(path)))
    environment, loader = opencl_environment()
    (tmp_path / "libOpenCL.so").symlink_to(loader)  # the name that Android's drivers have
    environment["LD_LIBRARY_PATH"] += f":{tmp_path}"
    environment["TVM_NUM_THREADS"] = "1"
    said, same = (run(*command, env=environment).stdout.splitlines() for command in (
        [*emulator, bundle / "predict", *pixels], [device.bundle / "predict", *photos]))
    tops = [re.fullmatch(r"(top-.*) \((.*)\)", line) for line in said]
    others = [re.fullmatch(r"(top-.*) \((.*)\)", line) for line in same]
    assert len(tops) == 4 * len(photos) and [top and top[1] for top in tops] == [top and top[1] for top in others]
    difference = max(abs(float(top[2]) - float(other[2])) for top, other in zip(tops, others) if top)
    assert difference < 1.5e-4  # sums in another order differ by 1e-7, which may round to another fourth digit
    for command in ([*emulator, bundle / "predict", *pixels, "--dump-input", tmp_path / "input"],
                    [device.bundle / "predict", *photos, "--dump-input", tmp_path / "same"]):
        assert run(*command, env=environment).returncode == 0
    assert (tmp_path / "input").read_bytes() == (tmp_path / "same").read_bytes()
    process = run(*emulator, bundle / "predict", CAT, env=environment)
    assert process.returncode == 1 and "PPM" in process.stderr.splitlines()[-1]  # after a warning of TVM


PIXELS = bytes(range(12))
PPMS = (  # and the word by which one is refused
    (b"P6\n2 2\n255\n" + PIXELS, None), (b"P6 # 3 3\n2\t2 #255\n255 " + PIXELS, None),
    (b"P6\n2 2\n255\n" + PIXELS[1:], "damaged"), (b"P6\n2 2\n255\n" + PIXELS + b" ", "damaged"),
    (b"P6\n2 2\n65535\n" + 2 * PIXELS, "8 bits"), (b"P3\n2 2\n255\n", "P6"), (b"", "P6"), (b"P6", "P6"),
    (b"P6\n0 2\n255\n", "damaged"), (b"P6\n-2 2\n255\n" + PIXELS, "damaged"), (b"P6\n", "damaged"),
    (b"P6\n20000 20000\n255\n", "has 20000x20000 pixels"), (b"P6\n4294967298 2\n255\n" + PIXELS, "damaged"),
    (b"P6\n#", "damaged"), (b"P6\n2 2", "damaged"), (b"P6\n2 2\n255", "damaged"),
)


def test_a_ppm_file_is_its_pixels_or_is_refused(tmp_path):
    (tmp_path / "print.cc").write_text("""
        #include <cstdio>
        #include "ppm.h"
        int main(int, char** paths) try {
          const Image image = ppm::Read(paths[1]);
          std::printf("%d %d", image.height, image.width);
          for (const int value : image.rgb) std::printf(" %d", value);
        } catch (const std::runtime_error& error) {
          std::puts(error.what());
        }""")
    command = ("g++", "-std=c++17", "-I", ROOT / "runners", "-o", tmp_path / "print", tmp_path / "print.cc")
    if run(*command, "-fsanitize=address,undefined").returncode:
        assert not run(*command).returncode
    for content, refusal in PPMS:
        (tmp_path / "image.ppm").write_bytes(content)
        process = run(tmp_path / "print", tmp_path / "image.ppm")
        assert process.returncode == 0 and process.stderr == "", content
        if refusal:
            assert "image.ppm: " in process.stdout and refusal in process.stdout, (content, process.stdout)
        else:
            assert process.stdout.split() == ["2", "2", *map(str, PIXELS)], content


def opencl_environment():
    """What pyopencl tells its loader, and the loader's path."""
    import pyopencl
    drivers = Path(pyopencl.__file__).parent / ".libs"
    loader, = drivers.glob("libOpenCL*")
    return {**clean_environment(), "PYOPENCL_HOME": str(drivers.parent), "LD_LIBRARY_PATH": str(drivers)}, loader


@pytest.mark.long
def test_opencl_and_batches(one_convolution, compiled, device, photos, synset, tmp_path):
    opencl = open_network(one_convolution, 0, (2, *SHAPE), "opencl")
    bundle = tmp_path / "bundle"
    export(opencl.folder, bundle, opencl.params, synset, PREPROCESSING, "opencl")
    (bundle / "libtvm_opencl.so").unlink()  # it is built from its sources
    make(device.python, bundle)

    environment, loader = opencl_environment()
    environment["OPENCL_LIBRARY"] = str(loader)
    on_llvm = run(device.python, device.bundle / "predict.py", *photos[:3]).stdout
    about = json.loads((bundle / "network.json").read_text())
    other = {"GPU": "processor", "processor": "GPU"}[about["device_kind"]]
    for kind in (about["device_kind"], other):
        (bundle / "network.json").write_text(json.dumps({**about, "device_kind": kind}))
        for program in ([device.python, "predict.py"], ["./predict"]):
            process = run(*program, *photos[:3], cwd=bundle, env=environment)
            assert process.returncode == 0 and process.stdout == on_llvm != "", process.stderr
            warnings = [line for line in process.stderr.splitlines() if "warning: compiled for a" in line]
            assert len(warnings) == (kind == other)
            assert all(f"compiled for a {other} ({about['device_name']}), runs on" in line for line in warnings)


def test_a_bundle_is_replaced_and_nothing_else(compiled, synset, tmp_path):
    def exported(folder):
        export(compiled.folder, folder, compiled.params, synset, PREPROCESSING, "llvm")
        return sorted(path.name for path in folder.iterdir())

    (tmp_path / "empty").mkdir()
    files = exported(tmp_path / "empty")
    (tmp_path / "empty" / "predict").write_bytes(b"built before")
    (tmp_path / "empty" / "labels.txt").write_text("old\n")
    assert exported(tmp_path / "empty") == exported(tmp_path / "new" / "folder") == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]

    mine = tmp_path / "new" / "folder" / "photo.jpg"
    mine.write_bytes(b"mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("another project's")
    (tmp_path / "file").write_text("")
    within = tmp_path / "empty" / "opencl" / "notes.txt"
    within.parent.mkdir(exist_ok=True)
    within.write_text("mine")
    (tmp_path / "site").mkdir()
    for name in ("graph.json", "preprocess.json", "README.md"):
        (tmp_path / "site" / name).write_text('{"nodes": []}')
    for folder, word in ((mine.parent, "photo.jpg"), (tmp_path / "other", "other: "), (tmp_path / "file", "folder"),
                         (tmp_path / "empty", "opencl/notes.txt"), (tmp_path / "site", "site: ")):
        with pytest.raises(InputError, match=word):
            check_destination(folder)
        with pytest.raises(InputError, match=word):
            export(compiled.folder, folder, compiled.params, synset, PREPROCESSING, "llvm")
    assert mine.exists() and within.exists() and (tmp_path / "other" / "README.md").exists()


def test_a_bundle_has_what_it_uses_and_no_more(compiled, synset, tmp_path, monkeypatch):
    """Whatever lies in runners/ and native/, such as a program that was built there."""
    for name, folder in (("RUNNERS", "runners"), ("NATIVE", "native")):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("build"))
        (tmp_path / folder / "predict").write_bytes(b"for another machine")
        monkeypatch.setattr(exporting, name, tmp_path / folder)
    monkeypatch.setitem(exporting.DEVICES, "llvm", "opencl")  # which takes longer to compile for
    monkeypatch.setattr(exporting, "_device", lambda *_: ("", ""))
    export(compiled.folder, tmp_path / "bundle", compiled.params, synset, PREPROCESSING, "llvm")
    files = {str(path.relative_to(tmp_path / "bundle")) for path in (tmp_path / "bundle").rglob("*") if path.is_file()}
    assert files - {"libtvm_opencl.so"} == {
        "network.so", "graph.json", "network.params", "weights.json", "network.json", "preprocess.json", "labels.txt",
        "README.md", "predict.py", "predict.cc", "cores.h", "image.h", "jpeg.h", "resize.h",
        "Makefile", "opencl/Makefile", "opencl/include/quiet.h", "opencl/include/tvm/support/span.h",
        "opencl/pocl_processor.cc", "opencl/pocl_threads.cc"}


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_bundle_is_there_at_every_moment(compiled, synset, tmp_path, monkeypatch, exchanged):
    """Where the file system can exchange two names; elsewhere the old one comes back if the new one does not come."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if exchanged and not _exchanged(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    export(compiled.folder, tmp_path / "bundle", compiled.params, synset, PREPROCESSING, "llvm")
    (tmp_path / "bundle" / "labels.txt").write_text("old\n")
    if not exchanged:
        monkeypatch.setattr("common.base.files._exchanged", lambda *_: False)

    def rename(source, destination, usual=os.rename):
        assert not exchanged
        if str(source).endswith(".partial"):
            raise OSError("the disk is gone")
        usual(source, destination)
    monkeypatch.setattr(os, "rename", rename)
    with nullcontext() if exchanged else pytest.raises(OSError, match="the disk is gone"):
        export(compiled.folder, tmp_path / "bundle", compiled.params, synset, PREPROCESSING, "llvm")
    assert ((tmp_path / "bundle" / "labels.txt").read_text() == "old\n") == (not exchanged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "bundle"]


def test_nothing_is_left_where_it_fails(compiled, synset, tmp_path):
    (tmp_path / "short.txt").write_text("n0 one\n")
    with pytest.raises(InputError, match="names 1 classes"):
        export(compiled.folder, tmp_path / "bundle", compiled.params, tmp_path / "short.txt", PREPROCESSING, "llvm")
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]
    with pytest.raises((InputError, OSError)):
        export(tmp_path, tmp_path / "bundle", compiled.params, synset, PREPROCESSING, "llvm")
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


def test_parameters_of_another_checkpoint_go_into_a_bundle(one_convolution, device, synset, tmp_path):
    """And nothing else; what the bundle then answers is what the other checkpoint does. Another network is refused."""
    bundle = shutil.copytree(device.bundle, tmp_path / "bundle")
    save_like(one_convolution, 0, tmp_path / "other")
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    export_params(bundle, tmp_path / "other", 0, synset, PREPROCESSING)
    after = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    assert [name for name in before if before[name] != after[name]] == ["network.params"] and set(after) == set(before)
    network = open_network(tmp_path / "other", 0, (1, *SHAPE), "llvm")
    print_the_top_5(network, device.python, bundle, PREPROCESSING, synset, [CAT])
    for names, preprocessing, word in ((ROOT / "data" / "imagenet1k-synset.txt", PREPROCESSING, "class names"),
                                       (synset, Preprocessing(), "preprocessing")):
        with pytest.raises(InputError, match=word):
            export_params(bundle, tmp_path / "other", 0, names, preprocessing)
    symbol = (tmp_path / "other-symbol.json").read_text()
    (tmp_path / "other-symbol.json").write_text(symbol.replace('"a_max": "6"', '"a_max": "7"'))
    with pytest.raises(InputError, match="network"):
        export_params(bundle, tmp_path / "other", 0, synset, PREPROCESSING)
    with pytest.raises(InputError, match="not a bundle"):
        export_params(tmp_path, tmp_path / "other", 0, synset, PREPROCESSING)
    assert (bundle / "network.params").read_bytes() == after["network.params"]


def test_the_input_may_have_another_shape(one_convolution, synset, tmp_path):
    compiled = open_network(one_convolution, 0, (1, 3, 96, 160), "llvm")
    export(compiled.folder, tmp_path / "bundle", compiled.params, synset, Preprocessing(), "llvm")
    written = json.loads((tmp_path / "bundle" / "preprocess.json").read_text())
    assert written == {"resize": 183, "crop": 160, "mean": [123.68, 116.78, 103.94], "std": [1, 1, 1], "input": "data",
                       "shape": [1, 3, 96, 160], "layout": "NCHW", "dtype": "float32"}
