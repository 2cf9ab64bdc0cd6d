"""From ops to ONNX nodes: one entry for each op that a forward graph holds. Every entry returns the result's name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convc.codegen.onnx.pooling import avg_pool, max_pool
from convc.codegen.onnx.writer import Writer, only_user
from convc.ir.graph import Node
from convc.ir.op import Op
from convc.ir.ops import (
    activation,
    binarize,
    conv,
    dropconnect,
    elementwise,
    join,
    linear,
    local_response,
    log_softmax,
    maps,
    norm,
    pad,
    pool,
    random,
    rearrange,
    resample,
    shape,
)
from convc.ir.types import DType

Export = Callable[[Writer, Node], str]
# Opset 18 made the axes of reductions an input.
_AXES_AS_INPUT = 18
_TO_FLOAT = 1


def _same(op: str) -> Export:
    """An op that ONNX has as it is, element by element."""

    def export(w: Writer, node: Node) -> str:
        rank = node.result.type.rank
        return w.node(op, [w.value(operand, rank) for operand in node.operands], node.label)

    return export


def _nothing(w: Writer, node: Node) -> str:
    """What does nothing at inference."""
    return w.value(node.operands[0])


def _conv2d(w: Writer, node: Node) -> str:
    op, weight = node.op, node.operands[1]
    assert isinstance(op, conv.Conv2d)
    return w.node(
        "Conv",
        [w.value(operand) for operand in node.operands],
        node.label,
        kernel_shape=weight.shape[2:],
        strides=op.stride,
        pads=op.padding,
        dilations=op.dilation,
        group=op.groups,
    )


def _transposed_conv2d(w: Writer, node: Node) -> str:
    op, weight = node.op, node.operands[1]
    assert isinstance(op, conv.Conv2dBackwardData)
    kernel = (weight.shape[2], weight.shape[3])
    extent = op.window(kernel).extent
    before = op.padding[:2], op.padding[2:]
    reached = [
        (count - 1) * stride + reach - first - last
        for count, stride, reach, first, last in zip(
            node.operands[0].shape[2:], op.stride, extent, *before, strict=True
        )
    ]
    inputs = [w.value(operand) for operand in node.operands]
    user = only_user(node)
    bias = user.operands[1] if user is not None and isinstance(user.op, elementwise.Add) else None
    if user is not None and bias is not None and bias.name in w.weights and user.operands[0] is node.result:
        inputs.append(w.value(bias))
    else:
        user = None
    name = w.node(
        "ConvTranspose",
        inputs,
        node.label,
        kernel_shape=kernel,
        strides=op.stride,
        pads=op.padding,
        dilations=op.dilation,
        group=op.groups,
        output_padding=[size - least for size, least in zip(op.size, reached, strict=True)],
    )
    if user is not None:
        w.names[user.result] = name
    return name


def _linear(w: Writer, node: Node) -> str:
    return w.node("Gemm", [w.value(operand) for operand in node.operands], node.label, transB=1)


def _batch_norm(w: Writer, node: Node) -> str:
    op = node.op
    assert isinstance(op, norm.BatchNorm)
    return w.node("BatchNormalization", [w.value(operand) for operand in node.operands], node.label, epsilon=op.eps)


def _local_response_norm(w: Writer, node: Node) -> str:
    op, x = node.op, node.operands[0]
    assert isinstance(op, local_response.LocalResponseNorm)
    name, label = w.value(x), node.label
    if op.size % 2 and x.type.rank == 4:
        return w.node("LRN", [name], label, size=op.size, alpha=op.alpha, beta=op.beta, bias=op.k)
    # The windows of even sizes have their odd channel on the other side in ONNX: the mean of squares as a pool.
    channels, *rest = x.shape[1:]
    squares = w.node("Mul", [name, name], label)
    rows = w.node("Reshape", [squares, w.shape(label, [-1, 1, channels, int(np.prod(rest, dtype=int))])], label)
    mean = w.node(
        "AveragePool",
        [rows],
        label,
        kernel_shape=[op.size, 1],
        pads=[op.before, 0, op.after, 0],
        count_include_pad=1,
    )
    folded = w.node("Reshape", [mean, w.shape(label, [-1, channels, *rest])], label)
    scaled = w.node("Mul", [folded, _scalar(w, label, op.alpha)], label)
    base = w.node("Add", [scaled, _scalar(w, label, op.k)], label)
    return w.node("Div", [name, w.node("Pow", [base, _scalar(w, label, op.beta)], label)], label)


def _scalar(w: Writer, label: str, value: float) -> str:
    return w.tensor(f"{label}.constant", np.asarray(value, np.float32))


def _leaky(w: Writer, node: Node) -> str:
    assert isinstance(node.op, activation.LeakyRelu)
    return w.node("LeakyRelu", [w.value(node.operands[0])], node.label, alpha=node.op.alpha)


def _elu(w: Writer, node: Node) -> str:
    assert isinstance(node.op, activation.Elu)
    return w.node("Elu", [w.value(node.operands[0])], node.label, alpha=node.op.alpha)


def _step(w: Writer, node: Node) -> str:
    above = w.node("Greater", [w.value(node.operands[0]), _scalar(w, node.label, 0.0)], node.label)
    return w.node("Cast", [above], node.label, to=_TO_FLOAT)


def _relu6(w: Writer, node: Node) -> str:
    bounds = [_scalar(w, node.label, bound) for bound in (0.0, 6.0)]
    return w.node("Clip", [w.value(node.operands[0]), *bounds], node.label)


def _along_channels(op: str) -> Export:
    return lambda w, node: w.node(op, [w.value(node.operands[0])], node.label, axis=1)


def _maxout(w: Writer, node: Node) -> str:
    op, x, label = node.op, node.operands[0], node.label
    assert isinstance(op, activation.Maxout)
    channels, *rest = x.shape[1:]
    split = [-1, channels // op.group, op.group, int(np.prod(rest, dtype=int))]
    groups = w.node("Reshape", [w.value(x), w.shape(label, split)], label)
    largest = _reduced(w, "ReduceMax", groups, label, [2])
    return w.node("Reshape", [largest, w.shape(label, [-1, *node.result.shape[1:]])], label)


def _reduced(w: Writer, op: str, name: str, label: str, axes: list[int], keepdims: int = 0) -> str:
    if w.opset < _AXES_AS_INPUT and op != "ReduceSum":
        return w.node(op, [name], label, axes=axes, keepdims=keepdims)
    return w.node(op, [name, w.tensor(f"{label}.axes", np.asarray(axes, np.int64))], label, keepdims=keepdims)


def _binarize(w: Writer, node: Node) -> str:
    """ONNX's Sign is 0 at 0, so that the sign is chosen."""
    weight, label = w.value(node.operands[0]), node.label
    sizes = w.node("Abs", [weight], label)
    means = _reduced(w, "ReduceMean", sizes, label, list(range(1, node.result.type.rank)), keepdims=1)
    below = w.node("Less", [weight, _scalar(w, label, 0.0)], label)
    return w.node("Where", [below, w.node("Neg", [means], label), means], label)


def _concat(w: Writer, node: Node) -> str:
    return w.node("Concat", [w.value(operand) for operand in node.operands], node.label, axis=1)


def _slice(w: Writer, node: Node) -> str:
    op = node.op
    assert isinstance(op, join.SliceChannels)
    bounds = [w.tensor(f"{node.label}.slice", np.asarray([number], np.int64)) for number in (op.start, op.stop, 1)]
    return w.node("Slice", [w.value(node.operands[0]), *bounds], node.label)


def _insert(w: Writer, node: Node) -> str:
    op, x = node.op, node.operands[0]
    assert isinstance(op, join.InsertChannels)
    rank, behind = x.type.rank, node.result.shape[1] - op.start - x.shape[1]
    pads = [0] * (2 * rank)
    pads[1], pads[rank + 1] = op.start, behind
    return w.node("Pad", [w.value(x), w.tensor(f"{node.label}.pads", np.asarray(pads, np.int64))], node.label)


def _pad(w: Writer, node: Node) -> str:
    op = node.op
    assert isinstance(op, pad.Pad)
    top, left, bottom, right = op.sides
    sides = w.tensor(f"{node.label}.pads", np.asarray([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return w.node("Pad", [w.value(node.operands[0]), sides, _scalar(w, node.label, op.value)], node.label)


def _flatten(w: Writer, node: Node) -> str:
    return w.node("Flatten", [w.value(node.operands[0])], node.label, axis=1)


def _unflatten(w: Writer, node: Node) -> str:
    return w.node("Reshape", [w.value(node.operands[0]), w.shape(node.label, [-1, *node.result.shape[1:]])], node.label)


def _rearrange(w: Writer, node: Node) -> str:
    op, label = node.op, node.label
    assert isinstance(op, rearrange.Rearrange)
    unfolded = w.node("Reshape", [w.value(node.operands[0]), w.shape(label, [-1, *op.view])], label)
    moved = w.node("Transpose", [unfolded], label, perm=[0, *(axis + 1 for axis in op.order)])
    return w.node("Reshape", [moved, w.shape(label, [-1, *op.shape])], label)


def _upsample(w: Writer, node: Node) -> str:
    op = node.op
    assert isinstance(op, resample.Upsample)
    scales = w.tensor(f"{node.label}.scales", np.asarray([1, 1, op.factor, op.factor], np.float32))
    inputs = [w.value(node.operands[0]), "", scales]
    if op.mode == "nearest":
        # The pixel at i // factor, in ONNX's words.
        place = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return w.node("Resize", inputs, node.label, mode="nearest", **place)
    return w.node("Resize", inputs, node.label, mode="linear", coordinate_transformation_mode="half_pixel")


def _spatial_sum(w: Writer, node: Node) -> str:
    return _reduced(w, "ReduceSum", w.value(node.operands[0]), node.label, [2, 3], keepdims=1)


def _spread_maps(w: Writer, node: Node) -> str:
    sizes = w.shape(node.label, [1, 1, *node.result.shape[2:]])
    return w.node("Expand", [w.value(node.operands[0]), sizes], node.label)


def _select(w: Writer, node: Node) -> str:
    rank = node.result.type.rank
    condition, *values = (w.value(operand, rank) for operand in node.operands)
    if node.operands[0].type.dtype is not DType.BOOL:
        condition = w.node("Cast", [condition], node.label, to=9)
    return w.node("Where", [condition, *values], node.label)


TABLE: dict[type[Op], Export] = {
    conv.Conv2d: _conv2d,
    conv.Conv2dBackwardData: _transposed_conv2d,
    linear.Linear: _linear,
    pool.MaxPool: max_pool,
    pool.AvgPool: avg_pool,
    resample.Upsample: _upsample,
    norm.BatchNorm: _batch_norm,
    local_response.LocalResponseNorm: _local_response_norm,
    activation.Relu: _same("Relu"),
    activation.LeakyRelu: _leaky,
    activation.Prelu: _same("PRelu"),
    activation.Elu: _elu,
    activation.Sigmoid: _same("Sigmoid"),
    activation.Tanh: _same("Tanh"),
    activation.Step: _step,
    activation.Relu6: _relu6,
    activation.Softmax: _along_channels("Softmax"),
    log_softmax.LogSoftmax: _along_channels("LogSoftmax"),
    activation.Maxout: _maxout,
    random.Dropout: _nothing,
    random.Noise: _nothing,
    dropconnect.DropConnect: _nothing,
    binarize.Binarize: _binarize,
    shape.Flatten: _flatten,
    shape.Unflatten: _unflatten,
    rearrange.Rearrange: _rearrange,
    pad.Pad: _pad,
    join.Concat: _concat,
    join.SliceChannels: _slice,
    join.InsertChannels: _insert,
    maps.ScaleMaps: _same("Mul"),
    maps.SpatialSum: _spatial_sum,
    maps.SpreadMaps: _spread_maps,
    elementwise.Add: _same("Add"),
    elementwise.Subtract: _same("Sub"),
    elementwise.Multiply: _same("Mul"),
    elementwise.Divide: _same("Div"),
    elementwise.Maximum: _same("Max"),
    elementwise.Minimum: _same("Min"),
    elementwise.Negate: _same("Neg"),
    elementwise.Absolute: _same("Abs"),
    elementwise.Sign: _same("Sign"),
    elementwise.Exp: _same("Exp"),
    elementwise.Sqrt: _same("Sqrt"),
    elementwise.Greater: _same("Greater"),
    elementwise.Select: _select,
}
