"""How tensors lie in memory, and the maps between that and the logical order of the interface.

Activations are NHWC: channels innermost, padded with zeros to a multiple of four. No buffer has a halo: kernels know at
compile time which taps of a window fall outside an image (`codegen/llvm/direct.py`), so a tensor is one dense block
that element-wise kernels can run over, and flattening costs nothing.

Weights are packed for the kernel that reads them most: blocks of output channels, in a block one row per input
(tap and channel), in a row the outputs of the block. They stay packed during training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from convc.lazy import dataclass

# Channels are padded to a multiple of so many, where nothing asks for another one.
CHANNELS = 4


def padded(channels: int, multiple: int = CHANNELS) -> int:
    """Channels as stored: a multiple of four, so that vectors need no masks, but for a single one, which is alone.

    With another multiple there are no exceptions.
    """
    return channels if channels == 1 and multiple == CHANNELS else -(-channels // multiple) * multiple


class Layout(Protocol):
    """A physical order. `index_map()[p]` is the logical flat index stored at position p, or −1 for padding."""

    @property
    def size(self) -> int: ...

    def index_map(self) -> np.ndarray: ...


@dataclass(frozen=True)
class ImageLayout:
    """One row (image) of a batched value: C feature maps of H x W, channels innermost.

    A flattened image keeps this layout: its feature index c·H·W + h·W + w is the logical order, nothing moves.
    """

    channels: int
    height: int = 1
    width: int = 1
    stored: int = 0  # channels as stored, at least `channels`

    @classmethod
    def of(cls, shape: tuple[int, ...], multiple: int = CHANNELS) -> ImageLayout:
        """The natural layout of (C, H, W) or (D,)."""
        channels, *rest = shape
        height, width = rest if rest else (1, 1)
        return cls(channels, height, width, padded(channels, multiple))

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def size(self) -> int:
        return self.pixels * self.stored

    def index_map(self) -> np.ndarray:
        pixel, channel = np.divmod(np.arange(self.size), self.stored)
        return np.where(channel < self.channels, channel * self.pixels + pixel, -1)

    def __str__(self) -> str:
        return f"nhwc({self.height},{self.width},{self.channels}/{self.stored})"


@dataclass(frozen=True)
class PlanarLayout:
    """One row in the order of the interface: channel after channel, nothing padded."""

    channels: int
    height: int = 1
    width: int = 1

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width

    def index_map(self) -> np.ndarray:
        return np.arange(self.size)

    def __str__(self) -> str:
        return f"nchw({self.channels},{self.height},{self.width})"


@dataclass(frozen=True)
class VectorLayout:
    """A per-channel vector (C,), padded like the channels that it belongs to."""

    channels: int
    multiple: int = CHANNELS

    @property
    def size(self) -> int:
        return padded(self.channels, self.multiple)

    def index_map(self) -> np.ndarray:
        index = np.arange(self.size)
        return np.where(index < self.channels, index, -1)

    def __str__(self) -> str:
        return f"vector({self.channels}/{self.size})"


@dataclass(frozen=True)
class ScalarLayout:
    """A single number."""

    size: int = 1

    def index_map(self) -> np.ndarray:
        return np.zeros(1, np.int64)

    def __str__(self) -> str:
        return "scalar"


@dataclass(frozen=True)
class WeightLayout:
    """Packed weights: [group][block of outputs][row][outputs of the block].

    `rows` describes what an output is summed over, in the order of the reduction: for a convolution its filter
    (height R, width S, C/groups channels), for a fully connected layer the stored image that it reads. `block` is the
    number of outputs that the register tile of the forward kernel holds.

    With `pairs` = 2 the rows of a block lie two by two, [pair of rows][outputs of the block][2]: an instruction that
    adds two products to each sum finds both factors side by side. A tap of an odd number of channels has a row of
    zeros then (`in_pairs`).
    """

    outputs: int
    rows: ImageLayout
    block: int
    groups: int = 1
    pairs: Literal[1, 2] = 1

    def in_pairs(self) -> WeightLayout:
        """The same filters with the channels of each tap in pairs."""
        return replace(self, rows=replace(self.rows, stored=-(-self.rows.stored // 2) * 2), pairs=2)

    @property
    def columns(self) -> int:
        """Outputs of one group as stored."""
        own = self.outputs // self.groups
        return padded(own) if self.groups == 1 else own

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the column blocks of one group: full ones and a rest."""
        full, rest = divmod(self.columns, self.block)
        return (self.block,) * full + ((rest,) if rest else ())

    @property
    def size(self) -> int:
        return self.groups * self.columns * self.rows.size

    def index_map(self) -> np.ndarray:
        features = self.rows.channels * self.rows.pixels
        logical = np.arange(self.outputs * features).reshape(self.outputs, features)
        # Padding is told from index 0 by counting from 1 while packing.
        return self.pack(logical + 1) - 1

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The stored form of (outputs, …), flat."""
        stored = np.empty(self.size, array.dtype)
        self.store(array, stored)
        return stored

    def store(self, array: np.ndarray, stored: np.ndarray) -> None:
        """Write the stored form of (outputs, …) to `stored`, block by block."""
        if self.pairs == 2:
            self._interleave(replace(self, pairs=1).pack(array), stored)
            return
        features = self.rows.channels * self.rows.pixels
        if self.size > self.outputs * features:
            stored.fill(0)
        for real, block in self._pairs(array.reshape(self.outputs, features), stored):
            block[:] = real

    def unpack(self, stored: np.ndarray) -> np.ndarray:
        """(outputs, features) of a stored form."""
        if self.pairs == 2:
            plain = np.empty_like(stored)
            self._interleave(stored, plain, back=True)
            return replace(self, pairs=1).unpack(plain)
        matrix = np.empty((self.outputs, self.rows.channels * self.rows.pixels), stored.dtype)
        for real, block in self._pairs(matrix, stored):
            real[:] = block
        return matrix

    def _interleave(self, given: np.ndarray, made: np.ndarray, back: bool = False) -> None:
        """Rows one by one as rows in pairs, or `back`."""
        for (_, _, source), (_, _, target) in zip(self._views(given), self._views(made), strict=True):
            rows, width = source.shape
            pairs = (rows // 2, width, 2) if back else (rows // 2, 2, width)
            target[:] = source.reshape(pairs).transpose(0, 2, 1).reshape(rows, width)

    def _pairs(self, matrix: np.ndarray, stored: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For every block the part of (outputs, features) that is in it, and where it lies in `stored`, both as
        (pixel, channel, output): views, so that what is written to them is written there."""
        own, rows = self.outputs // self.groups, self.rows
        for group, first, block in self._views(stored):
            real = matrix[group * own + first : group * own + min(first + block.shape[1], own)]
            places = block.reshape(rows.pixels, rows.stored, -1)[:, : rows.channels, : len(real)]
            yield real.reshape(len(real), rows.channels, rows.pixels).transpose(2, 1, 0), places

    def _views(self, stored: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """(group, first column, view as (rows, columns)) of every block."""
        position = 0
        for group in range(self.groups):
            first = 0
            for width in self.blocks:
                size = self.rows.size * width
                yield group, first, stored[position : position + size].reshape(self.rows.size, width)
                position += size
                first += width

    def __str__(self) -> str:
        grouped = f" x {self.groups} groups" if self.groups > 1 else ""
        paired = ", rows in pairs" if self.pairs == 2 else ""
        return f"packed({self.outputs} by {self.rows}, blocks of {self.block}{grouped}{paired})"


def pack(layout: Layout, array: np.ndarray) -> np.ndarray:
    """The stored form (flat float32) of a logical array; padding is zero."""
    stored = np.empty(layout.size, np.float32)
    store(layout, array, stored)
    return stored


def store(layout: Layout, array: np.ndarray, stored: np.ndarray) -> None:
    """Write the stored form of a logical array to `stored`, flat float32; padding is zero."""
    array = np.asarray(array, np.float32)
    if isinstance(layout, WeightLayout):
        layout.store(array, stored)
    else:
        index = layout.index_map()
        stored[:] = np.where(index >= 0, array.reshape(-1)[np.maximum(index, 0)], np.float32(0))


def unpack(layout: Layout, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The logical array of a stored form."""
    if isinstance(layout, WeightLayout):
        return layout.unpack(stored).reshape(shape)
    index = layout.index_map()
    result = np.empty(math.prod(shape), np.float32)
    result[index[index >= 0]] = stored[index >= 0]
    return result.reshape(shape)
