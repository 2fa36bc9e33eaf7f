"""What the Makefile removes."""
import shutil
import subprocess

from tests.conftest import ROOT

OF_THE_DEMO = ("images/val/digit7/0007.jpg", "train.rec", "train.idx", "train.lst", "val.rec", "synset.txt",
               "skipped.csv", "dataset.json", "digits-symbol.json", "digits-0032.params", "digits-metrics.jsonl",
               ".digits.lock", ".prepare/lock")


def test_clean_removes_of_the_folder_demo_what_the_demo_made(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for mine in ((), ("mine-0007.params", "images.zip")):
        for name in (*OF_THE_DEMO, *mine):
            (tmp_path / "demo" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "demo" / name).touch()
        subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
        left = sorted(path.name for path in (tmp_path / "demo").rglob("*"))
        assert (tmp_path / "demo").exists() == bool(mine) and left == sorted(mine)
