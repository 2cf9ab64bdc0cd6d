"""Reading a model's file and the files that it keeps its weights in. Nothing outside its folder is ever opened."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.onnx_library import onnx_library

# No protocol buffer is larger.
_LARGEST = (1 << 31) - 1
_KEYS = ("location", "offset", "length", "checksum")


def read_model(path: str | os.PathLike[str]) -> Any:
    """The `ModelProto` of a file, weights beside it not yet read. Errors: `file-…`, `onnx-unreadable`."""
    onnx = onnx_library()
    from google.protobuf.message import DecodeError

    name = os.fspath(path)
    with _open_regular(name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST:
            fail("file-too-large", f"{name} has {size:,} bytes; a model's file has at most {_LARGEST:,}")
        data = file.read()
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        fail("onnx-unreadable", f"{name} is no complete ONNX model ({len(data):,} bytes): {_short(error)}")
    if not model.HasField("graph") or not model.graph.node or not model.opset_import:
        fail("onnx-unreadable", f"{name} is no ONNX model: there is no graph in it", hint=_not_a_model(data))
    return model


def _open_regular(name: str) -> BinaryIO:
    if "\0" in name:
        fail("file-missing", "a file name cannot hold a NUL character")
    try:
        # A pipe would block without O_NONBLOCK before one could see what it is.
        handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        fail("file-missing", f"{name} does not exist")
    except OSError as error:
        fail("file-unreadable", f"{name[:200]} cannot be read: {error.strerror or error}")
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        fail("file-directory", f"{name} is a folder, not an ONNX file")
    fail("file-unreadable", f"{name} is not a regular file")


def _not_a_model(data: bytes) -> str | None:
    if data[:2] == b"PK":
        return "this looks like a zip archive, such as a PyTorch checkpoint: export it with torch.onnx.export"
    if data[:1] in (b"{", b"<") or data.startswith(b"convc-ir"):
        return "this looks like text"
    return None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def read_external(folder: Path, entries: dict[str, str], size: int, tensor: str) -> np.ndarray:
    """The `size` bytes of a tensor that lie in a file beside the model. Errors: `onnx-external`.

    The file, links followed, has to be inside `folder`; offset, length and checksum are believed only as far as they
    can be verified.
    """
    unknown = sorted(set(entries) - set(_KEYS))
    if unknown:
        fail("onnx-external", f"the data of {tensor} is described by `{unknown[0]}`, which is unknown")
    location = entries.get("location", "")
    path = _inside(folder, location, tensor)
    offset = _number(entries.get("offset", "0"), "offset", tensor)
    length = _number(entries.get("length", str(size)), "length", tensor)
    if length != size:
        fail("onnx-external", f"{tensor} needs {size:,} bytes of {location}, but its entry says {length:,}")
    try:
        with open(path, "rb", opener=_without_links) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                fail("onnx-external", f"the data of {tensor}, {location}, is not a regular file")
            if offset + size > status.st_size:
                end = f"{offset + size:,}"
                fail("onnx-external", f"{location} ends at {status.st_size:,}, but {tensor} reaches to {end}")
            file.seek(offset)
            data = np.fromfile(file, np.uint8, size)
    except OSError as error:
        fail("onnx-external", f"the data of {tensor}, {location}, cannot be read: {error.strerror or error}")
    if len(data) != size:
        fail("onnx-external", f"{location} ended while {tensor} was read")
    checksum = entries.get("checksum")
    if checksum is not None and hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest() != checksum.lower():
        fail("onnx-external", f"the checksum of {location}, given with {tensor}, does not fit the file")
    return data


def _inside(folder: Path, location: str, tensor: str) -> Path:
    """The real path of a file that lies in `folder` or below."""
    message = f"the data of {tensor} lies in {location!r}"
    if not location:
        fail("onnx-external", f"the data of {tensor} lies in a file without a name")
    parts = location.replace("\\", "/").split("/")
    if "\0" in location or location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        fail("onnx-external", f"{message}, which leaves the folder of the model", hint="only files beside it are read")
    try:
        home, path = folder.resolve(), (folder / location).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links go in circles"
        fail("onnx-external", f"{message}, which cannot be read: {reason}")
    if home not in path.parents:
        fail("onnx-external", f"{message}, a link that leaves the folder of the model")
    return path


def _without_links(name: str, flags: int) -> int:
    # The path is resolved: a link in its last place has been put there since.
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _number(text: str, what: str, tensor: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        fail("onnx-external", f"the {what} of {tensor} is {text[:40]!r}, no whole number of bytes")
    return int(text)
