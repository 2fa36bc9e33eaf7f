#!/usr/bin/env python3
"""The top-5 of photographs by the network beside this file: TVM's runtime, NumPy, OpenCV, and nothing else.

    python predict.py photo.jpg [more.jpg ...] [--repeat N]

On OpenCL it also uses pyopencl, if that is installed, for its OpenCL library.
"""
from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import itertools
import json
import math
import os
import re
import signal
import stat
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

os.environ.update(OPENCV_LOG_LEVEL="SILENT", OPENCV_IO_MAX_IMAGE_PIXELS=str(1 << 40))  # the limit is here
try:
    import cv2
    import numpy as np
except ImportError as missing:  # or a system library, such as libGL.so.1
    sys.exit(f"predict.py: error: {' '.join(str(missing).split())}: see README.md")

HERE = Path(__file__).resolve().parent
PREPROCESSING = {"resize", "crop", "mean", "std", "input", "shape", "layout", "dtype"}
NETWORK = {"device", "device_name", "device_kind", "target", "precision", "records", "tvm"}
DEVICES = ("cpu", "opencl")
MAX_SIDE, MAX_INPUT = 4096, 1 << 30  # pixels of an image's shorter side; numbers of a batch: 4 GiB
MIN_STD, MAX_MEAN = 1e-6, 1e30       # what is smaller may be 0 in float32
MAX_BYTES = 256 << 20                # of a photograph's file
MAX_PIXELS = 89478485                # of an image, as Pillow has it, and of a resized one: a strip would need gigabytes
MAX_SCANS = 500                      # of a JPEG; each costs a pass over the image
OTHER = "is not a JPEG, PNG, WebP or BMP"
MARKER = re.compile(rb"\xff([^\0\1\xd0-\xd7\xff])")  # of JPEG; the others stand alone, or within a scan
SOF, SOS, EOI = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, 0xDA, b"\xff\xd9"
CL_DEVICE_TYPE_GPU = 4
QUOTA = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # of control groups, in microseconds
ELF_64, ELF_MACHINE = 2, slice(18, 20)  # of an ELF file's header


class InputError(ValueError):
    """Something given cannot be used; the message is one line."""


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="photographs to classify")
    parser.add_argument("--repeat", type=count, default=0, metavar="N", help="run N times and print the median time")
    parser.error = lambda message: sys.exit(f"predict.py: error: {message} (see --help)")  # type: ignore[method-assign]
    return parser


def count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1 to 999999")
    return int(text)


def main(args: argparse.Namespace) -> None:
    if sys.stderr is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print there what is damaged, and may print more
    if sys.stdout is None:
        raise InputError("standard output is closed")
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]  # names as they are
    preprocessing, network = read_json("preprocess.json", is_preprocessing), read_json("network.json", is_network)
    labels = [line.rstrip("\n") for line in io.StringIO(bundle_text("labels.txt"))]
    check_library(network["target"])
    for path in args.images:
        check_file(path)  # a wrong name at the end is reported before hours of work
    check_decoder()
    predict, batch = load_network(network, preprocessing["input"]), preprocessing["shape"][0]
    for first in range(0, len(args.images), batch):
        data = np.zeros(preprocessing["shape"], np.float32)
        paths = args.images[first:first + batch]
        for place, path in zip(data, paths):
            place[:] = prepared(path, preprocessing)
        times = []
        for _ in range(max(1, args.repeat)):
            start = time.perf_counter()
            probabilities = predict(data)
            times.append(time.perf_counter() - start)
        if probabilities.shape != (batch, len(labels)):
            raise InputError("labels.txt does not fit the network")
        for path, row in zip(paths, probabilities):
            check_finite(path, row)
        for path, row in zip(paths, probabilities):
            print(path)
            for rank, label in enumerate(np.argsort(-row, kind="stable")[:5], start=1):
                print(f"top-{rank}: {label} {labels[label]} ({row[label]:.4f})")
        if args.repeat:
            print(f"elapsed: {statistics.median_high(times) * 1e3:.1f}ms (median of {args.repeat} runs)")
        sys.stdout.flush()  # for a reader that waits; an error is reported


def bundle_file(name: str) -> bytes:
    try:
        check_file(HERE / name)
        return (HERE / name).read_bytes()
    except OSError as error:
        raise InputError(f"{HERE / name}: {error.strerror} (predict.py stays in the folder of its network)") from None


def bundle_text(name: str) -> str:
    try:
        return bundle_file(name).decode()
    except UnicodeDecodeError:
        raise damaged(name) from None


def read_json(name: str, is_whole: Callable[[dict], bool]) -> dict:
    text = bundle_text(name)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not is_whole(content):
        raise damaged(name)
    return content


def damaged(name: str) -> InputError:
    return InputError(f"{HERE / name} is damaged: export the bundle again")


def is_preprocessing(content: dict) -> bool:
    """Whether the program can do what it says; anything else would be read from outside an image."""
    if set(content) != PREPROCESSING or not (
            are_numbers([content["resize"], content["crop"]], 2, int) and are_numbers(content["shape"], 4, int)
            and are_numbers(content["mean"], 3) and are_numbers(content["std"], 3)):
        return False
    batch, channels, height, width = content["shape"]
    return (batch > 0 and channels == 3 and min(height, width) > 0 and math.prod(content["shape"]) <= MAX_INPUT
            and max(height, width) <= content["resize"] <= MAX_SIDE and min(content["std"]) >= MIN_STD
            and isinstance(content["input"], str) and (content["layout"], content["dtype"]) == ("NCHW", "float32"))


def are_numbers(value: Any, count: int, kind: Any = (int, float)) -> bool:
    return isinstance(value, list) and len(value) == count and all(
        isinstance(number, kind) and not isinstance(number, bool) and -MAX_MEAN < number < MAX_MEAN for number in value)


def is_network(content: dict) -> bool:
    texts = {name: value for name, value in content.items() if isinstance(value, str)}
    return (set(texts) == NETWORK and set(content) - NETWORK == {"params_bytes"}
            and type(content["params_bytes"]) is int and content["device"] in DEVICES)


def check_file(path: str | os.PathLike) -> None:
    """Raises InputError for a pipe or a device, which would be waited for or read without end; OSError for what is not
    there."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe or a device; give the name of a file")


def check_library(target: str) -> None:
    """Raises InputError if network.so is missing, for another machine (the system's loader says so badly), or cut short
    (the loader crashes)."""
    library = HERE / "network.so"
    if not library.is_file():
        raise InputError(f"{library} is not there: run make network.so")
    with open(library, "rb") as file, open("/proc/self/exe", "rb") as python:
        elf, own = file.read(64), python.read(64)
    sections, size, count = (int.from_bytes(elf[a:b], "little") for a, b in ((40, 48), (58, 60), (60, 62)))
    if elf[:4] != b"\x7fELF" or len(elf) < 64 or (
            elf[4] == ELF_64 and library.stat().st_size < sections + size * count):
        raise InputError(f"{library} is damaged: copy it again")
    if elf[ELF_MACHINE] != own[ELF_MACHINE]:
        raise InputError(f"{library} is for another machine: it was compiled for {target}")


def read_image(path: str | os.PathLike) -> np.ndarray:
    """An image file as uint8 (height, width, 3), BGR, upright as its EXIF data say.

    Raises InputError for one that is damaged and, before anything is decoded, for one of too many pixels.
    """
    most = max_pixels()
    try:
        check_file(path)
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: has more than {MAX_BYTES >> 20} MiB; another file, or a damaged one?")
    try:
        return whole_image(content, most)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def whole_image(content: bytes, most: int) -> np.ndarray:
    """As `read_image`; `most`: pixels that it may have."""
    size_of = next((size_of for start, size_of in FORMATS if content.startswith(start)), None)
    if not size_of:
        raise InputError(OTHER)
    try:
        width, height = size_of(content)
    except (LookupError, struct.error):
        raise InputError("is damaged (its headers)") from None
    if width * height > most:
        raise InputError(f"has {width}x{height} pixels, more than {most} (the environment's MOBILENETV2_MAX_PIXELS may "
                         "allow more)")
    jpeg = size_of is jpeg_size
    image, said = decode(mended(content) if jpeg else content)
    if image is None or (jpeg and said):
        raise InputError(f"is damaged ({said or 'OpenCV cannot decode it'})")
    return image


def mended(jpeg: bytes) -> bytes:
    """`jpeg` without what libjpeg warns of although no pixel is missing: a lost end, or another version of JFIF
    than 1."""
    return (jpeg[:11] + b"\1" + jpeg[12:] if jpeg[6:11] == b"JFIF\0" else jpeg) + EOI


def max_pixels() -> int:
    """The most that an image may have: MAX_PIXELS, or what the environment says."""
    text = os.environ.get("MOBILENETV2_MAX_PIXELS", str(MAX_PIXELS))
    if not re.fullmatch(r"\d{1,99}", text, re.ASCII) or not int(text):
        raise InputError(f"the environment's MOBILENETV2_MAX_PIXELS is {text!r}: give a whole number of 1 or more, or "
                         "unset it")
    return int(text)


def decode(content: bytes) -> tuple[np.ndarray | None, str]:
    """(image or None, what the decoder says of it). OpenCV returns the upper half of a truncated JPEG; only libjpeg
    says that it is truncated, on standard error, without the file's name."""
    with open(os.memfd_create("said"), "r+b") as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # a header that OpenCV refuses
            image = None
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        return image, " ".join(said.read().decode(errors="replace").split())


def check_decoder() -> None:
    """Raises InputError if OpenCV was built with a libjpeg that does not report damage."""
    whole = cv2.imencode(".jpg", np.arange(0, 256, 4, np.uint8).reshape(8, 8))[1].tobytes()
    if not decode(whole[:-4] + EOI)[1]:
        raise InputError("this OpenCV does not say what JPEG is damaged: install that of README.md")


def jpeg_size(content: bytes) -> tuple[int, int]:
    """(width, height). Raises InputError if scans are missing, which libjpeg does not report: after the last one every
    coefficient of every component has to be known to its last bit."""
    width = height = scans = 0
    missing: dict[int, list[int]] = {}  # bits of each coefficient of a component
    for marker, segment in jpeg_segments(content):
        if marker in SOF and not missing:
            height, width = struct.unpack_from(">HH", segment, 1)
            missing = {component: [16] * 64 for component in segment[6::3]}
        elif marker == SOS:
            if (scans := scans + 1) > MAX_SCANS:
                raise InputError(f"is damaged (more than {MAX_SCANS} scans)")
            first, last, low = struct.unpack_from("BBB", segment, -3)
            for component in segment[1:-3:2]:
                missing[component][first:last + 1] = [low & 15] * (last + 1 - first)
    if not missing or any(map(any, missing.values())):
        raise InputError("is damaged (scans are missing)")
    return width, height


def jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment, up to the end's marker. Raises InputError for what is none, of which OpenCV
    says nothing after the last scan."""
    at = 2
    while (found := MARKER.search(content, at)) and found[0] != EOI:
        at = found.end() + int.from_bytes(content[found.end():found.end() + 2], "big")
        if found[1] < b"\xc0" or at > len(content):
            raise InputError(f"is damaged (no segment of JPEG at byte {found.start()})")
        yield found[1][0], content[found.end() + 2:at]


def png_size(content: bytes) -> tuple[int, int]:
    """(width, height). Raises InputError if a chunk has a length for which OpenCV would take gigabytes."""
    at, kind = 8, b""
    while at < len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        at += 12 + length
    if at > len(content):
        raise InputError("is damaged (a chunk is longer than the file)")
    return struct.unpack_from(">II", content, 16)


def webp_size(content: bytes) -> tuple[int, int]:
    """(width, height): of an image, VP8 or VP8L, or of what several are drawn on, VP8X."""
    kind = content[12:16]
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(content[at:at + 3], "little") for at in (24, 27))  # type: ignore[return-value]
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind != b"VP8 ":
        raise InputError(OTHER)
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


def bmp_size(content: bytes) -> tuple[int, int]:
    """(width, height) from OS/2's header or Windows', in which a negative height means rows from the top down."""
    width, height = struct.unpack_from("<HH" if content[14] == 12 else "<ii", content, 18)
    return abs(width), abs(height)


FORMATS = ((b"\xff\xd8\xff", jpeg_size), (b"\x89PNG\r\n\x1a\n", png_size), (b"RIFF", webp_size), (b"BM", bmp_size))


def prepared(path: str, preprocessing: dict) -> np.ndarray:
    """The photograph at `path` as `preprocess` gives it; an InputError names it."""
    image = read_image(path)
    try:
        return preprocess(image, **preprocessing)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def preprocess(image: np.ndarray, resize: int, crop: int, mean: list[float], std: list[float], shape: list[int],
               **_: str) -> np.ndarray:
    """uint8 (height, width, 3) BGR to normalised float32 RGB (3, *shape[2:]): shorter side to `resize`, centre crop.

    Raises InputError for a strip that would need gigabytes.
    """
    height, width = image.shape[:2]
    size = (resize, resize * height // width) if height > width else (resize * width // height, resize)
    if math.prod(size) > MAX_PIXELS:
        raise InputError(f"has {width}x{height} pixels: too many when the shorter side has {resize}")
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if resize > min(height, width) else cv2.INTER_AREA)
    top, left = (image.shape[0] - shape[2]) // 2, (image.shape[1] - shape[3]) // 2
    rgb = image[top:top + shape[2], left:left + shape[3], ::-1].astype(np.float32)
    return ((rgb - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


def check_finite(path: str, probabilities: np.ndarray) -> None:
    """Raises InputError if the answer to the image `path` is not finite."""
    if not np.isfinite(probabilities).all():
        raise InputError(f"the network's output for {path} is not finite: its weights hold NaN or infinity, or "
                         "numbers that lead there (training may have diverged)")


def load_network(network: dict, input_name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function from float32 of the input's shape to probabilities (N, classes)."""
    kind = network["device"]
    tvm, graph_executor = import_tvm()
    ctypes.CDLL(None).signal(signal.SIGILL, on_illegal_instruction)
    if kind == "opencl" and not tvm.runtime.enabled("opencl"):
        load_opencl()
    device = tvm.device(kind)
    if not device.exist:
        raise InputError(f"no {kind} device found")
    if kind == "opencl" and network["device_kind"] and (taken := opencl_kind()) not in ("", network["device_kind"]):
        print(f"predict.py: warning: compiled for a {network['device_kind']} ({network['device_name']}), runs on a "
              f"{taken} ({device.device_name.strip()}): it may be slow", file=sys.stderr)
    graph, params = bundle_text("graph.json"), bundle_file("network.params")
    if len(params) != network["params_bytes"]:  # TVM takes an array that is cut short
        raise InputError(f"{HERE / 'network.params'} is damaged: copy it again")
    try:
        executor = graph_executor.create(graph, tvm.runtime.load_module(str(HERE / "network.so")), device)
        executor.load_params(params)
    except Exception as error:  # of any kind: TVM's error names it
        raise InputError(f"{HERE}: TVM cannot load the network: {reason_of(error)}") from None

    def predict(data):
        try:
            executor.set_input(input_name, data)
            executor.run()
            return executor.get_output(0).numpy()
        except Exception as error:
            raise InputError(f"{HERE}: TVM cannot run the network: {reason_of(error)}") from None
    return predict


def reason_of(error: Exception) -> str:
    """The line that says what happened, from an error of TVM with a C++ trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in reversed(lines) if "Check failed" in line), lines[-1])


def import_tvm() -> tuple[ModuleType, ModuleType]:
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
        if not re.fullmatch(r"[1-9]\d{0,3}", value := os.environ.get(name, "1"), re.ASCII):
            raise InputError(f"the environment's {name} is {value!r}: give a number of threads, or unset it")
    if not {"TVM_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():
        os.environ["TVM_NUM_THREADS"] = str(usable_cores())
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"  # which is enough, and loads in a quarter of the time
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it says so
            import tvm
            from tvm.contrib import graph_executor
    except (ImportError, OSError, RuntimeError) as error:  # none of its libraries is there, say
        raise InputError(f"TVM's runtime cannot be loaded: {' '.join(str(error).split())}: see README.md") from None
    return tvm, graph_executor


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use; two threads of one core count once. TVM would take half of the processors."""
    siblings = {(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", cpu)
                for cpu in os.sched_getaffinity(0)}
    return min(len({path.read_text() if path.exists() else cpu for path, cpu in siblings}), granted_processors(root))


def granted_processors(root: Path) -> int:
    """Processors whose time the control groups of this process, of version 2 or 1, grant it; rounded up."""
    granted = [sys.maxsize]
    for folder, files in itertools.product(control_groups(root), QUOTA):
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            quota, period = map(int, " ".join((folder / name).read_text() for name in files).split())
            if quota > 0:
                granted.append(-(-quota // period))
    return min(granted)


def control_groups(root: Path) -> Iterator[Path]:
    """Folders of those that this process is in, and of those around them."""
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            for mount in {controllers, *(controllers or "unified").split(",")}:
                folder = root / "sys/fs/cgroup" / mount / path.strip("/")
                yield from (folder, *folder.parents)


def opencl_kind() -> str:
    """The kind of device that TVM takes: "GPU" if any platform has one, else "processor"; "" if this process has not
    loaded OpenCL's library."""
    opencl, count, devices = ctypes.CDLL(None), ctypes.c_uint(), ctypes.c_uint()
    try:
        opencl.clGetPlatformIDs(0, None, ctypes.byref(count))
        platforms = (ctypes.c_void_p * count.value)()
        opencl.clGetPlatformIDs(count, platforms, None)
        for platform in platforms:
            if opencl.clGetDeviceIDs(ctypes.c_void_p(platform), ctypes.c_uint64(CL_DEVICE_TYPE_GPU), 0, None,
                                     ctypes.byref(devices)) == 0 and devices.value:
                return "GPU"
    except AttributeError:
        return ""
    return "processor"


def load_opencl() -> None:
    """The OpenCL library, then TVM's plug-in that calls it."""
    try:
        from pyopencl import _cl
        names = [_cl.__file__]
    except ImportError:
        names = [os.environ.get("OPENCL_LIBRARY", "libOpenCL.so.1"), "libOpenCL.so"]
    for name in names:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
            break
    else:
        raise InputError("no OpenCL library (libOpenCL.so.1): install the device's driver, or name one by "
                         "OPENCL_LIBRARY")
    plugin = HERE / "libtvm_opencl.so"
    if not plugin.exists():
        raise InputError(f"{plugin} is not there: run make libtvm_opencl.so")
    try:
        ctypes.CDLL(str(plugin), ctypes.RTLD_GLOBAL).FitPocl(usable_cores())
    except (OSError, AttributeError) as error:
        raise InputError(f"{plugin} cannot be loaded: remove it, and run make libtvm_opencl.so ({error})") from None


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def on_illegal_instruction(_: int) -> None:
    """Instructions that the compiler was allowed to use (AVX-512, say) but this processor lacks end the process by a
    signal that no handler of Python's can catch."""
    target = read_json("network.json", is_network)["target"]
    os.write(2, f"predict.py: error: {HERE / 'network.so'} uses instructions that this processor does not have: it was "
                f"compiled for {target}\n".encode())
    os._exit(1)


def end(line: str, status: int = 1) -> NoReturn:
    """End the program with `line` on standard error. If writing to standard output has failed, Python would try again
    at its end, and print that."""
    if line and sys.stderr:
        line = " ".join(line.split())
        print("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line), file=sys.stderr)
    os._exit(status)


if __name__ == "__main__":
    arguments = get_args_parser().parse_args()
    try:
        main(arguments)
    except BrokenPipeError:  # who reads the answers has seen enough, as `head` has
        end("", 128 + signal.SIGPIPE)
    except OSError as error:
        end(f"predict.py: error: {'standard output' if error.filename is None else error.filename}: {error.strerror}")
    except MemoryError:
        end("predict.py: error: out of memory")
    except (InputError, ModuleNotFoundError, cv2.error) as error:
        end(f"predict.py: error: {error}")
    except KeyboardInterrupt:
        end("", 128 + signal.SIGINT)
