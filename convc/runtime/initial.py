"""First values of parameters.

The random numbers of a parameter depend on the seed and on its own name and shape, and on nothing else: adding a layer
or freezing one leaves the others as they were. They are drawn from raw Philox words (numpy promises the stream of a bit
generator for ever, but not what `Generator` makes of it), two numbers from the halves of one 64-bit word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from convc.ir.graph import Initializer, Parameter
from convc.ir.philox import stream_key

_CHUNK = 1 << 15  # words at a time: arrays that all steps work on stay in the cache


def initial_value(parameter: Parameter, seed: int) -> np.ndarray:
    """The value that `parameter` starts with, float32 in its logical shape."""
    initial, shape = parameter.initial, parameter.value.shape
    stream = stream_key(parameter.name, "init")
    return _KINDS[initial.kind](initial, shape, seed, stream)


def _constant(value: float) -> Callable[[Initializer, tuple[int, ...], int, int], np.ndarray]:
    return lambda initial, shape, seed, stream: np.full(shape, value, np.float32)


def _const(initial: Initializer, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    return np.full(shape, initial.value, np.float32)


def _he(initial: Initializer, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Normal of variance 2/fan_in (He et al., "Delving deep into rectifiers", 2015)."""
    return _normal(shape, math.sqrt(2 / initial.fan_in), seed, stream)


def _xavier(initial: Initializer, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Normal of variance 2/(fan_in + fan_out) (Glorot & Bengio 2010)."""
    return _normal(shape, math.sqrt(2 / (initial.fan_in + initial.fan_out)), seed, stream)


def _gauss(initial: Initializer, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    return _normal(shape, initial.value, seed, stream)


def _uniform(initial: Initializer, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Uniform on (−a, a), a the initialiser's value."""
    result = np.empty(math.prod(shape), np.float32)
    for pairs, first, second in _pairs(result, seed, stream):
        for half, numbers in enumerate((first, second)):
            numbers *= 2
            numbers -= 1
            np.multiply(numbers, initial.value, out=pairs[:, half])
    return result.reshape(shape)


def _orthogonal(initial: Initializer, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Orthonormal rows (or columns, where there are more rows) of the matrix (out, everything else).

    Saxe, McClelland & Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear networks", 2014.
    """
    rows = shape[0]
    columns = math.prod(shape[1:])
    tall = (max(rows, columns), min(rows, columns))
    q, r = np.linalg.qr(_normal(tall, 1.0, seed, stream).astype(np.float64))
    # Without the signs of R's diagonal the result would not be uniformly distributed.
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(q if rows >= columns else q.T, np.float32).reshape(shape)


_KINDS: dict[str, Callable[[Initializer, tuple[int, ...], int, int], np.ndarray]] = {
    "zeros": _constant(0.0),
    "ones": _constant(1.0),
    "const": _const,
    "he": _he,
    "xavier": _xavier,
    "gauss": _gauss,
    "uniform": _uniform,
    "orthogonal": _orthogonal,
}


def _normal(shape: tuple[int, ...], deviation: float, seed: int, stream: int) -> np.ndarray:
    """Normal numbers by Box and Muller: r = √(−2 ln u₁), then r·cos 2πu₂ and r·sin 2πu₂."""
    result = np.empty(math.prod(shape), np.float32)
    turned = np.empty(_CHUNK, np.float32)
    for pairs, radius, angle in _pairs(result, seed, stream):
        np.log(radius, out=radius)
        radius *= -2
        np.sqrt(radius, out=radius)
        radius *= deviation
        angle *= 2 * math.pi
        for half, function in enumerate((np.cos, np.sin)):
            np.multiply(radius, function(angle, out=turned[: len(angle)]), out=pairs[:, half])
    return result.reshape(shape)


def _pairs(result: np.ndarray, seed: int, stream: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Places for pairs of elements of `result` (n, 2), and for each pair two numbers in (0, 1).

    The numbers lie in arrays that are used again: who gets them may work on them in place.
    """
    generator = np.random.Philox(key=np.array([seed & ((1 << 64) - 1), stream], dtype=np.uint64))
    words = -(-result.size // 2)
    numbers = np.empty((2, min(_CHUNK, words)), np.float32)
    for start in range(0, words, _CHUNK):
        drawn = generator.random_raw(min(_CHUNK, words - start)).astype("<u8", copy=False)
        low, high = drawn.view("<u4").reshape(-1, 2).T
        first, second = numbers[:, : len(drawn)]
        for half, number in ((high, first), (low, second)):
            number[:] = half
            number += 0.5
            number *= 2**-32
        end = 2 * (start + len(drawn))
        if end <= result.size:
            yield result[2 * start : end].reshape(-1, 2), first, second
        else:  # the second number of the last pair is not wanted
            pairs = np.empty((len(drawn), 2), np.float32)
            yield pairs, first, second
            result[2 * start :] = pairs.ravel()[:-1]
