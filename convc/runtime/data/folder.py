"""Images in one folder per class.

    dir/train/cat/a.png   dir/val/cat/b.png   dir/test/cat/c.png        or        dir/cat/a.png   dir/dog/b.jpeg

Folders within a class are searched, too. Hidden files and text files that often lie beside images are passed over;
every other file counts as an image, so that none is lost unnoticed. Symbolic links are followed as long as they stay
within the folder. The files to use are chosen before anything is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail
from convc.lazy import dataclass
from convc.runtime.data.dataset import DataSet, Shape, Split, format_shape
from convc.runtime.data.files import file_names, require_folder
from convc.runtime.data.memory import require_memory
from convc.runtime.data.options import DataOptions
from convc.runtime.data.partition import choose_parts
from convc.runtime.data.picture import decode, reason, require_pillow, strict_decoding

_PART_FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_COMPANIONS = frozenset(
    {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".html", ".yaml", ".yml", ".toml", ".ini", ".db", ".log"}
)
_SHOWN = 10
_THREADS = 8
_CHUNK = 256


@dataclass(frozen=True)
class _Files:
    """The files of one part, in order of class and path, and the class number of each (int32)."""

    paths: list[Path]
    labels: np.ndarray


@dataclass(frozen=True)
class _Bad:
    path: Path
    reason: str


def read_folder(
    folder: Path, options: DataOptions, input_shape: Shape | None, progress: Callable[[int, int], None] | None = None
) -> DataSet:
    """The images below `folder`, brought to `options.size`, else to the net's input; 3 channels where no input says 1.

    `progress(done, total)` is called now and then. Errors: `data-missing`, `data-no-classes`, `data-empty`,
    `data-class`, `data-symlink`, `data-image` (bad images, under bad=refuse), `data-size`, `data-memory`,
    `data-too-few`, `data-unreadable`.
    """
    require_folder(folder)
    shape = _target_shape(options, input_shape)
    require_pillow()
    roots = _part_roots(folder)
    classes = _class_folders(roots["train"], folder)
    files = {part: _list_part(part, root, classes, folder) for part, root in roots.items()}
    chosen = choose_parts({part: listed.labels for part, listed in files.items()}, options, str(folder))
    wanted = {part: _pick(files[source], indices) for part, (source, indices) in chosen.items()}
    _require_memory(sum(len(listed.paths) for listed in wanted.values()), shape, folder)
    splits, bad = _decode_parts(wanted, shape, progress)
    if bad and (options.bad == "refuse" or len(splits) < len(wanted)):
        raise CompileError([_report(bad, folder, "cannot be read", "error", hint="bad=skip leaves them out")])
    warnings = (_report(bad, folder, "cannot be read and are left out", "warning"),) if bad else ()
    return DataSet(str(folder), tuple(classes), splits["train"], splits.get("validation"), splits.get("test"), warnings)


def _target_shape(options: DataOptions, input_shape: Shape | None) -> Shape:
    channels = input_shape[0] if input_shape else 3
    if channels not in (1, 3):
        fail("data-shape", f"images of a folder have 1 or 3 channels, the net's input has {channels}")
    size = options.size or (input_shape[1:] if input_shape else None)
    if size is None:
        fail("data-size", "nothing says to which size the images of the folder are to be brought", hint="size=64")
    return channels, *size


def _part_roots(folder: Path) -> dict[str, Path]:
    names = file_names(folder)
    roots: dict[str, Path] = {}
    for part, aliases in _PART_FOLDERS.items():
        found = [name for name in aliases if name in names and (folder / name).is_dir()]
        if len(found) > 1:
            fail("data-ambiguous", f"{folder} has the folders {' and '.join(found)}: which one is to be used?")
        if found:
            roots[part] = _inside(folder / found[0], folder)
    if roots and "train" not in roots:
        there = next(iter(roots.values())).name
        fail("data-missing", f"{folder} has a folder {there}, but no folder train", hint="rename it if it is a class")
    return roots or {"train": folder}


def _class_folders(root: Path, folder: Path) -> list[str]:
    names = file_names(root)
    classes = [name for name in names if (root / name).is_dir()]
    if not classes:
        hint = f"{len(names)} files lie in it directly: put them into one folder per class" if names else "it is empty"
        fail("data-no-classes", f"{root} holds no class folders", hint=hint)
    for name in classes:
        _inside(root / name, folder)
    return classes


def _list_part(part: str, root: Path, classes: list[str], folder: Path) -> _Files:
    unknown = [name for name in file_names(root) if (root / name).is_dir() and name not in classes]
    if unknown:
        fail(
            "data-class",
            f"{root} has classes that the training part lacks: {', '.join(unknown[:_SHOWN])}",
            hint=f"classes of the training part: {', '.join(classes[:_SHOWN])}",
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _list_files(root / name, folder, frozenset()) if (root / name).is_dir() else []
        if not found and part == "train":
            fail("data-empty", f"the class folder {root / name} holds no images")
        paths += found
        labels += [label] * len(found)
    if not paths:
        fail("data-empty", f"{root} holds no images")
    return _Files(paths, np.array(labels, dtype=np.int32))


def _list_files(folder: Path, root: Path, above: frozenset[str]) -> list[Path]:
    """Files below `folder` in order; `above` holds the real paths of the folders around it, so that no link loops."""
    real = os.path.realpath(folder)
    if real in above:
        return []
    found: list[Path] = []
    for name in file_names(folder):
        path = _inside(folder / name, root)
        if path.is_dir():
            found += _list_files(path, root, above | {real})
        elif path.suffix.lower() not in _COMPANIONS:
            found.append(path)
    return found


def _inside(path: Path, root: Path) -> Path:
    """`path`, unless it is a symbolic link that leads out of `root`."""
    if path.is_symlink():
        target, real_root = os.path.realpath(path), os.path.realpath(root)
        if os.path.commonpath([target, real_root]) != real_root:
            fail(
                "data-symlink", f"{path} is a symbolic link to {target}, outside {root}", hint="copy what it points to"
            )
    return path


def _pick(files: _Files, indices: np.ndarray | None) -> _Files:
    if indices is None:
        return files
    return _Files([files.paths[index] for index in indices], files.labels[indices])


def _require_memory(count: int, shape: Shape, folder: Path) -> None:
    what = f"{count} images of {format_shape(shape)} from {folder}"
    require_memory(count * int(np.prod(shape)), what, hint="fewer images (train=N), or smaller ones (size=N)")


def _decode_parts(
    wanted: dict[str, _Files], shape: Shape, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, Split], list[_Bad]]:
    """The parts without the images that cannot be read, and these; a part of bad images only is left out."""
    total = sum(len(files.paths) for files in wanted.values())
    done = 0
    splits: dict[str, Split] = {}
    all_bad: list[_Bad] = []
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="convc-decode")
    try:
        with strict_decoding():
            for part, files in wanted.items():
                images = np.empty((len(files.paths), *shape), dtype=np.uint8)
                bad: dict[int, _Bad] = {}
                # In portions: futures for a million files would weigh as much as the images.
                for start in range(0, len(files.paths), _CHUNK):
                    paths = files.paths[start : start + _CHUNK]
                    outcomes = enumerate(pool.map(_decode_into, paths, images[start : start + _CHUNK]), start)
                    bad.update((index, outcome) for index, outcome in outcomes if outcome is not None)
                    done += len(paths)
                    if progress:
                        progress(done, total)
                all_bad += bad.values()
                if len(bad) < len(files.paths):
                    splits[part] = _without(images, files.labels, bad)
    finally:
        pool.shutdown(cancel_futures=True)
    return splits, all_bad


def _without(images: np.ndarray, labels: np.ndarray, bad: Mapping[int, _Bad]) -> Split:
    """The images but for the bad ones, moved together in place: there may be no memory for a second copy."""
    if not bad:
        return Split(images, labels)
    good = [index for index in range(len(labels)) if index not in bad]
    for target, source in enumerate(good):
        images[target] = images[source]
    return Split(images[: len(good)], labels[good])


def _decode_into(path: Path, target: np.ndarray) -> _Bad | None:
    try:
        target[...] = decode(path, target.shape[0], target.shape[1:])
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise nearly everything on damaged files
        return _Bad(path, reason(error))
    return None


def _report(
    bad: list[_Bad], folder: Path, verdict: str, severity: Literal["error", "warning"], hint: str | None = None
) -> Diagnostic:
    """All that is wrong in one message; the first ten are named."""
    notes = [Note(f"{item.path}: {item.reason}") for item in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        notes.append(Note(f"and {len(bad) - _SHOWN} more"))
    what = f"{len(bad)} image{'s' if len(bad) > 1 else ''} of {folder} {verdict}"
    if len(bad) == 1:
        what = what.replace(" are left out", " is left out")
    return Diagnostic("data-image", what, notes=tuple(notes), hint=hint, severity=severity)
