"""One op with attributes and operands to run it on: what the table of op cases is made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.ir.op import Op
from convc.ir.types import DType, TensorType

Array = np.ndarray
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Random:
    """An operand drawn at random: `kind` names the distribution (see `_DRAWS`), `classes` bounds labels."""

    shape: Shape
    kind: str = "normal"
    classes: int = 0


# A fixed array, a random one, or one that is computed from the operands before it.
Operand = Random | Array | Callable[..., Array]


@dataclass(frozen=True)
class OpCase:
    """One op with attributes and operands.

    `differentiable` lists the operands for which `vjp` gives a gradient that numeric differentiation confirms.
    `wide` cases fill several vector registers and tiles: too large for gradients element by element.
    """

    name: str
    op: Op
    operands: tuple[Operand, ...]
    differentiable: tuple[int, ...] = ()
    wide: bool = False
    seed: int = 0

    def __str__(self) -> str:
        return self.name


_DRAWS: dict[str, Callable[[np.random.Generator, Random], Array]] = {
    "normal": lambda g, r: g.standard_normal(r.shape),
    "positive": lambda g, r: g.uniform(0.5, 2.0, r.shape),
    # For functions with a kink at zero, and for divisors.
    "nonzero": lambda g, r: g.choice([-1.0, 1.0], r.shape) * g.uniform(0.25, 2.0, r.shape),
    # On both sides of the kinks of relu6, and of the straight-through window of `step`.
    "clipped": lambda g, r: g.choice([-2.0, 0.5, 3.0, 7.0], r.shape) + g.uniform(-0.25, 0.25, r.shape),
    # All different by a hundredth or more: a maximum that a small step does not move.
    "distinct": lambda g, r: (g.permutation(int(np.prod(r.shape))).reshape(r.shape) - np.prod(r.shape) / 2) / 64,
    # Never equal to each other.
    "halves": lambda g, r: g.integers(-3, 4, r.shape) / 2,
    "quarters": lambda g, r: g.integers(-3, 4, r.shape) / 2 + 0.25,
    # Many equal maxima.
    "ties": lambda g, r: g.integers(-1, 2, r.shape).astype(np.float64),
    # Exponentials overflow unless the maximum is subtracted first.
    "large": lambda g, r: 200.0 * g.standard_normal(r.shape),
    "labels": lambda g, r: g.integers(0, r.classes, r.shape).astype(np.int32),
    "bool": lambda g, r: g.integers(0, 2, r.shape).astype(np.bool_),
}


def make_operands(case: OpCase, dtype: Any = np.float32) -> tuple[Array, ...]:
    """The operands of a case. Floats have `dtype`, but always the values that float32 can hold."""
    generator = np.random.default_rng([zlib.crc32(case.name.encode()), case.seed])
    made: list[Array] = []
    for operand in case.operands:
        if isinstance(operand, Random):
            array = np.asarray(_DRAWS[operand.kind](generator, operand))
        elif isinstance(operand, np.ndarray):
            array = operand
        else:
            array = np.asarray(operand(*made))
        floating = np.issubdtype(array.dtype, np.floating)
        made.append(array.astype(np.float32).astype(dtype) if floating else array)
    return tuple(made)


def operand_types(case: OpCase, dtype: DType = DType.F32) -> tuple[TensorType, ...]:
    """The types of `make_operands`; floating-point ones have `dtype`."""
    whole = {np.dtype(kind.numpy): kind for kind in (DType.I32, DType.I64, DType.U8, DType.BOOL)}
    return tuple(TensorType(whole.get(a.dtype, dtype), a.shape) for a in make_operands(case))


def normal(*shape: int) -> Random:
    return Random(shape)


def positive(*shape: int) -> Random:
    return Random(shape, "positive")


def labels(classes: int, *shape: int) -> Random:
    return Random(shape, "labels", classes)
