"""Nodes that change nothing."""

from __future__ import annotations

from convc.ir.graph import Node, Value
from convc.ir.ops.activation import Relu, Relu6
from convc.ir.ops.constant import Constant
from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.elementwise import Absolute, Add, Divide, Multiply, Negate, Subtract
from convc.ir.ops.join import InsertChannels, SliceChannels
from convc.ir.ops.pad import Pad
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.random import Dropout, DropoutTraining, Noise, NoiseTraining
from convc.ir.ops.resample import Upsample
from convc.passes.canonical.rule import Finding, Rewrite, Rule, filled_with, source

_DROPS = (Dropout, DropoutTraining, DropConnect, DropConnectTraining)
_NOISES = (Noise, NoiseTraining)


def _neutral(node: Node, number: float, sides: tuple[int, ...]) -> Value | None:
    """The other operand where one of the `sides` is `number` everywhere and does not widen the result."""
    for side in sides:
        other = node.operands[1 - side]
        if filled_with(node.operands[side], number) and other.type == node.result.type:
            return other
    return None


def add_zero(node: Node) -> Finding:
    return _neutral(node, 0.0, (0, 1))


def subtract_zero(node: Node) -> Finding:
    return _neutral(node, 0.0, (1,))


def multiply_by_one(node: Node) -> Finding:
    return _neutral(node, 1.0, (0, 1))


def divide_by_one(node: Node) -> Finding:
    return _neutral(node, 1.0, (1,))


def twice_negated(node: Node) -> Finding:
    inner = source(node, Negate)
    return inner.operands[0] if inner else None


def positive_already(node: Node) -> Finding:
    """relu and abs of what relu, relu6 or abs gave. Gradients agree: where the inner result is 0 both pass none on,
    the inner abs included, whose sign is 0 there."""
    return node.operands[0] if source(node, (Relu, Relu6, Absolute)) else None


def clipped_already(node: Node) -> Finding:
    return node.operands[0] if source(node, Relu6) else None


def clipped_anyway(node: Node) -> Finding:
    inner = source(node, Relu)
    return Rewrite(node.op, inner.operands) if inner else None


def pads_nothing(node: Node) -> Finding:
    assert isinstance(node.op, Pad)
    return None if any(node.op.sides) else node.operands[0]


def pools_single_pixels(node: Node) -> Finding:
    op = node.op
    assert isinstance(op, (MaxPool, AvgPool))
    single = op.kernel == (1, 1) and op.stride == (1, 1)  # and no padding: it is smaller than the window
    return node.operands[0] if single else None


def enlarges_by_one(node: Node) -> Finding:
    """Exact for finite pixels: the reference mixes each with 0 times the others."""
    assert isinstance(node.op, Upsample)
    return node.operands[0] if node.op.factor == 1 else None


def takes_all_channels(node: Node) -> Finding:
    assert isinstance(node.op, (SliceChannels, InsertChannels))
    return node.operands[0] if node.operands[0].type == node.result.type else None


def drops_nothing(node: Node) -> Finding:
    assert isinstance(node.op, _DROPS)
    return None if node.op.rate else node.operands[0]


def adds_no_noise(node: Node) -> Finding:
    assert isinstance(node.op, _NOISES)
    return None if node.op.std else node.operands[0]


def same_constant_everywhere(node: Node) -> Finding:
    """A filled constant is written with a single value."""
    assert isinstance(node.op, Constant)
    op = node.op
    if len(op.values) < 2:
        return None
    filled = len(Constant.of(op.reference()).values) == 1
    return Rewrite(Constant(op.values[:1], op.shape, op.dtype), ()) if filled else None


IDENTITIES = (
    Rule("add_zero", (Add,), add_zero, "adding 0 changes nothing but the sign of -0"),
    Rule("subtract_zero", (Subtract,), subtract_zero, "subtracting 0 changes nothing"),
    Rule("multiply_by_one", (Multiply,), multiply_by_one, "multiplying by 1 changes nothing"),
    Rule("divide_by_one", (Divide,), divide_by_one, "dividing by 1 changes nothing"),
    Rule("negate_twice", (Negate,), twice_negated, "the signs cancel"),
    Rule("relu_of_relu", (Relu, Absolute), positive_already, "its operand is never negative"),
    Rule("relu6_of_relu6", (Relu6,), clipped_already, "its operand lies between 0 and 6"),
    Rule("relu6_of_relu", (Relu6,), clipped_anyway, "relu6 cuts off what is negative itself"),
    Rule("pad_by_nothing", (Pad,), pads_nothing, "all sides are 0"),
    Rule("pool_of_pixels", (MaxPool, AvgPool), pools_single_pixels, "each window holds one pixel"),
    Rule("upsample_by_one", (Upsample,), enlarges_by_one, "the size stays"),
    Rule("all_channels", (SliceChannels, InsertChannels), takes_all_channels, "all channels stay"),
    Rule("drop_nothing", _DROPS, drops_nothing, "the rate is 0"),
    Rule("no_noise", _NOISES, adds_no_noise, "the deviation is 0"),
    Rule("short_constant", (Constant,), same_constant_everywhere, "all its values are equal"),
)
