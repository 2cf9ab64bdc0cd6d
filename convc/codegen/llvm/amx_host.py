"""Whether this process may use AMX: what the processor says is not enough.

Linux hands out the memory in which a thread's tiles are kept only to processes that ask for it, and some virtual
machines show the feature without having it right. So a process asks, and then multiplies two small matrices, of whole
numbers, with the code that kernels are made of: only if every sum is what it should be are tiles used.
"""

from __future__ import annotations

import ctypes
import os
import sys

import numpy as np

from convc.codegen.llvm.amx import TileProduct
from convc.codegen.llvm.gemm import Place
from convc.codegen.llvm.link import link
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.register_tile import Sums
from convc.codegen.llvm.target import CpuTarget, compile_object
from convc.codegen.llvm.vocabulary import Function, V, module_text
from convc.ir.rounding import rounded
from convc.ir.types import DType
from convc.passes.layout import ImageLayout, WeightLayout

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64
# Whole tiles and a rest, panels of two tiles and of one.
_ROWS, _DEPTH, _COLUMNS = 35, 64, 48


def obstacle(target: CpuTarget) -> str | None:
    """Why tiles may not be used by code for `target`, which has the features; None where they may."""
    return _permission() or self_test(target)


def _permission() -> str | None:
    if sys.platform != "linux":
        return "only Linux is known to let processes use tiles"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*map(ctypes.c_long, (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA))):
        return f"the system refuses the use of tiles: {os.strerror(ctypes.get_errno())}"
    return None


def self_test(target: CpuTarget) -> str | None:
    """What is wrong with a product by tiles in this process."""
    filters = WeightLayout(_COLUMNS, ImageLayout(_DEPTH, 1, 1, _DEPTH), _COLUMNS).in_pairs()
    f = Function("amx_self_test", 3)
    f.exported = True
    left, right = (V(pointer.ref, pointer.type, "bfloat") for pointer in f.pointers[:2])

    def finish(place: Place, sums: Sums) -> None:
        for m in range(place.rows):
            row = f.address(f.pointers[2], f.multiply(f.add(place.row, m), _COLUMNS))
            for index, piece in enumerate(place.pieces):
                f.store(sums.at(m, index), f.address(row, f.add(place.column, piece.offset)))

    product = TileProduct(_ROWS, left, _DEPTH, right, filters, finish)
    product.emit(f, machine_of(target), alone=True, cached=False)
    library = link(compile_object(module_text([f], ""), target), [f.name])
    numbers = np.arange(_ROWS * _DEPTH + _COLUMNS * _DEPTH, dtype=np.int64) ** 2 % 61 - 30
    a = numbers[: _ROWS * _DEPTH].reshape(_ROWS, _DEPTH).astype(np.float32)
    b = numbers[_ROWS * _DEPTH :].reshape(_COLUMNS, _DEPTH).astype(np.float32)
    found = np.full((_ROWS, _COLUMNS), np.nan, np.float32)
    places = [_halves(a), _halves(filters.pack(b)), found]
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * 3)
    run(library[f.name])(None, 0, 1, *(place.ctypes.data for place in places))
    library.close()
    # Every sum is a whole number below 2**24, so that no order of its terms rounds.
    return None if np.array_equal(found, a @ b.T) else "a product by tiles came out wrong in this process"


def _halves(array: np.ndarray) -> np.ndarray:
    """As bfloat16, which has these numbers."""
    assert np.array_equal(array, rounded(array, DType.BF16))
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
