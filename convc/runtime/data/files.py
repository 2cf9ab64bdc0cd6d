"""Opening the files and folders of a data set, with one clear message where that fails."""

from __future__ import annotations

import os
from pathlib import Path

from convc.ir.diagnostic import fail
from convc.runtime.data.memory import require_memory


def require_folder(path: Path, hint: str | None = None) -> None:
    """Refuse (`data-missing`) a path that is no folder."""
    if not path.exists():
        fail("data-missing", f"there is no folder {path}", hint=hint)
    if not path.is_dir():
        fail("data-missing", f"{path} is not a folder", hint=hint)


def require_file(path: Path, hint: str | None = None) -> None:
    """Refuse (`data-missing`) a path that is no regular file; a pipe would block, a device never end."""
    if not path.exists():
        fail("data-missing", f"there is no file {path}", hint=hint)
    if not path.is_file():
        fail("data-missing", f"{path} is not a regular file", hint=hint)


def file_names(folder: Path) -> list[str]:
    """Names of the entries of a folder in order, without hidden ones. Error: `data-unreadable`."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        fail("data-unreadable", f"cannot read the folder {folder}: {error.strerror}")


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Errors: `data-missing`, `data-unreadable`, `data-memory`."""
    require_file(path)
    try:
        require_memory(path.stat().st_size, str(path))
        return path.read_bytes()
    except OSError as error:
        fail("data-unreadable", f"cannot read {path}: {error.strerror}")
