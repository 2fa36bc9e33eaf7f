"""Maps as one row of pixels, around convolutions of 1x1: a tile then has as many pixels as the registers hold, whether
or not they divide a row. (A map of 7x7 has no tile of 3 pixels; one of 1x49 has 16, and a tile of one pixel more.)
"""
import tvm
from tvm import relay

# what may follow a convolution in its kernel
ELEMENTWISE = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "clip", "nn.relu", "nn.leaky_relu",
               "sigmoid", "tanh", "exp"}


def in_one_row(module: tvm.IRModule) -> tvm.IRModule:
    """`module`, of inferred types, whose layers have blocked channels (N, C/i, H, W, i), with maps (N, C/i, 1, HW, i)
    around float32 convolutions of 1x1. Changes of a map's shape copy nothing."""
    body = _InOneRow().visit(module["main"].body)
    return relay.transform.InferType()(tvm.IRModule.from_expr(body))


class _InOneRow(relay.ExprMutator):
    def __init__(self) -> None:
        super().__init__()
        self._rows = {}  # of expressions that this has made

    def visit_call(self, call: relay.Call) -> relay.Expr:
        new = super().visit_call(call)
        if _is_convolution(call):
            data, kernel = new.args
            return self._map(relay.Call(call.op, [self._row(data, _shape(call.args[0])), kernel], call.attrs), call)
        if any(argument in self._rows for argument in new.args) and _is_elementwise(call):
            arguments = [self._row(argument, _shape(before)) if _shape(before) == _shape(call) else argument
                         for argument, before in zip(new.args, call.args)]
            return self._map(relay.Call(call.op, arguments, call.attrs), call)
        return new

    def _row(self, argument, shape):
        n, chunks, height, width, block = shape
        return self._rows.get(argument) or relay.reshape(argument, (n, chunks, 1, height * width, block))

    def _map(self, row, call):
        expression = relay.reshape(row, _shape(call))
        self._rows[expression] = row
        return expression


def _is_convolution(call):
    """Of 1x1 over a map of several rows, pixel by pixel."""
    if call.op != tvm.ir.Op.get("nn.contrib_conv2d_NCHWc") or call.args[0].checked_type.dtype != "float32":
        return False
    attrs, shape = call.attrs, _shape(call.args[0])
    plain = [*attrs.kernel_size, *attrs.strides] == [1] * 4 and not any(map(int, attrs.padding))
    return plain and len(shape) == 5 and shape[2] > 1


def _is_elementwise(call):
    """Over a map, and numbers of each channel or of all."""
    return (isinstance(call.op, tvm.ir.Op) and call.op.name in ELEMENTWISE and
            all(_shape(argument) == _shape(call) or set(_shape(argument)[-3:-1]) <= {1} for argument in call.args))


def _shape(expression):
    return tuple(map(int, expression.checked_type.shape))
