"""Affine maps of images by bilinear interpolation.

Pixels are samples at the centres of unit squares, and maps are about the centre of the image. Outside of the image all
is zero, so that the outermost pixels fade out over one pixel (as with PyTorch's `grid_sample`, `padding_mode="zeros"`,
`align_corners=False`).
"""

from __future__ import annotations

import numpy as np

from convc.lazy import dataclass

# A map this steep shows one point of an image; products of steeper ones could overflow.
STEEPEST = 1e9


@dataclass(frozen=True)
class Affine:
    """For each of n images, where in the source a point of the result comes from: source = linear · point + offset.

    Points are (row, column) relative to the centre of the image, in pixels. `linear` is (n, 2, 2), `offset` (n, 2),
    both float64.
    """

    linear: np.ndarray
    offset: np.ndarray

    def before(self, later: Affine) -> Affine:
        """The map of doing this first and then `later`: a point goes back through `later`, then through this."""
        offset = (self.linear @ later.offset[:, :, None])[:, :, 0] + self.offset
        linear = self.linear @ later.linear
        return Affine(np.clip(linear, -STEEPEST, STEEPEST), np.clip(offset, -STEEPEST, STEEPEST))


def resample(images: np.ndarray, affine: Affine) -> np.ndarray:
    """Float32 images (n, C, H, W), moved by the map: of the same shape."""
    count, channels, height, width = images.shape
    # A frame of zeros: all four neighbours of a point between -1 and H (or W) lie in the array.
    framed = np.zeros((count, channels, height + 2, width + 2), np.float32)
    framed[:, :, 1:-1, 1:-1] = images
    row, above = _coordinates(affine, 0, height, width)
    column, left = _coordinates(affine, 1, height, width)
    stride = width + 2
    place = above.astype(np.intp) * stride + left.astype(np.intp)
    place += (np.arange(count) * (channels * (height + 2) * stride))[:, None, None]
    down, right = row - above, column - left
    flat = framed.reshape(-1)
    result = np.empty(images.shape, np.float32)
    for channel in range(channels):
        corner = place + channel * (height + 2) * stride
        upper = _blend(flat, corner, right)
        corner += stride
        lower = _blend(flat, corner, right)
        lower -= upper
        lower *= down
        np.add(upper, lower, out=result[:, channel])
    return result


def _coordinates(affine: Affine, axis: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where on one axis of the framed source each pixel of the result lies, and the pixel before: float32 (n, H, W)."""
    linear, offset = affine.linear[:, axis], affine.offset[:, axis]
    extent = (height, width)[axis]
    by_row = linear[:, 0, None] * (np.arange(height) - (height - 1) / 2)
    by_column = linear[:, 1, None] * (np.arange(width) - (width - 1) / 2)
    by_column += offset[:, None] + ((extent - 1) / 2 + 1)
    place = by_row.astype(np.float32)[:, :, None] + by_column.astype(np.float32)[:, None, :]
    np.clip(place, 0, extent + 1, out=place)
    return place, np.minimum(np.floor(place), np.float32(extent))


def _blend(flat: np.ndarray, place: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Between a pixel and its right neighbour."""
    value = np.take(flat, place, mode="clip")
    step = np.take(flat, place + 1, mode="clip")
    step -= value
    step *= share
    value += step
    return value
