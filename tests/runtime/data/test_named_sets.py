"""MNIST as it travels with the program, and the sets that are read from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from convc.ir.diagnostic import CompileError
from convc.ir.span import Span
from convc.runtime.data import cifar10, load_dataset, mnist
from tests.runtime.data.data_helpers import Load, diagnostic, write_idx_set

RAW_MD5 = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}
TRAIN_HISTOGRAM = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_HISTOGRAM = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_is_the_real_one(load: Load) -> None:
    dataset = load("mnist", input_shape=(1, 28, 28))
    assert dataset.name == "mnist"
    assert dataset.classes == tuple("0123456789")
    assert dataset.validation is None
    assert dataset.test is not None
    assert dataset.train.images.shape == (60000, 1, 28, 28)
    assert dataset.train.images.dtype == np.uint8
    assert np.bincount(dataset.train.labels).tolist() == TRAIN_HISTOGRAM
    assert np.bincount(dataset.test.labels).tolist() == TEST_HISTOGRAM
    images = dataset.train.images
    mean = int(images.sum(dtype=np.uint64)) / images.size / 255
    square = int(np.square(images, dtype=np.uint16).sum(dtype=np.uint64)) / images.size / 255**2
    assert round(mean, 4) == 0.1307
    assert round((square - mean**2) ** 0.5, 4) == 0.3081


def test_mnist_files_are_those_published() -> None:
    for name, expected in RAW_MD5.items():
        packed = Path(mnist._FOLDER / name).read_bytes()
        assert hashlib.md5(gzip.decompress(packed), usedforsecurity=False).hexdigest() == expected
    assert "Attribution-Share Alike 3.0" in (mnist._FOLDER / "README.md").read_text(encoding="utf-8")


def test_damaged_installation(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_FOLDER", tmp_path)
    error = diagnostic(lambda: load("mnist"))
    assert error.code == "data-missing"
    assert "train-images-idx3-ubyte.gz" in error.message
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"other"))
    error = diagnostic(lambda: load("mnist"))
    assert error.code == "data-corrupt"
    assert "SHA-256" in error.message


def test_mnist_for_another_input(load: Load) -> None:
    error = diagnostic(lambda: load("mnist", input_shape=(3, 32, 32)))
    assert error.code == "data-shape"
    assert "1x28x28" in error.message
    assert "3x32x32" in error.message


def test_mnist_and_fashion_mnist_from_a_folder(tmp_path: Path, load: Load) -> None:
    write_idx_set(tmp_path / "set")
    assert len(load("mnist", "set").train) == 20
    dataset = load("fashion_mnist", "set")
    assert dataset.classes[9] == "Ankle boot"
    assert dataset.name == "fashion_mnist"
    write_idx_set(tmp_path / "other", classes=12)
    error = diagnostic(lambda: load("fashion_mnist", "other"))
    assert error.code == "data-label-range"
    assert "label 11" in error.message


@pytest.mark.parametrize("kind", ["fashion_mnist", "cifar10"])
def test_sets_that_need_a_folder(load: Load, kind: str) -> None:
    error = diagnostic(lambda: load(kind))
    assert error.code == "data-missing"
    assert error.hint is not None
    assert f'data {kind} "folder/"' in error.hint
    assert diagnostic(lambda: load(kind, "nowhere")).code == "data-missing"


def test_cifar10(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_RECORDS", 20)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (6, 20, 3073), dtype=np.uint8)
    records[:, :, 0] %= 10
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    for name, batch in zip(names, records, strict=True):
        (folder / name).write_bytes(batch.tobytes())
    dataset = load("cifar10", ".", input_shape=(3, 32, 32))
    assert dataset.classes[3] == "cat"
    assert dataset.test is not None
    assert len(dataset.train) == 100
    np.testing.assert_array_equal(dataset.train.images[45], records[2, 5, 1:].reshape(3, 32, 32))
    np.testing.assert_array_equal(dataset.test.labels, records[5, :, 0])

    (folder / "data_batch_3.bin").write_bytes(records[2].tobytes()[:-1])
    error = diagnostic(lambda: load("cifar10", "."))
    assert error.code == "data-truncated"
    assert "data_batch_3.bin has 61459 bytes" in error.message
    assert "61460" in error.message
    (folder / "data_batch_3.bin").write_bytes(records[2].tobytes() + b"x")
    assert diagnostic(lambda: load("cifar10", ".")).code == "data-oversized"
    records[2, 7, 0] = 10
    (folder / "data_batch_3.bin").write_bytes(records[2].tobytes())
    error = diagnostic(lambda: load("cifar10", "."))
    assert error.code == "data-label-range"
    assert "train image 47" in error.message
    (folder / "data_batch_3.bin").rename(folder / "data_batch_1")
    error = diagnostic(lambda: load("cifar10", "."))
    assert error.code == "data-missing"
    assert "data_batch_3.bin" in error.message
    assert error.hint is not None
    assert "pickled" in error.hint


@pytest.mark.slow  # scikit-learn takes its time to load
def test_digits(load: Load) -> None:
    pytest.importorskip("sklearn")
    dataset = load("digits", input_shape=(1, 8, 8), seed=5)
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.train.images.dtype == np.float32
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 1)
    assert np.ptp(np.bincount(dataset.test.labels)) <= 2
    assert dataset.content_hash == load("digits", seed=6).content_hash
    assert diagnostic(lambda: load("digits", "dir")).code == "data-option"


def test_digits_without_scikit_learn(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    error = diagnostic(lambda: load("digits"))
    assert error.code == "data-missing"
    assert error.hint == "pip install scikit-learn"


def test_kinds_and_paths(load: Load) -> None:
    error = diagnostic(lambda: load("mnits"))
    assert error.code == "data-kind"
    assert error.hint == "did you mean mnist?"
    error = diagnostic(lambda: load("shards", "dir"))
    assert error.code == "data-unsupported"
    assert "shards" in error.message
    for kind in ("folder", "idx", "npz"):
        assert "needs a path" in diagnostic(lambda kind=kind: load(kind)).message
    assert diagnostic(lambda: load("idx", "a\0b")).code == "data-missing"
    assert diagnostic(lambda: load("idx", "")).code == "data-missing"
    assert diagnostic(lambda: load("idx", "~no-such-user-here/x")).code == "data-missing"


def test_errors_carry_the_span(tmp_path: Path) -> None:
    span = Span("net.cnn", 9, 3, 9, 20)
    with pytest.raises(CompileError) as caught:
        load_dataset("idx", "nowhere", {}, base=tmp_path, input_shape=None, seed=0, span=span)
    assert caught.value.diagnostics[0].span == span
    assert str(caught.value).startswith("net.cnn:9:3: error[data-missing]")
