"""Writing files so that readers, crashes and full disks see the old content or the new, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convc.ir.diagnostic import fail

_MARK = ".part-"


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; what the body wrote there takes the place of `path` at the end.

    An `OSError` of the body or of the replacement becomes a `CompileError` (`file-write`), and `path` stays as it was.
    """
    # Who may write into /dev could otherwise lose a device; a folder has a message of its own below.
    if path.exists() and not (path.is_file() or path.is_dir()):
        fail("file-write", f"cannot write {path}: it is not a regular file", hint="choose another name")
    # The process number tells an abandoned file from one that another process is writing.
    temporary = path.with_name(f".{path.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        fail("file-write", f"cannot write {path}: {error.strerror or error}", hint=_advice(error))
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path`. Error: `file-write`."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the content of `path`. Error: `file-write`."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


def write_new(path: Path, text: str) -> None:
    """Make the file `path`; what is there already stays. Errors: `file-exists`, `file-write`."""
    try:
        with path.open("x"):  # the name is ours from here on
            pass
    except FileExistsError:
        fail("file-exists", f"{path} exists already and was left as it is", hint="choose another name")
    except OSError as error:
        fail("file-write", f"cannot write {path}: {error.strerror or error}", hint=_advice(error))
    try:
        write_text(path, text)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left in `folder`; call it while no other writer can be at work there."""
    for leftover in folder.glob(f".*{_MARK}*"):
        with suppress(OSError):
            leftover.unlink()


def _flush(path: Path) -> None:
    """Wait until the disk has it; file systems that cannot tell (some network ones) are taken at their word."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        if path.is_dir():
            with suppress(OSError):
                os.fsync(handle)
        else:
            os.fsync(handle)
    finally:
        os.close(handle)


def _advice(error: OSError) -> str | None:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error):
        return "the disk is full: free some space; what was there before is unharmed"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the folder cannot be written: choose another one"
    return None
