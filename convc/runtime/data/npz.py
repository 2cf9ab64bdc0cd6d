"""NumPy archives of arrays, read without pickle.

Recognised pairs of keys, in any case: x_train and y_train, train_images and train_labels, images and labels, x and y,
and the same for val (or valid, validation) and test; `classes` may hold the names of the classes. Labels are (N,), or
(N, H, W) for nets that predict a class for each pixel.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from convc.ir.diagnostic import fail
from convc.runtime.data.arrays import make_split, numbered_classes
from convc.runtime.data.dataset import Shape, Split, label_place
from convc.runtime.data.files import require_file
from convc.runtime.data.memory import require_memory

_STEMS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_PLAIN_PAIRS = (("images", "labels"), ("x", "y"))
_CLASS_KEYS = ("classes", "class_names")


def read_npz(path: Path, input_shape: Shape | None) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The parts of an archive and the names of its classes ("0", "1", ... unless it holds names).

    Errors: `data-missing`, `data-unreadable`, `data-format` (no archive, Python objects, unknown keys),
    `data-corrupt`, `data-memory`, and those of `make_split`.
    """
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, input_shape)
    except zipfile.BadZipFile as error:
        if not zipfile.is_zipfile(path):
            fail("data-format", f"{path} is not a NumPy .npz archive, or it is truncated")
        fail("data-corrupt", f"{path} is corrupt: {error}")
    except OSError as error:
        fail("data-unreadable", f"cannot read {path}: {error.strerror or error}")


def _read(archive: zipfile.ZipFile, path: Path, input_shape: Shape | None) -> tuple[dict[str, Split], tuple[str, ...]]:
    members = {name[: -len(".npy")]: name for name in archive.namelist() if name.endswith(".npy")}
    keys = {key.lower(): key for key in members}
    parts: dict[str, Split] = {}
    for part in _STEMS:
        pair = _find_pair(part, keys, path)
        if pair is not None:
            images, labels = (_array(archive, members[key], path) for key in pair)
            parts[part] = make_split(images, labels, f"{path} ({pair[0]}, {pair[1]})", input_shape)
    if "train" not in parts:
        fail(
            "data-format",
            f"{path} has no arrays x_train and y_train; it has {', '.join(sorted(members)[:12]) or 'none'}",
            hint="also understood: train_images and train_labels, images and labels, x and y",
        )
    key = next((keys[name] for name in _CLASS_KEYS if name in keys), None)
    if key is None:
        return parts, numbered_classes(parts)
    return parts, _class_names(_array(archive, members[key], path), parts, f"{path} ({key})")


def _find_pair(part: str, keys: dict[str, str], path: Path) -> tuple[str, str] | None:
    pairs = [pair for stem in _STEMS[part] for pair in _pairs_of(stem)]
    for images, labels in pairs + list(_PLAIN_PAIRS if part == "train" else ()):
        if images in keys and labels in keys:
            return keys[images], keys[labels]
        if images in keys or labels in keys:
            there, missing = (images, labels) if images in keys else (labels, images)
            fail(
                "data-format",
                f"{path} has {keys[there]}, but no {missing}; it has {', '.join(sorted(keys.values())[:12])}",
            )
    return None


def _pairs_of(stem: str) -> list[tuple[str, str]]:
    return [(f"x_{stem}", f"y_{stem}"), (f"{stem}_images", f"{stem}_labels")]


def _array(archive: zipfile.ZipFile, member: str, path: Path) -> np.ndarray:
    where = f"{member} in {path}"
    size = archive.getinfo(member).file_size
    try:
        # The header is read first: it says how much memory the array is going to take.
        with archive.open(member) as stream:
            needed = _promised_bytes(stream, where)
        if needed > size:
            fail("data-truncated", f"{where} is truncated: its array takes {needed} bytes, {size} are there")
        require_memory(needed, where)
        with archive.open(member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except zlib.error as error:
        fail("data-corrupt", f"{where} is corrupt: {error}")
    except (NotImplementedError, RuntimeError) as error:  # how zipfile reports an unknown method, or encryption
        fail("data-format", f"{where} cannot be unpacked: {error}")
    except (ValueError, EOFError, SyntaxError, RecursionError, tokenize.TokenError) as error:
        # The header is a Python literal; NumPy lets what its parser raises pass.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        fail("data-corrupt", f"{where} is corrupt: {reason}")


def _promised_bytes(stream: IO[bytes], where: str) -> int:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        fail(
            "data-format",
            f"{where} holds Python objects, which would have to be unpickled",
            hint="save plain arrays: images of one size, labels as whole numbers",
        )
    return math.prod(shape) * dtype.itemsize


def _class_names(names: np.ndarray, parts: dict[str, Split], where: str) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "USiu" or not len(names):
        fail("data-format", f"{where} must be a list of class names, not {names.dtype} of shape {names.shape}")
    for part, split in parts.items():
        worst = int(split.labels.max())
        if worst >= len(names):
            place = label_place(split.labels, int(split.labels.argmax()))
            fail("data-label-range", f"{part} {place} has label {worst}, but {where} names {len(names)} classes")
    if names.dtype.kind == "S":
        return tuple(name.decode("utf-8", "replace") for name in names.tolist())
    return tuple(str(name) for name in names.tolist())
