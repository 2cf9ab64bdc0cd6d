"""Labels of pixels: read, checked, divided, delivered, and moved with their pixels by `augment`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convc.ir.span import Span
from convc.runtime.data import BatchLoader, DataSet, Split, memory
from convc.runtime.data.augmentation import Augmentation, AugmentedSplit
from convc.runtime.data.dataset import require_labels
from convc.runtime.data.image_size import centred
from tests.runtime.data.augment_helpers import steps
from tests.runtime.data.data_helpers import Load, diagnostic, idx_bytes, pixels

# Whole numbers below 3 for 6 images of 4 x 5 pixels.
MAPS = pixels(6, 4, 5, seed=1) % 3


def marked(count: int, height: int, width: int, dtype: type = np.uint8) -> Split:
    """Images that are their own labels; no pixel is 0."""
    values = 1 + pixels(count, height, width, seed=2) % 255
    return Split(np.ascontiguousarray(values[:, None].astype(dtype)), values.astype(np.int32))


def batches(text: str, split: Split, seed: int = 3, epoch: int = 1, threads: int = 1) -> list[np.ndarray]:
    """Images and labels of an epoch, in the order of delivery."""
    source = AugmentedSplit(split, Augmentation(steps(text), seed), threads)
    with BatchLoader(source, 7, seed=5, epoch=epoch) as loader:
        parts = [(images.copy(), labels.copy()) for images, labels in loader]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


# Reading


@pytest.mark.parametrize(
    "labels",
    [
        MAPS,
        MAPS.astype(np.int64),
        MAPS.astype(np.float32),
        MAPS.astype(">u2"),
        np.asfortranarray(MAPS.astype(np.int32)),
        MAPS[:, None],
        MAPS[..., None],
    ],
)
def test_forms_of_labels(tmp_path: Path, load: Load, labels: np.ndarray) -> None:
    np.savez(tmp_path / "set.npz", x=pixels(6, 4, 5), y=labels)
    dataset = load("npz", "set.npz", input_shape=(1, 4, 5))
    assert dataset.train.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.train.labels, MAPS)
    assert dataset.train.label_shape == (4, 5)
    assert dataset.classes == ("0", "1", "2")
    images, found = dataset.train.batch(np.array([4, 1]))
    assert (images.shape, found.dtype) == ((2, 1, 4, 5), np.int32)
    np.testing.assert_array_equal(found, MAPS[[4, 1]])


def test_masks_are_two_classes(tmp_path: Path, load: Load) -> None:
    np.savez(tmp_path / "set.npz", x=pixels(6, 4, 5), y=MAPS == 1)
    dataset = load("npz", "set.npz")
    np.testing.assert_array_equal(dataset.train.labels, MAPS == 1)
    assert dataset.classes == ("0", "1")


def test_maps_of_another_size_than_the_images(tmp_path: Path, load: Load) -> None:
    """Nets may end in smaller maps; one pixel is a label of the image."""
    np.savez(tmp_path / "set.npz", x=pixels(6, 8, 10), y=MAPS)
    assert load("npz", "set.npz", input_shape=(1, 8, 10)).train.label_shape == (4, 5)
    for label in (MAPS[:, :1, :1], MAPS[:, :1, :1, None]):
        np.savez(tmp_path / "set.npz", x=pixels(6, 8, 10), y=label)
        assert load("npz", "set.npz").train.labels.shape == (6,)


def test_names_of_classes(tmp_path: Path, load: Load) -> None:
    np.savez(tmp_path / "set.npz", x=pixels(6, 4, 5), y=MAPS, classes=["sky", "sea", "sand", "sun"])
    assert load("npz", "set.npz").classes == ("sky", "sea", "sand", "sun")


def test_idx_files_hold_maps_too(tmp_path: Path, load: Load) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels(6, 4, 5)))
    (tmp_path / "train-labels-idx3-ubyte").write_bytes(idx_bytes(MAPS))
    np.testing.assert_array_equal(load("idx", ".").train.labels, MAPS)


ONE_WRONG = MAPS.astype(np.float64)
ONE_WRONG[3, 2, 4] = 0.5
NEGATIVE = MAPS.astype(np.int64)
NEGATIVE[5, 0, 1] = -1


@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        (ONE_WRONG, "data-type", ["label 0.5 of image 3, row 2, column 4 of", "not a whole number"]),
        (ONE_WRONG * np.nan, "data-type", ["label nan of image 0, row 0, column 0"]),
        (NEGATIVE, "data-label-range", ["label -1 of image 5, row 0, column 1"]),
        (MAPS.astype(np.int64) << 40, "data-label-range", ["out of range"]),
        (MAPS[:5], "data-mismatch", ["6 images, but 5 labels"]),
        (np.zeros((6, 3, 4, 5)), "data-shape", ["one number per image or (N, H, W)", "6x3x4x5"]),
        (np.zeros((6, 0, 5)), "data-shape", ["6x0x5"]),
        (np.full((6, 4, 5), "a"), "data-type", ["<U1"]),
    ],
)
def test_refusals(tmp_path: Path, load: Load, labels: np.ndarray, code: str, words: list[str]) -> None:
    np.savez(tmp_path / "set.npz", x=pixels(6, 4, 5), y=labels)
    error = diagnostic(lambda: load("npz", "set.npz"))
    assert error.code == code
    assert all(word in error.message for word in ["set.npz", *words]), error.message


def test_hints() -> None:
    dataset = DataSet("set", ("0",) * 256, Split(pixels(6, 1, 4, 5), 255 * (MAPS > 1).astype(np.int32)))
    error = diagnostic(lambda: dataset.require_outputs(2))
    place = np.unravel_index(int(np.argmax(MAPS > 1)), MAPS.shape)
    assert "label 255 (train image {}, row {}, column {})".format(*place) in error.message
    assert "`mask // 255`" in (error.hint or "")
    dataset.train.labels[1, 1, 1] = 7  # with 255 for what is to be left out
    assert "class of their own" in (diagnostic(lambda: dataset.require_outputs(8)).hint or "")


def test_unequal_parts(tmp_path: Path, load: Load) -> None:
    arrays = {"x_train": pixels(6, 4, 5), "y_train": MAPS, "x_test": pixels(3, 4, 5)}
    for labels, words in ((MAPS[:3, 0, 0], "test labels of {} are 3,"), (MAPS[:3, :2], "test labels of {} are 3x2x5,")):
        np.savez(tmp_path / "set.npz", **arrays, y_test=labels)  # type: ignore[arg-type]
        error = diagnostic(lambda: load("npz", "set.npz"))
        assert error.code == "data-shape"
        assert words.format(tmp_path / "set.npz") in error.message
        assert "training labels 6x4x5" in error.message


def test_labels_that_do_not_fit_into_memory(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes in the file take four times as much once they are read."""
    np.savez(tmp_path / "set.npz", x=pixels(6, 4, 5), y=np.zeros((6, 100, 100), np.uint8))
    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000)
    error = diagnostic(lambda: load("npz", "set.npz"))
    assert error.code == "data-memory"
    assert "the labels of" in error.message


# A data set


@pytest.mark.parametrize(
    ("labels", "outputs", "words"),
    [
        ((), (3, 4, 5), ["a class for each of 4x5 pixels", "one label per image"]),
        ((4, 5), (3,), ["a label for each of 4x5 pixels", "one class per image"]),
        ((4, 5), (3, 1, 1), ["a label for each of 4x5 pixels", "one class per image"]),
        ((4, 5), (3, 5, 4), ["maps of 4x5", "maps of 5x4"]),
    ],
)
def test_labels_against_a_net(labels: tuple[int, ...], outputs: tuple[int, ...], words: list[str]) -> None:
    span = Span("net.cnn", 3, 4, 3, 9)
    error = diagnostic(lambda: require_labels("set", labels, outputs, span))
    assert (error.code, error.span) == ("data-labels", span)
    assert all(word in error.message for word in words), error.message


def test_labels_that_fit_a_net() -> None:
    require_labels("set", (), (3,))
    require_labels("set", (), (3, 1, 1))
    require_labels("set", (4, 5), (3, 4, 5))


def test_the_hash_knows_labels_and_their_shape() -> None:
    images, labels = pixels(2, 1, 4, 4), np.arange(16, dtype=np.int32).reshape(2, 4, 2)
    changed = labels.copy()
    changed[1, 3, 1] = 0
    hashes = {DataSet("a", ("x",), Split(images, each)).content_hash for each in (labels, changed)}
    hashes.add(DataSet("a", ("x",), Split(images, labels.reshape(2, 2, 4).copy())).content_hash)
    assert len(hashes) == 3


def test_subsets(tmp_path: Path, load: Load) -> None:
    """Images have no class: a subset is any, a smaller one lies within, and labels stay with their images."""
    split = marked(50, 4, 5)
    np.savez(tmp_path / "set.npz", x=split.images, y=split.labels)
    taken: list[set[bytes]] = []
    for count in (10, 25):
        dataset = load("npz", "set.npz", {"train": count, "val": 12, "test": 5}, seed=1)
        assert [(part, len(each)) for part, each in dataset.parts()] == [
            ("train", count), ("validation", 12), ("test", 5),
        ]  # fmt: skip
        for _, each in dataset.parts():
            np.testing.assert_array_equal(each.images[:, 0], each.labels)
        together = [image.tobytes() for _, each in dataset.parts() for image in each.images]
        assert len(set(together)) == len(together)
        taken.append({image.tobytes() for image in dataset.train.images})
    assert taken[0] < taken[1]


# Moved by `augment`


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("flip h", (8, 10)),
        ("flip v", (8, 10)),
        ("crop (5, 7)", (5, 7)),
        ("flip h -> crop (7, 9) -> flip v -> crop (4, 5) -> flip h", (4, 5)),
    ],
)
def test_labels_move_with_their_pixels(text: str, size: tuple[int, int], dtype: type) -> None:
    split = marked(40, 8, 10, dtype)
    images, labels = batches(text, split)
    scale = 255 if dtype is np.uint8 else 1
    assert labels.shape == (40, *size)
    np.testing.assert_array_equal(np.rint(images[:, 0] * scale), labels)
    # Every image went its own way, and differently in another epoch.
    assert (labels != batches(text, split, epoch=2)[1]).any()
    if text.startswith("flip") and len(text) == 6:
        plain = batches("noise 0", split)[1]
        same = (labels == plain).all((1, 2))
        assert 8 < same.sum() < 32
        mirrored = plain[..., ::-1] if text == "flip h" else plain[:, ::-1]
        np.testing.assert_array_equal(labels[~same], mirrored[~same])


def test_steps_that_paint_leave_labels_alone() -> None:
    text = "flip h -> cutout 3 -> crop (7, 9) -> noise 0.0001 -> flip v -> cutout (2, 4) -> crop 6"
    images, labels = batches(text, marked(40, 8, 10))
    shown = images[:, 0] > 0.002
    assert 0.5 < shown.mean() < 0.95
    np.testing.assert_array_equal(np.rint(images[:, 0] * 255)[shown], labels[shown])
    assert labels.min() > 0
    # Without the painting, the draws of the moves being those of their places in the pipeline.
    moves = "flip h -> noise 0 -> crop (7, 9) -> noise 0 -> flip v -> noise 0 -> crop 6"
    np.testing.assert_array_equal(batches(moves, marked(40, 8, 10))[1], labels)


def test_labels_of_smaller_maps_stay_where_nothing_moves() -> None:
    labels = np.arange(6 * 20, dtype=np.int32).reshape(6, 4, 5)
    found = batches("noise 0.1 -> cutout 2", Split(pixels(6, 1, 8, 10), labels))[1]
    np.testing.assert_array_equal(np.sort(found[:, 0, 0]), labels[:, 0, 0])


def test_the_same_labels_on_any_number_of_threads() -> None:
    split, text = marked(100, 150, 140), "crop 130 -> flip h -> noise 0.1 -> flip v"  # some images at a time
    expected = batches(text, split)
    for threads in (2, 5):
        for found, wanted in zip(batches(text, split, threads=threads), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("pad 2 -> crop 8", ["`pad 2` makes"]),
        ("flip h -> shift 1", ["`shift 1` makes"]),
        ("rotate 5 -> flip v", ["`rotate 5` makes"]),
        ("scale (0.9, 1.1) -> noise 0.1 -> rotate 5", ["`scale (0.9, 1.1)`", "`rotate 5` make "]),
    ],
)
def test_steps_that_invent_pixels(text: str, named: list[str]) -> None:
    augmentation = Augmentation(steps(text), 0)
    augmentation.require_labels("cells", (1, 8, 8), ())
    error = diagnostic(lambda: augmentation.require_labels("cells", (1, 8, 8), (8, 8)))
    assert error.code == "data-labels"
    assert all(word in error.message for word in [*named, "cells has a label for each pixel"]), error.message
    assert error.span is not None


def test_labels_that_are_no_larger_than_the_images_cannot_follow() -> None:
    error = diagnostic(lambda: Augmentation(steps("noise 1 -> flip h"), 0).require_labels("cells", (1, 8, 8), (4, 4)))
    assert error.code == "data-labels"
    assert "cannot follow `flip h`: they are maps of 4x4, the images are 8x8" in error.message
    Augmentation(steps("noise 1 -> cutout 2"), 0).require_labels("cells", (1, 8, 8), (4, 4))


def test_the_centre_with_its_labels() -> None:
    split = marked(3, 9, 8)
    found = centred(split, (4, 5))
    assert found.shape == (1, 4, 5)
    np.testing.assert_array_equal(found.images[:, 0], found.labels)
    np.testing.assert_array_equal(found.labels, split.labels[:, 2:6, 1:6])
