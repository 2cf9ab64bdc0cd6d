"""Reproducible orders of images: which come first in an epoch, which make up a subset.

Orders are built from raw Philox words and a stable sort, not from `Generator.permutation`: numpy promises the stream of
a bit generator for ever, but not the algorithms of `Generator`, and a run resumed after an update of numpy must meet
its images in the same order. Philox is counter-based (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
SC 2011), so the order of epoch 90 costs no walk through the 89 before it.
"""

from __future__ import annotations

import numpy as np

_WORD = (1 << 64) - 1

# The upper counter words keep the streams apart that share a seed; each has 2^128 blocks to itself.
_EPOCH_STREAM = 1
_SELECTION_STREAM = 2


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..count-1, int64, that depends on `seed` and `epoch` alone."""
    return _order(count, seed, epoch, _EPOCH_STREAM)


def selection_order(count: int, seed: int, purpose: int = 0) -> np.ndarray:
    """A permutation of 0..count-1 for choosing subsets; streams of different `purpose` are independent."""
    return _order(count, seed, purpose, _SELECTION_STREAM)


def _order(count: int, seed: int, word: int, stream: int) -> np.ndarray:
    key = np.array([seed & _WORD, word & _WORD], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=[0, 0, 0, stream]).random_raw(count)
    return np.argsort(words, kind="stable")
