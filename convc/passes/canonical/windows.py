"""Borders and the windows that read them."""

from __future__ import annotations

from dataclasses import replace

from convc.ir.graph import Node
from convc.ir.op import InferError, Op
from convc.ir.ops.activation import Relu, Relu6
from convc.ir.ops.conv import Conv2d, Conv2dBackwardWeights
from convc.ir.ops.pad import Pad
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.window import Sides
from convc.passes.canonical.rule import Finding, Missed, Rewrite, Rule, source


def _sum(left: Sides, right: Sides) -> Sides:
    top, leftmost, bottom, rightmost = (a + b for a, b in zip(left, right, strict=True))
    return top, leftmost, bottom, rightmost


def _border(node: Node) -> tuple[Node, Pad] | Missed | None:
    """The node that pads the first operand, if it adds zeros."""
    border = source(node, Pad)
    if border is None:
        return None
    op = border.op
    assert isinstance(op, Pad)
    if min(op.sides) < 0:
        return Missed(f"{border.label or 'the pad'} cuts off rows or columns")
    if op.value:
        return Missed(f"the border holds {op.value:g}, padding zeros")
    return border, op


def _with(node: Node, border: Node, op: Op) -> Finding:
    """`op` on what the border surrounds, if that is a window of the same shape."""
    operands = (border.operands[0], *node.operands[1:])
    try:
        types = op.result_types(*(operand.type for operand in operands))
    except InferError as error:
        return Missed(str(error))
    if types != tuple(value.type for value in node.results):
        return Missed(f"the result would be {types[0]}, not {node.results[0].type}")
    return Rewrite(op, operands)


def pad_into_convolution(node: Node) -> Finding:
    """Padding of a convolution is zeros: the windows see the same numbers."""
    border = _border(node)
    if border is None or isinstance(border, Missed):
        return border
    assert isinstance(node.op, (Conv2d, Conv2dBackwardWeights))
    return _with(node, border[0], replace(node.op, padding=_sum(node.op.padding, border[1].sides)))


def pad_into_average(node: Node) -> Finding:
    """The sums are equal anyway; the divisors are where padding counts as the border's pixels did."""
    border, op = _border(node), node.op
    if border is None or isinstance(border, Missed):
        return border
    assert isinstance(op, AvgPool)
    if any(op.padding) and not op.count_padding:
        return Missed("its own padding does not count, but the border does")
    padded = replace(op, padding=_sum(op.padding, border[1].sides), count_padding=True)
    return _with(node, border[0], padded)


def pad_into_maximum(node: Node) -> Finding:
    """Padding never wins a maximum, and neither do zeros over what is at least zero.

    Where all pixels of a window are 0 the cotangent goes to a pixel instead of the border: `relu` lets none through.
    """
    border, op = _border(node), node.op
    if border is None or isinstance(border, Missed):
        return border
    assert isinstance(op, MaxPool)
    if source(border[0], (Relu, Relu6)) is None:
        return Missed("zeros of the border win over negative pixels, padding never does")
    return _with(node, border[0], replace(op, padding=_sum(op.padding, border[1].sides)))


def pad_of_pad(node: Node) -> Finding:
    inner, outer = source(node, Pad), node.op
    if inner is None:
        return None
    assert isinstance(outer, Pad)
    assert isinstance(inner.op, Pad)
    sides = (*inner.op.sides, *outer.sides)
    if min(sides) < 0 < max(sides):
        return Missed("one adds what the other cuts off")
    if max(sides) > 0 and repr(inner.op.value) != repr(outer.value):
        return Missed(f"one border holds {inner.op.value:g}, the other {outer.value:g}")
    return Rewrite(Pad(_sum(inner.op.sides, outer.sides), outer.value), inner.operands)


def plain_pool(node: Node) -> Finding:
    """One form for pools that do the same: attributes without influence take their defaults."""
    op, (x,) = node.op, node.operands
    assert isinstance(op, (MaxPool, AvgPool))
    plain = op
    if op.kernel == x.shape[2:] and not any(op.padding) and op.dilation == (1, 1):
        plain = replace(plain, stride=op.kernel, ceil=False)  # a single window takes no steps
    if op.ceil and replace(op, ceil=False).window.output_size((x.shape[2], x.shape[3])) == node.result.shape[2:]:
        plain = replace(plain, ceil=False)  # no window is a partial one
    if isinstance(plain, AvgPool) and not any(op.padding) and not plain.ceil:
        plain = replace(plain, count_padding=True)  # there is none
    return None if plain == op else Rewrite(plain, (x,))


WINDOWS = (
    Rule("pad_of_pad", (Pad,), pad_of_pad, "one border is as wide as both"),
    Rule(
        "pad_into_conv", (Conv2d, Conv2dBackwardWeights), pad_into_convolution, "a convolution pads with zeros itself"
    ),
    Rule("pad_into_avg_pool", (AvgPool,), pad_into_average, "padding counts as the border did"),
    Rule(
        "pad_into_max_pool",
        (MaxPool,),
        pad_into_maximum,
        "no pixel is below the zeros of the border, though one may be -0",
    ),
    Rule("plain_pool", (MaxPool, AvgPool), plain_pool, "the windows are the same"),
)
