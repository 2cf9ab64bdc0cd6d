"""What an operation is: a frozen dataclass with the rules that the whole compiler needs to know about it.

A subclass says, in one place, its result types (`infer`), its meaning (`reference`, slow and obvious numpy), its cost,
and its gradient (`vjp`, which emits IR). How it becomes machine code is told by the tables of the back ends.

Ops do not know the batch size: attributes never hold the leading dimension, so one graph serves any number of rows,
and one compiled program serves the smaller last batch of an epoch.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import Field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from convc.ir.types import DType, TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node, Value

Array = np.ndarray
Cotangents = tuple["Value | None", ...]

# Metadata of a field that IR text leaves out where it has its default.
HIDDEN_DEFAULT = {"hidden_default": True}


class InferError(ValueError):
    """Operand types that an op cannot take. The front end adds the place in the source."""


def require(condition: bool, message: str, *values: object) -> None:
    """Raise `InferError` with the formatted message unless `condition` holds."""
    if not condition:
        raise InferError(message.format(*values))


def shown_fields(op: Op) -> list[Field[Any]]:
    """The attributes that an op is told by: all but those that are hidden where they have their default."""
    return [f for f in fields(op) if not (f.metadata.get("hidden_default") and getattr(op, f.name) == f.default)]


@dataclass(frozen=True)
class Cost:
    """What one execution takes: floating-point operations and bytes moved if every operand is touched once."""

    flops: int
    bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def product_type(x: TensorType, w: TensorType, message: str) -> DType:
    """The element type of sums of products of images or rows x and weights w: of one type, or of q8 and qw8.

    Raises `InferError` with the message and both.
    """
    require(x.dtype is w.dtype or (x.dtype, w.dtype) == (DType.Q8, DType.QW8), message, x, w)
    return x.dtype.real


def traffic(*types: TensorType) -> int:
    """Bytes of tensors touched once each."""
    return sum(t.bytes for t in types)


@dataclass(frozen=True)
class Op:
    """Base of all operations. Dataclass fields are the attributes that IR text shows in braces."""

    name: ClassVar[str]
    # A result has a leading batch dimension when an operand has one, unless the op reduces over the batch.
    reduces_batch: ClassVar[bool] = False

    def infer(self, *operands: TensorType) -> TensorType | tuple[TensorType, ...]:
        """Result types for operand types; raises `InferError` with the offending values."""
        raise AssertionError(f"{type(self).__name__} has no infer rule")

    def reference(self, *operands: Array) -> Array | tuple[Array, ...]:
        """The meaning, in numpy, in the precision of the operands."""
        raise AssertionError(f"{type(self).__name__} has no reference")

    def cost(self, *operands: TensorType) -> Cost:
        """Flops and bytes; the default is one flop per result element."""
        results = self.result_types(*operands)
        return Cost(flops=sum(t.size for t in results), bytes=traffic(*operands, *results))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        """Emit the gradient: one value (or None for "no gradient") per operand, given one cotangent per result."""
        raise InferError(f"{self.name} is not differentiable")

    def batched(self, operands: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which results have the batch as leading dimension, given which operands have."""
        return (any(operands) and not self.reduces_batch,) * self.result_count

    @property
    def result_count(self) -> int:
        return 1

    def result_types(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """`infer`, always as a tuple; the number of operands is checked first."""
        least, most = operand_counts(type(self))
        fits = least <= len(operands) <= most
        require(fits, "{} takes {} operands, not {}", self.name, _range(least, most), len(operands))
        types = self.infer(*operands)
        return types if isinstance(types, tuple) else (types,)

    @property
    def attributes(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@cache
def operand_counts(kind: type[Op]) -> tuple[int, int]:
    """The least and the largest number of operands that an op takes, read off the signature of `infer`."""
    parameters = list(inspect.signature(kind.infer).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 1, sys.maxsize
    return sum(parameter.default is parameter.empty for parameter in parameters), len(parameters)


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}" if most < sys.maxsize else f"at least {least}"
