"""Weights and training states on disk: safetensors files that appear complete or not at all.

A file is written beside its final place, flushed to the disk and renamed, so a crash or a full disk leaves the previous
one. Values that are not finite are refused: a checkpoint is what one goes back to after a training that went wrong.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail
from convc.ir.rounding import stored, widened
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.runtime.atomic import replaced

FORMAT = "convc"
FORMAT_VERSION = 1
_SHOWN = 12


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read: arrays by name, and what the file says about itself (all text)."""

    path: Path
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Parameters and buffers, without the optimiser states of a training state."""
        return {name: array for name, array in self.tensors.items() if name not in self.states}

    @cached_property
    def states(self) -> frozenset[str]:
        """Names of the optimiser's states among the tensors."""
        return frozenset(text_list(self.metadata.get("states")))


@dataclass(frozen=True)
class Match:
    """How the tensors of a file fit a net. Everything but `loaded` is a difference."""

    loaded: tuple[str, ...]
    missing: dict[str, tuple[int, ...]]
    unexpected: dict[str, tuple[int, ...]]
    different: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unexpected or self.different)

    def lines(self) -> list[str]:
        """One line per difference, the net's view first."""
        return [
            *(
                f"{name}: {_shape(net)} in the net, {_shape(file)} in the file"
                for name, (net, file) in self.different.items()
            ),
            *(f"{name}: {_shape(shape)} in the net, not in the file" for name, shape in self.missing.items()),
            *(f"{name}: {_shape(shape)} in the file, not in the net" for name, shape in self.unexpected.items()),
        ]


def text_list(text: str | None) -> tuple[str, ...]:
    """A list of texts from a file's metadata; a file from elsewhere may have none, or something else in its place."""
    try:
        items = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(items) if isinstance(items, list) and all(isinstance(item, str) for item in items) else ()


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    types: Mapping[str, DType] = MappingProxyType({}),
    unbounded: Collection[str] = (),
) -> None:
    """Write `tensors` to `path` at once, as float32 where `types` does not say f16 or bf16.

    The previous file stays until the new one is safe on disk.

    All but those that are `unbounded` have to be finite.
    Errors: `checkpoint-not-finite` (nothing is written), `file-write` when the disk is full or the folder not writable.
    """
    bad = non_finite({name: array for name, array in tensors.items() if name not in unbounded})
    if bad:
        fail("checkpoint-not-finite", f"{path.name} is not written: {bad[0]} holds values that are not finite")
    arrays = {name: stored(array, types.get(name, DType.F32)) for name, array in tensors.items()}
    header = _header(arrays, types, {"format": FORMAT, "format_version": str(FORMAT_VERSION), **metadata})
    with replaced(path) as temporary, open(temporary, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)


def _header(arrays: Mapping[str, np.ndarray], types: Mapping[str, DType], metadata: Mapping[str, str]) -> bytes:
    """The JSON part of a safetensors file, padded to eight bytes.

    The library writes metadata in random order; here equal contents give equal files.
    """
    table: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, array in arrays.items():
        kind = types.get(name, DType.F32).name
        table[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a safetensors file whole.

    Errors: `checkpoint-missing`, `checkpoint-unreadable` (not a safetensors file, truncated, foreign element types).
    """
    return _read(Path(path), arrays=True)


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself. Errors: as those of `read_checkpoint`."""
    return _read(path, arrays=False).metadata


def _read(path: Path, arrays: bool) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        fail("checkpoint-missing", f"there is no file {path}")
    if not path.is_file():
        fail("checkpoint-missing", f"{path} is not a regular file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = {str(key): str(value) for key, value in (file.metadata() or {}).items()}
            names = file.keys() if arrays else ()
            tensors = {str(name): _numbers(path, file, name) for name in names}
    except OSError as error:
        fail("checkpoint-unreadable", f"cannot read {path}: {error.strerror or error}")
    except (SafetensorError, TypeError, ValueError, KeyError, AttributeError, UnicodeDecodeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:160]
        fail(
            "checkpoint-unreadable",
            f"{path} is not a complete safetensors file ({path.stat().st_size} bytes): {reason}",
            hint="weights are kept in files such as best.safetensors of a run folder",
        )
    version = metadata.get("format_version", "1") if metadata.get("format") == FORMAT else "1"
    if version != str(FORMAT_VERSION):
        fail(
            "checkpoint-version",
            f"{path} has format {version}, this version of convc reads {FORMAT_VERSION}",
            hint="use the version of convc that wrote it, or a newer one",
        )
    return Checkpoint(path, tensors, metadata)


def _numbers(path: Path, file: Any, name: str) -> np.ndarray:
    """A tensor; one of 16 bits as float32. numpy has no bfloat16: its bits are read from their place in the file."""
    kind = file.get_slice(name).get_dtype()
    if kind != "BF16":
        array = np.asarray(file.get_tensor(name))
        return array.astype(np.float32) if kind == "F16" else array
    with open(path, "rb") as content:
        length = int.from_bytes(content.read(8), "little")
        entry = json.loads(content.read(length))[name]
        begin, end = entry["data_offsets"]
        content.seek(8 + length + begin)
        bits = np.frombuffer(content.read(end - begin), "<u2")
    return widened(bits, DType.BF16).reshape(entry["shape"])


def match(file: Mapping[str, tuple[int, ...]], net: Mapping[str, tuple[int, ...]]) -> Match:
    """Compare shapes by name."""
    return Match(
        loaded=tuple(name for name in net if file.get(name) == net[name]),
        missing={name: shape for name, shape in net.items() if name not in file},
        unexpected={name: shape for name, shape in file.items() if name not in net},
        different={name: (net[name], file[name]) for name in net if name in file and file[name] != net[name]},
    )


def require_match(found: Match, path: Path, net: str, hint: str | None = None) -> None:
    """Refuse (`checkpoint-mismatch`) a file that is not of this net, naming what differs."""
    if found.exact:
        return
    lines = found.lines()
    notes = [Note(line) for line in lines[:_SHOWN]]
    if len(lines) > _SHOWN:
        notes.append(Note(f"and {len(lines) - _SHOWN} more"))
    total = len(found.loaded) + len(found.missing) + len(found.different)
    message = f"{path} does not fit the net {net}: {len(found.loaded)} of its {total} parameters are in the file"
    raise CompileError([Diagnostic("checkpoint-mismatch", message, notes=tuple(notes), hint=hint)])


def non_finite(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the arrays with an infinity or a NaN."""
    return [name for name, array in tensors.items() if not np.isfinite(array).all()]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
