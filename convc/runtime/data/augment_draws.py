"""The random numbers of an augmentation: functions of seed, step, epoch and image, and of nothing else.

So an image is changed in the same way whatever batch it comes in, whichever thread prepares it, and whether the
training was interrupted. Few numbers per image come from the Philox of the compiler, for a whole batch at once; where
every pixel needs one, from numpy's Philox, which is compiled and whose raw words numpy promises for ever.
"""

from __future__ import annotations

import numpy as np

from convc.ir.philox import philox, stream_key

_WORD = 0xFFFFFFFF
_IMAGE_STREAM = stream_key("train", "augment")
_PIXEL_STREAM = stream_key("train", "augment pixels")


def image_words(seed: int, steps: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """Four random words for each step and image: uint32 (steps, 4, n). `indices` are the images' places (n,)."""
    images = np.asarray(indices, np.int64)[None, :]
    numbers = np.arange(steps, dtype=np.int64)[:, None]
    counter = (images, np.asarray(epoch & _WORD), numbers, np.asarray(seed >> 32 & _WORD))
    return np.stack(philox(counter, (seed & _WORD, _IMAGE_STREAM)), axis=1)


def whole(words: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Whole numbers from 0 to `count` - 1 (int64), equally likely up to count / 2³²."""
    return (words.astype(np.uint64) * np.asarray(count, np.uint64) >> np.uint64(32)).astype(np.int64)


def uniform(words: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers between `low` and `high` (float64)."""
    return low + (high - low) * ((words + np.float64(0.5)) / 2**32)


def normals(seed: int, step: int, epoch: int, indices: np.ndarray, count: int) -> np.ndarray:
    """`count` standard normal numbers for each image: float32 (n, count), by Box & Muller (1958).

    The largest magnitude is √(48·ln 2) = 5.77.
    """
    half = (count + 1) // 2
    raw = np.empty((len(indices), half), np.uint64)
    key = np.array([seed, _PIXEL_STREAM], np.uint64)
    for row, index in zip(raw, indices, strict=True):
        row[:] = np.random.Philox(key=key, counter=[0, step, int(index), epoch]).random_raw(half)
    # 24 bits each: float32 holds them exactly, and u is never 0.
    u = ((raw >> np.uint64(40)) + np.uint64(1)).astype(np.float32) * np.float32(2**-24)
    v = (raw & np.uint64(0xFFFFFF)).astype(np.float32) * np.float32(2 * np.pi / 2**24)
    radius = np.sqrt(np.float32(-2) * np.log(u))
    return np.concatenate([radius * np.cos(v), radius * np.sin(v)], axis=1)[:, :count]
