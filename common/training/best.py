"""PREFIX-best: copies of the checkpoint that validation found best, which every script takes as epoch 0 of a prefix of
its own."""
import shlex
import shutil
from pathlib import Path

from common.base.digest import digest
from common.base.files import written_atomically
from common.checkpoint.preprocessing import preprocessing_file
from common.evaluation.score import Score
from common.training.saved_state import listed_params

BESIDE = ("symbol.json", "preprocess.json", "synset.txt")


def best_prefix(prefix: str | Path) -> str:
    return f"{prefix}-best"


def better(best: dict | None, epochs: int, scores: dict[str, Score]) -> dict | None:
    """`best`, the best of a run so far, or what is better: {"epoch": completed epochs, "top-1": its accuracy,
    "average": whether it is the average's}. `scores`: {"": Score} after `epochs` epochs, and {"ema-": Score} of the
    average."""
    name, top_1 = max(((name, score.top_1) for name, score in scores.items()), key=lambda version: version[1])
    if top_1 > (best["top-1"] if best else -1):  # NaN, without images, is not
        return {"epoch": epochs, "top-1": top_1, "average": name == "ema-"}
    return best


def keep_best(prefix: str | Path, best: dict) -> None:
    """Copy the files of that checkpoint to PREFIX-best, the parameters last: what is beside them is the same in all
    epochs, so that a kill leaves the files of the best before or of this one. Without the checkpoint, or if it is not
    as it was written, PREFIX-best stays as it is."""
    params, sha256 = listed_params(prefix, best["epoch"], best.get("average", False))
    if not (params and params.is_file()) or digest(params, "sha256") != sha256:
        return
    source = f"{prefix}-ema" if best.get("average") else prefix
    copies = [(Path(f"{source}-{end}"), f"{best_prefix(prefix)}-{end}") for end in BESIDE]
    for file, copy in (*copies, (params, f"{best_prefix(prefix)}-0000.params")):
        if file.is_file():
            with written_atomically(copy) as partial:
                shutil.copyfile(file, partial)


def remove_best(prefix: str | Path) -> None:
    """That of an earlier run, the parameters first: without them there is no checkpoint."""
    for end in ("0000.params", *BESIDE):
        Path(f"{best_prefix(prefix)}-{end}").unlink(missing_ok=True)


def outcome(prefix: str | Path, best: dict | None, epochs: int) -> list[str]:
    """Lines for the end of a run of `epochs` epochs: its best, and what to do next."""
    name, epoch = (best_prefix(prefix), 0) if best else (prefix, epochs)
    lines = []
    if best:
        whose = " of the moving average" if best.get("average") else ""
        lines.append(f"Best: validation top-1 {best['top-1']:.4f}{whose} after epoch {best['epoch']}, kept as "
                     f"{name}-0000.params")
    if Path(preprocessing_file(name)).exists():  # of images that the scripts know
        script, images = ("from_mxnet.py PHOTOGRAPH", "") if best else ("eval_imagenet.py", " --data-val REC")
        lines.append(f"Next: python {script} --model-prefix {shlex.quote(str(name))} --epoch {epoch}{images}")
    return lines
