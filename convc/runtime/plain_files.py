"""Opening the files of a run folder: regular files only, and none through a link that leads elsewhere.

A run folder may come from somebody else. A pipe in the place of a file would block for ever, and a link would have us
write into a file that the user never named.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TextIO

# Both are missing on some systems; then the check of the open file alone has to do.
_GUARD = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def read_plain(path: Path) -> str:
    """The text of a regular file. Raises `OSError`, also for what is no regular file, and `UnicodeDecodeError`."""
    with open(_open(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def append_plain(path: Path) -> TextIO:
    """A regular file opened to write at its end, line by line. Raises `OSError`."""
    handle = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return open(handle, "a", encoding="utf-8", buffering=1)


def _open(path: Path, flags: int) -> int:
    try:
        handle = os.open(path, flags | _GUARD | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        # What the system says of a link here is "too many levels of symbolic links", of a pipe "no such device".
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise OSError(error.errno, "not a regular file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return handle
