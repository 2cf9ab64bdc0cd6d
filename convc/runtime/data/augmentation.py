"""A pipeline of random changes to training images: which sizes it goes through, and the batches that come out of it.

Steps are joined to stages: whole-pixel moves that follow each other are one copy of pixels, affine maps one
interpolation, so that nothing is lost to doing them one by one. Bytes stay bytes as long as that is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from convc.ir.diagnostic import Note, fail
from convc.lazy import dataclass
from convc.runtime.data.augment_draws import image_words
from convc.runtime.data.augment_steps import MAKERS, AugmentStep, Move, Paint, Part, Turn, as_numbers
from convc.runtime.data.dataset import Fill, LabelShape, Shape, Split, format_shape, require_shape
from convc.runtime.data.memory import require_memory
from convc.runtime.data.rearrange import gather, whole_image
from convc.runtime.data.resample import resample

if TYPE_CHECKING:
    from convc.frontend.settings import Step
    from convc.ir.span import Span

# Images are changed some at a time, so that what lies between two stages stays in the cache.
_PIXELS_AT_A_TIME = 1 << 15
# Arrays of the size of a stage's result that it needs at once, counted in float32.
_WORKING_ARRAYS = 12
_LARGEST = 1 << 15


class _Stage(Protocol):
    def run(self, images: np.ndarray, part: Part) -> np.ndarray: ...


@dataclass(frozen=True)
class _Rearranged:
    """Consecutive steps that move whole pixels, with their numbers in the pipeline."""

    steps: list[tuple[int, Move]] = field(default_factory=list[tuple[int, Move]])

    def run(self, images: np.ndarray, part: Part) -> np.ndarray:
        return self.take(images, np.arange(len(images)), part)

    def take(self, source: np.ndarray, pictures: np.ndarray, part: Part) -> np.ndarray:
        """The images `pictures` of the source, rearranged; a copy."""
        if not self.steps:
            return np.take(source, pictures, axis=0)
        rows, columns = (whole_image(len(pictures), extent) for extent in source.shape[2:])
        for number, step in self.steps:
            rows, columns = step.move(rows, columns, part.words[number])
        return gather(source, pictures, rows, columns)


@dataclass(frozen=True)
class _Resampled:
    """Consecutive affine maps."""

    steps: list[tuple[int, Turn]]

    def run(self, images: np.ndarray, part: Part) -> np.ndarray:
        (first, step), *others = self.steps
        affine = step.inverse(part.words[first])
        for number, later in others:
            affine = affine.before(later.inverse(part.words[number]))
        return resample(as_numbers(images), affine)


@dataclass(frozen=True)
class _Painted:
    """One step that changes pixels where they are."""

    number: int
    step: Paint

    def run(self, images: np.ndarray, part: Part) -> np.ndarray:
        return self.step.paint(images, part, self.number)


class Augmentation:
    """The steps of `augment` with the seed of the training. `str` is the pipeline as a file writes it."""

    def __init__(self, steps: Sequence[Step], seed: int) -> None:
        self.steps = tuple(steps)
        self.seed = seed
        self._made = [MAKERS[step.word](step.arguments) for step in self.steps]
        # The first stage gets the images out of the data set, whether there is something to rearrange or not.
        self._first, self._others = _stages(self._made)
        # What moves pixels moves their labels, with the same random numbers.
        moves = [(number, made) for number, made in enumerate(self._made) if _moves_labels(made)]
        self._labels = _Rearranged([(number, made) for number, made in moves if isinstance(made, Move)])

    def __str__(self) -> str:
        return " -> ".join(map(str, self.steps))

    def output(self, shape: Shape) -> Shape:
        """The shape (C, H, W) of images that come in as `shape`. Error: `shape-augment` at the step that cannot be."""
        channels, *extents = shape
        size = extents[0], extents[1]
        passed = [f"images {format_shape(shape)}"]
        for step, made in zip(self.steps, self._made, strict=True):
            problem = made.misfit(size)
            size = made.output(size)
            hint = None
            if problem is None and max(size) > _LARGEST:
                problem = f"makes images of {size[0]}x{size[1]}"
                hint = f"images of up to {_LARGEST}x{_LARGEST} are possible"
            if problem is not None:
                notes = (Note(f"sizes up to there: {' -> '.join(passed)}"),)
                fail("shape-augment", f"`{step}` {problem}", step.span, hint, notes)
            passed.append(f"{step.word}: {format_shape((channels, *size))}")
        return channels, *size

    def require(
        self, name: str, shape: Shape, input_shape: Shape, span: Span | None = None, data_span: Span | None = None
    ) -> None:
        """Refuse (`shape-augment`) unless images of `shape`, from the data set `name`, come out as `input_shape`.

        Where the steps leave the size alone it is the images that do not fit (`data-shape`). `data-memory`: images of
        which not even one can be changed at a time. `span` is that of `augment`, `data_span` that of the data.
        """
        result = self.output(shape)
        self._require_memory(shape)
        if result == shape or result[0] != input_shape[0]:
            require_shape(name, shape, input_shape, data_span)
        if result != input_shape:
            height, width = input_shape[1:]
            larger = result[1] >= height and result[2] >= width
            fail(
                "shape-augment",
                f"images of {name} are {format_shape(shape)} and leave `augment` as {format_shape(result)}, "
                f"the net's input is {format_shape(input_shape)}",
                span,
                hint=f"end with `crop {height if height == width else (height, width)}`" if larger else None,
            )

    def require_labels(self, name: str, shape: Shape, labels: LabelShape, span: Span | None = None) -> None:
        """Refuse (`data-labels`) steps that the labels of pixels (h, w) of images of `shape` cannot follow.

        `name` is the data set's, `span` that of `augment`.
        """
        if not labels:
            return
        steps = list(zip(self.steps, self._made, strict=True))
        inventing = [step for step, made in steps if not (isinstance(made, Paint) or _moves_labels(made))]
        if inventing:
            words = ", ".join(f"`{step}`" for step in inventing)
            verb = "makes" if len(inventing) == 1 else "make"
            fail(
                "data-labels",
                f"{words} {verb} pixels that have no label, and {name} has a label for each pixel",
                inventing[0].span or span,
                hint="`crop` and `flip` move labels along, `noise` and `cutout` leave them as they are",
            )
        moving = [step for step, made in steps if _moves_labels(made)]
        if moving and labels != shape[1:]:
            fail(
                "data-labels",
                f"labels of {name} cannot follow `{moving[0]}`: they are maps of {format_shape(labels)}, "
                f"the images are {format_shape(shape[1:])}",
                moving[0].span or span,
            )

    def label_shape(self, labels: LabelShape) -> LabelShape:
        """What becomes of maps of labels (h, w); () stays."""
        return self.output((1, labels[0], labels[1]))[1:] if labels and self._labels.steps else labels

    def _require_memory(self, shape: Shape) -> None:
        largest = 0
        channels, size = shape[0], (shape[1], shape[2])
        for made in self._made:
            largest = max(largest, size[0] * size[1])
            size = made.output(size)
        pixels = max(largest, size[0] * size[1], _PIXELS_AT_A_TIME)
        hint = "smaller images, or less padding"
        require_memory(4 * _WORKING_ARRAYS * pixels * channels, "what `augment` makes of an image", hint)

    def batch_into(self, split: Split, indices: np.ndarray, epoch: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Write the images `indices` of `split`, changed as in this epoch, and their labels, as `Split.batch_into`."""
        if not split.label_shape:
            np.take(split.labels, indices, axis=0, out=labels, mode="clip")
        words = image_words(self.seed, len(self.steps), epoch, indices)
        height, width = max(split.shape[1:], images.shape[2:])
        portion = max(1, _PIXELS_AT_A_TIME // (height * width))
        for start in range(0, len(indices), portion):
            some = slice(start, start + portion)
            part = Part(self.seed, epoch, indices[some], words[:, :, some])
            changed = self._first.take(split.images, part.indices, part)
            for stage in self._others:
                changed = stage.run(changed, part)
            if changed.dtype == np.uint8:
                np.divide(changed, np.float32(255), out=images[some])
            else:
                images[some] = changed
            if split.label_shape:
                labels[some] = self._labels.take(split.labels[:, None], part.indices, part)[:, 0]


@dataclass(frozen=True, eq=False)
class AugmentedSplit:
    """A part of a data set whose images come out changed, anew in every epoch. `loader_threads` prepare batches."""

    split: Split
    augmentation: Augmentation
    loader_threads: int = 1

    def __len__(self) -> int:
        return len(self.split)

    @property
    def shape(self) -> Shape:
        """(C, H, W) of an image that comes out."""
        return self.augmentation.output(self.split.shape)

    @property
    def label_shape(self) -> LabelShape:
        """(h, w) of the labels that come out, () where every image has one."""
        return self.augmentation.label_shape(self.split.label_shape)

    def filler(self) -> Fill:
        """See `Source`."""

        def fill(indices: np.ndarray, epoch: int, images: np.ndarray, labels: np.ndarray) -> None:
            self.augmentation.batch_into(self.split, indices, epoch, images, labels)

        return fill


def _moves_labels(step: AugmentStep) -> bool:
    return isinstance(step, Move) and step.keeps_pixels


def _stages(steps: Sequence[AugmentStep]) -> tuple[_Rearranged, list[_Stage]]:
    first = _Rearranged()
    others: list[_Stage] = []
    number = 0
    while number < len(steps):
        run = _affine_run(steps, number)
        step = steps[number]
        if run:
            others.append(_Resampled(run))
        elif isinstance(step, Move):
            last = others[-1] if others else first
            if not isinstance(last, _Rearranged):
                last = _Rearranged()
                others.append(last)
            last.steps.append((number, step))
        else:
            assert isinstance(step, Paint)
            others.append(_Painted(number, step))
        number += max(1, len(run))
    return first, others


def _affine_run(steps: Sequence[AugmentStep], start: int) -> list[tuple[int, Turn]]:
    """The affine maps from `start` on, if any of them needs an interpolation; whole pixels are moved exactly else."""
    run: list[tuple[int, Turn]] = []
    for number, step in enumerate(steps[start:], start):
        if not isinstance(step, Turn):
            break
        run.append((number, step))
    return run if any(not isinstance(step, Move) for _, step in run) else []
