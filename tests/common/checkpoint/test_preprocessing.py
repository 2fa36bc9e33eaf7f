import json

import pytest

from common.base.errors import InputError
from common.checkpoint.preprocessing import Preprocessing, load_preprocessing, preprocessing_file, save_preprocessing

GOOD = {"resize": 232, "crop": 224, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def test_absent_means_the_default(tmp_path):
    assert load_preprocessing(tmp_path / "x") == (256, 224, (123.68, 116.78, 103.94), (1, 1, 1))


def test_what_is_saved_is_the_documented_json(tmp_path):
    saved = Preprocessing(232, 224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    save_preprocessing(tmp_path / "x", saved)
    assert json.loads((tmp_path / "x-preprocess.json").read_text()) == GOOD
    assert load_preprocessing(tmp_path / "x") == saved


def test_other_crops_are_resized_in_proportion():
    assert [Preprocessing().resize_for(n) for n in (224, 48, 97, 192)] == [256, 55, 111, 219]
    assert Preprocessing(232, 224).resize_for(448) == 464


@pytest.mark.parametrize("text", [
    "", "{", "[]", "1", "null", '{"resize": 256}', "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass"),
    *(json.dumps({**GOOD, **wrong}) for wrong in (
        {"resize": 223}, {"resize": 0, "crop": 0}, {"resize": -256}, {"resize": 256.5}, {"resize": True},
        {"resize": "256"}, {"resize": 10 ** 9}, {"crop": None}, {"crop": [224]}, {"mean": 1}, {"mean": [1, 2]},
        {"mean": [1, 2, "3"]}, {"mean": [1, 2, float("nan")]}, {"mean": [1, 2, 10 ** 400]}, {"mean": {"r": 1}},
        {"std": [1, 2, 0]}, {"std": [1, 2, -3]}, {"std": [1, float("inf"), 3]}, {"std": [True, 1, 1]}, {"more": 1})),
])
def test_anything_else_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "x-preprocess.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        load_preprocessing(tmp_path / "x")
    assert str(error.value).startswith(f"{preprocessing_file(tmp_path / 'x')}: ") and "\n" not in str(error.value)
    assert len(str(error.value)) < 400
