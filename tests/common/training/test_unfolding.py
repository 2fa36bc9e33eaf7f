"""BatchNorms that were folded into convolutions get statistics, and every answer stays what it was."""
import numpy as np
import pytest

from common.base.errors import InputError
from common.find_mxnet import mx
from common.training.loading import ResetIter
from common.training.unfolding import folded_layers, unfold


@pytest.fixture
def folded(checkpoint):
    """(symbol, arg_params, aux_params) whose BatchNorms add a beta alone; one of them divides, too."""
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(checkpoint), 0)
    rng = np.random.RandomState(0)
    arg_params = {name: mx.nd.array(rng.normal(0, 1, array.shape)) if name.endswith("_beta") else array
                  for name, array in arg_params.items()}
    aux_params = {name: array.zeros_like() if name.endswith("mean") else array.ones_like()
                  for name, array in aux_params.items()}
    aux_params["seq-2-block1-exp-batchnorm_moving_var"] *= 4
    return symbol, arg_params, aux_params


@pytest.fixture
def images():
    arrays = np.random.RandomState(1).normal(0, 50, (24, 3, 48, 48)).astype(np.float32)
    return arrays, ResetIter(mx.io.NDArrayIter(arrays, np.zeros(24), 8), 3)


def answer(symbol, output, images, arg_params, aux_params):
    executor = symbol.get_internals()[output].simple_bind(mx.cpu(), grad_req="null", data=images.shape)
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    return executor.forward(data=images)[0].asnumpy().astype(np.float64)


def test_the_answers_stay_and_the_statistics_are_those_of_the_inputs(folded, images):
    symbol, *params = folded
    arrays, iterator = images
    unfolded = [dict(part) for part in params]
    unfold(symbol, *unfolded, (), iterator, mx.cpu(), "weights")
    before, after = (answer(symbol, "fc_output", arrays, *found) for found in (params, unfolded))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    for layer in ("first-3x3-conv", "seq-2-block1-exp", "last-1x1-conv"):
        z = answer(symbol, f"{layer}-conv2d_output", arrays, *params)
        for kind, expected in (("mean", z.mean(axis=(0, 2, 3))), ("var", z.var(axis=(0, 2, 3)))):
            np.testing.assert_allclose(unfolded[1][f"{layer}-batchnorm_moving_{kind}"].asnumpy(), expected,
                                       rtol=1e-4, atol=1e-5 * z.std())


def test_weights_that_were_not_trained_yet_are_not_folded(folded):
    """Mean 0, variance 1, beta 0; one layer with betas that differ makes folded ones of all."""
    _, arg_params, aux_params = folded
    new = {name: array.zeros_like() if name.endswith("_beta") else array for name, array in arg_params.items()}
    assert not folded_layers(new, aux_params)
    name = "first-3x3-conv-batchnorm_beta"
    assert len(folded_layers(new | {name: arg_params[name]}, aux_params)) == 53
    assert not folded_layers(new | {name: arg_params[name]}, aux_params, frozen={name})


def test_a_gamma_that_is_fixed_cannot_undo_the_statistics(folded, images):
    symbol, arg_params, aux_params = folded
    fixed = mx.sym.load_json(symbol.tojson().replace('"fix_gamma": "False"', '"fix_gamma": "True"'))
    with pytest.raises(InputError, match="^weights: .*first-3x3-conv-batchnorm are folded.*--train-from fc"):
        unfold(fixed, arg_params, aux_params, (), images[1], mx.cpu(), "weights")
