"""Worker threads that run compiled steps together with the calling thread.

Workers are Python threads that enter native code once (ctypes releases the GIL) and stay there, see
`convc.codegen.llvm.spmd`. The caller of `launch` is rank 0, so a pool of two threads starts one worker and a pool of
one starts none. Launches of a pool run one at a time; other Python threads wait.

`os.fork` waits for the launch in progress, so that the child gets the memory of a finished step. The child has none
of the parent's threads: there every pool is as new, with a fresh lock and a control block in its first state at the
same address, and starts workers of its own when it is first used.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from dataclasses import field
from functools import lru_cache

from convc.codegen.llvm.spmd import ControlBlock, SpmdRuntime, load_runtime
from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.runtime.cores import choose_threads, usable_cores

# How long a thread polls before it sleeps. A wake-up costs some 50 microseconds, and between two steps Python needs
# less than this; longer polling would only take processor time from whatever else runs.
_SPIN_SECONDS = 0.005
# With more threads than cores, whoever polls keeps the thread that it waits for from running.
_CROWDED_ROUNDS = 20
# The interpreter's exit does not wait longer than this for a step that another thread has launched.
_EXIT_SECONDS = 1.0

_LAUNCH = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
_STOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_RELAX = ctypes.CFUNCTYPE(None, ctypes.c_int64)


@dataclass
class _Workers:
    """What the threads of a pool share. Apart from the pool, so that it can be stopped when nobody holds the pool."""

    runtime: SpmdRuntime
    control: ControlBlock
    lock: threading.Lock = field(default_factory=threading.Lock)
    started: bool = False
    threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self) -> None:
        """Start the workers; the caller holds the lock."""
        self.control.reset()
        enter = _WORKER(self.runtime.worker)
        for rank in range(1, self.control.parties):
            name = f"convc-{rank}"
            thread = threading.Thread(target=enter, args=(self.control.address, rank), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.stop()
                fail(
                    "value-threads",
                    f"cannot start thread {rank + 1} of {self.control.parties}: {error}",
                    hint="use fewer threads, or raise the limit on processes (ulimit -u)",
                )
            self.threads.append(thread)
        self.started = True

    def stop(self) -> None:
        """Let the workers leave native code and end; the caller holds the lock, so no launch is in progress."""
        if self.threads:
            _STOP(self.runtime.stop)(self.control.address)
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
        self.threads.clear()
        self.started = False

    def abandon(self) -> None:
        """Stop when the pool is garbage or the interpreter ends: without waiting long for a launch in progress."""
        if not self.lock.acquire(timeout=_EXIT_SECONDS):
            self.control.keep_forever()
            return
        try:
            self.stop()
        finally:
            self.lock.release()

    def forget(self) -> None:
        """In the child of a fork: the threads are gone, and so is whoever may have held the lock."""
        self.lock = threading.Lock()
        self.started = False
        self.threads = []
        self.control.reset()


class ThreadPool:
    """`threads` threads, the caller of `launch` included. Workers start with the first launch.

    `control` is the address of the control block, which compiled steps need to call the barrier; it is the same for the
    life of the pool, also after a fork. `spin` replaces the measured number of rounds that a thread polls before it
    sleeps (at a barrier, between launches). CompileError (`value-threads`) for a number that is not sensible.
    """

    def __init__(self, threads: int, spin: tuple[int, int] | None = None) -> None:
        self.threads = choose_threads(threads).threads
        runtime = load_runtime()
        self._workers = _Workers(runtime, ControlBlock(self.threads, *(spin or _default_spin(self.threads))))
        self._enter = _LAUNCH(runtime.launch)
        self.control = self._workers.control.address
        self._finalizer = weakref.finalize(self, self._workers.abandon)
        _pools.add(self)

    def launch(self, function: int, argument: int) -> None:
        """Run `void function(ptr argument, i64 rank, i64 threads)` on all threads and return when all are done.

        Addresses are trusted; the caller keeps code and memory alive. May be called from any Python thread: calls run
        one after the other. Ctrl-C is seen by Python after the launch.
        """
        workers = self._workers
        with workers.lock:
            if not workers.started:
                workers.start()
            self._enter(self.control, function, argument)

    def close(self) -> None:
        """End the workers. A later launch starts new ones."""
        with self._workers.lock:
            self._workers.stop()


def shared_pool(threads: int | None = None) -> ThreadPool:
    """The process's pool of that many threads (None: `default_threads()`). Programs share it instead of competing.

    A pool of one has no threads to share: each caller gets its own, so that programs in different Python threads do
    not wait for each other.
    """
    count = choose_threads(threads).threads
    if count == 1:
        return ThreadPool(1)
    with _shared_lock:
        if count not in _shared:
            _shared[count] = ThreadPool(count)
        return _shared[count]


def _default_spin(threads: int) -> tuple[int, int]:
    if threads > usable_cores().threads:
        return _CROWDED_ROUNDS, _CROWDED_ROUNDS
    rounds = int(_SPIN_SECONDS / _seconds_per_round())
    return rounds, rounds


@lru_cache(maxsize=1)
def _seconds_per_round() -> float:
    """How long one round of polling takes here: `pause` is 5 ns on some processors and 50 on others."""
    relax, rounds = _RELAX(load_runtime().relax), 4096
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        relax(rounds)
        best = min(best, time.perf_counter() - start)
    return max(best / rounds, 1e-9)


_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()
_shared: dict[int, ThreadPool] = {}
_shared_lock = threading.Lock()
_held_for_fork: list[threading.Lock] = []


def _before_fork() -> None:
    for pool in list(_pools):
        lock = pool._workers.lock  # pyright: ignore[reportPrivateUsage]
        lock.acquire()
        _held_for_fork.append(lock)


def _after_fork_in_parent() -> None:
    while _held_for_fork:
        _held_for_fork.pop().release()


def _after_fork_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    _held_for_fork.clear()
    for pool in list(_pools):
        pool._workers.forget()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
