import re

import pytest

from common.base.errors import InputError
from common.images.class_names import read_synset
from tests.conftest import ROOT

SYNSET = ROOT / "data" / "imagenet1k-synset.txt"


def test_imagenets_classes_are_in_the_order_of_their_wordnet_ids():
    names = read_synset(SYNSET, 1000)
    assert all(re.fullmatch(r"n\d{8} \S.*", name) for name in names)
    wnids = [name.split()[0] for name in names]
    assert wnids == sorted(set(wnids))
    assert names[0] == "n01440764 tench, Tinca tinca" and names[162] == "n02088364 beagle"


def test_imagenets_classes_are_in_the_order_of_real_weights(testdata):
    assert read_synset(SYNSET, 1000) == read_synset(testdata / "images" / "imagenet1k-synset.txt", 1000)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "synset.txt"
    with pytest.raises(InputError, match="No such file"):
        read_synset(path, 10)
    path.write_text("a\nb\n\n")
    assert read_synset(path, 2) == ["a", "b"]
    with pytest.raises(InputError, match=r"names 2 classes, the network has 3: give its own --synset"):
        read_synset(path, 3)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_synset(path, 1)
