"""What a data set is once it is read: named parts of images and labels in memory.

Pixels stay unsigned bytes, a quarter of the memory of float32, and become numbers in 0...1 only in the batch that is
about to be computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from convc.ir.diagnostic import Diagnostic, fail
from convc.ir.span import Span
from convc.lazy import dataclass

Shape = tuple[int, int, int]

# (h, w) of a map of labels, () for one label.
LabelShape = tuple[int, ...]

# (indices, epoch, images, labels): writes the images of these indices, float32, and their labels into given arrays.
Fill = Callable[[np.ndarray, int, np.ndarray, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    `images` is (N, C, H, W), uint8 (delivered as value/255) or float32 (delivered as it is); `labels` is int32, each
    the index of a class: (N,), one for each image, or (N, h, w), one for each pixel of what a net makes of an image.
    Both are C-contiguous, and N is at least 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if str(self.images.dtype) not in ("uint8", "float32") or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 or float32 (N, C, H, W), not {self.images.dtype} {self.images.shape}"
            )
        fits = self.labels.ndim in (1, 3) and len(self.labels) == len(self.images)
        if self.labels.dtype != np.int32 or not fits:
            count = len(self.images)
            wanted = f"({count},) or ({count}, h, w)"
            raise ValueError(f"labels must be int32 {wanted}, not {self.labels.dtype} {self.labels.shape}")
        if not (self.images.flags.c_contiguous and self.labels.flags.c_contiguous and self.labels.size):
            raise ValueError("images and labels must be C-contiguous and not empty")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """(C, H, W) of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def label_shape(self) -> LabelShape:
        """(h, w) where every pixel has a label, () where every image has one."""
        return self.labels.shape[1:]

    @property
    def classes_of_images(self) -> np.ndarray:
        """What subsets are balanced by, (N,): the labels or, where images have no class, all the same."""
        return np.zeros(len(self), np.int32) if self.label_shape else self.labels

    def take(self, indices: np.ndarray | None) -> Split:
        """The part that holds the images `indices` in this order (a copy); `None` is all of them, uncopied."""
        if indices is None:
            return self
        return Split(np.ascontiguousarray(self.images[indices]), np.ascontiguousarray(self.labels[indices]))

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fresh arrays: float32 (n, C, H, W) with pixels in 0...1, and int32 labels (n,) or (n, h, w)."""
        count = len(indices)
        images = np.empty((count, *self.shape), dtype=np.float32)
        labels = np.empty((count, *self.label_shape), dtype=np.int32)
        scratch = np.empty(images.shape, dtype=np.uint8) if self.images.dtype == np.uint8 else None
        self.batch_into(indices, images, labels, scratch)
        return images, labels

    def batch_into(
        self, indices: np.ndarray, images: np.ndarray, labels: np.ndarray, scratch: np.ndarray | None
    ) -> None:
        """Write what `batch` returns into given arrays; `scratch` is uint8 of the shape of `images`, for byte pixels.

        The indices have to be in range. The heavy part runs without the interpreter lock.
        """
        # mode="clip": the default would go through a hidden buffer of the size of the result.
        np.take(self.labels, indices, axis=0, out=labels, mode="clip")
        if self.images.dtype == np.uint8:
            if scratch is None:
                raise ValueError("byte images need a scratch array")
            np.take(self.images, indices, axis=0, out=scratch, mode="clip")
            np.divide(scratch, np.float32(255), out=images)
        else:
            np.take(self.images, indices, axis=0, out=images, mode="clip")

    # What a loader asks of its source; see `Source`.

    @property
    def loader_threads(self) -> int:
        """Copying bytes is less than one thread's work."""
        return 1

    def filler(self) -> Fill:
        """`batch_into` with a scratch array of its own; the images are the same in every epoch."""
        scratch = np.empty((0, *self.shape), np.uint8)

        def fill(indices: np.ndarray, epoch: int, images: np.ndarray, labels: np.ndarray) -> None:
            nonlocal scratch
            if self.images.dtype == np.uint8 and len(scratch) < len(indices):
                scratch = np.empty((len(indices), *self.shape), np.uint8)
            self.batch_into(indices, images, labels, scratch[: len(indices)])

        return fill


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labelled images in up to three parts. `classes[label]` is the name of a class; all parts have one image shape
    as they are read. Later that of the training part, which `augment` is still to bring to the net's, may be another.

    `warnings` is what a user should hear about the reading, such as images that were left out.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def shape(self) -> Shape:
        """(C, H, W) of an image."""
        return self.train.shape

    def parts(self) -> Iterator[tuple[str, Split]]:
        """The parts there are, by name: train, validation, test."""
        for name, split in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if split is not None:
                yield name, split

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hexadecimal) over the classes and over every pixel and label: equal exactly for equal data."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for name, split in self.parts():
            maps = f" {split.label_shape}" if split.label_shape else ""
            digest.update(f"{name} {split.images.dtype} {split.images.shape}{maps}".encode())
            digest.update(split.images.data)
            digest.update(split.labels.data)
        return digest.hexdigest()

    def require_shape(self, shape: Shape, span: Span | None = None) -> None:
        """Refuse (`data-shape`) unless images are of `shape` (C, H, W)."""
        require_shape(self.name, self.shape, shape, span)

    def require_outputs(self, outputs: int, span: Span | None = None) -> None:
        """Refuse (`data-label-range`) labels for which a net of `outputs` outputs has no output."""
        for name, split in self.parts():
            worst = int(split.labels.max())
            if worst >= outputs:
                hint = f"let the last layer have {len(self.classes)} outputs, one for each class"
                if split.label_shape and worst == 255:
                    black_and_white = bool(((split.labels == 0) | (split.labels == 255)).all())
                    hint = "labels are class numbers: save masks of 0 and 255 as `mask // 255`"
                    hint = hint if black_and_white else "pixels cannot be left out: give those a class of their own"
                place = label_place(split.labels, int(split.labels.argmax()))
                fail(
                    "data-label-range",
                    f"{self.name} has label {worst} ({name} {place}), "
                    f"but the net has {outputs} outputs, for labels 0 to {outputs - 1}",
                    span,
                    hint=hint,
                )

    def require_batch(self, batch: int, span: Span | None = None) -> None:
        """Refuse (`data-batch`) a batch that is larger than the training part."""
        if batch > len(self.train):
            fail(
                "data-batch",
                f"batch {batch} is larger than the training part of {self.name}, which has {len(self.train)} images",
                span,
                hint=f"batch {len(self.train)} or less",
            )


def require_shape(name: str, shape: Shape, input_shape: Shape, span: Span | None = None) -> None:
    """Refuse (`data-shape`) unless images of the data set `name`, which are of `shape`, are what the net reads."""
    if shape != input_shape:
        fail(
            "data-shape",
            f"images of {name} are {format_shape(shape)}, the net's input is {format_shape(input_shape)}",
            span,
            hint=f"write `input {format_shape(shape)}`",
        )


def require_labels(name: str, labels: LabelShape, outputs: tuple[int, ...], span: Span | None = None) -> None:
    """Refuse (`data-labels`) a net whose outputs, (K,) or (K, h, w), do not ask for labels as the data set `name` has
    them: for each image, or for each of as many pixels.
    """
    maps = () if outputs[1:] == (1, 1) else outputs[1:]
    if maps == labels:
        return
    given, predicted = format_shape(labels), format_shape(maps)
    if not labels:
        message = f"the net predicts a class for each of {predicted} pixels, but {name} has one label per image"
        hint = "`pool avg global` in front of the loss makes one prediction of them; an npz may have labels (N, H, W)"
    elif not maps:
        message = f"{name} has a label for each of {given} pixels, but the net predicts one class per image"
        hint = f"let the net end in maps of {given}, such as those of `conv {outputs[0]} k=1`"
    else:
        message = f"labels of {name} are maps of {given}, the net's outputs are maps of {predicted}"
        hint = "`pad=same` keeps the size of maps; `deconv` and `upsample` enlarge them"
    fail("data-labels", message, span, hint)


def label_place(labels: np.ndarray, index: int) -> str:
    """Where label number `index` is, of labels (N,) or (N, h, w) in their order: `image 3`, and its row and column."""
    image, *pixel = (int(place) for place in np.unravel_index(index, labels.shape))
    return f"image {image}" + (f", row {pixel[0]}, column {pixel[1]}" if pixel else "")


def format_shape(shape: tuple[int, ...]) -> str:
    """The language's way to write a shape: 3x224x224."""
    return "x".join(str(extent) for extent in shape)
