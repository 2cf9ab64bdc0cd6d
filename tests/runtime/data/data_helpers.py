"""Tiny data sets in all formats, made on the fly."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convc.ir.diagnostic import CompileError, Diagnostic
from convc.runtime.data import DataSet

Load = Callable[..., DataSet]

_IDX_TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    """An array in IDX format."""
    code = array.dtype.str[1:]
    header = struct.pack(f">HBB{array.ndim}I", 0, _IDX_TYPES[code], array.ndim, *array.shape)
    return header + array.astype(">" + code).tobytes()


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes (count, *shape)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx_set(folder: Path, train: int = 20, test: int = 8, classes: int = 4, packed: bool = False) -> None:
    """A data set of 5x6 grey images with labels 0, 1, ... in turn."""
    folder.mkdir(exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        for what, array in (("images-idx3", pixels(count, 5, 6)), ("labels-idx1", np.arange(count) % classes)):
            content = idx_bytes(array.astype(np.uint8))
            name = f"{prefix}-{what}-ubyte"
            (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


def diagnostic(action: Callable[[], object]) -> Diagnostic:
    """The one diagnostic with which `action` fails; it has to fit on a screen."""
    with pytest.raises(CompileError) as caught:
        action()
    assert len(caught.value.diagnostics) == 1
    text = str(caught.value)
    assert len(text.splitlines()) <= 15
    return caught.value.diagnostics[0]
