"""What MXNet itself answers: the reference that compiled networks are checked against."""
import json
from pathlib import Path

import numpy as np

from common.checkpoint import run_by_mxnet
from common.find_mxnet import mx
from common.params_file import checkpoint_files
from common.symbol_json import ends_in_logits


def predict(prefix: str | Path, epoch: int, data: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) of the checkpoint for `data`, float32 (N, 3, H, W), on the processor."""
    with run_by_mxnet(checkpoint_files(prefix, epoch)[0]):
        symbol, arg_params, aux_params = mx.model.load_checkpoint(str(prefix), epoch)
        executor = symbol.simple_bind(mx.cpu(), data=data.shape, grad_req="null")
        executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
        output, = executor.forward(is_train=False, data=mx.nd.array(data))
        if ends_in_logits(json.loads(symbol.tojson())):  # as Gluon's export does
            output = mx.nd.softmax(output)
        return output.asnumpy()
