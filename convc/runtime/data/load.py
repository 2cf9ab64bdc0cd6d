"""From a `data` item of the language to a data set: the one entry to all readers."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convc.ir.diagnostic import CompileError, fail
from convc.ir.span import Span
from convc.runtime.data.dataset import DataSet, Shape, Split, format_shape
from convc.runtime.data.image_size import stored_size
from convc.runtime.data.options import DataOptions, parse_options
from convc.runtime.data.partition import choose_parts

if TYPE_CHECKING:
    from convc.frontend.settings import Step

# progress(images decoded, images in all)
Progress = Callable[[int, int], None]

# Every kind of data item that the language knows.
KINDS = ("mnist", "fashion_mnist", "cifar10", "digits", "folder", "idx", "npz", "shards")

_PATH_EXAMPLES = {"folder": "photos/", "idx": "folder/", "npz": "file.npz"}


def load_dataset(
    kind: str,
    path: str | None,
    options: Mapping[str, object],
    *,
    base: Path,
    input_shape: Shape | None,
    seed: int,
    span: Span | None = None,
    progress: Progress | None = None,
    augment: Sequence[Step] = (),
) -> DataSet:
    """Read, check and divide a data set.

    `path` is taken relative to `base`, the folder of the file that names it. `options` are the item's: train, val,
    test, split, seed, and for folders bad and size. `input_shape` is (C, H, W) of the net's input; images must have it
    (folders are brought to it), unless it is `None`. `seed` decides subsets where the options have no seed. `progress`
    is called with the number of images decoded and their total. `augment` are the steps that images of the training
    part are to go through: those of a folder are brought to the size that they begin with, others may have any size.

    Every failure is a `CompileError` with a `data-...` code at `span`.
    """
    try:
        return _load(kind, path, options, base, input_shape, seed, progress, augment)
    except CompileError as error:
        placed = [
            diagnostic if diagnostic.span else dataclasses.replace(diagnostic, span=span)
            for diagnostic in error.diagnostics
        ]
        raise CompileError(placed, error.sources) from None
    except OSError as error:
        # Whatever a reader asks a file system about may fail; each reader words what it expects itself.
        where = error.filename or path or kind
        fail("data-unreadable", f"cannot read {where}: {error.strerror or error}", span)


def _load(
    kind: str,
    path: str | None,
    options: Mapping[str, object],
    base: Path,
    input_shape: Shape | None,
    seed: int,
    progress: Progress | None,
    augment: Sequence[Step],
) -> DataSet:
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KINDS)}"
        fail("data-kind", f"unknown kind of data `{kind}`", hint=hint)
    if kind == "shards":
        fail("data-unsupported", "`data shards` is not supported yet", hint="use folder, idx or npz")
    parsed = parse_options(kind, options, seed)
    where = _resolve(kind, path, base)
    if kind == "folder":
        if augment and parsed.size is None and input_shape is not None:
            parsed = dataclasses.replace(parsed, size=stored_size(augment, input_shape[1:]))
        dataset = _read_images(where, parsed, input_shape, progress)
    else:
        dataset = _divide(
            *_read_arrays(kind, where, input_shape), str(where) if kind in _PATH_EXAMPLES else kind, parsed
        )
    # Images of an explicit size, and of any under `augment`, are compared with the net by those who know what follows.
    if input_shape is not None and parsed.size is None and not augment:
        dataset.require_shape(input_shape)
    return dataset


def _resolve(kind: str, path: str | None, base: Path) -> Path | None:
    if path is None:
        if kind in _PATH_EXAMPLES:
            fail("data-missing", f"`data {kind}` needs a path", hint=f'data {kind} "{_PATH_EXAMPLES[kind]}"')
        return None
    if kind == "digits":
        fail("data-option", "`data digits` takes no path", hint="it comes with scikit-learn")
    if not path or "\0" in path:
        fail("data-missing", f"{path!r} is not a path")
    try:
        return base / Path(path).expanduser()
    except RuntimeError:  # the home folder of an unknown user
        fail("data-missing", f"there is no home folder for {path}")


# Readers are imported where they are used: the way to the first step with MNIST passes by none of the others.


def _read_images(
    path: Path | None, options: DataOptions, input_shape: Shape | None, progress: Progress | None
) -> DataSet:
    from convc.runtime.data.folder import read_folder

    assert path is not None  # _resolve insists on it
    return read_folder(path, options, input_shape, progress)


def _read_arrays(kind: str, path: Path | None, input_shape: Shape | None) -> tuple[dict[str, Split], tuple[str, ...]]:
    if kind == "digits":
        from convc.runtime.data.digits import CLASSES, read_digits

        return read_digits(), CLASSES
    if kind == "cifar10":
        from convc.runtime.data.cifar10 import CLASSES, read_cifar10

        return read_cifar10(path), CLASSES
    if kind in ("mnist", "fashion_mnist"):
        from convc.runtime.data import mnist

        if kind == "mnist":
            return mnist.read_mnist(path, input_shape), mnist.DIGITS
        return mnist.read_fashion_mnist(path, input_shape), mnist.FASHION
    assert path is not None  # _resolve insists on it
    if kind == "npz":
        from convc.runtime.data.npz import read_npz

        return read_npz(path, input_shape)
    from convc.runtime.data.arrays import numbered_classes
    from convc.runtime.data.idx import find_parts

    parts = find_parts(path, input_shape)
    return parts, numbered_classes(parts)


def _divide(parts: Mapping[str, Split], classes: tuple[str, ...], name: str, options: DataOptions) -> DataSet:
    _require_one_shape(parts, name)
    chosen = choose_parts({part: split.classes_of_images for part, split in parts.items()}, options, name)
    splits = {part: parts[source].take(indices) for part, (source, indices) in chosen.items()}
    return DataSet(name, classes, splits["train"], splits.get("validation"), splits.get("test"))


def _require_one_shape(parts: Mapping[str, Split], name: str) -> None:
    for part, split in parts.items():
        expected = parts["train"]
        if split.shape != expected.shape or split.images.dtype != expected.images.dtype:
            fail(
                "data-shape",
                f"{part} images of {name} are {split.images.dtype} {format_shape(split.shape)}, "
                f"training images {expected.images.dtype} {format_shape(expected.shape)}",
            )
        if split.label_shape != expected.label_shape:
            forms = [format_shape((len(each), *each.label_shape)) for each in (split, expected)]
            fail("data-shape", f"{part} labels of {name} are {forms[0]}, training labels {forms[1]}")
