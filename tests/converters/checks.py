"""From another framework's file to MXNet's answer, and what it has to equal."""
import io
import subprocess
from contextlib import redirect_stdout

import numpy as np

from common.checkpoint.ndarrays import load_checkpoint
from common.checkpoint.preprocessing import load_preprocessing
from common.find_mxnet import mx
from tests.commands import run
from tests.conftest import ROOT
from tools import convert_weights

TOLERANCE = 1e-4


def convert(source, prefix, kind, *flags, python=None):
    """What `tools/convert_weights.py` prints; in a process of `python` where that is given, which has to end well."""
    arguments = list(map(str, (source, prefix, "--from", kind, *flags)))
    if python is None:
        with redirect_stdout(io.StringIO()) as printed:
            run(convert_weights, *arguments)
        return printed.getvalue()
    done = subprocess.run([python, "tools/convert_weights.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(prefix, pixels) -> np.ndarray:
    """Logits (N, classes) by MXNet, as the checkpoint PREFIX says that images, uint8 (N, 3, H, W) RGB, are prepared."""
    preprocessing = load_preprocessing(prefix)
    mean, std = (np.float32(numbers).reshape(3, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
    return answer_to((pixels.astype(np.float32) - mean) / std, prefix)


def answer_to(inputs, prefix) -> np.ndarray:
    """The same, of inputs that are prepared already."""
    symbol, arg_params, aux_params = load_checkpoint(prefix, 0, inputs.shape)
    network = symbol.get_internals()["fc_output"].bind(mx.cpu(), arg_params | {"data": mx.nd.array(inputs)},
                                                       aux_states=aux_params, grad_req="null")
    return network.forward(is_train=False)[0].asnumpy()


def assert_same_answer(found, expected, tolerance=TOLERANCE):
    """Probabilities to 1e-4, and logits to 1e-4 of their size, or to another tolerance."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(softmax(found), softmax(expected), rtol=0, atol=tolerance)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def softmax(logits):
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)
