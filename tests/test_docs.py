"""What the documents point at exists: files, anchors, targets of make, flags of commands, and what was measured."""
import csv
import re
import subprocess
import sys
from functools import cache

import pytest

from common.training.options import ELSEWHERE
from tests.conftest import ROOT

DOCUMENTS = [path.relative_to(ROOT).as_posix() for path in
             [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), ROOT / "data/README.md",
              ROOT / "models/README.md"]]
PROGRAM = re.compile(r"(?<![\w./-])(?:(?:tools/|benchmarks/)?\w+\.py|-m common\.modelzoo(?: [a-z]+)?)(?= |$)")
MEASURED = [  # file in benchmarks/, rows of it, columns that a table of docs/benchmarks.md or docs/weights.md has
    ("inference.csv", {}, ["label", "latency_ms", "ratio_to_onnxruntime", "images_per_s", "first_result_s", "peak_mib",
                           "max_difference"]),
    ("training.csv", {"side": "224"}, ["contender", "images_per_s", "times_pytorch_nchw", "peak_mib"]),
    ("training.csv", {"side": "128"}, ["contender", "images_per_s", "times_pytorch_nchw"]),
    ("input.csv", {"used_cores": "1"}, ["images_per_s", "of_bound"]),
    ("input.csv", {"used_cores": "2"}, ["images_per_s", "of_bound", "times_image_record_iter", "peak_mib"]),
    ("runtimes.csv", {}, ["format", "runtime", "max_difference", "same_first_answer", "photographs"]),
    ("photographs.csv", {}, ["checkpoint", "runner", "precision", "top_1", "top_5", "same_first_answer"]),
    ("int8.csv", {}, ["precision", "top_1", "low", "high", "points_below_float32", "same_first_answer", "photographs"]),
]


def prose(document):
    """Its text without blocks of code."""
    return re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """Those that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path.relative_to(ROOT)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def flags(program):
    """Of a script or of `-m MODULE COMMAND`, as its help lists them."""
    process = subprocess.run([sys.executable, *program.split(), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(re.findall(r"--[\w-]+", process.stdout))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", prose(document)):
        name, _, anchor = link.partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.resolve()), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_and_targets_exist(document):
    text = (ROOT / document).read_text()
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE)) <= set(targets)
    for name in re.findall(r"`((?:symbols|common|tools|native|recipes|runners|tests|benchmarks)/[a-z0-9_./-]*)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_take_their_flags(document):
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            programs = [name for name in PROGRAM.findall(line.partition(" # ")[0]) if (ROOT / name).exists()
                        or name.startswith("-m")]
            if programs:
                given = set(re.findall(r"(?<= )--[a-z][\w-]*", line))
                assert given <= set().union(*map(flags, programs)), line


@pytest.mark.parametrize("name, rows, columns", MEASURED)
def test_tables_hold_what_was_measured(name, rows, columns):
    tables = [{cell.strip() for cell in line.split("|")} for document in ("benchmarks", "weights")
              for line in prose(f"docs/{document}.md").splitlines() if line.startswith("|")]
    with open(ROOT / "benchmarks" / name, newline="") as file:
        measured = [row for row in csv.DictReader(file) if rows.items() <= row.items()]
    for row in measured:
        if "its Python alone" not in row.get("contender", ""):  # not in the table
            assert any({row[column] for column in columns} <= cells for cells in tables), row


def test_each_processor_has_its_own_ratios():
    table = re.search(r"^\| time / ONNX.*\n(?:\|.*\n)+", prose("docs/benchmarks.md"), re.MULTILINE)[0]
    head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    for column, name in [("Xeon", "inference"), ("Zen 5", "inference_zen5"), ("Zen 4", "inference_zen4")]:
        with open(ROOT / "benchmarks" / f"{name}.csv", newline="") as file:
            measured = {row["label"]: row["ratio_to_onnxruntime"] for row in csv.DictReader(file)}
        told = {row[0]: row[head.index(column)] for row in rows[1:]}
        assert len(told) == 14 and told == {label: measured.get(label, "") for label in told}


def test_what_comes_in_is_the_worst_of_each_kind():
    with open(ROOT / "benchmarks" / "conversion.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    table = [{cell.strip(" `") for cell in line.split("|")} for line in prose("docs/weights.md").splitlines()]
    for kind in {row["from"] for row in rows}:
        differences = [row["max_difference"] for row in rows if row["from"] == kind]
        worst = max(differences, key=float)
        assert any({kind, str(len(differences)), worst} <= cells for cells in table), (kind, worst, len(differences))
    assert all(row["same_first_answer"] == row["photographs"] == "60" for row in rows)


def test_flags_of_other_scripts_are_answered_as_the_page_says():
    """Those in the tables of docs/from-the-original.md that train_imagenet.py has not itself."""
    page = (ROOT / "docs" / "from-the-original.md").read_text()
    tables = page.partition("## Flags with another name")[2].partition("## The same")[0]
    named = {flag for line in tables.splitlines() if line.startswith("| `--")
             for flag in re.findall(r"`(--[\w-]+)", line.split("|")[1])}
    assert len(named) > 30 and named - set(flags("train_imagenet.py")) <= set(ELSEWHERE)
