"""The steps of `augment`: what each does to an image, and which random numbers it draws for that.

A step that moves whole pixels has `move`, one that is an affine map `inverse` (some are both), and one that changes
pixels where they are `paint`. Every step has four random words to itself for every image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from convc.lazy import dataclass
from convc.runtime.data.augment_draws import normals, uniform, whole
from convc.runtime.data.rearrange import surrounded, window
from convc.runtime.data.resample import STEEPEST, Affine

# (height, width)
Size = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """Some images of a batch: their places in the data set (n,), and the random words of all steps (steps, 4, n)."""

    seed: int
    epoch: int
    indices: np.ndarray
    words: np.ndarray


class AugmentStep:
    """What all steps have in common; by default the size stays and any image will do.

    `keeps_pixels` says of a `Move` that each pixel of the result is one of the image, so that the labels of pixels can
    go with them.
    """

    keeps_pixels: ClassVar[bool] = False

    def output(self, size: Size) -> Size:
        """The size after the step."""
        return size

    def misfit(self, size: Size) -> str | None:
        """Why images of this size cannot go through the step, to be read after its text."""
        return None


@runtime_checkable
class Move(Protocol):
    """Whole pixels to other places; see `rearrange`."""

    def move(self, rows: np.ndarray, columns: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tables (n, h) and (n, w) after the step."""
        ...


@runtime_checkable
class Turn(Protocol):
    """An affine map about the centre."""

    def inverse(self, words: np.ndarray) -> Affine:
        """Where each point comes from."""
        ...


@runtime_checkable
class Paint(Protocol):
    """New values for pixels."""

    def paint(self, images: np.ndarray, part: Part, number: int) -> np.ndarray:
        """Change images (n, C, H, W), uint8 or float32, in place or not; `number` is the step's in the pipeline."""
        ...


@dataclass(frozen=True)
class Pad(AugmentStep):
    """Zeros on all four sides."""

    pixels: int

    def output(self, size: Size) -> Size:
        return size[0] + 2 * self.pixels, size[1] + 2 * self.pixels

    def move(self, rows: np.ndarray, columns: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return surrounded(rows, self.pixels), surrounded(columns, self.pixels)


@dataclass(frozen=True)
class Crop(AugmentStep):
    """A part of this size; every place within the image is equally likely."""

    keeps_pixels: ClassVar[bool] = True
    size: Size

    def output(self, size: Size) -> Size:
        return self.size

    def misfit(self, size: Size) -> str | None:
        return _larger(self.size, size)

    def move(self, rows: np.ndarray, columns: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.size
        top = whole(words[0], rows.shape[1] - height + 1)
        left = whole(words[1], columns.shape[1] - width + 1)
        return window(rows, top, height), window(columns, left, width)


@dataclass(frozen=True)
class Flip(AugmentStep):
    """`h` exchanges left and right, `v` top and bottom, each time with probability 1/2."""

    keeps_pixels: ClassVar[bool] = True
    axis: str

    def move(self, rows: np.ndarray, columns: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mirrored = self._mirrored(words)[:, None]
        if self.axis == "v":
            return np.where(mirrored, rows[:, ::-1], rows), columns
        return rows, np.where(mirrored, columns[:, ::-1], columns)

    def inverse(self, words: np.ndarray) -> Affine:
        axis = 0 if self.axis == "v" else 1
        affine = _unmoved(words)
        affine.linear[:, axis, axis] = np.where(self._mirrored(words), -1.0, 1.0)
        return affine

    def _mirrored(self, words: np.ndarray) -> np.ndarray:
        return whole(words[0], 2) == 1


@dataclass(frozen=True)
class Shift(AugmentStep):
    """Whole pixels down and to the right, from -h to h and from -w to w, all equally likely; zeros come in."""

    pixels: Size

    def misfit(self, size: Size) -> str | None:
        if self.pixels[0] < size[0] and self.pixels[1] < size[1]:
            return None
        return f"would move images of {size[0]}x{size[1]} out of sight"

    def move(self, rows: np.ndarray, columns: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        down, right = self._distance(words)
        return window(rows, -down, rows.shape[1]), window(columns, -right, columns.shape[1])

    def inverse(self, words: np.ndarray) -> Affine:
        affine = _unmoved(words)
        affine.offset[:, 0], affine.offset[:, 1] = (-distance for distance in self._distance(words))
        return affine

    def _distance(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.pixels
        return whole(words[0], 2 * height + 1) - height, whole(words[1], 2 * width + 1) - width


@dataclass(frozen=True)
class Rotate(AugmentStep):
    """Counter-clockwise about the centre, by an angle that is uniform from -degrees to degrees."""

    degrees: float

    def inverse(self, words: np.ndarray) -> Affine:
        angle = uniform(words[0], -self.degrees, self.degrees) * (math.pi / 180)
        affine = _unmoved(words)
        cosine, sine = np.cos(angle), np.sin(angle)
        affine.linear[:, 0, 0], affine.linear[:, 0, 1] = cosine, sine
        affine.linear[:, 1, 0], affine.linear[:, 1, 1] = -sine, cosine
        return affine


@dataclass(frozen=True)
class Scale(AugmentStep):
    """Enlarges (or, below 1, shrinks) what is seen about the centre by a uniform factor; the image keeps its size."""

    low: float
    high: float

    def inverse(self, words: np.ndarray) -> Affine:
        factor = np.clip(uniform(words[0], self.low, self.high), 1 / STEEPEST, STEEPEST)
        affine = _unmoved(words)
        return Affine(affine.linear / factor[:, None, None], affine.offset)


@dataclass(frozen=True)
class Noise(AugmentStep):
    """Adds Gaussian noise of this standard deviation to every value; pixels are in 0…1 and may leave that."""

    std: float

    def paint(self, images: np.ndarray, part: Part, number: int) -> np.ndarray:
        images = as_numbers(images)
        noise = normals(part.seed, number, part.epoch, part.indices, int(np.prod(images.shape[1:])))
        noise *= np.float32(self.std)
        images += noise.reshape(images.shape)
        return images


@dataclass(frozen=True)
class Cutout(AugmentStep):
    """Zeros in a rectangle around a pixel that is drawn; parts of it may lie outside (DeVries & Taylor, 2017)."""

    size: Size

    def misfit(self, size: Size) -> str | None:
        return _larger(self.size, size)

    def paint(self, images: np.ndarray, part: Part, number: int) -> np.ndarray:
        (height, width), words = self.size, part.words[number]
        tops = whole(words[0], images.shape[2]) - height // 2
        lefts = whole(words[1], images.shape[3]) - width // 2
        for image, top, left in zip(images, tops.tolist(), lefts.tolist(), strict=True):
            image[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = 0
        return images


# What makes a step of the language's arguments.
MAKERS: dict[str, Callable[[Mapping[str, Any]], AugmentStep]] = {
    "pad": lambda given: Pad(given["pixels"]),
    "crop": lambda given: Crop(given["size"]),
    "flip": lambda given: Flip(given["axis"]),
    "rotate": lambda given: Rotate(given["degrees"]),
    "shift": lambda given: Shift(given["pixels"]),
    "scale": lambda given: Scale(*given["range"]),
    "noise": lambda given: Noise(given["std"]),
    "cutout": lambda given: Cutout(given["size"]),
}


def as_numbers(images: np.ndarray) -> np.ndarray:
    """Bytes as numbers in 0…1, as a data set delivers them; floats as they are."""
    return np.divide(images, np.float32(255)) if images.dtype == np.uint8 else images


def _unmoved(words: np.ndarray) -> Affine:
    count = words.shape[-1]
    return Affine(np.tile(np.eye(2), (count, 1, 1)), np.zeros((count, 2)))


def _larger(wanted: Size, size: Size) -> str | None:
    if wanted[0] <= size[0] and wanted[1] <= size[1]:
        return None
    return f"is larger than the images that arrive there, {size[0]}x{size[1]}"
