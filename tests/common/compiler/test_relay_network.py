"""Checkpoints that are no network."""
import pytest

from common.compiler.relay_network import load_network
from common.errors import InputError
from common.find_mxnet import mx


def test_parameters_that_do_not_fit_the_symbol_are_refused(checkpoint, tmp_path, capfd):
    symbol = (checkpoint.parent / "small-symbol.json").read_text()
    (tmp_path / "x-symbol.json").write_text(symbol)
    params = mx.nd.load(f"{checkpoint}-0000.params")
    mx.nd.save(str(tmp_path / "x-0000.params"), {k: v for k, v in params.items() if k != "arg:fc_bias"})
    with pytest.raises(InputError, match="has no 'fc_bias'"):
        load_network(tmp_path / "x", 0, (1, 3, 64, 64))
    mx.nd.save(str(tmp_path / "x-0001.params"), {**params, "arg:fc_weight": mx.nd.zeros((10, 7))})
    mx.nd.save(str(tmp_path / "x-0002.params"), {**params, "arg:last-1x1-conv-batchnorm_gamma": mx.nd.zeros((7,))})
    for epoch in (1, 2):
        with pytest.raises(InputError, match="do not fit") as error:
            load_network(tmp_path / "x", epoch, (1, 3, 64, 64))
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""
