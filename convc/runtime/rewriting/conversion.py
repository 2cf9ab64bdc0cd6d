"""Layers as the rules have them, in the terms of those who edit the text."""

from __future__ import annotations

from collections.abc import Sequence

from convc.frontend.rewriting.substitute import Argument, NewLayer, Substitute
from convc.ir.ops.conv import Conv2d
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.replacement import Rule


def substitute(old: Layer, new: Sequence[Layer], rule: Rule) -> Substitute:
    """`new` in the place of `old`."""
    # `relu=yes` is a word; a number is a width, or decides about one.
    chosen = any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in rule.options.values())
    return Substitute(new_layer(old), tuple(map(new_layer, new)), rule.name.replace("-", "_"), chosen)


def new_layer(layer: Layer) -> NewLayer:
    """The word and the arguments, all of them."""
    arguments: dict[str, Argument] = {}
    if layer.weight is not None:
        op = layer.op
        if isinstance(op, Conv2d):
            arguments = {
                "filters": layer.weight[0],
                "k": layer.weight[2:],
                "s": op.stride,
                "pad": op.padding,
                "dil": op.dilation,
                "groups": op.groups,
            }
        else:
            arguments = {"outputs": layer.weight[0]}
        arguments["bias"] = layer.bias
    return NewLayer(layer.word, layer.input[0], arguments)
