"""The folder of what can be had again, downloaded or compiled."""
import os
from pathlib import Path


def cache_folder() -> Path:
    """mxnet-mobilenet-v2 in the folder that XDG_CACHE_HOME names, if its path is absolute, as the XDG specification has
    it, else in ~/.cache. Published weights lie in it, compiled networks in a folder of their own in it."""
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return Path(shared if os.path.isabs(shared) else os.path.expanduser("~/.cache")) / "mxnet-mobilenet-v2"
