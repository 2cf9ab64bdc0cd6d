"""Accuracy and loss of a compiled net over labelled images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypedDict

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.op import Op
from convc.passes.base import Mode
from convc.runtime.data import BatchLoader, Split


class Classifier(Protocol):
    """What can be evaluated: a `Program`, or whatever else gives logits (n, classes) or (n, classes, H, W) for float32
    images (n, C, H, W), 1 <= n <= `batch`. `loss` makes a loss of (logits, labels)."""

    mode: Mode
    batch: int
    classes: int
    loss: Op | None

    def __call__(self, x: np.ndarray, /) -> np.ndarray: ...

    def close(self) -> None: ...


class Evaluation(TypedDict):
    """`accuracy` and `top5` are fractions in 0…1, `loss` is the mean over `count` images (None: a net without loss).

    Where every pixel has a label, they are fractions and means of all pixels of these images.
    """

    accuracy: float
    top5: float
    loss: float | None
    count: int


def evaluate(program: Classifier, split: Split, *, check: Callable[[], None] = lambda: None) -> Evaluation:
    """Run all images of `split` through an inference program, the smaller last batch included.

    `check` is called before every batch and may raise. Errors: `value-mode`, `value-shape`, `value-label-range`.
    """
    if program.mode != "infer":
        fail("value-mode", "evaluation needs a program compiled for inference", hint='compile(net, mode="infer")')
    loss, count = program.loss, len(split)
    highest = int(split.labels.max())
    if highest >= program.classes:
        fail("value-label-range", f"label {highest} is out of range: the net has {program.classes} outputs")
    right, among_five, total = 0.0, 0.0, 0.0
    with BatchLoader(split, min(program.batch, count), seed=0, epoch=0, shuffle=False) as loader:
        for images, labels in loader:
            check()
            logits = program(images)
            if logits.shape[2:] == (1, 1):
                logits = logits.reshape(logits.shape[:2])
            if labels.shape != (len(logits), *logits.shape[2:]):
                shapes = f"{list(labels.shape)}, the outputs {list(logits.shape)}"
                fail("value-shape", f"labels and outputs do not fit: labels are {shapes}")
            ranks = label_ranks(logits, labels)
            pixels = ranks.size // len(ranks)
            right += float((ranks == 0).sum()) / pixels
            among_five += float((ranks < 5).sum()) / pixels
            if loss is not None:
                total += float(np.asarray(loss.reference(logits.astype(np.float64), labels))) * len(labels)
    return {
        "accuracy": right / count,
        "top5": among_five / count,
        "loss": total / count if loss is not None else None,
        "count": count,
    }


def label_ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label's: 0 where the net is right. Of equal logits the lower class is first."""
    own = np.take_along_axis(logits, np.expand_dims(labels, 1).astype(np.int64), 1)
    classes = np.arange(logits.shape[1]).reshape(1, -1, *[1] * (logits.ndim - 2))
    before = (logits > own) | ((logits == own) & (classes < np.expand_dims(labels, 1)))
    # What is not a number is right nowhere.
    return np.where(np.isnan(own[:, 0]), logits.shape[1], before.sum(1))
