"""Files of IR text, with the arrays of their large constants beside them, as `convc compile --emit ir` writes them."""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from convc.frontend.limits import Limits
from convc.frontend.source import decode_source, read_source
from convc.ir.diagnostic import fail
from convc.ir.graph import Graph
from convc.ir.parser import parse_ir
from convc.ir.printer import print_ir
from convc.runtime.atomic import replaced, write_text

_LIMITS = Limits(source_bytes=64 << 20)  # a dump of a training step of a thousand layers has some megabytes


def read_ir(path: Path) -> Graph:
    """The verified graph of a file. Raises `file-…` errors and those of `parse_ir`."""
    source = read_source(path, limits=_LIMITS)
    return parse_ir(source.text, file=source.name, constants=_constants(_beside(path)))


def write_ir(path: Path, graph: Graph) -> list[Path]:
    """Write a graph, its large constants into an npz file beside it; returns the files. Error: `file-write`."""
    constants: dict[str, np.ndarray] = {}
    write_text(path, print_ir(graph, constants))
    if not constants:
        return [path]
    beside = _beside(path)
    with replaced(beside) as temporary, open(temporary, "wb") as file:
        np.savez(file, **constants)  # type: ignore[arg-type]
    return [path, beside]


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".constants.npz")


def decode_ir(data: bytes, name: str) -> Graph:
    """The verified graph of a text that comes from elsewhere, a pipe; `name` is what messages call it."""
    return parse_ir(decode_source(name, data, limits=_LIMITS).text, file=name)


def _constants(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        fail("file-unreadable", f"{path} cannot be read: {error}")
