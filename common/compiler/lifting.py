"""Take out of a network what depends on its weights alone, so that it is computed once, and not for each image."""
import math
import re
from typing import Any

import numpy as np
import tvm
from tvm import relay

from common.inference.weights import ARITHMETIC, value

RESHAPES = ("reshape", "squeeze", "expand_dims", "nn.batch_flatten")


def lifted(module: tvm.IRModule, params: dict[str, np.ndarray],
           shapes: dict[str, tuple[int, ...]] | None = None) -> tuple[tvm.IRModule, dict[str, Any]]:
    """(module, {name of a new input: its expression, as in `common.inference.weights`}).

    In place of the largest parts that are computed from `params` alone, the result has inputs, which are named after a
    parameter. A part with an operator that has no expression stays in the network. Expressions are over parameters of
    these `shapes`, if given, after which `params` have zeros. What is made of constant arrays alone is computed here,
    by NumPy: TVM would compile each part to do so.
    """
    module = relay.transform.InferType()(module)
    lifter = _Lifter(params, shapes)
    body = lifter.visit(module["main"].body)
    function = relay.Function(relay.analysis.free_vars(body), body)
    return relay.transform.InferType()(tvm.IRModule.from_expr(function)), lifter.expressions


class _Lifter(relay.ExprMutator):
    def __init__(self, params: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]] | None) -> None:
        super().__init__()
        self._params, self._shapes, self._found = params, shapes or {}, {}
        self.expressions: dict[str, Any] = {}

    def visit_call(self, call: relay.Call) -> relay.Expr:
        expression = self._expression(call)
        return super().visit_call(call) if expression is None else self._input(call, expression)

    def visit_var(self, var: relay.Var) -> relay.Expr:
        expression = self._expression(var)
        return super().visit_var(var) if expression is None else self._input(var, expression)

    def _input(self, node, expression):
        if isinstance(expression, np.ndarray):
            return relay.const(expression)
        params = relay.analysis.free_vars(node)
        if not params:
            return node  # of numbers alone: TVM computes it
        name, count = params[0].name_hint, 1
        while name in self.expressions:
            count += 1
            name = f"{params[0].name_hint}.{count}"
        self.expressions[name] = expression
        return relay.var(name, node.checked_type)

    def _expression(self, node):
        """That of `node`, or its value if it is of constant arrays alone; None if it depends on the image, has an
        operator without an expression, or is of parameters and constant arrays."""
        if node not in self._found:
            self._found[node] = self._new_expression(node)
        return self._found[node]

    def _new_expression(self, node):
        if isinstance(node, relay.Var):
            return self._parameter(node.name_hint) if node.name_hint in self._params else None
        if isinstance(node, relay.Constant):
            return node.data.numpy() if node.data.shape else node.data.numpy().item()
        if not isinstance(node, relay.Call) or not isinstance(node.op, tvm.ir.Op):
            return None
        operands = [self._expression(argument) for argument in node.args]
        kinds = set(map(type, operands))
        if type(None) in kinds or np.ndarray in kinds and kinds & {str, list}:
            return None
        expression = self._of_call(node, operands)
        return value(expression, {}) if np.ndarray in kinds and expression is not None else expression

    def _of_call(self, node, operands):
        name, attrs = node.op.name, node.attrs
        if name in ARITHMETIC:
            return [name, *operands]
        if name in RESHAPES:
            return _reshaped(operands[0], _shape(node))
        if name == "transpose":
            axes = attrs.axes or reversed(range(len(node.checked_type.shape)))
            return ["transpose", operands[0], list(map(int, axes))]
        if name == "cast":
            return ["cast", operands[0], attrs.dtype]
        if name == "nn.pad" and attrs.pad_mode == "constant" and operands[1] == 0:
            return ["pad", operands[0], [list(map(int, widths)) for widths in attrs.pad_width]]
        if name == "layout_transform":
            return _laid_out(operands[0], node, attrs.src_layout, attrs.dst_layout)
        return None

    def _parameter(self, name):
        wider = self._params[name].shape
        added = [[0, more - size] for size, more in zip(self._shapes.get(name, wider), wider)]
        return ["pad", name, added] if any(more for _, more in added) else name


def _laid_out(operand, node, source, destination):
    """OIHW, say, as OIHW4i16o4i: I is three axes of it, the first of what remains. None for a `source` in blocks."""
    places = [(letter.upper(), int(count or 0)) for count, letter in re.findall(r"(\d*)([A-Za-z])", destination)]
    if not source.isupper() or {letter for letter, _ in places} != set(source):
        return None
    sizes = dict(zip(source, _shape(node.args[0])))
    split = {letter: [place for place, (other, _) in enumerate(places) if other == letter] for letter in source}
    shape = []
    for letter in source:
        blocks = [places[place][1] for place in split[letter][1:]]
        if sizes[letter] % math.prod(blocks):
            return None
        shape += [sizes[letter] // math.prod(blocks), *blocks]
    axes = [place for letter in source for place in split[letter]]
    return ["transpose", _reshaped(operand, shape), [axes.index(place) for place in range(len(places))]]


def _reshaped(operand, shape):
    if isinstance(operand, list) and operand[0] == "reshape":
        operand = operand[1]
    return ["reshape", operand, shape]


def _shape(node):
    return list(map(int, node.checked_type.shape))
