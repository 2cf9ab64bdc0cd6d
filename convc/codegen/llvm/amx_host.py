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
from convc.codegen.llvm.narrow import Kind
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.register_tile import Sums
from convc.codegen.llvm.target import CpuTarget, compile_object
from convc.codegen.llvm.vocabulary import Function, V, module_text
from convc.codegen.llvm.whole_numbers import Whole
from convc.ir.types import Grid
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.quantized_layout import TOGETHER, QuantizedLayout

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64
# Tiles of 32 rows and a rest, panels of two tiles and of one.
_ROWS, _DEPTH, _COLUMNS = 67, 64, 48


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
    """What is wrong with products by tiles in this process, of the numbers that they can have."""
    machine = machine_of(target)
    wrong = [
        name
        for name, able, test in (("bf16", machine.amx_bf16, _halves), ("int8", machine.amx_int8, _bytes))
        if able and not test(target)
    ]
    return f"a product by tiles came out wrong in this process ({' and '.join(wrong)})" if wrong else None


_FILTERS = WeightLayout(_COLUMNS, ImageLayout(_DEPTH, 1, 1, _DEPTH), _COLUMNS)


def _halves(target: CpuTarget) -> bool:
    a, b = _numbers(-30, 61, _ROWS), _numbers(-20, 41, _COLUMNS)
    packed = _FILTERS.in_pairs().pack(b.astype(np.float32))
    found = _multiply(target, "bfloat", _upper(a.astype(np.float32)), _upper(packed), None)
    return np.array_equal(found, a @ b.T)


def _upper(array: np.ndarray) -> np.ndarray:
    """As bfloat16, which has these numbers."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def _bytes(target: CpuTarget) -> bool:
    layout = QuantizedLayout(_FILTERS)
    a, b = _numbers(0, 256, _ROWS), _numbers(-127, 255, _COLUMNS)
    fours = b.T.reshape(_DEPTH // TOGETHER, TOGETHER, _COLUMNS).transpose(0, 2, 1)
    steps = np.ones(_COLUMNS, np.float32)
    weights = np.frombuffer(fours.astype(np.int8).tobytes() + steps.tobytes(), np.uint8)
    return np.array_equal(_multiply(target, Grid(1.0), a.astype(np.uint8), weights, layout), a @ b.T)


def _numbers(first: int, count: int, rows: int) -> np.ndarray:
    """Whole numbers from `first` on; every sum is below 2**24, so that no order of its terms rounds."""
    return (np.arange(rows * _DEPTH, dtype=np.int64) ** 2 % 8191 % count + first).reshape(rows, _DEPTH)


def _multiply(
    target: CpuTarget, kind: Kind, left: np.ndarray, right: np.ndarray, layout: QuantizedLayout | None
) -> np.ndarray:
    f = Function("amx_self_test", 3)
    f.exported = True
    a, b = (V(pointer.ref, pointer.type, kind) for pointer in f.pointers[:2])

    def finish(place: Place, sums: Sums) -> None:
        for m in range(place.rows):
            row = f.address(f.pointers[2], f.multiply(f.add(place.row, m), _COLUMNS))
            for index, piece in enumerate(place.pieces):
                f.store(sums.at(m, index), f.address(row, f.add(place.column, piece.offset)))

    whole = None if layout is None else Whole(layout, V(b.ref, b.type, "i8"), 1.0)
    filters = _FILTERS.in_pairs() if layout is None else layout.panels
    product = TileProduct(_ROWS, a, _DEPTH, b, filters, finish, whole=whole)
    product.emit(f, machine_of(target), alone=True, cached=False)
    library = link(compile_object(module_text([f], ""), target), [f.name])
    found = np.full((_ROWS, _COLUMNS), np.nan, np.float32)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * 3)
    run(library[f.name])(None, 0, 1, *(array.ctypes.data for array in (left, right, found)))
    library.close()
    return found
