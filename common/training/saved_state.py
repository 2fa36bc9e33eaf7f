"""Complete checkpoints of a training run: written, found again, removed.

After epoch 6 of PREFIX: `PREFIX-0006.params` as MXNet has it, `PREFIX-0006.optimizer` (arrays in the same format),
`PREFIX-ema-0006.params` if an average is kept, and `PREFIX-0006.json`, written last: sizes and sums of these, the
position in the run, the recipe. Inside an epoch, after batch 120 of the seventh, the names have 0006-b00120. Nothing
here is a pickle. A checkpoint without its .json, or whose files are not what that says, does not count, and is never
removed: it may be anyone's.
"""
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from common.base.digest import digest
from common.base.errors import InputError, last_line
from common.base.files import MOST_WEIGHTS, check_size, locked, read_json, written_atomically
from common.checkpoint.ndarrays import write_params, write_symbol
from common.checkpoint.params import load_checkpoint_params, load_params
from common.evaluation.score import Score
from common.find_mxnet import mx

FORMAT = 1
POSITION = r"-(\d{4,})(?:-b(\d{5,}))?"  # in a name, behind the prefix
MAX_DESCRIPTION = 1 << 24  # bytes
# what reading a description raises that is none
NO_DESCRIPTION = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass
class TrainingState:
    """A position in a run, and all that decides how it goes on. Arrays are NumPy's when read."""
    epoch: int = 0               # epochs completed
    batch: int = 0               # batches of the next epoch completed
    updates: int = 0             # of the run
    arg_params: dict | None = None
    aux_params: dict | None = None
    optimizer: dict = field(default_factory=dict)   # common.training.optimizer.state_arrays
    average: tuple | None = None  # (arg_params, aux_params) of the moving average
    info: dict = field(default_factory=dict)        # JSON: recipe, pipeline, progress, validation, best

    @property
    def position(self) -> tuple:
        return self.epoch, self.batch


def stem(epoch: int, batch: int) -> str:
    return f"{epoch:04d}" + (f"-b{batch:05d}" if batch else "")


def save_state(prefix: str | Path, state: TrainingState, network: mx.sym.Symbol) -> str:
    """Write a checkpoint, its description last; returns the parameters' file."""
    prefix, name = Path(prefix), stem(*state.position)
    files = {"optimizer": prefix.with_name(f"{prefix.name}-{name}.optimizer")}  # first to come and last to go
    write_params(files["optimizer"], state.optimizer)
    files["params"] = prefix.with_name(f"{prefix.name}-{name}.params")
    write_symbol(f"{prefix}-symbol.json", network)
    write_params(files["params"], state.arg_params, state.aux_params)
    if state.average:
        files["ema"] = prefix.with_name(f"{prefix.name}-ema-{name}.params")
        write_symbol(f"{prefix}-ema-symbol.json", network)
        write_params(files["ema"], *state.average)
    listed = {kind: {"name": file.name, "bytes": file.stat().st_size, "sha256": digest(file, "sha256")}
              for kind, file in files.items()}
    _write_description(prefix, state, {**state.info, "files": listed})
    return str(files["params"])


def describe_again(prefix: str | Path, state: TrainingState) -> None:
    """Write the description of a saved checkpoint anew, with the state's `info` of now."""
    files = json.loads(_files(prefix, state.position)["description"].read_text(encoding="utf-8"))["files"]
    _write_description(prefix, state, {**state.info, "files": files})


def newest_state(prefix: str | Path, warn: bool = True) -> TrainingState | None:
    """The newest complete checkpoint, or None. Those that are not complete are skipped, with a warning."""
    for position in reversed(positions(prefix)):
        file = _files(prefix, position)["description"]
        try:
            return _read(prefix, position)
        except (InputError, OSError) as error:
            reason = last_line(error)
        except NO_DESCRIPTION:
            reason = "not a description of one"
        if warn:
            logging.warning("%s: skipped, not a complete checkpoint: %s", file, reason)
    return None


def set_aside(prefix: str | Path, position: tuple[int, int]) -> None:
    """Give other names to the files of the checkpoints after `position` that do not count, which are in the way of
    those to come: *.damaged to those that were skipped, *.incomplete to those without a description, of which a run
    was killed that wrote or removed them, or which were copied here without it."""
    for ending, found in (("damaged", positions(prefix)), ("incomplete", halves(prefix))):
        for later in found:
            another = later in positions(f"{prefix}-ema")  # whose parameters are named as an average's
            files = [file for kind, file in _files(prefix, later).items()
                     if file.is_file() and not (kind == "ema" and another)]
            if later > position and len(files) > (ending == "damaged"):  # a description alone is nothing of ours
                for file in files:
                    file.rename(_free(f"{file}.{ending}"))
                logging.warning("%s-%s: its files are now named *.%s", prefix, stem(*later), ending)


def _free(name):
    """`name`, or NAME-2, NAME-3, ...: the first that is not taken."""
    return next(free for number in count(1) if not os.path.lexists(free := name + f"-{number}" * (number > 1)))


def positions(prefix: str | Path) -> list:
    """[(epochs, batches)] of the checkpoints that have a description, oldest first."""
    return [position for position, _ in _matches(prefix, POSITION + r"\.json")]


def halves(prefix: str | Path) -> list:
    """[(epochs, batches)] of the checkpoints that have a state of the optimizer and no description, oldest first."""
    described = positions(prefix)
    return [position for position, _ in _matches(prefix, POSITION + r"\.optimizer") if position not in described]


def plain_checkpoints(prefix: str | Path) -> list:
    """[(file, epoch)] of the parameter files as MXNet numbers them that are none of ours, oldest first."""
    ours = {*positions(prefix), *halves(prefix)}
    return [(path, position[0]) for position, path in _matches(prefix, r"-(\d{4,})()\.params") if position not in ours]


def remove(prefix: str | Path, position: tuple[int, int]) -> None:
    """Remove a checkpoint, its description first, so that half of one never counts; nothing but what that lists."""
    try:
        listed = _description(prefix, position)["files"]
    except (OSError, *NO_DESCRIPTION):
        return
    for kind, file in _files(prefix, position).items():
        if kind in ("description", *listed):
            file.unlink(missing_ok=True)


def listed_params(prefix: str | Path, epoch: int, average: bool) -> tuple[Path | None, str]:
    """(file, SHA-256) of the parameters after an epoch, or of their average, as its description says; None for the file
    if it has none."""
    kind = "ema" if average else "params"
    try:
        return _files(prefix, (epoch, 0))[kind], _description(prefix, (epoch, 0))["files"][kind]["sha256"]
    except (InputError, OSError, *NO_DESCRIPTION):
        return None, ""


def prune(prefix: str | Path, keep: int, current: tuple, best: int | None = None) -> None:
    """Of the checkpoints up to the `current` position keep that one, the last `keep` at ends of epochs (0: all), and
    the one of epoch `best`."""
    found = [position for position in positions(prefix) if position <= current]
    ends = [position for position in found if not position[1]]
    kept = {*(ends[-keep:] if keep else ends), (best, 0), current}
    for position in found:
        if position not in kept:
            remove(prefix, position)


@contextmanager
def sole_writer(prefix: str | Path) -> Iterator[None]:
    """Within this block no other process trains with this prefix; files that a killed one left half-written are
    removed."""
    prefix = Path(prefix)
    with locked(prefix.with_name(f".{prefix.name}.lock"), f"--model-prefix {prefix}: another process trains with it "
                "now"):
        pattern = re.compile(r"\." + re.escape(prefix.name)
                             + r"-((ema|best)-)?(\d{4,}(-b\d+)?|symbol|preprocess|synset)\.\w+\.\d+\.partial")
        for name in os.listdir(prefix.parent):
            if pattern.fullmatch(name):
                prefix.with_name(name).unlink(missing_ok=True)
        yield


def _matches(prefix: str | Path, pattern: str) -> list:
    """[((epochs, batches), path)] of the files whose names are that of the prefix and `pattern`, oldest first."""
    prefix = Path(prefix)
    expected = re.compile(re.escape(prefix.name) + pattern)
    found = [expected.fullmatch(name) for name in (os.listdir(prefix.parent) if prefix.parent.is_dir() else ())]
    return sorted(((int(match[1]), int(match[2] or 0)), prefix.with_name(match[0])) for match in found if match)


def _write_description(prefix, state, content):
    with written_atomically(_files(prefix, state.position)["description"]) as partial:
        Path(partial).write_text(json.dumps({"format": FORMAT, "epoch": state.epoch, "batch": state.batch,
                                             "updates": state.updates, **content}, indent=1) + "\n", encoding="utf-8")


def _files(prefix: str | Path, position: tuple[int, int]) -> dict:
    """{kind: path} of all files of a checkpoint, in the order of their removal."""
    prefix, name = Path(prefix), stem(*position)
    files = {"description": f"{prefix.name}-{name}.json", "params": f"{prefix.name}-{name}.params",
             "ema": f"{prefix.name}-ema-{name}.params", "optimizer": f"{prefix.name}-{name}.optimizer"}
    return {kind: prefix.with_name(file) for kind, file in files.items()}


def _description(prefix, position):
    """What the description says, a dict. Raises InputError, OSError or one of NO_DESCRIPTION for what is none."""
    file = _files(prefix, position)["description"]
    content = read_json(file, "a description", MAX_DESCRIPTION)
    if content["format"] != FORMAT:
        raise InputError(f"of format {content['format']!r:.40}, this version reads {FORMAT}")
    if (content["epoch"], content["batch"]) != position or type(content["updates"]) is not int:
        raise KeyError
    return content


def _read(prefix, position):
    content, paths = _description(prefix, position), _files(prefix, position)
    for kind, file in content["files"].items():
        path = paths[kind]  # not the name that the description says
        check_size(path, MOST_WEIGHTS)
        if path.stat().st_size != file["bytes"] or digest(path, "sha256") != file["sha256"]:
            raise InputError(f"{path}: not the file that was written")
    info = {key: value for key, value in content.items() if key not in ("format", "epoch", "batch", "updates", "files")}
    _check_info(info)
    if "optimizer" not in content["files"]:
        raise KeyError
    return TrainingState(*position, content["updates"], *load_checkpoint_params(paths["params"]),
                         load_params(paths["optimizer"]),
                         load_checkpoint_params(paths["ema"]) if "ema" in content["files"] else None, info)


def _check_info(info):
    """Raise TypeError, ValueError or KeyError unless what training reads of it is of the right kinds."""
    recipe, best, progress = info["recipe"], info.get("best"), info.get("progress")
    if not (isinstance(info["pipeline"], dict) and isinstance(recipe["common"], dict) and recipe["stages"]
            and all(isinstance(stage, dict) for stage in recipe["stages"])
            and isinstance(info.get("validation", {}), dict)):
        raise TypeError
    if best is not None and not (type(best["epoch"]) is int and math.isfinite(best["top-1"])):
        raise ValueError
    if progress is not None:
        score, seconds, waited = progress
        if len(score) != len(astuple(Score())) or not all(map(math.isfinite, (seconds, waited, *score))):
            raise ValueError


def finite(*groups: dict) -> bool:
    """Whether all numbers in these {name: NDArray} are finite."""
    return all(np.isfinite(array.asnumpy()).all() for group in groups for array in group.values())
