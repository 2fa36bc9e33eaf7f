"""The archives of ImageNet (ILSVRC 2012, tasks 1 and 2): names, sizes, sums, and the classes in the development kit.

Names and MD5 sums as on https://image-net.org/download-images; sizes in bytes.
"""
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.base.errors import InputError, last_line
from common.base.processes import confined


@dataclass(frozen=True)
class Archive:
    name: str
    size: int
    md5: str
    images: int = 0


ARCHIVES = {
    "train": Archive("ILSVRC2012_img_train.tar", 147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e", 1_281_167),
    "val": Archive("ILSVRC2012_img_val.tar", 6_744_924_160, "29b22e2961454d5413ddabcf34fc5622", 50_000),
}
DEVKIT = Archive("ILSVRC2012_devkit_t12.tar.gz", 2_568_145, "fa75699e90414af021442c21a62c3abf")
WNID = re.compile(r"n\d{8}", re.ASCII)
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")

# members of the devkit; both are a few hundred kilobytes
META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
MAX_MEMBER = 64 << 20
MEMORY, SECONDS = 1 << 30, 20  # bytes and time that reading them may take


@dataclass(frozen=True)
class Devkit:
    """classes: WordNet ids of the classes, sorted; val_classes: that of each validation image, by its number."""
    classes: tuple[str, ...]
    val_classes: tuple[str, ...]


def read_devkit(path: Path) -> Devkit:
    """The classes that the development kit names. Raises InputError for a file that is not one.

    It is read in a process of its own: SciPy's reader of MATLAB's files crashes, hangs or fills the memory on some
    damaged ones.
    """
    (_, classes), (_, val_classes) = confined("common.packing.imagenet", "devkit_classes", path, MEMORY, SECONDS)
    return Devkit(tuple(classes.tolist()), tuple(val_classes.tolist()))


def devkit_classes(path: str | Path) -> list[tuple[str, np.ndarray]]:
    """The fields of the `Devkit` of a file, as arrays of texts.

    Its own numbers of the classes (ILSVRC2012_ID) are not in the order of the WordNet ids, as the labels of every
    published network are; synsets that have children are not classes.
    """
    from scipy.io import loadmat
    try:
        with tarfile.open(path, "r:gz") as archive:
            synsets = loadmat(_member(archive, META), squeeze_me=True, variable_names=["synsets"])["synsets"]
            truth = [int(line) for line in _member(archive, GROUND_TRUTH).read().split()]
        wnid_of = {int(number): str(wnid) for number, wnid, children in
                   zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"]) if children == 0}
        if odd := [wnid for wnid in wnid_of.values() if not WNID.fullmatch(wnid)]:
            raise ValueError(f"{odd[0]!r:.40} is not a WordNet id")
        return [("classes", np.array(sorted(wnid_of.values()))),
                ("val_classes", np.array([wnid_of[number] for number in truth]))]
    except KeyError as error:
        raise InputError(f"{path}: not the development kit of ILSVRC 2012 (no {last_line(error)})") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'not a complete gzip-compressed tar file'}") from None
    except Exception as error:  # gzip, tarfile and scipy raise many kinds for what is damaged
        raise InputError(f"{path}: damaged, or not the development kit ({last_line(error)})") from None


def _member(archive, name):
    member = archive.getmember(name)
    if not member.isreg() or member.size > MAX_MEMBER:
        raise InputError(f"{name} is not a file of the usual size")
    return archive.extractfile(member)
