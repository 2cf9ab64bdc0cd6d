"""The size at which images are kept when `augment` changes it, and what of them is looked at without augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.runtime.data.dataset import Split

if TYPE_CHECKING:
    from convc.frontend.settings import DataSetting, Step

Size = tuple[int, int]

# Crops of 224 are taken from images of 256 (Krizhevsky et al., 2012), and other sizes in this proportion.
_LARGER = 256, 224


def stored_size(augment: Sequence[Step], input_size: Size) -> Size:
    """(height, width) to which the images of a folder are brought, so that `augment` makes `input_size` of them.

    Where it cuts before it pads: larger than what is cut out by 8/7, rounded up. Else the input's size, less what is
    padded without being cut off again.
    """
    arguments = {"pad": "pixels", "crop": "size"}
    changes: list[tuple[str, Any]] = [
        (step.word, step.arguments[arguments[step.word]]) for step in augment if step.word in arguments
    ]
    if changes and changes[0][0] == "crop":
        more, less = _LARGER
        height, width = (-(-extent * more // less) for extent in changes[0][1])
        return height, width
    if any(word == "crop" for word, _ in changes):
        return input_size
    frame = 2 * sum(value for _, value in changes)
    height, width = (extent - frame if extent > frame else extent for extent in input_size)
    return height, width


def folder_size(data: DataSetting | None, augment: Sequence[Step], input_size: Size) -> Size:
    """The size to which the images of `data` are brought if it is a folder: its own `size=`, else the stored size."""
    if data is None or data.kind != "folder":
        return input_size
    size = data.options.get("size")
    return size if isinstance(size, tuple) else stored_size(augment, input_size)  # type: ignore[return-value]


def centred(split: Split, size: Size) -> Split:
    """The centres of the images, `size` large, with the labels of their pixels; zeros around them where they are
    smaller.
    """
    if split.shape[1:] == size:
        return split
    labels = centre(split.labels, size) if split.label_shape else split.labels
    return Split(centre(split.images, size), labels)


def centre(images: np.ndarray, size: Size) -> np.ndarray:
    """The centres of images (…, H, W), as a copy; zeros around them where they are smaller."""
    result = np.zeros((*images.shape[:-2], *size), images.dtype)
    there, here = zip(*(_overlap(*extents) for extents in zip(images.shape[-2:], size, strict=True)), strict=True)
    result[(..., *here)] = images[(..., *there)]
    return result


def _overlap(stored: int, wanted: int) -> tuple[slice, slice]:
    """What of the stored rows is shown, and in which rows."""
    if stored >= wanted:
        first = (stored - wanted) // 2
        return slice(first, first + wanted), slice(None)
    first = (wanted - stored) // 2
    return slice(None), slice(first, first + stored)
