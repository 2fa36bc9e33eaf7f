"""Images from RecordIO files, as training and evaluation take them, behind the four names of MXNet's examples. Imports
base/, checkpoint/, images/ and, inside of functions or in modules of its own, MXNet."""
import argparse
from typing import TYPE_CHECKING

from common.data.options import add_data_args, add_data_aug_args, set_data_aug_level

if TYPE_CHECKING:
    from common.find_mxnet import mx

__all__ = ["add_data_args", "add_data_aug_args", "get_rec_iter", "set_data_aug_level"]


def get_rec_iter(args: argparse.Namespace, kv: "mx.kvstore.KVStore | None" = None) -> tuple:
    """(training, validation) iterators over the RecordIO files that the flags `args` name; no validation: None.

    `kv` says which part of the images is this worker's (`rank`, `num_workers`); None: all. Training images come
    shuffled and augmented, those of validation prepared as for deployment; all are float32 (N, 3, height, width), RGB.
    Raises InputError for files or flags that cannot be used.
    """
    from common.data.iterators import record_iterators
    return record_iterators(args, *((kv.rank, kv.num_workers) if kv else (0, 1)))
