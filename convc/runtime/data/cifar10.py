"""CIFAR-10 from the files of its binary version: records of one label and 3x32x32 pixels, one byte each.

The version for Python is pickled, and unpickling runs whatever a file says, so it is not read.
Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convc.ir.diagnostic import fail
from convc.runtime.data.arrays import make_split
from convc.runtime.data.dataset import Shape, Split
from convc.runtime.data.files import read_bytes, require_folder
from convc.runtime.data.mnist import require_ten_classes

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST_FILE = "test_batch.bin"
_SUBFOLDER = "cifar-10-batches-bin"
_SHAPE: Shape = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_RECORDS = 10_000
_HINT = "the files of cifar-10-binary.tar.gz, https://www.cs.toronto.edu/~kriz/cifar.html"


def read_cifar10(path: Path | None) -> dict[str, Split]:
    """The training and test part in the folder `path`, or in its folder cifar-10-batches-bin.

    Errors: `data-missing`, `data-truncated`, `data-oversized`, `data-label-range`, `data-unreadable`.
    """
    if path is None:
        fail(
            "data-missing",
            "cifar10 does not come with convc: name the folder that holds its six binary files",
            hint=f'data cifar10 "folder/", with {_HINT}',
        )
    require_folder(path)
    folder = path / _SUBFOLDER if (path / _SUBFOLDER).is_dir() else path
    missing = [name for name in (*_TRAIN_FILES, _TEST_FILE) if not (folder / name).exists()]
    if missing:
        pickled = (folder / "data_batch_1").exists() or (folder / "cifar-10-batches-py").exists()
        hint = f"this is the pickled version; needed are {_HINT}" if pickled else f"needed are {_HINT}"
        fail("data-missing", f"{folder} has no {', '.join(missing)}", hint=hint)
    parts = {"train": _read(folder, _TRAIN_FILES), "test": _read(folder, (_TEST_FILE,))}
    require_ten_classes(parts, "cifar10")
    return parts


def _read(folder: Path, names: tuple[str, ...]) -> Split:
    records = np.concatenate([_records(folder / name) for name in names])
    images = records[:, 1:].reshape(len(records), *_SHAPE)
    return make_split(images, records[:, 0], str(folder), _SHAPE)


def _records(path: Path) -> np.ndarray:
    content = read_bytes(path)
    expected = _RECORDS * _RECORD
    if len(content) != expected:
        fail(
            "data-truncated" if len(content) < expected else "data-oversized",
            f"{path} has {len(content)} bytes; {_RECORDS} images take {expected}",
            hint="fetch the file again",
        )
    return np.frombuffer(content, np.uint8).reshape(_RECORDS, _RECORD)
