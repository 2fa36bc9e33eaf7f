"""Reading the curves of one's own run, of whatever kind its file is."""
from itertools import chain
from pathlib import Path

from common.curves.curves import Curves, Rows, lines_of
from common.curves.metrics import read_metrics
from common.curves.mxnet_log import read_log
from common.errors import InputError


def read_run(path: str | Path) -> Curves:
    """Read PREFIX-metrics.jsonl, or a log of MXNet's Module.fit or of Gluon's scripts; the content tells which.

    Of epochs and batches that come again after a resume the later ones count. Raises InputError for a file that is
    neither, and with the line's number for a line of metrics that cannot be read.
    """
    lines = lines_of(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: the file is empty")
    read = read_metrics if first[1].lstrip().startswith('{"') else read_log
    rows = Rows()
    read(chain([first], lines), rows, path)
    if not (rows.epochs or rows.batches):
        raise InputError(f"{path}: no line of training in it; give PREFIX-metrics.jsonl or a log of MXNet's scripts")
    return rows.curves()
