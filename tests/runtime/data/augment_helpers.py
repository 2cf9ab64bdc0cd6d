"""Pipelines from text, and what they make of images."""

from __future__ import annotations

import numpy as np

from convc.frontend import loads
from convc.frontend.settings import Step
from convc.runtime.data import Split
from convc.runtime.data.augmentation import Augmentation, AugmentedSplit


def steps(text: str) -> tuple[Step, ...]:
    """The steps of `augment { … }`."""
    return loads(f"net n {{ input 1x2x2 -> fc 2 -> loss softmax }}\ntrain {{ augment {{ {text} }} }}").settings.augment


def split_of(images: np.ndarray) -> Split:
    """These images with their places as labels."""
    return Split(np.ascontiguousarray(images), np.arange(len(images), dtype=np.int32))


def augmented(text: str, images: np.ndarray, seed: int = 0, threads: int = 1) -> AugmentedSplit:
    return AugmentedSplit(split_of(images), Augmentation(steps(text), seed), threads)


def run(text: str, images: np.ndarray, seed: int = 0, epoch: int = 0, indices: np.ndarray | None = None) -> np.ndarray:
    """Images, all or some, after the steps."""
    source = augmented(text, images, seed)
    indices = np.arange(len(images)) if indices is None else indices
    result, labels = np.full((len(indices), *source.shape), np.nan, np.float32), np.empty(len(indices), np.int32)
    source.filler()(indices, epoch, result, labels)
    np.testing.assert_array_equal(labels, indices)
    return result
