import subprocess
import sys

import cv2
import numpy as np

from common.find_mxnet import mx
from common.images.class_names import read_synset
from tests.conftest import ROOT


def test_the_digits_in_folders_and_records(tmp_path):
    process = subprocess.run([sys.executable, "tools/make_digits.py", str(tmp_path)], cwd=ROOT, capture_output=True,
                             text=True, check=True)
    assert process.stdout.splitlines()[-2:] == [f"{tmp_path}/val.rec: 364 images of 10 classes, 0 skipped",
                                                f"{tmp_path}/train.rec: 1433 images of 10 classes, 0 skipped"]
    assert [name.split()[0] for name in read_synset(tmp_path / "synset.txt", 10)] == \
        sorted(folder.name for folder in (tmp_path / "images" / "train").iterdir())

    names = {part: {path.stem for path in (tmp_path / "images" / part).glob("digit?/*.jpg")}
             for part in ("train", "val")}
    assert not names["train"] & names["val"]
    assert names["train"] | names["val"] == {f"{i:04d}" for i in range(1797)}

    for part in ("train", "val"):
        reader = mx.recordio.MXIndexedRecordIO(str(tmp_path / f"{part}.idx"), str(tmp_path / f"{part}.rec"), "r")
        listed = [line.split("\t") for line in (tmp_path / f"{part}.lst").read_text().splitlines()]
        assert len(reader.keys) == len(listed) == len(names[part])
        for key, (_, label, path) in zip(reader.keys[::50], listed[::50]):
            header, image = mx.recordio.unpack_img(reader.read_idx(key))
            assert header.label == float(label) == int(path[len("digit")])
            # packed shorter side : crop = 480 : 224
            assert image.shape == (103, 103, 3) and round(image.shape[0] * 224 / 480) == 48
            original = cv2.resize(cv2.imread(str(tmp_path / "images" / part / path)), (103, 103),
                                  interpolation=cv2.INTER_AREA)
            assert np.abs(image.astype(int) - original).mean() < 3  # two JPEG compressions apart
