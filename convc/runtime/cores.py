"""How many threads a process should use, and why.

A container or a job scheduler often grants less than the machine has: by the affinity mask (`taskset`, Slurm), by a
cgroup quota of processor time (Docker, Kubernetes), or both. More spinning threads than granted cores would wait for
each other.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from convc.codegen.llvm.spmd import MAX_PARTIES
from convc.ir.diagnostic import fail
from convc.lazy import dataclass

THREADS_VARIABLE = "CONVC_THREADS"
# They share Python's lock between two array operations.
_MOST_LOADERS = 4
COMPILE_VARIABLE = "CONVC_COMPILE_PROCESSES"
# Each is an interpreter with LLVM: 0.2 s and 100 MB, for a share of some seconds of work.
_MOST_COMPILERS = 8


@dataclass(frozen=True)
class ThreadChoice:
    """A number of threads and the reason for it, for reports."""

    threads: int
    why: str


def default_threads() -> int:
    """`CONVC_THREADS` if set, else the cores that this process may use."""
    return choose_threads().threads


def choose_threads(requested: int | None = None) -> ThreadChoice:
    """`requested` if given, else `CONVC_THREADS`, else the cores that this process may use.

    Raises CompileError (`value-threads`) unless the number is between 1 and 1024.
    """
    if requested is not None:
        return ThreadChoice(_checked(str(requested), "threads"), "asked for")
    given = os.environ.get(THREADS_VARIABLE, "").strip()
    if given:
        return ThreadChoice(_checked(given, THREADS_VARIABLE), f"{THREADS_VARIABLE}={given}")
    return usable_cores()


def loader_threads() -> ThreadChoice:
    """How many threads change images while the cores compute: they sleep when they are ahead of the training."""
    cores = usable_cores().threads
    threads = min(_MOST_LOADERS, max(1, cores // 2))
    why = f"for `augment`, half of the {cores} cores" + (f", at most {_MOST_LOADERS}" if cores > 9 else "")
    return ThreadChoice(threads, f"{why if cores > 1 else 'for `augment`'}; the images do not depend on it")


def compile_processes() -> int:
    """How many processes may compile a program: `CONVC_COMPILE_PROCESSES` if set, else the cores, at most 8.

    Raises CompileError (`value-threads`) unless the number is between 1 and 1024.
    """
    given = os.environ.get(COMPILE_VARIABLE, "").strip()
    return _checked(given, COMPILE_VARIABLE) if given else min(_MOST_COMPILERS, usable_cores().threads)


def usable_cores() -> ThreadChoice:
    """The cores that this process may use: its affinity mask, cut down to its cgroup's quota."""
    cores = _affinity()
    quota = cgroup_quota()
    if quota is not None and math.ceil(quota) < cores:
        return ThreadChoice(max(1, math.ceil(quota)), f"the cgroup grants {quota:g} of {cores} cores")
    return ThreadChoice(cores, f"{cores} of the machine's {os.cpu_count() or cores} cores may be used")


def cgroup_quota(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of processor time that cgroups (version 1 or 2) grant this process; None without a limit.

    `membership` lists the process's groups, `root` is where the controllers are mounted. A limit on any group above
    counts.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        if controllers == "":
            limits += [limit for folder in _upwards(root, group) if (limit := _version_2(folder)) is not None]
        elif "cpu" in controllers.split(","):
            for mount in {root / controllers, root / "cpu"}:
                limits += [limit for folder in _upwards(mount, group) if (limit := _version_1(folder)) is not None]
    return min(limits, default=None)


def _affinity() -> int:
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def _upwards(root: Path, group: str) -> list[Path]:
    """The folder of `group` and all above it up to `root`, which is what a container sees of its own group."""
    parts = [part for part in group.split("/") if part not in ("", "..", ".")]
    return [root.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _version_2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _version_1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return _ratio(quota[0], period[0]) if len(quota) == len(period) == 1 else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float | None:
    # "max" and -1 mean that there is no limit.
    try:
        granted, interval = int(quota), int(period)
    except ValueError:
        return None
    return granted / interval if granted > 0 and interval > 0 else None


def _checked(text: str, origin: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PARTIES):
        fail("value-threads", f"{origin}={text}: the number of threads is between 1 and {MAX_PARTIES}")
    return int(text)
