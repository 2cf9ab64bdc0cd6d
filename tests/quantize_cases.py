"""Cases of quantisation. Operands are numbers that 8 bits represent, so that the exact result is the operand itself;
what rounding does is in tests/ir/test_quantize.py and tests/codegen/test_whole_numbers.py."""

from __future__ import annotations

import numpy as np

from convc.ir.ops.quantize import LARGEST, Quantize, QuantizeWeights
from tests.op_case import Array, OpCase, Shape

_IMAGES: list[tuple[str, Shape, Quantize]] = [
    ("image", (2, 3, 4, 5), Quantize(0.25, 128)),
    ("positive", (3, 20, 3, 3), Quantize(0.5)),
    ("rows", (7, 17), Quantize(2.0**-6, 255)),
    ("one", (1, 1), Quantize(3.0, 1)),
]
_WEIGHTS: list[tuple[str, Shape]] = [
    ("filters", (5, 3, 3, 3)),
    ("matrix", (50, 32)),
    ("one", (1, 1)),
    ("one_pixel", (4, 7, 1, 1)),
]


def _on_grid(shape: Shape, op: Quantize) -> Array:
    whole = np.random.default_rng(1).integers(0, 256, shape) - op.zero
    return (whole * op.step).astype(np.float32)


def _in_steps(shape: Shape) -> Array:
    """Weights of which the first of each output is the largest: 127 steps of 1/32."""
    whole = np.random.default_rng(2).integers(-LARGEST, LARGEST + 1, shape)
    whole.reshape(shape[0], -1)[:, 0] = LARGEST
    return (whole / 32).astype(np.float32)


QUANTIZE_CASES = [
    *(OpCase(f"quantize/{name}", op, (_on_grid(shape, op),)) for name, shape, op in _IMAGES),
    *(OpCase(f"quantize_weights/{name}", QuantizeWeights(zero), (_in_steps(shape),))
      for zero, (name, shape) in zip((0, 3, 0, 255), _WEIGHTS, strict=True)),
]  # fmt: skip
