"""Toom-Cook algorithms: m outputs of a filter with r taps from n = m + r − 1 products.

    y_i = Σ_j g_j d_{i+j}    =    Aᵀ[(G g) ⊙ (Bᵀ d)]          i < m, j < r

Polynomials of degree r−1 and m−1 are multiplied by evaluating both at n points, multiplying the values, and
interpolating; a point "at infinity" gives the leading coefficient. Transposed, that is the correlation above: A and G
evaluate, and B is the transposed interpolation (Winograd 1980; Lavin & Gray 2016, section 4; Blahut, "Fast Algorithms
for Signal Processing", chapter 5). Bᵀ is scaled so that its polynomials are monic; G takes the factors.

The same matrices give the gradients. By the images it is a correlation again; by the filter it is the transpose of the
map g ↦ y:   g̅_j = Σ_i y̅_i d_{i+j}   =   Gᵀ[(A y̅) ⊙ (Bᵀ d)].

In two dimensions one algorithm is applied along rows, then another along columns. F(1, 1), which has one point and does
nothing, is the one for an axis along which a filter has one tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from convc.lazy import dataclass
from convc.passes.algorithms.root2 import Exact, Root2
from convc.passes.algorithms.straight_line import StraightLine, of_matrix

Matrix = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class ToomCook:
    """F(m, r): the three matrices, exact, and the straight-line programs that multiply by them or their transposes."""

    evaluate_outputs: Matrix  # A, n x m
    evaluate_filter: Matrix  # G, n x r
    interpolate: Matrix  # Bᵀ, n x n

    @property
    def outputs(self) -> int:
        return len(self.evaluate_outputs[0])

    @property
    def taps(self) -> int:
        return len(self.evaluate_filter[0])

    @property
    def points(self) -> int:
        """n: products, and inputs of a tile."""
        return len(self.interpolate)

    @cached_property
    def image(self) -> StraightLine:
        """n pixels of the image → n values: Bᵀ."""
        return of_matrix(self.interpolate)

    @cached_property
    def filter(self) -> StraightLine:
        """r taps → n values: G."""
        return of_matrix(self.evaluate_filter)

    @cached_property
    def output(self) -> StraightLine:
        """n products → m outputs: Aᵀ."""
        return of_matrix(transposed(self.evaluate_outputs))

    @cached_property
    def cotangent(self) -> StraightLine:
        """m cotangents of outputs → n values: A."""
        return of_matrix(self.evaluate_outputs)

    @cached_property
    def filter_gradient(self) -> StraightLine:
        """n sums of products → r taps' gradients: Gᵀ."""
        return of_matrix(transposed(self.evaluate_filter))


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _powers(point: Exact, count: int) -> tuple[Any, ...]:
    powers: list[Any] = [Fraction(1)]
    for _ in range(count - 1):
        powers.append(powers[-1] * point)
    return tuple(powers)


def _from_roots(roots: Sequence[Exact], count: int) -> list[Any]:
    """The coefficients of Π (x − root), lowest first, `count` of them."""
    coefficients: list[Any] = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients + [Fraction(0)] * (count - len(coefficients))


def derive(outputs: int, taps: int, finite: Sequence[Exact]) -> ToomCook:
    """F(outputs, taps) from outputs + taps − 2 different points; infinity joins them as the last."""
    count = outputs + taps - 1
    if len(set(finite)) != count - 1:
        raise ValueError(f"F({outputs},{taps}) takes {count - 1} different points beside infinity, not {finite}")
    evaluate_outputs, evaluate_filter, interpolate = list[Any](), list[Any](), list[Any]()
    for point in finite:
        others = [other for other in finite if other != point]
        norm: Any = Fraction(1)
        for other in others:
            norm = norm * (point - other)
        evaluate_outputs.append(_powers(point, outputs))
        evaluate_filter.append(tuple(power / norm for power in _powers(point, taps)))
        interpolate.append(tuple(_from_roots(others, count)))
    # At infinity a polynomial's value is its leading coefficient.
    evaluate_outputs.append((*(Fraction(0),) * (outputs - 1), Fraction(1)))
    evaluate_filter.append((*(Fraction(0),) * (taps - 1), Fraction(1)))
    interpolate.append(tuple(_from_roots(finite, count)))
    return ToomCook(tuple(evaluate_outputs), tuple(evaluate_filter), tuple(interpolate))


def _both_signs(*points: Exact) -> tuple[Exact, ...]:
    return tuple(sign * point for point in points for sign in (1, -1))


_SQRT2 = Root2(Fraction(0), Fraction(1))

# The finite points of algorithms with as many products. Pairs p, 1/p near 1: F(4,3) has a third of the error of the
# customary 0, ±1, ±2, ∞; for F(6,3), F(4,5) and F(2,7) no other three pairs of a grid around 1 have smaller root mean
# square errors, for F(2,5) the best two pairs have errors smaller by 7 %.
POINTS: dict[int, tuple[Exact, ...]] = {
    1: (),
    4: (Fraction(0), *_both_signs(Fraction(1))),
    6: (Fraction(0), *_both_signs(1 / _SQRT2, _SQRT2)),
    8: (Fraction(0), *_both_signs(Fraction(1, 2), Fraction(1), Fraction(2))),
}


@lru_cache
def toom_cook(outputs: int, taps: int) -> ToomCook:
    """F(outputs, taps) from the points chosen for as many products."""
    return derive(outputs, taps, POINTS[outputs + taps - 1])
