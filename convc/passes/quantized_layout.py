"""Weights of 8 bits as products of whole numbers read them: not their own numbers alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convc.lazy import dataclass
from convc.passes.layout import ImageLayout, WeightLayout

TOGETHER = 4  # products that are added to a sum at a time


@dataclass(frozen=True)
class QuantizedLayout:
    """Bytes, made from weights that lie as `weights`, of one group:

        [block of outputs][four rows][output][4]    whole numbers, an instruction's four factors side by side
        [output]                                    float32: the step that an output's whole numbers are multiples of
        [part][output]                              32 bits: −zero times the sum of an output's whole numbers

    The last is there where images have a zero other than 0, for each tap of filters, because taps that fall outside an
    image add nothing, and for all of a matrix. A tap of filters has rows of zeros where its channels are no multiple of
    four.
    """

    weights: WeightLayout
    parts: int = 0

    @property
    def rows(self) -> ImageLayout:
        """What an output is summed over, as it is stored."""
        rows = self.weights.rows
        return rows if rows.channels == 1 else replace(rows, stored=-(-rows.stored // TOGETHER) * TOGETHER)

    @property
    def panels(self) -> WeightLayout:
        """The whole numbers alone, rows one by one."""
        return replace(self.weights, rows=self.rows)

    @property
    def steps_at(self) -> int:
        """The byte where the steps begin."""
        return self.panels.size

    @property
    def parts_at(self) -> int:
        """The byte where the sums begin."""
        return self.steps_at + 4 * self.weights.columns

    @property
    def size(self) -> int:
        """Bytes."""
        return self.parts_at + 4 * self.parts * self.weights.columns

    def index_map(self) -> np.ndarray:
        """None of the bytes is one of the tensor's numbers."""
        return np.full(self.size, -1)

    def __str__(self) -> str:
        sums = f", sums of {self.parts}" if self.parts else ""
        return f"8 bits of {self.weights}{sums}"
