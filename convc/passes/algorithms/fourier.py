"""Fourier transforms of short sequences as straight-line programs, of complex and of real numbers.

    X_k  =  Σ_j x_j ω^(jk),    ω = exp(±2πi/N)

The sum is split by j mod 4 into even, 4j + 1 and 4j − 1, which gives (with n = N/4 and s, d from the two odd quarters)

    X_k = E_k + s,   X_(k+2n) = E_k − s,   X_(k+n) = E_(k+n) ± i·d,   X_(k+3n) = E_(k+n) ∓ i·d,
    s = ω^k A_k + ω^(−k) B_k,              d = ω^k A_k − ω^(−k) B_k

until single numbers are left: split radix, in the form whose two factors are conjugate (Duhamel & Hollmann 1984; Kamar
& Elcherif 1989). A multiplication by ω^k is two multiply-adds, because the larger of cosine and sine is left outside
and joins the sum behind (Linzer & Feig 1993). Real numbers have X_(N−k) = conj X_k, and only k ≤ N/2 is computed
(Sorensen et al. 1987); what is known to be zero costs nothing.

As real matrices T, transforms back are transposes: Tᵀ of a complex transform is N times its inverse. With a real one,
the inverse is Tᵀ·W/N, where W doubles X_k for 0 < k < N/2, which stand for X_(N−k) as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeVar

from convc.passes.algorithms.straight_line import Builder, StraightLine, Term, transposed

# A number that is not known: real and imaginary part, None for what is known to be zero.
_Number = tuple[Term | None, Term | None]
_Part = TypeVar("_Part")
Sign = Literal[-1, 1]
"""That of the exponent."""
Positions = tuple[int, ...]
"""Where numbers may differ from zero."""


@lru_cache
def complex_transform(size: int, positions: Positions, sign: Sign = -1) -> StraightLine:
    """Transform of `size` complex numbers (a power of two) of which those not at `positions` are zero.

    Inputs: real and imaginary part of the others, in their order. Outputs: those of X_0 … X_(size−1).
    """
    builder = Builder(2 * len(positions), 1.0)
    given: dict[int, _Number] = {
        position: (builder.inputs[2 * number], builder.inputs[2 * number + 1])
        for number, position in enumerate(positions)
    }
    numbers = _Split(builder, sign).complex([given.get(j, (None, None)) for j in range(size)])
    return builder.build([_known(builder, part) for number in numbers for part in number])


@lru_cache
def real_transform(size: int, positions: Positions, sign: Sign = -1) -> StraightLine:
    """Transform of `size` real numbers (a power of two, 2 or more) of which those not at `positions` are zero.

    Outputs: X_0 and X_(size/2), which are real, then real and imaginary parts of X_1 … X_(size/2−1).
    """
    builder = Builder(len(positions), 1.0)
    given = dict(zip(positions, builder.inputs, strict=True))
    first, *others, half = _Split(builder, sign).real([given.get(j) for j in range(size)])
    parts = [first[0], half[0], *(part for number in others for part in number)]
    return builder.build([_known(builder, part) for part in parts])


@lru_cache
def complex_transform_back(size: int, positions: Positions) -> StraightLine:
    """From real and imaginary parts of X_0 … X_(size−1) to `size` times the numbers at these positions."""
    return transposed(complex_transform(size, positions))


@lru_cache
def real_transform_back(size: int, positions: Positions) -> StraightLine:
    """`real_transform` transposed: to `size` times the numbers at these positions, if X_k comes doubled for
    0 < k < size/2."""
    return transposed(real_transform(size, positions))


def _known(builder: Builder, part: Term | None) -> Term:
    return builder.inputs[0].times(0) if part is None else part


def cosine(numerator: int, denominator: int) -> float:
    """cos(2π·numerator/denominator) for a denominator that is a multiple of four; angles that mirror each other give
    exactly the same number, and its zeros are exact."""
    turn, quarter = numerator % denominator, denominator // 4
    turn = min(turn, denominator - turn)
    if turn > quarter:
        return -cosine(2 * quarter - turn, denominator)
    if 2 * turn > quarter:
        return math.sin(2 * math.pi * (quarter - turn) / denominator)
    return math.cos(2 * math.pi * turn / denominator)


class _Split:
    """The recursion."""

    def __init__(self, builder: Builder, sign: Sign) -> None:
        self.builder, self.sign = builder, sign

    def complex(self, x: Sequence[_Number]) -> list[_Number]:
        """All X_k."""
        size = len(x)
        if size == 1:
            return list(x)
        if size == 2:
            return [self._add(x[0], x[1]), self._subtract(x[0], x[1])]
        even, one, three = (self.complex(part) for part in _parts(x))
        quarter = size // 4
        result: list[_Number] = [(None, None)] * size
        for k in range(quarter):
            total, turned = self._odd(one[k], three[k], k, size)
            result[k] = self._add(even[k], total)
            result[k + 2 * quarter] = self._subtract(even[k], total)
            result[k + quarter] = self._add(even[k + quarter], turned)
            result[k + 3 * quarter] = self._subtract(even[k + quarter], turned)
        return result

    def real(self, x: Sequence[Term | None]) -> list[_Number]:
        """X_0 … X_(N/2) of real numbers."""
        size = len(x)
        if size == 1:
            return [(x[0], None)]
        if size == 2:
            return [(self._sum(x[0], x[1]), None), (self._difference(x[0], x[1]), None)]
        even, one, three = (self.real(part) for part in _parts(x))
        quarter = size // 4
        result: list[_Number] = [(None, None)] * (2 * quarter + 1)
        for k in range(quarter // 2 + 1):
            total, turned = self._odd(one[k], three[k], k, size)
            result[k] = self._add(even[k], total)
            result[2 * quarter - k] = self._subtract(_conjugate(even[k]), _conjugate(total))
            result[quarter + k] = self._add(_conjugate(even[quarter - k]), turned)
            result[quarter - k] = self._subtract(even[quarter - k], _conjugate(turned))
        return result

    def _odd(self, one: _Number, three: _Number, k: int, size: int) -> tuple[_Number, _Number]:
        """s, and ±i·d."""
        first, second = self._rotate(one, k, size), self._rotate(three, -k, size)
        real, imaginary = self._subtract(first, second)
        turned = (_scaled(imaginary, -self.sign), _scaled(real, self.sign))
        return self._add(first, second), turned

    def _rotate(self, number: _Number, k: int, size: int) -> _Number:
        """The number times ω^k of a transform of `size` numbers."""
        c, s = cosine(k, size), self.sign * cosine(k - size // 4, size)
        real, imaginary = number
        parts = ((real, c), (imaginary, -s)), ((imaginary, c), (real, s))
        if abs(s) > abs(c):
            parts = parts[0][::-1], parts[1][::-1]
        first, second = (self._sum(*(_scaled(*factors) for factors in part)) for part in parts)
        return first, second

    def _add(self, left: _Number, right: _Number) -> _Number:
        return self._sum(left[0], right[0]), self._sum(left[1], right[1])

    def _subtract(self, left: _Number, right: _Number) -> _Number:
        return self._difference(left[0], right[0]), self._difference(left[1], right[1])

    def _sum(self, left: Term | None, right: Term | None) -> Term | None:
        if left is None or right is None:
            return left if right is None else right
        return self.builder.add(left, right)

    def _difference(self, left: Term | None, right: Term | None) -> Term | None:
        return self._sum(left, _scaled(right, -1))


def _parts(x: Sequence[_Part]) -> tuple[list[_Part], list[_Part], list[_Part]]:
    """The elements 2j, 4j + 1 and 4j − 1."""
    quarter = len(x) // 4
    return list(x[::2]), list(x[1::4]), [x[4 * j - 1] for j in range(quarter)]


def _conjugate(number: _Number) -> _Number:
    return number[0], _scaled(number[1], -1)


def _scaled(term: Term | None, factor: float) -> Term | None:
    return None if term is None or factor == 0 else term.times(factor)
