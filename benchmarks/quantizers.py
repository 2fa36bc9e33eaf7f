"""Others' quantisers, each in a process of its own, which imports no more than it needs:

    python -m benchmarks.quantizers NAME NETWORK.onnx CALIBRATION.npy OUT

reads float32 (N, 3, H, W), the inputs to calibrate with, and writes the network in 8-bit integers.
"""
import sys
from collections.abc import Iterator

import numpy as np


def by_onnxruntime(network: str, images: np.ndarray, out: str) -> None:
    """As its documentation advises for processors with VNNI: QDQ, uint8 by int8, a scale for each channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator = iter(images)

        def get_next(self) -> dict | None:
            image = next(self._left, None)
            return None if image is None else {"data": image[np.newaxis]}

    quantize_static(network, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def by_nncf(network: str, images: np.ndarray, out: str) -> None:
    """With its defaults but for the number of images; the bias correction is its fast one."""
    import nncf
    import openvino
    dataset = nncf.Dataset([image[np.newaxis] for image in images])
    openvino.save_model(nncf.quantize(openvino.Core().read_model(network), dataset, subset_size=len(images)), out,
                        compress_to_fp16=False)


QUANTIZERS = {"onnxruntime": by_onnxruntime, "nncf": by_nncf}

if __name__ == "__main__":
    name, network, images, out = sys.argv[1:]
    QUANTIZERS[name](network, np.load(images), out)
