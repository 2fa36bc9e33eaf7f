"""Class weights: images of rare classes count more in the loss."""
import argparse

import numpy as np

from common.base.errors import InputError
from common.data.heads import class_counts
from common.data.iterators import TrainingIter
from common.find_mxnet import mx


def class_weights_of(settings: argparse.Namespace, images: mx.io.DataIter) -> np.ndarray | None:
    """(classes,) float32 as --class-weights asks for them, from the labels of the records that `images` reads; None for
    none. Raises InputError for other iterators, and for labels that are no class's."""
    if settings.class_weights == "none":
        return None
    if not isinstance(images, TrainingIter):
        raise InputError(f"--class-weights {settings.class_weights}: counts the labels of record files, and these "
                         "images are not read from any; leave it out")
    return balanced(class_counts(images.images.files, settings.num_classes))


def balanced(counts: np.ndarray) -> np.ndarray:
    """The weights N / (K n) of classes with n of the N images, K of which have any: scikit-learn's 'balanced'. Their
    mean over the images is 1. A class without images has weight 0."""
    weights = np.zeros(len(counts))
    present = counts > 0
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


def image_weights(label: mx.nd.NDArray, weights: mx.nd.NDArray, label_smoothing: float) -> mx.nd.NDArray:
    """(N, 1), what the loss of each image is multiplied by: the weight of its class. Of `label` (N, classes), targets
    that mixup made and smoothed, the mean of the weights by the shares of the classes, without the smoothing."""
    if label.ndim == 1 or label.shape[1] == 1:
        return weights.take(label.reshape(-1)).reshape((-1, 1))
    off = label_smoothing / max(len(weights) - 1, 1)
    return (mx.nd.dot(label, weights.reshape((-1, 1))) - off * weights.sum()) / (1 - label_smoothing - off)
