"""Checks and conversions of what users hand to a program: images and labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from convc.ir.diagnostic import fail


def as_images(x: ArrayLike, image: tuple[int, ...], batch: int) -> np.ndarray:
    """`x` as C-contiguous float32 (n, *image) with 1 <= n <= batch. Any floating-point type is converted.

    Errors: `value-dtype`, `value-shape`, `value-rows`.
    """
    array = _array(x, "x")
    if array.dtype.kind != "f":
        hint = "the nets of data sets read pixels as x / 255" if array.dtype == np.uint8 else "x.astype(np.float32)"
        fail("value-dtype", f"x is {array.dtype}, but images are float32", hint=hint)
    if array.ndim != len(image) + 1 or array.shape[1:] != image:
        hint = "one image is x[None]" if array.shape == image else None
        fail("value-shape", f"x is {list(array.shape)}, but the net reads [n, {', '.join(map(str, image))}]", hint=hint)
    if not 1 <= len(array) <= batch:
        fail(
            "value-rows",
            f"x has {len(array)} rows, but the program takes 1 to {batch}",
            hint=f"compile(net, batch={len(array)})" if len(array) else None,
        )
    return np.ascontiguousarray(array, np.float32)


def as_labels(labels: ArrayLike, rows: int, pixels: tuple[int, ...], classes: int) -> np.ndarray:
    """`labels` as C-contiguous int32 (rows, *pixels), each at least 0 and below `classes`.

    Errors: `value-dtype`, `value-shape`, `value-label-range`.
    """
    array = _array(labels, "labels")
    if array.dtype.kind not in "iu":
        fail("value-dtype", f"labels are {array.dtype}, but class numbers are integers", hint="labels.astype(np.int32)")
    if array.shape != (rows, *pixels):
        hint = "labels.argmax(1) turns one-hot rows into class numbers" if array.shape == (rows, classes) else None
        fail("value-shape", f"labels are {list(array.shape)}, but {rows} images need {[rows, *pixels]}", hint=hint)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= classes:
        worst = low if low < 0 else high
        fail("value-label-range", f"label {worst} is out of range: the net has {classes} outputs, 0 to {classes - 1}")
    return np.ascontiguousarray(array, np.int32)


def as_targets(labels: ArrayLike, rows: int, shape: tuple[int, ...]) -> np.ndarray:
    """`labels` as C-contiguous float32 (rows, *shape): numbers of the outputs' shape, or class numbers as one-hot.

    Errors: `value-dtype`, `value-shape`, `value-label-range`.
    """
    array, (classes, *pixels) = _array(labels, "labels"), shape
    if array.dtype.kind != "f":
        if array.dtype.kind in "iu" and array.shape == (rows, *shape) and shape != (1,):
            hint = "numbers to come close to are labels.astype(np.float32)"
            expected = f"whole labels are class numbers {[rows, *pixels]}"
            fail("value-shape", f"labels are {array.dtype} {list(array.shape)}, but {expected}", hint=hint)
        return one_hot(as_labels(array, rows, tuple(pixels), classes), classes)
    if array.shape != (rows, *shape):
        expected = f"{rows} images need numbers {[rows, *shape]} or whole class numbers {[rows, *pixels]}"
        fail("value-shape", f"labels are {array.dtype} {list(array.shape)}, but {expected}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels (n, …) in range as float32 (n, classes, …): 1 at the label, else 0."""
    targets = np.zeros((len(labels), classes, *labels.shape[1:]), np.float32)
    np.put_along_axis(targets, np.expand_dims(labels, 1).astype(np.intp), 1, axis=1)
    return targets


def is_finite_number(value: object) -> bool:
    """Whether `value` is a real number (of Python or numpy) other than an infinity or NaN."""
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _array(value: ArrayLike, what: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        fail("value-dtype", f"{what} is not an array: {error}")
