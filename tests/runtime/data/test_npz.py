"""NumPy archives: keys, layouts, types, and what is refused."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from convc.ir.diagnostic import CompileError
from convc.runtime.data import memory
from tests.runtime.data.data_helpers import Load, diagnostic, pixels

LABELS = np.arange(6) % 3


def write(path: Path, **arrays: np.ndarray) -> None:
    np.savez_compressed(path / "set.npz", **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train"),
        ("X_train", "y_train"),
        ("train_images", "train_labels"),
        ("images", "labels"),
        ("x", "y"),
    ],
)
def test_names_of_arrays(tmp_path: Path, load: Load, keys: tuple[str, str]) -> None:
    write(tmp_path, **{keys[0]: pixels(6, 4, 5), keys[1]: LABELS})
    dataset = load("npz", "set.npz")
    np.testing.assert_array_equal(dataset.train.images[:, 0], pixels(6, 4, 5))
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    assert dataset.classes == ("0", "1", "2")


def test_parts_and_class_names(tmp_path: Path, load: Load) -> None:
    write(
        tmp_path,
        x_train=pixels(6, 4, 5),
        y_train=LABELS,
        x_val=pixels(3, 4, 5),
        y_val=np.array([0, 1, 1]),
        x_test=pixels(2, 4, 5),
        y_test=np.array([0, 1]),
        classes=np.array(["cat", "dog", "snow, deep"]),
    )
    dataset = load("npz", "set.npz")
    assert [(name, len(split)) for name, split in dataset.parts()] == [("train", 6), ("validation", 3), ("test", 2)]
    assert dataset.classes == ("cat", "dog", "snow, deep")


@pytest.mark.parametrize(
    ("shape", "input_shape", "transposed"),
    [
        ((3, 8, 9), (3, 8, 9), False),
        ((8, 9, 3), (3, 8, 9), True),
        ((8, 9, 3), None, True),
        ((3, 8, 9), None, False),
        ((3, 3, 3), (3, 3, 3), False),
        ((5, 8, 9), (5, 8, 9), False),
        ((8, 9, 5), (5, 8, 9), True),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_layouts(
    tmp_path: Path,
    load: Load,
    shape: tuple[int, ...],
    input_shape: tuple[int, int, int] | None,
    transposed: bool,
    dtype: type,
) -> None:
    images = pixels(6, *shape).astype(dtype)
    write(tmp_path, x=images, y=LABELS)
    dataset = load("npz", "set.npz", input_shape=input_shape)
    np.testing.assert_array_equal(dataset.train.images, images.transpose(0, 3, 1, 2) if transposed else images)
    assert dataset.train.images.flags.c_contiguous


def test_rows_of_features(tmp_path: Path, load: Load) -> None:
    write(tmp_path, x=pixels(6, 20).astype(np.float64), y=LABELS)
    assert load("npz", "set.npz", input_shape=(1, 4, 5)).shape == (1, 4, 5)
    assert load("npz", "set.npz").shape == (20, 1, 1)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS[:, None].astype(np.uint8), LABELS),
        (LABELS.astype(np.float64), LABELS),
        (np.eye(3)[LABELS], LABELS),
        (np.array([True, False] * 3), [1, 0] * 3),
    ],
)
def test_forms_of_labels(tmp_path: Path, load: Load, labels: np.ndarray, expected: object) -> None:
    write(tmp_path, x=pixels(6, 4, 4), y=labels)
    np.testing.assert_array_equal(load("npz", "set.npz").train.labels, expected)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (pixels(6, 4, 4).astype(np.int64), np.uint8),
        (pixels(6, 4, 4).astype(">u2"), np.uint8),
        (pixels(6, 4, 4) > 128, np.float32),
        (np.full((6, 4, 4), -3.5), np.float32),
        (np.full((6, 4, 4), 0.5, np.float16), np.float32),
    ],
)
def test_types_of_pixels(tmp_path: Path, load: Load, images: np.ndarray, expected: type) -> None:
    write(tmp_path, x=images, y=LABELS)
    train = load("npz", "set.npz").train
    assert train.images.dtype == expected
    np.testing.assert_array_equal(train.images[:, 0], images)


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"a": LABELS}, "data-format", ["x_train and y_train", "it has a"]),
        ({}, "data-format", ["none"]),
        ({"x_train": pixels(6, 4, 4)}, "data-format", ["x_train, but no y_train"]),
        ({"x": pixels(6, 4, 4), "y": LABELS, "x_test": pixels(2, 4, 4)}, "data-format", ["x_test, but no y_test"]),
        ({"x": pixels(5, 4, 4), "y": LABELS}, "data-mismatch", ["5 images, but 6 labels"]),
        ({"x": pixels(0, 4, 4), "y": LABELS}, "data-empty", ["no images"]),
        ({"x": np.array(3), "y": LABELS}, "data-empty", ["no images"]),
        ({"x": pixels(6, 4, 4, 4, 4), "y": LABELS}, "data-shape", ["6x4x4x4x4"]),
        ({"x": pixels(6), "y": LABELS}, "data-shape", ["(N, H, W)"]),
        ({"x": pixels(6, 4, 4).astype(np.int32) * 2, "y": LABELS}, "data-type", ["0 to 255"]),
        ({"x": np.zeros((6, 4, 4), complex), "y": LABELS}, "data-type", ["complex128"]),
        ({"x": np.array(["a"] * 6), "y": LABELS}, "data-shape", []),
        ({"x": np.array([[["a"]]] * 6), "y": LABELS}, "data-type", []),
        ({"x": np.full((6, 4, 4), np.nan), "y": LABELS}, "data-not-finite", ["image 0"]),
        ({"x": np.full((6, 4, 4), 1e300), "y": LABELS}, "data-not-finite", ["image 0"]),
        ({"x": pixels(6, 4, 4), "y": LABELS - 1}, "data-label-range", ["label -1 of image 0"]),
        ({"x": pixels(6, 4, 4), "y": LABELS + (1 << 40)}, "data-label-range", ["out of range"]),
        ({"x": pixels(6, 4, 4), "y": LABELS + 0.5}, "data-type", ["0.5 of image 0"]),
        ({"x": pixels(6, 4, 4), "y": LABELS * np.nan}, "data-type", ["not a whole number"]),
        ({"x": pixels(6, 4, 4), "y": np.array(["cat"] * 6)}, "data-type", ["<U3"]),
        ({"x": pixels(6, 4, 4), "y": np.ones((6, 3))}, "data-shape", ["one-hot"]),
        ({"x": pixels(6, 4, 4), "y": np.ones((6, 3, 3, 3))}, "data-shape", ["one number per image"]),
        ({"x": pixels(6, 4, 4), "y": np.array(1)}, "data-shape", ["a scalar"]),
        (
            {"x": pixels(6, 4, 4), "y": LABELS, "classes": np.array(["a", "b"])},
            "data-label-range",
            ["label 2", "2 classes"],
        ),
        ({"x": pixels(6, 4, 4), "y": LABELS, "classes": np.zeros((2, 2))}, "data-format", ["class names"]),
        ({"x": np.array([None] * 6, dtype=object), "y": LABELS}, "data-format", ["Python objects"]),
    ],
)
def test_refusals(tmp_path: Path, load: Load, arrays: dict[str, np.ndarray], code: str, words: list[str]) -> None:
    write(tmp_path, **arrays)
    error = diagnostic(lambda: load("npz", "set.npz"))
    assert error.code == code
    assert "set.npz" in error.message
    for word in words:
        assert word in error.message


def test_shape_that_fits_no_layout(tmp_path: Path, load: Load) -> None:
    write(tmp_path, x=pixels(6, 8, 9, 3), y=LABELS)
    error = diagnostic(lambda: load("npz", "set.npz", input_shape=(3, 9, 8)))
    assert error.code == "data-shape"
    assert "3x8x9" in error.message
    assert "3x9x8" in error.message


def test_damaged_archives(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "set.npz"
    assert "no file" in diagnostic(lambda: load("npz", "set.npz")).message
    np.savez(path, x=pixels(6, 40, 40), y=LABELS)
    content = path.read_bytes()
    for damaged, code in (
        (b"", "data-format"),
        (b"no archive at all", "data-format"),
        (content[: len(content) // 2], "data-format"),
        (content[:500] + bytes(8) + content[508:], "data-corrupt"),
    ):
        path.write_bytes(damaged)
        error = diagnostic(lambda: load("npz", "set.npz"))
        assert error.code == code
        assert "set.npz" in error.message
    path.unlink()
    path.mkdir()
    assert "not a regular file" in diagnostic(lambda: load("npz", "set.npz")).message


def test_every_single_byte_may_be_damaged(tmp_path: Path, load: Load) -> None:
    np.savez_compressed(tmp_path / "set.npz", x=pixels(6, 2, 2), y=LABELS)
    content = (tmp_path / "set.npz").read_bytes()
    for position in range(0, len(content), 3):
        (tmp_path / "set.npz").write_bytes(
            content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]
        )
        with contextlib.suppress(CompileError):  # any other exception fails the test
            load("npz", "set.npz")


def test_array_that_promises_too_much(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 4, 4)})
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
        archive.writestr("y.npy", stream.getvalue())
    assert diagnostic(lambda: load("npz", "set.npz")).code == "data-truncated"
    write(tmp_path, x=pixels(6, 40, 40), y=LABELS)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    assert diagnostic(lambda: load("npz", "set.npz")).code == "data-memory"
