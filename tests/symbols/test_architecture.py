import pytest

from symbols.architecture import architecture

WIDTHS = (16, 24, 32, 64, 96, 160, 320)


@pytest.mark.parametrize("multiplier", [0.1, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 2.0])
def test_widths_are_rounded_to_the_nearest_integer(multiplier):
    plan = architecture(multiplier)
    assert plan.first.channels == int(round(32 * multiplier))
    last_blocks = {block.name.split("-block")[0]: block for block in plan.blocks}
    assert [block.units[-1].channels for block in last_blocks.values()] == [int(round(c * multiplier)) for c in WIDTHS]
    assert plan.last.channels == max(1280, int(round(1280 * multiplier)))


def test_expansion_is_six_times_the_input_but_for_the_first_block():
    for block in architecture(0.35).blocks:
        expansion, depthwise, linear = block.units
        factor = 1 if block.name == "seq-0-block0" else 6
        assert expansion.channels == factor * expansion.in_channels == depthwise.groups == linear.in_channels


@pytest.mark.parametrize("multiplier", [0.1, 0.35, 1.0, 2.0])
@pytest.mark.parametrize("strides", ["published", "first"])
def test_shortcuts_are_where_stride_and_width_allow_them(multiplier, strides):
    for block in architecture(multiplier, strides).blocks:
        expansion, depthwise, linear = block.units
        assert block.shortcut == (depthwise.stride == 1 and expansion.in_channels == linear.channels)


@pytest.mark.parametrize(("size", "expected"), [
    # padding of the five convolutions of stride 2, from the sizes of the maps they read
    (224, [(0, 1)] * 5),                                  # 224 112 56 28 14
    (160, [(0, 1)] * 5),                                  # 160 80 40 20 10
    (240, [(0, 1), (0, 1), (0, 1), (0, 1), (1, 1)]),      # 240 120 60 30 15
    (97, [(1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]),       # 97 49 25 13 7
])
def test_same_padding_follows_the_size_of_each_map(size, expected):
    plan = architecture(padding="same", image_shape=(3, size, size))
    units = [plan.first] + [unit for block in plan.blocks for unit in block.units]
    assert [unit.padding for unit in units if unit.stride == 2] == [(pads, pads) for pads in expected]
    assert all(unit.padding == ((1, 1), (1, 1)) for unit in units if unit.stride == 1 and unit.kernel == 3)
    assert all(unit.padding == ((0, 0), (0, 0)) for unit in units if unit.kernel == 1)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"multiplier": 0.09}, "from 0.1 to 2.0"),
    ({"multiplier": 2.01}, "from 0.1 to 2.0"),
    ({"multiplier": float("nan")}, "from 0.1 to 2.0"),
    ({"multiplier": "1"}, "from 0.1 to 2.0"),
    ({"strides": "second"}, "published, first"),
    ({"padding": "valid"}, "symmetric, same"),
    ({"padding": "same"}, "image_shape"),
    ({"activation": "swish"}, "relu6, relu"),
    ({"image_shape": (3, 27, 224)}, "28 or more"),
    ({"image_shape": (3, 224, 27)}, "28 or more"),
    ({"image_shape": (1, 224, 224)}, "(3, height, width)"),
    ({"image_shape": (224, 224)}, "(3, height, width)"),
    ({"image_shape": 224}, "(3, height, width)"),
    ({"strides": ["published"]}, "published, first"),
    ({"channels": (32, 16)}, "9 whole numbers from 1"),
    ({"channels": (32, 16, 24, 32, 64, 96, 160, 320.5, 1280)}, "9 whole numbers from 1"),
    ({"repeats": (1, 2, 3, 4, 3, 3, 0)}, "7 whole numbers from 1"),
    ({"repeats": 3}, "7 whole numbers from 1"),
])
def test_values_out_of_range_name_the_range(arguments, message):
    with pytest.raises(ValueError) as error:
        architecture(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_channels_and_repeats_take_the_place_of_the_tables():
    plan = architecture(channels=(8, 8, 16, 16, 24, 40, 56, 112, 640), repeats=(1, 1, 2, 3, 1, 2, 1))
    assert [(block.name, block.units[-1].channels) for block in plan.blocks] == [
        ("seq-0-block0", 8), ("seq-1-block0", 16), ("seq-2-block0", 16), ("seq-2-block1", 16), ("seq-3-block0", 24),
        ("seq-3-block1", 24), ("seq-3-block2", 24), ("seq-4-block0", 40), ("seq-5-block0", 56), ("seq-5-block1", 56),
        ("seq-6-block0", 112)]
    assert (plan.first.channels, plan.last.in_channels, plan.last.channels) == (8, 112, 640)
    assert [block.shortcut for block in plan.blocks] == [block.name[-1] != "0" for block in plan.blocks]
