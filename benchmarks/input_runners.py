"""One contender of benchmarks/input.py as a process of its own: a pass over images of training.

    python -m benchmarks.input_runners NAME

imports no more than its framework needs, which may be installed for another Python than that of this repository.
"""
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.serving import Runner, serve
from common.base.arguments import as_flags

SIDE, SCALES = 224, (0.533, 1.0)
CHANGES = {"random_h": 36, "random_s": 50, "random_l": 50}  # the published 1.0 weights' first stage
MEAN = (123.68, 116.78, 103.94)
AUGMENTATIONS: dict[str, dict] = {  # beside those: {name: flags}
    "ta_wide": {"auto_augment": "ta_wide"}, "ra": {"auto_augment": "ra"}, "erase": {"random_erase": 1.0},
    "mixup": {"mixup": 0.2}, "cutmix": {"cutmix": 1.0}}

Opened = tuple[Callable[[], object], str]


def open_decoding(request: dict, decode: Callable[[bytes], np.ndarray]) -> Opened:
    """Nothing but the decoder, of whole images, in a thread for each core."""
    from common.images.recordio import read_records, unpack_image
    contents = [unpack_image(record)[2] for _, record in read_records(request["rec"])]
    pool = ThreadPoolExecutor(request["cores"])

    def part(number):
        for content in contents[number::request["cores"]]:
            decode(content)

    return lambda: list(pool.map(part, range(request["cores"]))), "whole images, in memory before"


def open_simplejpeg(request: dict) -> Opened:
    import simplejpeg
    return open_decoding(request, lambda content: simplejpeg.decode_jpeg(content, "BGR"))


def open_cv2(request: dict) -> Opened:
    import cv2
    cv2.setNumThreads(1)
    return open_decoding(request, lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))


def open_training_iter(request: dict, backend: str, change: Callable[[], None] | None = None, mixup: float = 0.0,
                       cutmix: float = 0.0, **flags: object) -> Opened:
    import cv2

    from common.data import iterators as data
    from common.training.mixup import MixedIter
    cv2.setNumThreads(1)
    if change:
        change()
    usual = {flag: default for flag, _, _, default, _ in data.AUGMENTATION} | {
        flag: options["default"] for flag, options in data.OPENCV_AUGMENTATION}
    args = SimpleNamespace(**{
        **{flag.replace("-", "_"): value for flag, value in usual.items()},
        **{f"max_{name}": most for name, most in CHANGES.items()}, "resize": None,
        "min_random_scale": SCALES[0], "data_backend": backend, "batch_size": request["batch_size"],
        "image_shape": (3, SIDE, SIDE), "data_nthreads": request["cores"], "pad_size": 0, "fill_value": 127, "seed": 0,
        "num_classes": request["classes"], "rgb_mean": MEAN, "rgb_std": (1, 1, 1), **flags})
    images = data.TrainingSet(((request["rec"], request["idx"]),), request["images"])

    def run():
        batches = data.training_iter(args, images)
        for batch in MixedIter(batches, mixup, cutmix, args.num_classes, 0, (0,)) if mixup or cutmix else batches:
            batch.data[0].wait_to_read()

    return run, f"{request['cores']} threads"


def whole_images() -> None:
    from common.data import jpeg_box
    jpeg_box.library = lambda: None  # type: ignore[assignment]


def python_alone() -> None:
    """Libraries that do nothing: what stays is done by one thread of Python at a time, and bounds what all give."""
    import cv2

    from common.data import jpeg_box, pixels
    crop = np.zeros((SIDE, SIDE, 3), np.uint8)
    jpeg_box.library = lambda: SimpleNamespace(decode_box=lambda *_: 0)  # type: ignore[assignment]
    pixels.library = lambda: SimpleNamespace(  # type: ignore[assignment]
        scale=lambda *_: None, change_hls=lambda *_: None, normalise=lambda *_: None)
    cv2.flip = lambda *_, **__: crop  # type: ignore[assignment]


def open_image_record_iter(request: dict) -> Opened:
    from common.find_mxnet import mx
    images = mx.io.ImageRecordIter(
        path_imgrec=request["rec"], path_imgidx=request["idx"], data_shape=(3, SIDE, SIDE), shuffle=True,
        rand_crop=True, batch_size=request["batch_size"], rand_mirror=True, min_random_scale=SCALES[0],
        max_random_scale=SCALES[1], **CHANGES, **dict(zip(("mean_r", "mean_g", "mean_b"), MEAN)),
        preprocess_threads=request["cores"], prefetch_buffer=4, verbose=False)

    def run():
        images.reset()
        for batch in images:
            batch.data[0].wait_to_read()

    return run, f"{request['cores']} threads asked for, prefetch_buffer 4, no seed_aug"


def open_pytorch(request: dict) -> Opened:
    import torch
    from torch.utils.data import DataLoader, Dataset

    from benchmarks.torchvision_models import import_torchvision
    torchvision = import_torchvision()
    from PIL import Image
    from torchvision.transforms.v2 import functional as F
    files = sorted(Path(request["folder"]).iterdir())
    torch.set_num_threads(1)
    jitter = torchvision.transforms.v2.ColorJitter(brightness=0.2, saturation=0.2, hue=0.2)

    class Crops(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, number: int) -> torch.Tensor:
            image = Image.open(files[number])
            side = int(SIDE / np.random.uniform(*SCALES))
            left, top = (np.random.randint(room - side + 1) for room in image.size)
            image = F.resized_crop(image, top, left, side, side, (SIDE, SIDE))
            image = jitter(F.horizontal_flip(image) if np.random.rand() < 0.5 else image)
            return F.normalize(F.pil_to_tensor(image).float(), MEAN, (1, 1, 1)), number % request["classes"]

    loader = DataLoader(Crops(), request["batch_size"], shuffle=True, num_workers=request["cores"], drop_last=True,
                        persistent_workers=True)

    def run():
        for _ in loader:
            pass

    return run, f"{request['cores']} processes, Pillow and torchvision's transforms"


def open_dali(request: dict) -> Opened:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=request["batch_size"], num_threads=request["cores"], device_id=None)
    def crops():
        encoded, label = fn.readers.mxnet(path=[request["rec"]], index_path=[request["idx"]], random_shuffle=True)
        height, width = (fn.peek_image_shape(encoded)[axis] for axis in (0, 1))
        side = SIDE / fn.random.uniform(range=SCALES)
        places = [fn.random.uniform(range=(0.0, 1.0)) * (1 - side / size) for size in (height, width)]
        image = fn.decoders.image_slice(encoded, fn.stack(*places), fn.stack(side / height, side / width),
                                        device="cpu", axis_names="HW")
        image = fn.resize(image, size=(SIDE, SIDE), interp_type=types.INTERP_LINEAR, antialias=False)
        image = fn.hsv(image, hue=fn.random.uniform(range=(-72.0, 72.0)), value=fn.random.uniform(range=(0.8, 1.2)),
                       saturation=fn.random.uniform(range=(0.8, 1.2)))
        return fn.crop_mirror_normalize(image, mean=MEAN, mirror=fn.random.coin_flip(), output_layout="CHW",
                                        dtype=types.FLOAT), label

    pipeline = crops()
    pipeline.build()

    def run():
        for _ in range(request["images"] // request["batch_size"]):
            pipeline.run()

    return run, f"{request['cores']} threads, on the processor, decoding the crop alone"


RUNNERS = {
    "decode": Runner("decoding alone, simplejpeg", ("simplejpeg",), open_simplejpeg),
    "decode-cv2": Runner("decoding alone, OpenCV", ("opencv-python-headless",), open_cv2),
    "opencv": Runner("--data-backend opencv", ("opencv-python-headless", "simplejpeg", "mxnet"),
                     partial(open_training_iter, backend="opencv")),
    "opencv-whole": Runner("--data-backend opencv, without native/jpeg_box.cc",
                           ("opencv-python-headless", "simplejpeg", "mxnet"),
                           partial(open_training_iter, backend="opencv", change=whole_images)),
    "opencv-python": Runner("--data-backend opencv, its Python alone", ("mxnet",),
                            partial(open_training_iter, backend="opencv", change=python_alone)),
    **{f"opencv-{name}": Runner(f"--data-backend opencv {as_flags(flags)}",
                                ("opencv-python-headless", "simplejpeg", "mxnet"),
                                partial(open_training_iter, backend="opencv", **flags))
       for name, flags in AUGMENTATIONS.items()},
    "mxnet": Runner("ImageRecordIter", ("mxnet",), open_image_record_iter),
    "mxnet-exact": Runner("--data-backend mxnet", ("mxnet",), partial(open_training_iter, backend="mxnet")),
    "pytorch": Runner("PyTorch's DataLoader", ("torch", "torchvision", "pillow"), open_pytorch, True),
    "dali": Runner("NVIDIA DALI", ("nvidia-dali-cuda120",), open_dali, True),
}


def open_runner(runner: Runner, request: dict) -> tuple[Callable[[], object], str, Callable[[dict], float]]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:request["cores"]])  # before a framework counts them
    run, setting = runner.open(request)
    return run, setting, lambda _: peak_mib()


def peak_mib() -> float:
    """Peak memory of this process and of those that it has started, added up."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    statuses = [Path("/proc", process, "status").read_text().splitlines() for process in ("self", *children)]
    return sum(int(line.split()[1]) for lines in statuses for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    chosen = RUNNERS[sys.argv[1]]
    serve(partial(open_runner, chosen), chosen.packages)
