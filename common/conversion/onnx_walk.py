"""The way through the graph of an ONNX model, from the network's input to its output: the steps that its nodes make."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.base.errors import InputError
from common.conversion.assemble import Params
from common.conversion.onnx_graph import ARITHMETIC, Graph, Node
from common.conversion.structure import NO_PADDING, Step, expected_after, fitting, recognised
from symbols.architecture import Padding

UNLIMITED = (-np.inf, np.inf)
ACTIVATIONS = {UNLIMITED: None, (0, np.inf): "relu", (0, 6): "relu6"}  # by their limits


class Value(NamedTuple):
    """A tensor that depends on the input. `token`: of the number it holds, since several tensors may hold the same;
    `axes`: a letter for each of its dimensions, N, C, H, W, and 1 for one of a single element."""
    token: int
    axes: str
    pads: Padding = NO_PADDING  # added to the value, to be cropped by a convolution
    quantised: bool = False


class Walk:
    """What the nodes of a graph compute, as steps, each from the result of the one before. `followed`: {operator:
    function of this walk, the node and its first input}, which gives the node's result."""

    def __init__(self, graph: Graph, image_shape: tuple[int, int, int] | None,
                 followed: "dict[str, Callable[[Walk, Node, Value], Value]]") -> None:
        self.graph, self.steps, self._followed = graph, [], followed
        self.results = [0]         # token of the network's input and of each step's result
        self.tokens = 1            # that were given out
        self.limits = self.range = UNLIMITED  # of the last step's result: by an activation, by its 8 bits
        self.scale, self.shift = np.ones(3), np.zeros(3)  # of what the first convolution takes: scale x input + shift
        self.laid_out = False      # whether there is SAME padding, or a padding apart from a convolution
        self.shapes: set[str] = set()  # tensors that hold a shape
        if len(graph.dims) != 4:
            raise InputError(f"its input has {len(graph.dims)} dimensions, not those of images, (N, 3, height, width)")
        axes = "NHWC" if graph.dims[3] == 3 != graph.dims[1] else "NCHW"
        height, width = (graph.dims[axes.index(letter)] for letter in "HW")
        self.image_shape = image_shape or ((3, height, width) if height > 0 < width else None)
        self.values = {graph.input: Value(0, axes)}

    def network(self) -> tuple[Params, dict]:
        """(params, description) as `common.conversion.structure.recognised` gives them."""
        for node in self.graph.nodes:
            self._follow(node)
        self._settle()
        output = self.values.get(self.graph.output)
        if not self.steps or output is None or output.token != self.results[-1]:
            raise InputError("its output is not the result of its last step")
        return recognised(self.steps, self.image_shape,
                          ("same", "symmetric") if self.laid_out else ("symmetric", "same"))

    def _follow(self, node: Node) -> None:
        if any(tensor in self.values or tensor in self.graph.constants for tensor in node.outputs):
            raise InputError(f"{node.name} makes a tensor that is there already")
        if node.op == "Shape" and node.inputs[0] in self.values:
            self.shapes.update(node.outputs)
        elif self.shapes.intersection(node.inputs) and not self.values.keys() & set(node.inputs):
            self.shapes.update(node.outputs)  # of some arithmetic with shapes
        elif not self.graph.fold(node):
            if node.op not in self._followed or not node.known or not node.inputs or (
                    node.inputs[0] not in self.values and node.op not in ARITHMETIC):
                raise InputError(f"{node.name} where MobileNetV2 has {self.expected()}")
            padded = any(tensor in self.values and self.values[tensor].pads != NO_PADDING for tensor in node.inputs)
            if padded and node.op != "Conv":
                raise InputError(f"{node.name} after a padding, where MobileNetV2 has a convolution")
            self.values[node.outputs[0]] = self._followed[node.op](self, node, self.values.get(node.inputs[0]))

    def last(self, node: Node, value: Value) -> Value:
        """`value`, which has to be the last step's result: the network has no branches but its shortcuts."""
        if value.token != self.results[-1]:
            raise InputError(f"{node.name} takes another value than the last, where MobileNetV2 has "
                             f"{self.expected()}")
        return value

    def expected(self) -> str:
        """What MobileNetV2 has next, for a message."""
        following = expected_after(self.steps)
        active = self.steps and self.steps[-1].letter in "CD" and not following.endswith("projection")
        return f"a ReLU6 or {following}" if active and self.is_linear() else following

    def append(self, step: Step, axes: str) -> Value:
        self._settle()
        self.steps.append(step)
        self.results.append(self.tokens)
        self.limits = self.range = UNLIMITED
        return self.changed(axes)

    def changed(self, axes: str) -> Value:
        """The last step's result, which is no longer what it was."""
        self.results[-1] = self.tokens
        self.tokens += 1
        return Value(self.results[-1], axes)

    def change(self, **parts: object) -> None:
        self.steps[-1] = self.steps[-1]._replace(**parts)

    def is_linear(self) -> bool:
        return self.limits == UNLIMITED

    def _settle(self) -> None:
        """The last step gets its activation, which may be of several nodes."""
        if not self.steps:
            return
        step = self.steps[-1]
        if self.limits not in ACTIVATIONS:
            raise InputError(f"{step.name} is limited to {self.limits[0]:g}..{self.limits[1]:g}, where MobileNetV2 has "
                             "0..6")
        if step.letter in "CD":
            self.change(activations=fitting(ACTIVATIONS[self.limits], *self.range))
