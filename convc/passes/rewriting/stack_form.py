"""How a stack of 3x3 convolutions lies over the window of the one that it replaces: strides, padding, offsets.

A stack of n layers with the stride at its end sees 2·n + 1 pixels and is aligned with a k x k window, k = 2·n + 1, if
its paddings add up to that of the window. With stride s on the first layer the later ones take steps of s pixels: the
stack sees 3 + 2·s·(n − 1) pixels, more than the window, and its middle lies on the middle of the window if

    first padding + s·(the others' padding) = padding + (n − 1)·(s − 1)

on each side. Either way as many positions come out as before.
"""

from __future__ import annotations

from typing import Literal

from convc.ir.ops.activation import Relu
from convc.ir.ops.conv import Conv2d
from convc.ir.window import Pair, Sides
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer

Where = Literal["first", "last"]
Padding = Literal["each", "first"]


@dataclass(frozen=True)
class StackForm:
    """The convolutions of a stack, and where the old window lies in what they see.

    `steps[i]` is the distance of the taps of layer i in the grid of the input, in units of the dilation; `extent` is
    the size of the composed kernel and `offset` the place of the old kernel's first tap in it, in the same units.
    """

    layers: tuple[Layer, ...]
    steps: tuple[Pair, ...]
    extent: Pair
    offset: Pair


def stack_form(old: Layer, width: int, where: Where, padding: Padding, bias: bool) -> StackForm:
    """A stack for a square kernel of odd size with `width` channels between.

    `bias`: whether the layers before the last have one, too; the last has one then, or if the old layer has.
    """
    assert isinstance(old.op, Conv2d)
    assert old.weight is not None
    filters, _, size, _ = old.weight
    count = (size - 1) // 2
    strides = [(1, 1)] * count
    strides[0 if where == "first" else -1] = old.op.stride
    leap = old.op.stride if where == "first" else (1, 1)
    sides = [_shares(old.op.padding[side], count, leap[side % 2], padding) for side in range(4)]
    layers: list[Layer] = []
    shape = old.input
    for index, stride in enumerate(strides):
        last = index == count - 1
        own: Sides = (sides[0][index], sides[1][index], sides[2][index], sides[3][index])
        weight = (filters if last else width, shape[0], 3, 3)
        layers.append(Layer(Conv2d(stride, own, old.op.dilation), shape, weight, bias or (last and old.bias)))
        shape = layers[-1].output
    extent = (3 + 2 * leap[0] * (count - 1), 3 + 2 * leap[1] * (count - 1))
    return StackForm(
        tuple(layers),
        ((1, 1), *[leap] * (count - 1)),
        extent,
        ((extent[0] - size) // 2, (extent[1] - size) // 2),
    )


def with_activations(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """A ReLU between each two of them."""
    result: list[Layer] = []
    for layer in layers[:-1]:
        result += [layer, Layer(Relu(), layer.output)]
    return (*result, layers[-1])


def _shares(total: int, count: int, leap: int, padding: Padding) -> list[int]:
    """What each layer pads of a side, the first one most."""
    if leap == 1:
        if padding == "first":
            return [total] + [0] * (count - 1)
        least, more = divmod(total, count)
        return [least + (index < more) for index in range(count)]
    whole = total + (count - 1) * (leap - 1)
    others = 0 if padding == "first" else min(count - 1, whole // leap)
    return [whole - leap * others] + [int(index < others) for index in range(count - 1)]
