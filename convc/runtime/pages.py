"""Memory that the system has promised and not given yet.

A page comes when it is first touched, zeroed by the kernel in the midst of whatever touched it. Pages of a large
program come cheaper when they are asked for in calls of their own (docs/performance-log.md).
"""

from __future__ import annotations

import ctypes
import mmap
import sys

# Linux 5.14: have the kernel map the pages as a write would, and leave alone what is in them.
_MADV_POPULATE_WRITE = 23


def populate(address: int, size: int) -> None:
    """Have the whole pages within these bytes given now, where the system has a call for that; else nothing happens."""
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if sys.platform == "linux" and whole > 0:
        # An older kernel knows no such call; without memory the first touch will tell.
        _madvise()(begin, whole, _MADV_POPULATE_WRITE)


def _madvise() -> ctypes._NamedFuncPointer:  # pyright: ignore[reportPrivateUsage]
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
