"""The build of a network by TVM."""
import pytest

from common.compiler import build
from common.compiler.blocked import block_of
from common.compiler.relay_network import untrained_network
from common.compiler.targets import resolve_target


@pytest.mark.long
@pytest.mark.parametrize("target", ["llvm", "llvm -keys=cpu", "opencl", "opencl -keys=opencl,gpu"])
def test_the_passes_that_are_left_out_would_change_nothing(monkeypatch, target):
    target = resolve_target(target)
    network = untrained_network(0.5, (2, 3, 64, 64), block_of(target))
    without = build.build(network, target).library.get_graph_json()
    monkeypatch.setattr(build, "NEEDLESS", [])
    assert build.build(network, target).library.get_graph_json() == without
