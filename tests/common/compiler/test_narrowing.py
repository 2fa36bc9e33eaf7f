"""Codes that are stored four vectors at a time: the same as one by one."""
import numpy as np
import pytest
import tvm
from tvm import te

from common.base.machine import processor_flags
from common.compiler.narrowing import INTRINSICS, narrowing
from common.compiler.targets import resolve_target

NEEDED = {16: ("cascadelake", "avx512bw"), 8: ("alderlake", "avx2")}  # a processor whose codes are bytes, a feature
NUMBERS = [-np.inf, -1e20, -300, -1, -0.5, 0, 0.4, 0.99, 1, 2.5, 7, 127.9, 128, 199.9, 200, 254.99, 255, 256, 40000,
           1e20, np.inf]


def stored(target, lanes, vectors, low, high, apart=1):
    """A module from float32 (`vectors`, `apart`, `lanes`) to bytes, whose loop over vectors is unrolled."""
    data = te.placeholder((vectors, apart, lanes), "float32", "data")
    codes = te.compute(data.shape, lambda *at: te.max(te.min(data(*at), tvm.tir.const(high, "float32")),
                                                      tvm.tir.const(low, "float32")).astype("uint8"))
    schedule = te.create_schedule(codes.op)
    vector, loop, lane = codes.op.axis
    schedule[codes].reorder(loop, vector, lane)
    schedule[codes].unroll(vector)
    schedule[codes].vectorize(lane)
    with tvm.transform.PassContext(config=narrowing(target)):
        return tvm.lower(schedule, [data, codes])


def joined(module):
    return str(module).count("packuswb")


@pytest.mark.parametrize("lanes", INTRINSICS)
@pytest.mark.parametrize(("low", "high"), [(0, 255), (0.5, 255.5), (3.5, 200.25), (0, 255.99)])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 7])
def test_codes_are_those_of_a_clip(lanes, low, high, vectors):
    processor, feature = NEEDED[lanes]
    if feature not in processor_flags():
        pytest.skip(f"this processor has no {feature}")
    target = resolve_target(f"llvm -mcpu={processor} -keys=dot_products,cpu")
    module = stored(target, lanes, vectors, low, high)
    assert joined(module) == {1: 0, 7: 2}.get(vectors, 1)
    numbers = np.resize(np.random.RandomState(0).permutation(NUMBERS), (vectors, 1, lanes)).astype(np.float32)
    codes = tvm.nd.empty(numbers.shape, "uint8")
    tvm.build(module, target=target)(tvm.nd.array(numbers), codes)
    np.testing.assert_array_equal(codes.numpy(), np.clip(numbers, low, high).astype(np.uint8))


@pytest.mark.parametrize("change", [{"apart": 2}, {"high": 256}, {"low": -1}])
def test_other_stores_stay_as_they_are(change):
    target = resolve_target("llvm -mcpu=cascadelake -keys=dot_products,cpu")
    assert not joined(stored(target, **{"lanes": 16, "vectors": 4, "low": 0, "high": 255, **change}))


@pytest.mark.parametrize("name", ["llvm -mcpu=cascadelake", "llvm -mcpu=haswell -keys=dot_products,cpu"])
def test_a_target_whose_codes_are_no_bytes_has_no_such_pass(name):
    assert narrowing(resolve_target(name)) == {}
