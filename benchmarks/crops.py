"""Photographs to measure with: those that scikit-image and scikit-learn ship, by random crops and shifts of colour."""
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

# (width, height) and how frequent it is; ImageNet's most frequent size is 500x375
SIZES = {(500, 375): 0.5, (375, 500): 0.15, (640, 480): 0.15, (800, 600): 0.1, (1024, 768): 0.1}
SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
CLASSES = 10


def write_photographs(folder: Path, count: int) -> None:
    """folder/<class>/<number>.JPEG, in CLASSES folders."""
    sources = [image[..., ::-1] for image in load_sample_images().images]
    sources += [getattr(import_module("skimage.data"), name)()[..., 2::-1] for name in SKIMAGE]
    rng = np.random.RandomState(0)
    for number in range(count):
        source = sources[rng.randint(len(sources))]
        width, height = list(SIZES)[rng.choice(len(SIZES), p=list(SIZES.values()))]
        share = rng.uniform(0.6, 0.95) * min(source.shape[0] / height, source.shape[1] / width)
        rows, columns = int(height * share), int(width * share)
        top, left = rng.randint(source.shape[0] - rows + 1), rng.randint(source.shape[1] - columns + 1)
        image = cv2.resize(source[top:top + rows, left:left + columns], (width, height), interpolation=cv2.INTER_CUBIC)
        image = image * rng.uniform(0.8, 1.2, 3) + rng.normal(0, 4, image.shape)  # colours; the grain that cubic took
        path = folder / f"n{number % CLASSES:08d}" / f"{number:06d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        path.write_bytes(content.tobytes())
