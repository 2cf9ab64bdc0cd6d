"""What a kind of transform convolution has to provide: its transforms, as codelets on vectors of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.lazy import dataclass
from convc.passes.algorithms.transform_plan import Form

Rows = Callable[[Index], list[V]]
"""Loads a row of a tile of pixels, or of taps."""


@dataclass(frozen=True)
class EntryPlaces:
    """Where the entries of products lie: `first`, and how far it is to the next entry, and to the next part."""

    first: V
    entry: int
    part: int


@dataclass(frozen=True)
class Values:
    """The values of a tile or of a filter in memory, of each a vector of `lanes` channels; `places` by products.

    `terms`: a value is a sum of so many, `term` floats apart, that are added up in order.
    """

    places: tuple[EntryPlaces, ...]
    lanes: int
    terms: int = 1
    term: int = 0

    def _address(self, f: Function, products: int, entry: Index, part: int) -> V:
        place = self.places[products]
        return f.address(f.address(place.first, f.multiply(entry, place.entry)), part * place.part)

    def load(self, f: Function, products: int, entry: Index, part: int = 0) -> V:
        address = self._address(f, products, entry, part)
        value = f.load(address, self.lanes)
        if self.terms > 1:
            with f.loop(1, self.terms, carried=[value]) as loop:
                term = f.load(f.address(address, f.multiply(loop.index, self.term)), self.lanes)
                loop.carried = [f.binary("fadd", loop.carried[0], term)]
            (value,) = loop.carried
        return value

    def store(self, f: Function, products: int, entry: Index, part: int, value: V) -> None:
        f.store(value, self._address(f, products, entry, part))


class Transform(Protocol):
    """A bilinear algorithm on tiles of the sizes in `form`.

    `in_registers`: a tile is held as a whole, and its rows are asked for and given out one by one by numbers that are
    known while code is written; otherwise this happens in loops.
    """

    @property
    def form(self) -> Form: ...

    @property
    def in_registers(self) -> bool: ...

    def image(self, f: Function, rows: Rows, values: Values) -> None:
        """A tile of the image → values."""
        ...

    def filter(self, f: Function, rows: Rows, values: Values) -> None:
        """Taps → values."""
        ...

    def output(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        """Values of products → rows of outputs with their numbers."""
        ...

    def cotangent(self, f: Function, rows: Rows, values: Values) -> None:
        """Cotangents of outputs → values by which those of the image are multiplied."""
        ...

    def filter_gradient(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        """Sums over tiles of such products → rows of taps."""
        ...
