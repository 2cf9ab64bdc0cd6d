"""Ctrl-C in a long computation: acknowledged at once, acted upon at the next step boundary.

Python runs signal handlers only between two instructions of the main thread, and a compiled step may take many seconds.
So the system writes the signal's number into a socket (`signal.set_wakeup_fd`), and a thread that waits there answers
the user meanwhile. The second signal aborts: by an exception if Python gets to run, else by ending the process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

# Supervisors such as `timeout` signal a process and then its group: that is one request.
_ECHO_SECONDS = 0.2
# How long Python may take to raise the exception of the second signal.
_GRACE_SECONDS = 1.0
EXIT_CODE = 130
_SHOW_CURSOR = b"\x1b[?25h"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Stopped on request. `folder` is the run folder if there is one, `command` what goes on from here."""

    def __init__(self, message: str, folder: str | None = None, command: str | None = None) -> None:
        super().__init__(message)
        self.folder = folder
        self.command = command


class Interrupts:
    """Within it, the first SIGINT or SIGTERM sets `requested` and calls `acknowledge` from another thread.

    Only the main thread can receive signals: elsewhere this does nothing.
    """

    def __init__(self, acknowledge: Callable[[str], None]) -> None:
        self.requested = False
        self._acknowledge = acknowledge
        self._first: float | None = None
        self._aborted = threading.Event()
        self._previous: dict[int, Any] = {}
        self._previous_fd = -1
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come: for phases that have nothing to save."""
        if self.requested:
            raise Interrupted("interrupted")

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            receiver, sender = self._sockets = socket.socketpair()
            sender.setblocking(False)
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
            self._previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(receiver,), name="convc-signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sockets is None:
            return
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            # None: the handler was not installed from Python and cannot be put back.
            if handler is not None:
                signal.signal(number, handler)
        self._aborted.set()
        # The watcher reads the end of the stream and closes its side.
        self._sockets[1].close()
        self._sockets = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Python's handler, in the main thread, as soon as that thread runs Python."""
        if self._is_second():
            self._aborted.set()
            raise Interrupted("aborted; the last checkpoint is kept")

    def _is_second(self) -> bool:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self.requested = True
            return False
        return now - self._first > _ECHO_SECONDS

    def _watch(self, receiver: socket.socket) -> None:
        """The thread that answers while the main thread is busy in native code."""
        acknowledged: float | None = None
        with receiver:
            while data := receiver.recv(1):
                if data[0] not in _SIGNALS:
                    continue
                now = time.monotonic()
                if acknowledged is None:
                    acknowledged = now
                    self.requested = True
                    if self._first is None:
                        self._first = now
                    self._acknowledge(signal.Signals(data[0]).name)
                elif (
                    now - acknowledged > _ECHO_SECONDS
                    and not self._aborted.wait(_GRACE_SECONDS)
                    and not _is_interactive()
                ):
                    if os.isatty(1):
                        os.write(1, _SHOW_CURSOR)  # a progress bar hides it
                    os._exit(EXIT_CODE)


def _is_interactive() -> bool:
    """Whether ending the process would take a session with it."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules
