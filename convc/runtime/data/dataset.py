"""What a data set is once it is read: named parts of images and labels in memory.

Pixels stay unsigned bytes, a quarter of the memory of float32, and become numbers in 0...1 only in the batch that is
about to be computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convc.ir.diagnostic import Diagnostic, fail
from convc.ir.span import Span

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    `images` is (N, C, H, W), uint8 (delivered as value/255) or float32 (delivered as it is); `labels` is int32 (N,),
    each the index of a class. Both are C-contiguous, and N is at least 1.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if str(self.images.dtype) not in ("uint8", "float32") or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 or float32 (N, C, H, W), not {self.images.dtype} {self.images.shape}"
            )
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int32 ({len(self.images)},), not {self.labels.dtype} {self.labels.shape}")
        if not (self.images.flags.c_contiguous and self.labels.flags.c_contiguous and len(self.images)):
            raise ValueError("images and labels must be C-contiguous and not empty")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """(C, H, W) of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, indices: np.ndarray | None) -> Split:
        """The part that holds the images `indices` in this order (a copy); `None` is all of them, uncopied."""
        if indices is None:
            return self
        return Split(np.ascontiguousarray(self.images[indices]), np.ascontiguousarray(self.labels[indices]))

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fresh arrays: float32 (n, C, H, W) with pixels in 0...1, and int32 labels (n,)."""
        count = len(indices)
        images = np.empty((count, *self.shape), dtype=np.float32)
        labels = np.empty(count, dtype=np.int32)
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


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labelled images in up to three parts. `classes[label]` is the name of a class; all parts have one image shape.

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
            digest.update(f"{name} {split.images.dtype} {split.images.shape}".encode())
            digest.update(split.images.data)
            digest.update(split.labels.data)
        return digest.hexdigest()

    def require_shape(self, shape: Shape, span: Span | None = None) -> None:
        """Refuse (`data-shape`) unless images are of `shape` (C, H, W)."""
        if self.shape != shape:
            fail(
                "data-shape",
                f"images of {self.name} are {format_shape(self.shape)}, the net's input is {format_shape(shape)}",
                span,
                hint=f"write `input {format_shape(self.shape)}`",
            )

    def require_outputs(self, outputs: int, span: Span | None = None) -> None:
        """Refuse (`data-label-range`) labels for which a net of `outputs` outputs has no output."""
        for name, split in self.parts():
            worst = int(split.labels.max())
            if worst >= outputs:
                fail(
                    "data-label-range",
                    f"{self.name} has label {worst} ({name} image {int(split.labels.argmax())}), "
                    f"but the net has {outputs} outputs, for labels 0 to {outputs - 1}",
                    span,
                    hint=f"let the last layer have {len(self.classes)} outputs, one for each class",
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


def format_shape(shape: tuple[int, ...]) -> str:
    """The language's way to write a shape: 3x224x224."""
    return "x".join(str(extent) for extent in shape)
