"""How `Resize` mixes the positions of one axis, as a matrix: any size, any numbering of positions, linear or cubic."""

from __future__ import annotations

import math

import numpy as np

from convc.lazy import dataclass

NUMBERINGS = ("align_corners", "asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")


@dataclass(frozen=True)
class Axis:
    """An axis before and after, and the factor that the model gives: with it positions are computed."""

    size: int
    result: int
    scale: float

    def positions(self, numbering: str) -> np.ndarray:
        """Where the positions of the result lie in the source, numbered in one of the `NUMBERINGS`."""
        i = np.arange(self.result)
        if numbering == "asymmetric":
            return i / self.scale
        if numbering == "align_corners":
            return i * ((self.size - 1) / (self.result - 1)) if self.result > 1 else np.zeros(1)
        centred = (i + 0.5) / self.scale - 0.5
        if numbering == "half_pixel":
            return centred
        if numbering == "pytorch_half_pixel":
            return centred if self.result > 1 else np.zeros(1)
        assert numbering == "half_pixel_symmetric"
        # The part of a pixel that the rounded size cuts off is missing on both sides alike.
        return self.size / 2 * (1 - self.result / (self.scale * self.size)) + centred


def linear(axis: Axis, positions: np.ndarray) -> np.ndarray:
    """(result, size): each position mixes the two beside it; beyond the ends their values hold."""
    matrix = np.zeros((axis.result, axis.size))
    place = np.clip(positions, 0, axis.size - 1)
    below = np.floor(place).astype(int)
    rows = np.arange(axis.result)
    np.add.at(matrix, (rows, below), 1 - (place - below))
    np.add.at(matrix, (rows, np.minimum(below + 1, axis.size - 1)), place - below)
    return matrix


def cubic(axis: Axis, positions: np.ndarray, a: float, exclude_outside: bool) -> np.ndarray:
    """(result, size): cubic convolution (Keys 1981) over four positions.

    Beyond the ends the outermost values hold, or with `exclude_outside` the others share the weight.
    """
    matrix = np.zeros((axis.result, axis.size))
    for row, place in enumerate(positions):
        first = math.floor(place) - 1
        weights = [_keys(abs(place - tap), a) for tap in range(first, first + 4)]
        if exclude_outside:
            weights = [w if 0 <= first + n < axis.size else 0.0 for n, w in enumerate(weights)]
            weights = [w / sum(weights) for w in weights]
        for n, weight in enumerate(weights):
            matrix[row, min(max(first + n, 0), axis.size - 1)] += weight
    return matrix


def _keys(distance: float, a: float) -> float:
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a if distance < 2 else 0.0
