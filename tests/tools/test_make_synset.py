"""tools/make_synset.py, on a wheel with timm's lists in it."""
import subprocess
import sys
import zipfile

from tests.conftest import ROOT


def test_names_in_the_order_of_the_sorted_ids(tmp_path):
    """Of the classes that ImageNet has: timm names others too."""
    lines = (ROOT / "data" / "imagenet1k-synset.txt").read_text(encoding="utf-8").splitlines()
    named = [line.split(" ", 1) for line in lines[::-1]]
    with zipfile.ZipFile(tmp_path / "timm.whl", "w") as wheel:
        wheel.writestr("timm/data/_info/imagenet_synsets.txt", "".join(f"{wnid}\n" for wnid, _ in named))
        wheel.writestr("timm/data/_info/imagenet_synset_to_lemma.txt",
                       "".join(f"{wnid}\t{name}\n" for wnid, name in [*named, ["n99999999", "none of them"]]))
    subprocess.run([sys.executable, "tools/make_synset.py", tmp_path / "timm.whl", tmp_path / "names.txt"], cwd=ROOT,
                   check=True)
    assert (tmp_path / "names.txt").read_text(encoding="utf-8").splitlines() == lines


def test_another_file_is_refused(tmp_path):
    (tmp_path / "timm.whl").write_bytes(b"PK")
    process = subprocess.run([sys.executable, "tools/make_synset.py", tmp_path / "timm.whl", tmp_path / "names.txt"],
                             cwd=ROOT, capture_output=True, text=True)
    line, = process.stderr.splitlines()
    assert process.returncode == 1 and "timm.whl: " in line
    assert not (tmp_path / "names.txt").exists()
