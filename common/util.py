"""Two functions of `common/util.py` in MXNet's image-classification examples, for code that was written for those."""
import os
import subprocess
from pathlib import Path

from common.base.errors import InputError
from common.base.files import make_folder, written_atomically
from common.zoo.transfer import Refused, transfer

LARGEST = 1 << 40  # bytes


def download_file(url: str, local_fname: str | None = None, force_write: bool = False) -> str:
    """The name of the local file that holds the content of the URL: `local_fname`, or the last part of the URL.

    Folders are made. A file that exists is kept, unless `force_write`; it is replaced only by a complete one. Raises
    InputError if the URL does not give it.
    """
    local_fname = local_fname or url.split("/")[-1]
    if force_write or not os.path.exists(local_fname):
        make_folder(os.path.dirname(local_fname) or ".")
        try:
            with written_atomically(local_fname) as partial:
                transfer(url, Path(partial), LARGEST, label=os.path.basename(local_fname))
        except Refused as error:
            raise InputError(f"{url}: {error}") from None
    return local_fname


def get_gpus() -> int:
    """The number of GPUs that nvidia-smi lists; 0 without it."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())
