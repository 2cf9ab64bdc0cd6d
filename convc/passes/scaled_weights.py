"""Weights and biases computed from parameters: what `fold-batch-norm` and `fold-input-scale` put into a layer.

Parameters stay what they are, the interface of checkpoints; the layer reads values computed from them, so that setting
one still takes effect.
"""

from __future__ import annotations

from convc.ir.builder import Builder
from convc.ir.graph import Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.elementwise import Multiply
from convc.ir.ops.linear import LinearBackwardWeights
from convc.ir.ops.shape import Unflatten


def scale_outputs(b: Builder, weight: Value, scale: Value) -> Value:
    """Weights (K, …) with unit k times scale[k], exactly one multiplication each.

    Vectors spread along dimension 1, but the units lie along dimension 0: the outer product of `scale` with ones is a
    tensor that has the factor of each weight at its place.
    """
    units, *unit = weight.shape
    row = b.add(Multiply(), b.add(Constant((1.0,), (1, units))), scale)
    factors = b.add(LinearBackwardWeights(), b.add(Constant((1.0,), (1, weight.type.size // units))), row)
    if len(unit) > 1:
        factors = b.add(Unflatten(tuple(unit)), factors)
    return b.add(Multiply(), weight, factors)
