"""IDX, the format of MNIST: a magic number, the extents as big-endian 32-bit numbers, then the elements.

    00 00 | element type | number of dimensions | extent ... | elements, big-endian, last dimension fastest

Files are raw or gzipped. A header is never trusted: it is compared with the size of the file before memory is
allocated, so neither a lying header nor a decompression bomb costs more than the file can deliver.
Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", section "File formats".
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.runtime.data.arrays import make_split
from convc.runtime.data.dataset import Shape, Split, format_shape
from convc.runtime.data.files import file_names, read_bytes, require_folder
from convc.runtime.data.memory import require_memory

_ELEMENT_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 8
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to ask for a gzip header, and for its checksum to be verified

# A deflate block cannot shrink its data more than this.
_MOST_COMPRESSION = 1032

# Small, so that a file of countless tiny members is not copied once for each.
_CHUNK = 1 << 14

_PREFIXES = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("t10k", "test")}


@dataclass(frozen=True)
class _Header:
    element: np.dtype[np.generic]
    shape: tuple[int, ...]
    length: int

    @property
    def payload(self) -> int:
        """Bytes of elements that the header promises."""
        return math.prod(self.shape) * self.element.itemsize


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, gzipped or raw, in native byte order (read-only where that needs no copy).

    Errors: `data-missing`, `data-unreadable`, `data-format`, `data-truncated`, `data-oversized`, `data-corrupt`,
    `data-memory`.
    """
    return decode_idx(read_bytes(path), str(path))


def decode_idx(content: bytes, name: str) -> np.ndarray:
    """As `read_idx`, from the bytes of a file; `name` is for messages."""
    if content.startswith(_GZIP_MAGIC):
        return _decode_gzip(content, name)
    header = _parse_header(content, name)
    _require_length(len(content) - header.length, header, name)
    return _elements(content, header.length, header)


def find_parts(folder: Path, input_shape: Shape | None) -> dict[str, Split]:
    """The parts in a folder of `train-images*`, `train-labels*`, and `t10k-` (or `test-`) and `val-` likewise.

    Errors: those of `read_idx` and `make_split`; `data-missing` when there is no training part or labels are lacking.
    """
    require_folder(folder)
    names = file_names(folder)
    parts: dict[str, Split] = {}
    for part, prefixes in _PREFIXES.items():
        files = {what: _find(names, prefixes, what, folder) for what in ("images", "labels")}
        images, labels = files["images"], files["labels"]
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            lacking = "labels" if labels is None else "images"
            fail("data-missing", f"{folder} has {images or labels}, but no {prefixes[0]}-{lacking}* file")
        where = f"{folder / images} and {labels}"
        parts[part] = make_split(read_idx(folder / images), read_idx(folder / labels), where, input_shape)
    if "train" not in parts:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        fail(
            "data-missing",
            f"{folder} has no train-images* and train-labels* files",
            hint=f"it holds {shown}" if names else "it is empty",
        )
    return parts


def _find(names: list[str], prefixes: tuple[str, ...], what: str, folder: Path) -> str | None:
    """The file of images or labels; MNIST's "-idx3" is also met as ".idx3" and not at all."""
    found = [name for name in names if any(name.startswith(f"{prefix}-{what}") for prefix in prefixes)]
    if len(found) == 2 and found[1] == found[0] + ".gz":
        found.pop()  # the same file, packed and unpacked
    if len(found) > 1:
        fail("data-ambiguous", f"{folder} has several files of {prefixes[0]} {what}: {', '.join(found[:6])}")
    return found[0] if found else None


def _decode_gzip(content: bytes, name: str) -> np.ndarray:
    beginning, _ = _inflate(content, 4 + 4 * _MAX_DIMENSIONS, name)
    header = _parse_header(beginning, name)
    if header.payload > _MOST_COMPRESSION * len(content):
        fail(
            "data-truncated",
            f"{name} promises {header.payload} bytes of {format_shape(header.shape)} elements, "
            f"more than its {len(content)} compressed bytes can hold",
        )
    require_memory(header.payload, name)
    # One byte more than promised, to notice what is too long without unpacking all of it.
    unpacked, cut_off = _inflate(content, header.length + header.payload + 1, name)
    _require_length(len(unpacked) - header.length, header, name)
    if cut_off:
        fail("data-truncated", f"{name} is truncated: {len(content)} bytes, the checksum at its end is missing")
    return _elements(unpacked, header.length, header)


def _inflate(content: bytes, most: int, name: str) -> tuple[bytes, bool]:
    """At most `most` unpacked bytes of all members of a gzip file, and whether the last one read was cut off.

    zlib compares the checksum at the end of each member that is read to its end.
    """
    pieces: list[bytes] = []
    position = 0
    member = None
    while most > 0 and position < len(content):
        if member is None:
            if not content.startswith(_GZIP_MAGIC, position):
                if content.count(0, position) == len(content) - position:
                    break  # zeros fill up the last block on some media
                fail("data-corrupt", f"{name} is corrupt: there is no gzip data at byte {position}")
            member = zlib.decompressobj(_GZIP)
        # Nearly every file is one member: that is unpacked in one piece, without copies.
        chunk = content[position : position + _CHUNK] if position else content
        try:
            piece = member.decompress(chunk, most)
        except zlib.error as error:
            fail("data-corrupt", f"{name} is corrupt: {str(error).rpartition(': ')[2]} in its gzip data")
        pieces.append(piece)
        most -= len(piece)
        position += len(chunk) - len(member.unconsumed_tail) - len(member.unused_data)
        if member.eof:
            member = None
    return b"".join(pieces), most > 0 and member is not None


def _parse_header(content: bytes, name: str) -> _Header:
    if len(content) < 4:
        fail("data-truncated", f"{name} is truncated: {len(content)} bytes, an IDX header has at least 4")
    zero, element, dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or element not in _ELEMENT_TYPES:
        fail("data-format", f"{name} is not an IDX file: it begins with {content[:4].hex(' ')}")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        fail("data-format", f"{name} has {dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are possible")
    length = 4 + 4 * dimensions
    if len(content) < length:
        fail("data-truncated", f"{name} is truncated: {len(content)} bytes, its header alone has {length}")
    return _Header(np.dtype(_ELEMENT_TYPES[element]), struct.unpack_from(f">{dimensions}I", content, 4), length)


def _require_length(actual: int, header: _Header, name: str) -> None:
    shape = format_shape(header.shape)
    if actual < header.payload:
        fail(
            "data-truncated",
            f"{name} is truncated: {shape} elements take {header.payload} bytes, {actual} are there",
            hint="fetch the file again",
        )
    if actual > header.payload:
        fail("data-oversized", f"{name} is longer than its header says: {shape} elements take {header.payload} bytes")


def _elements(content: bytes, offset: int, header: _Header) -> np.ndarray:
    array = np.frombuffer(content, header.element, offset=offset).reshape(header.shape)
    return array.astype(header.element.newbyteorder("="), copy=False)
