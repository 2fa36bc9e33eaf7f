"""Draw the curves of runs in one picture: panels for loss, accuracy, learning rate and throughput."""
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.base.errors import InputError
from common.base.files import written_atomically
from common.curves.curves import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's
BEHIND, FAINT, DARK = "#8C8C8C", "#666666", "#444444"
VALIDATION = {"linestyle": "-", "marker": "o"}
TRAINING = {"linestyle": (0, (4, 1.5)), "marker": "o", "markerfacecolor": "white"}
AVERAGED = {"linestyle": (0, (1, 1)), "marker": "D"}
PLAIN, PALE = {"marker": "o"}, {"alpha": 0.45}
FEW = 3  # points of a line that are marked
PANELS = {  # title: (y axis, ((column, line), ...))
    "Loss": ("loss", (("train_loss", TRAINING), ("val_loss", VALIDATION))),
    "Accuracy": ("correct images (%)", (("train_top5", TRAINING | PALE), ("val_top5", VALIDATION | PALE),
                                        ("train_top1", TRAINING), ("val_top1", VALIDATION), ("ema_top1", AVERAGED))),
    "Learning rate": ("learning rate", (("lr", PLAIN),)),
    "Throughput": ("images/s", (("images_per_s", PLAIN),)),
}
LEGEND_LETTERS = 160  # that fit in the width of the picture
X_LABELS = {"epoch": "epochs completed", "hours": "hours of training"}
STYLE = {"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
         "grid.color": "#E6E6E6", "lines.linewidth": 1.6, "lines.markersize": 4.5, "text.parse_math": False}


class Curve(NamedTuple):
    """A run and how it is shown."""
    label: str
    color: str
    run: Curves


class Line(NamedTuple):
    """A column of a run, as it is drawn in one panel."""
    curve: Curve
    style: dict
    x: np.ndarray
    y: np.ndarray


def save_picture(path: str | Path, curves: list[Curve], axis: str, note: str, panels: Iterable[str]) -> None:
    """Draw the `panels` of `curves` over `axis`, "epoch" or "hours", to a PNG; raises InputError."""
    from matplotlib import style
    from matplotlib.figure import Figure

    lines = {title: [line for column, line_style in PANELS[title][1] for curve in curves
                     if np.isfinite((line := Line(curve, line_style, *points(curve, column, axis))).y).any()]
             for title in panels}
    every = [line for panel in lines.values() for line in panel]
    for curve in curves:
        if all(line.curve is not curve for line in every):
            raise InputError(f"{curve.label}: there is nothing to draw in it yet: no epoch is completed")
    with style.context(["default", STYLE]):
        rows = (len(lines) + 1) // 2
        figure = Figure(figsize=(10, 3.2 * rows + 0.8), dpi=100, layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False, sharex=True).flat
        for panel, title in zip(axes, lines):
            draw_panel(panel, title, lines[title], curves)
            panel.set_xlabel(X_LABELS[axis])
            panel.tick_params(labelbottom=True)
        set_x_axis(axes[0], np.concatenate([line.x[np.isfinite(line.y)] for line in every]), axis)
        draw_legend(figure, curves, every, note)
        with written_atomically(path) as partial:
            figure.savefig(partial, format="png")


def points(curve: Curve, column: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrays (x, y): a column at the ends of epochs, or of groups of batches while fewer than two epochs have it; the
    learning rate at both. A missing rate leaves a gap in its line; other lines join the points on both sides of missing
    values (of validation every tenth epoch, say)."""
    run = curve.run
    x, y = epoch_ends(curve, axis), run.epochs[column]
    if column in run.batches and (column == "lr" or np.isfinite(y).sum() < 2):
        within = batch_ends(run, x, axis), run.batches[column]
        if np.isfinite(sum(within)).any():
            x, y = np.concatenate([within, (x, y)], axis=1) if column == "lr" else within
    known = np.isfinite(x) & (np.isfinite(y) | (column == "lr"))
    order = np.argsort(x[known], kind="stable")
    return x[known][order], y[known][order]


def epoch_ends(curve: Curve, axis: str) -> np.ndarray:
    epochs, seconds = curve.run.epochs["epoch"], curve.run.epochs["seconds"]
    if axis == "epoch":
        return epochs + 1
    untimed = np.flatnonzero(np.isnan(seconds))
    if len(untimed) == len(seconds) or (untimed < len(seconds) - 1).any():  # the last one may be under way
        which = f"epoch {epochs[untimed[0]]:.0f}" if len(epochs) else "the first epoch"
        raise InputError(f"{curve.label}: no time of {which} in it; leave out --x hours")
    return np.cumsum(seconds) / 3600


def batch_ends(run: Curves, ends: np.ndarray, axis: str) -> np.ndarray:
    epoch, share = run.batches["epoch"], run.batches["batch"] / run.batches["batches"]
    if axis == "epoch":
        return epoch + share
    row = np.searchsorted(run.epochs["epoch"], epoch).clip(max=len(ends) - 1)
    inside = ends[row] - (1 - share) * run.epochs["seconds"][row] / 3600
    return np.where(run.epochs["epoch"][row] == epoch, inside, np.nan)


def draw_panel(panel: "Axes", title: str, lines: list[Line], curves: list[Curve]) -> None:
    panel.set_title(title)
    panel.set_ylabel(PANELS[title][0])
    percent = 100 if title == "Accuracy" else 1
    for line in lines:
        panel.plot(line.x, percent * line.y, color=line.curve.color, zorder=2 if line.curve.color == BEHIND else 3,
                   **marked(line.style, [line]))
    missing = [curve.label for curve in curves
               if curve.color != BEHIND and all(line.curve is not curve for line in lines)]
    if not lines:
        panel.text(0.5, 0.5, "not logged", transform=panel.transAxes, horizontalalignment="center", color=FAINT)
        panel.set_yticks([])
        panel.grid(False)
        return
    set_y_axis(panel, title, percent * np.concatenate([line.y for line in lines]))
    names = ", ".join(missing) if len(", ".join(missing)) <= 40 else f"{len(missing)} runs"
    gaps = any(np.isnan(line.y).any() for line in lines)
    panel.set_title(f"not logged: {names}" if missing else "gaps: not logged" if gaps else "", loc="right", fontsize=8,
                    fontweight="normal", color=FAINT)


def marked(kind: dict, lines: list[Line]) -> dict:
    """`kind`, without its marker unless one of `lines` has few points."""
    few = any(np.isfinite(line.y).sum() < FEW for line in lines)
    return {key: value for key, value in kind.items() if few or not key.startswith("marker")}


def set_y_axis(panel: "Axes", title: str, values: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    low, high = np.nanmin(values), np.nanmax(values)
    if title == "Accuracy":
        panel.set_ylim(min(10 * np.floor((low - 1) / 10), 90), max(101, high))
    elif title == "Learning rate" and 0 < 5 * low < high < 1e5 * low:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
        panel.yaxis.set_minor_locator(NullLocator())
    elif title != "Loss":
        panel.set_ylim(0, 1.1 * high if high > 0 else 1)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def set_x_axis(panel: "Axes", values: np.ndarray, axis: str) -> None:
    """The one axis of all panels; it begins at 0, unless it counts epochs and the runs begin late."""
    from matplotlib.ticker import MaxNLocator
    low, high = values.min(), values.max()
    begin = low if axis == "epoch" and max(1, 0.25 * high) < low < high else 0
    margin = 0.02 * (high - begin) or 1
    panel.set_xlim(begin - margin * (begin > 0), high + margin)
    panel.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 2.5, 5, 10), integer=axis == "epoch" and high > 2))


def draw_legend(figure: "Figure", curves: list[Curve], lines: list[Line], note: str) -> None:
    """One legend below the panels: the colors, then the kinds of lines."""
    from matplotlib.lines import Line2D
    top = ", ".join(f"top-{k}" for k in sorted({line.curve.run.k for line in lines if "alpha" in line.style}))
    colors = [(curve.label, {"color": curve.color, "linewidth": 3}) for curve in curves]
    kinds = [(label, {"color": DARK, **marked(kind, of_kind)}) for label, kind in (
        ("validation", VALIDATION), ("training", TRAINING), (f"{top} (pale)", {"linestyle": "-"} | PALE),
        ("validation, averaged weights", AVERAGED))
        if (of_kind := [line for line in lines if kind.items() <= line.style.items()])]
    rows = 1
    while letters(columns := in_columns((colors, kinds), rows)) > LEGEND_LETTERS and rows < len(colors + kinds):
        rows += 1
    entries = [entry for column in columns for entry in column]
    legend = figure.legend([Line2D([], [], **line_style) for _, line_style in entries], [label for label, _ in entries],
                           loc="outside lower center", ncols=len(columns), title=note or None, title_fontsize=8,
                           frameon=False)
    legend.get_title().set_color(FAINT)


def in_columns(groups: Iterable[list[tuple[str, dict]]], rows: int) -> list[list[tuple[str, dict]]]:
    """Columns of `rows` entries, (label, style) each; none has entries of two groups."""
    nothing = ("", {"alpha": 0})
    return [group[i:i + rows] + [nothing] * (rows - len(group[i:i + rows]))
            for group in groups for i in range(0, len(group), rows)]


def letters(columns: list[list[tuple[str, dict]]]) -> int:
    """How wide these columns are in a legend, in letters; a line and the room beside it are 10."""
    return sum(10 + max(len(label) for label, _ in column) for column in columns)
