"""From the arrays found in files to the arrays of a `Split`: one layout, two pixel types, checked labels."""

from __future__ import annotations

import numpy as np

from convc.ir.diagnostic import fail
from convc.runtime.data.dataset import Shape, Split, format_shape, label_place
from convc.runtime.data.memory import require_memory

# More classes than any labelled set has: a label beyond is an index or a colour, not a class.
MAX_CLASSES = 1 << 20

_CHANNEL_COUNTS = (1, 3, 4)


def make_split(images: np.ndarray, labels: np.ndarray, where: str, input_shape: Shape | None) -> Split:
    """Images in any accepted layout and labels of any integer type, for images or for pixels, as a `Split`.

    Errors: `data-shape`, `data-type`, `data-not-finite`, `data-label-range`, `data-mismatch`, `data-empty`,
    `data-memory`; `where` names the origin in their messages.
    """
    if images.ndim == 0 or len(images) == 0:
        fail("data-empty", f"{where} holds no images")
    pixels = _pixels(_as_nchw(images, where, input_shape), where)
    classes = _labels(labels, where)
    if len(pixels) != len(classes):
        fail("data-mismatch", f"{where} has {len(pixels)} images, but {len(classes)} labels")
    return Split(pixels, classes)


def _as_nchw(images: np.ndarray, where: str, input_shape: Shape | None) -> np.ndarray:
    if 0 in images.shape[1:]:
        fail("data-shape", f"images of {where} have no pixels: the array is {format_shape(images.shape)}")
    if images.ndim == 2:
        # Rows of features: the net's input says what image they make up.
        row = images.shape[1]
        fits = input_shape is not None and int(np.prod(input_shape)) == row
        return images.reshape(len(images), *(input_shape if fits and input_shape else (row, 1, 1)))
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4:
        return images.transpose(0, 3, 1, 2) if _channels_last(images.shape[1:], input_shape) else images
    fail(
        "data-shape",
        f"images of {where} must be (N, H, W), (N, C, H, W) or (N, H, W, C), not {format_shape(images.shape)}",
    )


def _channels_last(shape: tuple[int, ...], input_shape: Shape | None) -> bool:
    """Whether (a, b, c) is H, W, C: as the net's input says, else as the number of channels suggests, else not."""
    if input_shape is not None:
        if shape == input_shape:
            return False
        if (shape[2], shape[0], shape[1]) == input_shape:
            return True
    return shape[2] in _CHANNEL_COUNTS and shape[0] not in _CHANNEL_COUNTS


def _pixels(images: np.ndarray, where: str) -> np.ndarray:
    kind = images.dtype.kind
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if kind == "b":
        return np.ascontiguousarray(images, dtype=np.float32)
    if kind in "iu":
        lowest, highest = int(images.min()), int(images.max())
        if lowest < 0 or highest > 255:
            fail(
                "data-type",
                f"images of {where} are {images.dtype} from {lowest} to {highest}; whole numbers must lie in 0 to 255",
                hint="store them as uint8, or as float32 in the units that the net shall see",
            )
        return np.ascontiguousarray(images, dtype=np.uint8)
    if kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            pixels = np.ascontiguousarray(images, dtype=np.float32)
            total = pixels.sum(dtype=np.float64)
        # A sum of float32 numbers is finite in float64 unless one of them is not: no temporary array is needed.
        if not np.isfinite(total):
            for index, image in enumerate(pixels):
                if not np.isfinite(image).all():
                    fail(
                        "data-not-finite", f"image {index} of {where} holds a value that is NaN or infinite in float32"
                    )
        return pixels
    fail("data-type", f"images of {where} are {images.dtype}; whole numbers or floats are needed")


def _labels(labels: np.ndarray, where: str) -> np.ndarray:
    numbers = _class_indices(labels, where)
    if not numbers.size:
        return numbers.astype(np.int32)
    lowest, highest = int(numbers.min()), int(numbers.max())
    if lowest < 0 or highest >= MAX_CLASSES:
        index = int(numbers.argmin() if lowest < 0 else numbers.argmax())
        fail(
            "data-label-range",
            f"label {lowest if lowest < 0 else highest} of {label_place(numbers, index)} of {where} is out of range",
            hint="labels are class numbers that count from 0",
        )
    if numbers.ndim > 1 and numbers.dtype != np.int32:
        require_memory(4 * numbers.size, f"the labels of {where}")
    return np.ascontiguousarray(numbers, dtype=np.int32)


def _class_indices(labels: np.ndarray, where: str) -> np.ndarray:
    labels = _without_channel(labels)
    if labels.dtype.kind not in "iufb":
        fail("data-type", f"labels of {where} are {labels.dtype}; class numbers are needed")
    if labels.ndim == 2:
        # One-hot rows, the form in which some libraries store labels.
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
            fail("data-shape", f"labels of {where} are {format_shape(labels.shape)}, but not one-hot rows")
        return labels.argmax(axis=1)
    if labels.ndim not in (1, 3) or 0 in labels.shape[1:]:
        hint = "labels.argmax(1) makes class numbers of one-hot maps (N, K, H, W)" if labels.ndim == 4 else None
        fail(
            "data-shape",
            f"labels of {where} must be one number per image or (N, H, W), one per pixel, "
            f"not {format_shape(labels.shape) or 'a scalar'}",
            hint=hint,
        )
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = labels == np.floor(labels)
        if not (whole & np.isfinite(labels)).all():
            index = int(np.argmin(whole & np.isfinite(labels)))
            fail(
                "data-type",
                f"label {labels.flat[index]} of {label_place(labels, index)} of {where} is not a whole number",
                hint="numbers to come close to, with `loss mse`, are given from Python",
            )
    return labels


def _without_channel(labels: np.ndarray) -> np.ndarray:
    """(N, 1), (N, 1, H, W) and (N, H, W, 1) without the axis of length one; labels of one pixel are those of images."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 4 and 1 in (labels.shape[1], labels.shape[3]):
        labels = labels[:, 0] if labels.shape[1] == 1 else labels[..., 0]
    return labels[:, 0, 0] if labels.ndim == 3 and labels.shape[1:] == (1, 1) else labels


def numbered_classes(parts: dict[str, Split]) -> tuple[str, ...]:
    """Class names "0", "1", ... as far as labels occur in any part."""
    return tuple(str(label) for label in range(1 + max(int(split.labels.max()) for split in parts.values())))
