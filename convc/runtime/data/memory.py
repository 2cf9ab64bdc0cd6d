"""How much memory the process may still use, and the one refusal for data that would not fit."""

from __future__ import annotations

import os
from pathlib import Path

from convc.ir.diagnostic import fail
from convc.ir.sizes import format_bytes

_UNKNOWN = 1 << 40  # where the system does not tell, only absurd sizes are refused


def available_bytes() -> int:
    """Bytes of memory that can be had without swapping: the machine's, or the container's where it is smaller."""
    amounts = [_machine_bytes(), *_container_bytes()]
    return min(amount for amount in amounts if amount is not None)


def require_memory(needed: int, what: str, hint: str | None = None) -> None:
    """Refuse (`data-memory`) to read `what`, which takes `needed` bytes, when memory does not suffice."""
    available = available_bytes()
    if needed > available:
        fail(
            "data-memory",
            f"{what} needs {format_bytes(needed)} of memory, {format_bytes(available)} are available",
            hint=hint or "use fewer images (train=N) or smaller ones",
        )


def _machine_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN


def _container_bytes() -> list[int | None]:
    """What a control group leaves (version 2, then version 1); empty outside a limited one."""
    pairs = (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    )
    return [_difference(limit, used) for limit, used in pairs]


def _difference(limit: str, used: str) -> int | None:
    try:
        return max(0, int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such group, or the word "max"
        return None
