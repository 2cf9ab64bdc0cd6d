"""What an emulated launch dies of."""

from __future__ import annotations

# Names of the checks, in the order of `Check` in runtime/machine.hpp.
CHECKS = (
    "",
    "bounds",
    "alignment",
    "read-only",
    "uninitialised",
    "pending-copy",
    "race",
    "diverged",
    "deadlock",
    "budget",
    "unsupported",
)


class EmulationError(Exception):
    """PTX that the emulator cannot run, or arguments that do not fit."""


class UnknownOpcode(EmulationError):
    """An instruction that is not in the tables; the message has its line."""


class Fault(EmulationError):
    """A check has found the kernel wrong.

    `check` is one of `CHECKS`; `block` and `thread` say who it was, `line` is that of the instruction in the PTX.
    """

    def __init__(
        self, check: str, what: str, *, block: tuple[int, ...], thread: tuple[int, ...], line: int, instruction: str
    ) -> None:
        super().__init__(f"{check}: {what}\n  {instruction}\n  block {block}, thread {thread}")
        self.check, self.what, self.block, self.thread, self.line = check, what, block, thread, line
