"""The converter for Gluon's model zoo against that zoo's own network, which comes with MXNet."""
import numpy as np
import pytest

from common.checkpoint.arrays import save
from common.checkpoint.params import load_params
from common.conversion.convert import convert
from common.find_mxnet import mx
from tests.converters.checks import answer, assert_same_answer
from tests.converters.random_weights import draw, images

SEED = 3
FILES = {
    "save_parameters": lambda net, prefix: net.save_parameters(f"{prefix}.params"),
    "flat names": lambda net, prefix: net.collect_params().save(f"{prefix}.params"),
    "the zoo's own": lambda net, prefix: net.collect_params().save(f"{prefix}.params", strip_prefix=net.prefix),
    "export": lambda net, prefix: net.export(str(prefix)),
}


def zoo(multiplier, size, classes):
    """The network with random weights, and its logits for images as the zoo says that they are to be prepared: on 0..1,
    less the mean (0.485, 0.456, 0.406), over the standard deviation (0.229, 0.224, 0.225)."""
    net = mx.gluon.model_zoo.vision.get_mobilenet_v2(multiplier, classes=classes)
    net.initialize()
    pixels = images(size, SEED)
    mean, deviation = (np.reshape(numbers, (3, 1, 1)) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    scaled = (pixels / 255 - mean) / deviation
    net(mx.nd.array(scaled))  # shapes are known after the first pass
    parameters = net.collect_params()
    for name, array in draw({name: parameter.shape for name, parameter in parameters.items()}, SEED).items():
        parameters[name].set_data(mx.nd.array(array))
    net.hybridize()
    return net, pixels, net(mx.nd.array(scaled)).asnumpy()


@pytest.mark.parametrize("how", FILES)
def test_each_naming_answers_as_the_zoos_network(tmp_path, how):
    net, pixels, logits = zoo(0.25, 64, 10)
    FILES[how](net, tmp_path / "zoo")
    source, = tmp_path.glob("*.params")
    save(convert(source, "gluon", 0.25), tmp_path / "converted")
    assert_same_answer(answer(tmp_path / "converted", pixels), logits)


@pytest.mark.long
@pytest.mark.parametrize("size", [224, 160])
@pytest.mark.parametrize("multiplier", [0.25, 0.35, 0.5, 0.75, 1.0, 1.4])
def test_widths_answer_as_the_zoos_network(tmp_path, multiplier, size):
    net, pixels, logits = zoo(multiplier, size, 1000)
    net.save_parameters(str(tmp_path / "zoo.params"))
    save(convert(tmp_path / "zoo.params", "gluon", multiplier), tmp_path / "converted")
    assert_same_answer(answer(tmp_path / "converted", pixels), logits)


def test_the_zoos_prefixes_come_in_any_number(tmp_path):
    """A second network of one process is named mobilenetv21_, and so on."""
    names = set()
    for _ in range(2):
        net, _, _ = zoo(0.25, 32, 2)
        net.collect_params().save(str(tmp_path / "zoo.params"))
        names |= set(load_params(tmp_path / "zoo.params"))
        save(convert(tmp_path / "zoo.params", "gluon"), tmp_path / "converted")
    assert len(names) == 2 * len(net.collect_params().keys())
