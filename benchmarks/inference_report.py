#!/usr/bin/env python
"""The table and the chart of what benchmarks/inference.py has measured, which makes both itself. Example:

    python benchmarks/inference_report.py benchmarks/inference.csv --chart docs/inference-benchmark.png

prints the table in Markdown.
"""
import argparse
import csv
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.base.arguments import ArgumentParser
from common.base.errors import InputError, reported
from common.base.files import written_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {  # heading: how a row fills it
    "": "{label}",
    "batch 1 (ms)": "{latency_ms}",
    "quartiles": "{latency_q1}-{latency_q3}",
    "time / ONNX Runtime's": "{ratio_to_onnxruntime}",
    "batch {batch} (images/s)": "{images_per_s}",
    "first result (s)": "{first_result_s}",
    "peak memory (MiB)": "{peak_mib}",
    "difference": "{max_difference}",
}


class Panel(NamedTuple):
    title: str
    axis: str
    column: str
    spread: tuple  # columns that a thin line leads from and to
    form: str


PANELS = (
    Panel("Latency, batch 1", "ms, less is better", "latency_ms", ("latency_q1", "latency_q3"), "{:.1f}"),
    Panel("Throughput, batch {batch}", "images/s, more is better", "images_per_s",
          ("images_per_s_q1", "images_per_s_q3"), "{:.0f}"),
    Panel("Process start to first result", "s, less is better", "first_result_s",
          ("first_result_min", "first_result_max"), "{:.2f}"),
    Panel("Peak memory, batch 1", "MiB, less is better", "peak_mib", (), "{:.0f}"),
)
COLORS = {"tvm-llvm": "#0072B2", "tvm-opencl": "#D55E00"}  # Okabe and Ito's
OTHERS, PALE, FAINT = "#7F7F7F", 0.5, "#555555"
FAR = 4  # times the median: bars beyond leave the panel, so that the others can be told apart
ROOM = 1.28  # times the longest other bar is the panel's width: for the numbers behind the bars
NOTE = ("{processor}, {cores} cores, float32 but where a name says int8. Thin lines: quartiles of the runs; of the "
        "first result, the fastest and the slowest start. Bars with an arrow go on.")
STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "x",
         "axes.axisbelow": True, "grid.color": "#E6E6E6", "text.parse_math": False}


def markdown(rows: list[dict]) -> str:
    lines = [[heading.format(**rows[0]) for heading in COLUMNS], ["---", *["---:"] * (len(COLUMNS) - 1)]]
    lines += [[form.format(**row) for form in COLUMNS.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(rows: list[dict], path: str | Path) -> None:
    """Write the chart to the PNG `path`: a panel for each of PANELS, a bar for each row."""
    from matplotlib import style

    with style.context(["default", STYLE]), written_atomically(path) as partial:
        figure_of(rows).savefig(partial, format="png")


def figure_of(rows: list[dict]) -> "Figure":
    """The chart as a matplotlib.figure.Figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.4 + 0.33 * len(rows)), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[call-arg]
    for place, panel in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS):
        draw_panel(place, panel, rows)
    place.set_yticks(range(len(rows)), [row["label"] for row in rows])
    place.invert_yaxis()
    figure.supxlabel(NOTE.format(**rows[0]), fontsize=8, color=FAINT)
    return figure


def draw_panel(place: "Axes", panel: Panel, rows: list[dict]) -> None:
    values = [float(row[panel.column]) for row in rows]
    spreads = [[float(row[column]) for column in panel.spread or [panel.column] * 2] for row in rows]
    far = FAR * statistics.median(values)
    end = max(max(value, high) for value, (_, high) in zip(values, spreads) if value <= far)
    place.set_title(panel.title.format(**rows[0]))
    place.set_xlabel(panel.axis)
    place.set_xlim(0, ROOM * end)
    for height, (row, value, (low, high)) in enumerate(zip(rows, values, spreads)):
        name, text = row["contender"], panel.form.format(value)
        color = next((color for kind, color in COLORS.items() if name.startswith(kind)), OTHERS)
        place.barh(height, value, color=color, alpha=PALE if name.endswith("-own") else 1, height=0.72)
        if value > far:
            place.text(0.99 * ROOM * end, height, f"{text} \N{RIGHTWARDS ARROW}", ha="right", va="center", fontsize=8)
            continue
        place.plot([low, high], [height, height], color="black", linewidth=1, solid_capstyle="butt")
        place.text(max(value, high) + 0.02 * end, height, text, va="center", fontsize=8)
    place.tick_params(axis="y", length=0)


def read(path: str | Path) -> list:
    """The rows of benchmarks/inference.csv. Raises InputError for another file."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.DictReader(file))
    numbers = [column for panel in PANELS for column in (panel.column, *panel.spread)]
    try:
        if not rows:
            raise ValueError("it has no rows")
        markdown(rows), NOTE.format(**rows[0]), [float(row[column]) for row in rows for column in numbers]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a table of benchmarks/inference.py ({error})") from None
    return rows


def main(args: argparse.Namespace) -> None:
    rows = read(args.table)
    if args.chart:
        draw(rows, args.chart)
    print(markdown(rows))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("table", metavar="CSV", help="file that benchmarks/inference.py wrote")
    parser.add_argument("--chart", metavar="PNG", help="picture to write")
    with reported("inference_report.py"):
        main(parser.parse_args())
