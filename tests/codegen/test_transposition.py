"""Filters with channels exchanged, against numpy: blocks of all kinds, groups, padding, some of the taps."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from convc.codegen.llvm.link import link
from convc.codegen.llvm.target import compile_object, host_target
from convc.codegen.llvm.transposition import Taps, transpose, transpose_filters
from convc.codegen.llvm.vocabulary import Function
from convc.passes.layout import ImageLayout, WeightLayout


def run(f: Function, source: np.ndarray, size: int, parties: int = 1) -> np.ndarray:
    """What the function, which reads its first pointer, writes behind its second one, rank by rank."""
    text = "\n".join([*f.declarations.values(), f.text()])
    library = link(compile_object(text, host_target()), [f.name])
    result = np.full(size, np.nan, np.float32)
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    call = ctypes.CFUNCTYPE(None, pointer, word, word, pointer, pointer)(library[f.name])
    for rank in range(parties):
        call(None, rank, parties, source.ctypes.data, result.ctypes.data)
    library.close()
    return result


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_squares_are_turned_in_registers(lanes: int) -> None:
    f = Function("square", 2)
    rows = [f.load(f.address(f.pointers[0], lanes * row), lanes) for row in range(lanes)]
    for number, column in enumerate(transpose(f, rows)):
        f.store(column, f.address(f.pointers[1], lanes * number))
    square = np.arange(lanes * lanes, dtype=np.float32).reshape(lanes, lanes)
    np.testing.assert_array_equal(run(f, square, square.size).reshape(square.shape), square.T)


ALL: Taps | None = None

# Outputs, channels, filter, groups, block of outputs, block of channels, taps wanted.
CASES = [
    (64, 64, (3, 3), 1, 32, 32, ALL),
    (64, 48, (1, 1), 1, 64, 16, ALL),
    (70, 50, (3, 2), 1, 32, 48, ALL),  # padding, rests of blocks
    (20, 36, (2, 3), 1, 20, 36, ALL),  # single blocks that are no multiple of a vector
    (3, 2, (3, 3), 1, 4, 4, ALL),  # less than a vector
    (32, 5, (1, 3), 1, 16, 8, ALL),  # outputs in vectors, channels not
    (36, 36, (1, 1), 1, 20, 20, ALL),  # several blocks that are no multiple of a vector
    (48, 80, (1, 3), 2, 16, 32, ALL),
    (6, 10, (3, 3), 2, 4, 8, ALL),
    (32, 32, (5, 5), 1, 32, 32, ((4, 2, 0), (1, 3))),
    (17, 33, (3, 3), 1, 16, 32, ((2, 1, 0), (2, 1, 0))),
]


@pytest.mark.parametrize("lanes", [16, 4])
@pytest.mark.parametrize("paired", ["neither", "target", "both"])
@pytest.mark.parametrize(("outputs", "channels", "kernel", "groups", "block", "turned", "wanted"), CASES)
def test_filters(
    outputs: int, channels: int, kernel: tuple[int, int], groups: int, block: int, turned: int, wanted: Taps | None,
    paired: str, lanes: int,
) -> None:  # fmt: skip
    k, c = outputs // groups, channels // groups
    rows, columns = wanted or (range(kernel[0]), range(kernel[1]))
    packed = WeightLayout(outputs, ImageLayout(c, *kernel, c), block, groups)
    transposed = WeightLayout(channels, ImageLayout(k, len(rows), len(columns), k), turned, groups)
    packed = packed.in_pairs() if paired == "both" else packed
    transposed = transposed if paired == "neither" else transposed.in_pairs()
    filters = np.random.default_rng(3).standard_normal((groups, k, c, *kernel)).astype(np.float32)
    expected = filters.swapaxes(1, 2)[..., rows, :][..., columns].reshape(channels, k, len(rows), len(columns))
    f = Function("transpose", 2)
    transpose_filters(f, f.pointers[0], packed, f.pointers[1], transposed, lanes, wanted)
    stored = run(f, packed.pack(filters.reshape(outputs, c, *kernel)), transposed.size, parties=3)
    np.testing.assert_array_equal(stored, transposed.pack(expected))
