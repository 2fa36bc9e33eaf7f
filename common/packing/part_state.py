"""How far the packing of a part is: what is committed together with its files, and what the next run goes on from."""
import re

from common.packing.sealed import is_count
from common.packing.sources import Source

KINDS = ("rec", "idx", "lst")
PHASES = ("sort", "write", "done")
MAX_BUCKETS = 128
COUNTS = ("done", "sorted", "bucket", "taken", "seen", "written")
MD5, SHA256 = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}")


def new_state(source: Source, buckets: int) -> dict:
    return {"phase": "sort", "position": None, "done": 0, "buckets": buckets, "sorted": 0,  # the first pass
            "bucket": 0, "taken": 0, "seen": 0, "written": 0,  # the second: images of the bucket, and of all of them
            "images": [0] * len(source.classes), "md5": None, "files": {}}


def is_state(state: dict, part: str, source: Source) -> bool:
    """Whether `state` can be that of packing `part` from `source`: with it nothing is read or written elsewhere than
    without."""
    if state.keys() != new_state(source, 1).keys() or not all(is_count(state[name]) for name in COUNTS):
        return False
    position, images, files = state["position"], state["images"], state["files"]
    names = [f"{part}.{kind}" for kind in KINDS] if state["phase"] == "done" else []
    return (state["phase"] in PHASES
            and (position is None or isinstance(position, list) and len(position) in (1, 2)
                 and all(is_count(at, source.size) for at in position))
            and is_count(state["buckets"], MAX_BUCKETS) and state["bucket"] <= state["buckets"]
            and isinstance(images, list) and len(images) == len(source.classes) and all(map(is_count, images))
            and sum(images) == state["written"] <= state["seen"] <= state["sorted"]
            and (state["md5"] is None or _is_text(state["md5"], MD5))
            and isinstance(files, dict) and sorted(files) == sorted(names)
            and all(isinstance(file, dict) and file.keys() == {"bytes", "sha256"} and is_count(file["bytes"])
                    and _is_text(file["sha256"], SHA256) for file in files.values()))


def _is_text(value, pattern):
    return isinstance(value, str) and pattern.fullmatch(value) is not None
