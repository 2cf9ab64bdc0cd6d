"""Numbers of 16 bits for tests: all of them, and floats that are hard to round to them."""

from __future__ import annotations

import numpy as np

from convc.ir.types import DType

PATTERNS = np.arange(1 << 16, dtype=np.uint32)


def all_numbers(dtype: DType) -> np.ndarray:
    """Every pattern of 16 bits as float32, by pattern."""
    if dtype is DType.BF16:
        return (PATTERNS << np.uint32(16)).view(np.float32)
    return PATTERNS.astype(np.uint16).view(np.float16).astype(np.float32)


def awkward_floats(dtype: DType) -> np.ndarray:
    """Numbers of the type, the points in the middle between neighbours, all with their neighbours among floats; and
    patterns at random, NaN left out."""
    numbers = all_numbers(dtype)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    middles = ((numbers[1:].astype(np.float64) + numbers[:-1]) / 2).astype(np.float32)
    beyond = np.array([np.finfo(np.float32).max, 65504, 65519.996, 65520, 65536, 3.3961775e38], np.float32)
    points = np.concatenate([numbers, middles, beyond, -beyond])
    with np.errstate(over="ignore"):
        beside = [np.nextafter(points, np.float32(end)) for end in (np.inf, -np.inf)]
    points = np.concatenate([points, *beside])
    random = np.random.default_rng(7).integers(0, 1 << 32, 200_000, np.uint32).view(np.float32)
    found = np.concatenate([points, random]).astype(np.float32)
    return found[~np.isnan(found)]
