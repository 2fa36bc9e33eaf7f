"""benchmarks/inference.py measures processes, which are gone afterwards, and draws a chart that can be read."""
import csv
import itertools
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmarks import inference
from benchmarks.contender import Contender
from benchmarks.inference_report import figure_of, markdown, read
from benchmarks.inference_runners import IN_8_BITS, ON_AVX2, QUANTISED, RUNNERS
from benchmarks.processes import output_of
from common.base.errors import InputError
from common.base.machine import processor_flags

DRAWN = RUNNERS | IN_8_BITS | ON_AVX2


def rows_of_all(latency=lambda name: 10.0):
    """As `inference.rows_of` gives them, without measurements."""
    args = inference.get_args_parser().parse_args(["--model-prefix", "x"])
    found = {name: {"times": [[latency(name) / 1e3, 1.1 * latency(name) / 1e3]] * 2, "others": 0, "peak_mib": 412.5,
                    "probabilities": np.full((1, 3), 1 / 3), "setting": "", "versions": ""} for name in DRAWN}
    return list(inference.rows_of(args, {name: [1, 2, 3.5] for name in DRAWN}, found, found))


@pytest.mark.parametrize("slowest", [10.0, 35.0, 3000.0])
def test_no_text_of_the_chart_lies_on_another_or_outside(slowest):
    figure = figure_of(rows_of_all(lambda name: slowest if name == "tvm-opencl-own" else 10.0))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    not_drawn = [tick.label1 for panel in figure.axes for tick in panel.xaxis.get_major_ticks()
                 if tick.get_loc() > panel.get_xlim()[1]]
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
             if text.get_text() and text.get_visible() and text not in not_drawn]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in texts]
    assert {row.label for row in DRAWN.values()} <= {text for text, _ in boxes}
    for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2):
        assert not box_a.overlaps(box_b), (a, b)
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1, text


def test_times_become_milliseconds_and_images_per_second():
    """Runs of 10 and 11 ms, one image alone and a batch of 16."""
    for row in rows_of_all():
        assert 10 <= float(row["latency_q1"]) <= float(row["latency_ms"]) <= float(row["latency_q3"]) <= 11
        assert 16 / 0.011 - 0.1 <= float(row["images_per_s"]) <= 16 / 0.010 + 0.1 and row["batch"] == 16


def test_the_ratio_is_that_of_contenders_in_the_same_round():
    """A machine that is ten times slower in two rounds of five slows both down."""
    base = [[1.0, 1.2], [10, 12], [1, 1.2], [10, 12], [1, 1.2]]
    one = [[2 * seconds for seconds in times] for times in base]
    assert inference.ratio({"times": one}, {"times": base}) == pytest.approx(2)


def test_a_contender_that_ends_says_why_and_is_gone(tmp_path):
    request = {"data": str(tmp_path / "data.npy"), "data_shape": [1, 3, 8, 8], "cores": 1,
               "onnx": str(tmp_path / "missing.onnx")}
    np.save(request["data"], np.zeros(request["data_shape"], np.float32))
    with pytest.raises(InputError, match=r"^onnxruntime ended with 1: .*missing\.onnx"):
        Contender("benchmarks.inference_runners", "onnxruntime", sys.executable, request, tmp_path)


@pytest.mark.skipif("cpuid_fault" not in processor_flags(), reason="CPUID cannot be answered otherwise here")
def test_a_program_held_to_avx2_finds_no_later_vectors():
    """NumPy asks the processor itself, as ONNX Runtime does."""
    output_of("-sC", "native", "avx2-alone", python="make")
    held = output_of("-c", """if True:
        import ctypes
        assert ctypes.CDLL("native/build/libavx2_alone.so").HoldToAvx2()
        from numpy.core._multiarray_umath import __cpu_features__ as features
        print(features["AVX2"], features["FMA3"], *(found for name, found in features.items() if "AVX512" in name))
    """)
    assert set(held.split()[:2]) == {"True"} and set(held.split()[2:]) == {"False"}


def test_another_table_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("label,latency_ms\nMXNet,fast\n")
    with pytest.raises(InputError, match=r"x\.csv: not a table of benchmarks/inference\.py"):
        read(tmp_path / "x.csv")


def test_nothing_is_quantised_without_photographs():
    with pytest.raises(InputError, match="^tvm-llvm-int8: give --calibration FOLDER"):
        inference.main(inference.get_args_parser().parse_args(
            ["--model-prefix", "x", "--contenders", "mxnet", "tvm-llvm-int8"]))


@pytest.mark.long
def test_a_run(checkpoint, tmp_path, capsys):
    out, chart = tmp_path / "out" / "x.csv", tmp_path / "out" / "x.png"
    inference.main(inference.get_args_parser().parse_args(
        ["--model-prefix", str(checkpoint), "--contenders", "tvm-llvm", "onnxruntime", "mxnet",
         "onnxruntime-int8", "tvm-llvm-int8", "--calibration", "data", "--rounds", "2",
         "--starts", "2", "--batch-size", "2", "--out", str(out), "--chart", str(chart)]))
    with out.open(newline="") as file:
        rows = {row["contender"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["mxnet", "onnxruntime", "tvm-llvm", "onnxruntime-int8", "tvm-llvm-int8"]
    assert all(float(row["max_difference"]) < (0.1 if name in QUANTISED else 1e-4) for name, row in rows.items())
    assert float(rows["onnxruntime"]["ratio_to_onnxruntime"]) == 1
    for row in rows.values():
        assert int(row["latency_runs"]) >= 2 and int(row["throughput_runs"]) >= 2
        assert 0 < float(row["latency_q1"]) <= float(row["latency_ms"]) <= float(row["latency_q3"])
        assert 0 < float(row["images_per_s_q1"]) <= float(row["images_per_s"]) <= float(row["images_per_s_q3"])
        assert 0 < float(row["first_result_min"]) <= float(row["first_result_s"]) <= float(row["first_result_max"])
        assert 10 < float(row["peak_mib"]) < 10000
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == markdown(read(out))
