"""Exact numbers a + b·√2 with rational a and b: a field, so that algorithms with √2 in them can be proved."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Union

from convc.lazy import dataclass

Exact = Union["Root2", Fraction, int]


@dataclass(frozen=True, eq=False)
class Root2:
    """`rational + root·√2`. Equal to (and hashed like) a `Fraction` where there is no root."""

    rational: Fraction
    root: Fraction = Fraction(0)

    @staticmethod
    def of(value: Exact) -> Root2:
        return value if isinstance(value, Root2) else Root2(Fraction(value))

    def __add__(self, other: Exact) -> Root2:
        other = Root2.of(other)
        return Root2(self.rational + other.rational, self.root + other.root)

    def __neg__(self) -> Root2:
        return Root2(-self.rational, -self.root)

    def __sub__(self, other: Exact) -> Root2:
        return self + -Root2.of(other)

    def __rsub__(self, other: Exact) -> Root2:
        return Root2.of(other) - self

    def __mul__(self, other: Exact) -> Root2:
        other = Root2.of(other)
        return Root2(
            self.rational * other.rational + 2 * self.root * other.root,
            self.rational * other.root + self.root * other.rational,
        )

    def __truediv__(self, other: Exact) -> Root2:
        other = Root2.of(other)
        # Multiplied by the conjugate; its norm a² − 2b² is zero for zero only, because √2 is irrational.
        norm = other.rational * other.rational - 2 * other.root * other.root
        return self * Root2(other.rational / norm, -other.root / norm)

    def __rtruediv__(self, other: Exact) -> Root2:
        return Root2.of(other) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Root2):
            return self.rational == other.rational and self.root == other.root
        if isinstance(other, (Fraction, int)):
            return not self.root and self.rational == other
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.rational, self.root)) if self.root else hash(self.rational)

    def __float__(self) -> float:
        return float(self.rational) + float(self.root) * math.sqrt(2)

    def __str__(self) -> str:
        return f"{self.rational} + {self.root}·√2" if self.root else str(self.rational)
