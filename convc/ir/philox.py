"""Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

A number depends on a key and a counter and on nothing else, so every back end and every number of threads draws the
same dropout mask. The key is (seed, hash of the layer's path and use), the counter (update, logical NCHW element).
"""

from __future__ import annotations

import hashlib

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def stream_key(path: str, use: str) -> int:
    """32 bits that tell apart the random streams of a program; stable across versions and machines."""
    return int.from_bytes(hashlib.sha256(f"{path}\0{use}".encode()).digest()[:4], "little")


def philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Four words of 32 random bits per counter (four uint32 words, arrays of one shape)."""
    mask = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in np.broadcast_arrays(*counter))
    k0, k1 = key
    for _ in range(ROUNDS):
        left = c0 * np.uint64(MULTIPLIERS[0])
        right = c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (right >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            right & mask,
            (left >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            left & mask,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def random_words(shape: tuple[int, ...], seed: int, stream: int, step: int, first: int = 0) -> tuple[np.ndarray, ...]:
    """Four uint32 per element of a tensor: Philox at counter (element, update), elements counted from `first`."""
    size = int(np.prod(shape, dtype=np.int64))
    element = np.arange(first, first + size, dtype=np.uint64)
    low, high = element & np.uint64(0xFFFFFFFF), element >> np.uint64(32)
    update = np.asarray(step & 0xFFFFFFFF), np.asarray((step >> 32) & 0xFFFFFFFF)
    words = philox((low, high, *update), (seed & 0xFFFFFFFF, stream))
    return tuple(word.reshape(shape) for word in words)


def random_bits(shape: tuple[int, ...], seed: int, stream: int, step: int, first: int = 0) -> np.ndarray:
    """One uint32 per element of a tensor: word 0 of `random_words`."""
    return random_words(shape, seed, stream, step, first)[0]


def gaussian(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A standard normal number (float64) from two words of random bits each, by Box & Muller (1958).

    √(−2·ln u)·sin(π·v) with u in (0, 1] and v in [−1, 1), multiples of 2⁻²⁴ and 2⁻²³: float32 holds them exactly, so
    back ends differ from this by rounding only. The largest magnitude is √(48·ln 2) = 5.77.
    """
    u = ((first >> np.uint32(8)) + np.float64(1)) / 2**24
    v = (second >> np.uint32(8)) / np.float64(2**23) - 1
    return np.sqrt(-2 * np.log(u)) * np.sin(np.pi * v)
