"""Splits, batches, hashes, and the checks of a data set against a net."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.span import Span
from convc.runtime.data import DataSet, Split
from tests.runtime.data.data_helpers import diagnostic, pixels


def split_of(count: int = 10, classes: int = 3) -> Split:
    return Split(pixels(count, 2, 3, 4), (np.arange(count) % classes).astype(np.int32))


def test_batch_of_bytes_is_the_quotient_by_255() -> None:
    split = split_of()
    indices = np.array([7, 0, 7])
    images, labels = split.batch(indices)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    assert images.flags.c_contiguous
    np.testing.assert_array_equal(images, split.images[indices].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(labels, [1, 0, 1])


def test_batch_of_floats_is_taken_as_it_is() -> None:
    values = np.random.default_rng(0).normal(5, 100, (4, 1, 2, 2)).astype(np.float32)
    images, _ = Split(values, np.zeros(4, np.int32)).batch(np.array([3, 1]))
    np.testing.assert_array_equal(images, values[[3, 1]])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 2, 2)), np.zeros(2, np.int32)),
        (np.zeros((2, 2, 2), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3, np.int32)),
        (np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, np.int32)),
        (np.zeros((2, 1, 2, 4), np.uint8)[..., ::2], np.zeros(2, np.int32)),
    ],
)
def test_split_insists_on_its_invariants(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        Split(images, labels)


def test_content_hash_is_that_of_the_content() -> None:
    split = split_of()
    first = DataSet("a", ("x", "y", "z"), split)
    assert first.content_hash == DataSet("b", ("x", "y", "z"), split_of()).content_hash
    changed = split.images.copy()
    changed[9, 1, 2, 3] ^= 1
    others = [
        DataSet("a", ("x", "y", "w"), split),
        DataSet("a", ("x", "y", "z"), split, validation=split),
        DataSet("a", ("x", "y", "z"), split, test=split),
        DataSet("a", ("x", "y", "z"), Split(changed, split.labels)),
        DataSet("a", ("x", "y", "z"), Split(split.images, split.labels[::-1].copy())),
    ]
    assert len({first.content_hash, *(other.content_hash for other in others)}) == 6


def test_checks_against_a_net() -> None:
    dataset = DataSet("set", ("x", "y", "z"), split_of(), test=split_of(4))
    dataset.require_shape((2, 3, 4))
    dataset.require_outputs(3)
    dataset.require_batch(10)
    span = Span("net.cnn", 3, 4, 3, 9)

    error = diagnostic(lambda: dataset.require_shape((1, 28, 28), span))
    assert error.code == "data-shape"
    assert "2x3x4" in error.message
    assert "1x28x28" in error.message
    assert error.span == span

    error = diagnostic(lambda: dataset.require_outputs(2, span))
    assert error.code == "data-label-range"
    assert "label 2 (train image 2)" in error.message
    assert "2 outputs" in error.message

    error = diagnostic(lambda: dataset.require_batch(11, span))
    assert error.code == "data-batch"
    assert "batch 11" in error.message
    assert "10 images" in error.message
