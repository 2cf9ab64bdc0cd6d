"""What a kind of transform convolution has to provide: its transforms, as codelets on vectors of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from convc.codegen.llvm.vocabulary import Function, V
from convc.passes.algorithms.transform_plan import Form

Tile = Sequence[Sequence[V]]  # rows of vectors


class Transform(Protocol):
    """A bilinear algorithm on tiles of the sizes in `form`.

    The values of a tile are numbered by products, entry and part; those of a filter by products, entry, part of the
    result and part of the image.
    """

    @property
    def form(self) -> Form: ...

    def image(self, f: Function, tile: Tile) -> list[V]:
        """extent pixels → values."""
        ...

    def filter(self, f: Function, taps: Tile) -> list[V]:
        """Taps → filter values."""
        ...

    def output(self, f: Function, values: Sequence[V]) -> list[list[V]]:
        """Values of a product → outputs."""
        ...

    def cotangent(self, f: Function, tile: Tile) -> list[V]:
        """Cotangents of outputs → values: `output` transposed."""
        ...

    def filter_gradient(self, f: Function, values: Sequence[V]) -> list[list[V]]:
        """Filter values, sums over tiles of an image's value times a cotangent's, → taps: `filter` transposed."""
        ...
