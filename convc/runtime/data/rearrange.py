"""Whole-pixel moves of images: which row and which column of the source each row and column of the result shows.

Padding, cutting, mirroring and shifting any number of times is one copy of pixels, exact in any type.
"""

from __future__ import annotations

import numpy as np

# In a table of rows or columns: nothing of the image is there.
OUTSIDE = -1


def gather(source: np.ndarray, pictures: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Image k of the result is made of image `pictures[k]` of the source; zeros where a row or column is `OUTSIDE`.

    `source` is (N, C, H, W), C-contiguous; `rows` (n, h) and `columns` (n, w); the result (n, C, h, w), of its type.
    """
    _, channels, height, width = source.shape
    flat = source.reshape(-1)
    first = pictures.astype(np.intp)[:, None] * (channels * height * width)
    place = (first + np.maximum(rows, 0) * width)[:, :, None] + np.maximum(columns, 0)[:, None, :]
    result = np.empty((len(pictures), channels, *place.shape[1:]), source.dtype)
    for channel in range(channels):
        result[:, channel] = np.take(flat, place, mode="clip")
        place += height * width
    shown_rows, shown_columns = rows != OUTSIDE, columns != OUTSIDE
    if not (shown_rows.all() and shown_columns.all()):
        result *= (shown_rows[:, :, None] & shown_columns[:, None, :])[:, None]
    return result


def whole_image(count: int, extent: int) -> np.ndarray:
    """The table that changes nothing, for `count` images."""
    return np.tile(np.arange(extent, dtype=np.intp), (count, 1))


def surrounded(table: np.ndarray, pixels: int) -> np.ndarray:
    """With `pixels` more places on both sides, outside of the image."""
    return np.pad(table, ((0, 0), (pixels, pixels)), constant_values=OUTSIDE)


def window(table: np.ndarray, first: np.ndarray, extent: int) -> np.ndarray:
    """For image k the `extent` places from `first[k]` on; what lies beyond the table is outside of the image."""
    wanted = first[:, None] + np.arange(extent)
    found = np.take_along_axis(table, np.clip(wanted, 0, table.shape[1] - 1), axis=1)
    return np.where((wanted >= 0) & (wanted < table.shape[1]), found, OUTSIDE)
