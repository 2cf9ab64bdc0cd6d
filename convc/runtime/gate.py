"""Lets one thread at a time use a program, and nobody once it is closed."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

from convc.ir.diagnostic import fail


class Gate:
    """A lock that a thread may take repeatedly; entering is a `CompileError` (`value-closed`) after `close`.

    The child of a fork gets a free lock: the thread that may have held it does not exist there.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.RLock()
        self.closed = False
        _gates.add(self)

    def __enter__(self) -> Gate:
        self._lock.acquire()
        if self.closed:
            self._lock.release()
            fail("value-closed", f"{self._what} is closed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def close(self) -> bool:
        """Wait for the call in progress and let no further one in; False if it was closed already."""
        with self._lock:
            first = not self.closed
            self.closed = True
        return first

    def _renew(self) -> None:
        self._lock = threading.RLock()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for gate in list(_gates):
        gate._renew()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
