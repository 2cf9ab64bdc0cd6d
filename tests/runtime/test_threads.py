"""The thread pool: launches from many threads, forks, exits."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest

from convc.codegen.llvm.link import Library, link
from convc.codegen.llvm.spmd import BARRIER, load_runtime
from convc.codegen.llvm.target import compile_object, host_target
from convc.ir.diagnostic import CompileError
from convc.runtime.threads import ThreadPool, shared_pool

TIMEOUT = 60.0
ROOM = 64

# Argument block (64-bit words): 0 control, 1 spare, 2... one counter for each rank. The counters advance by one
# behind a barrier only if all were equal before it, so a step that runs with threads missing, or twice at once,
# shows.
COUNT = f"""
declare void @{BARRIER}(ptr)

define void @count(ptr %argument, i64 %rank, i64 %parties) {{
  %control = load ptr, ptr %argument
  %counters = getelementptr i64, ptr %argument, i64 2
  %own = getelementptr i64, ptr %counters, i64 %rank
  %next = add i64 %rank, 1
  %neighbour = urem i64 %next, %parties
  %other = getelementptr i64, ptr %counters, i64 %neighbour
  %value = load i64, ptr %other
  call void @{BARRIER}(ptr %control)
  %bumped = add i64 %value, 1
  store i64 %bumped, ptr %own
  ret void
}}

define void @slow(ptr %argument, i64 %rank, i64 %parties) {{
entry:
  br label %again
again:
  %i = phi i64 [0, %entry], [%j, %again]
  %ignored = load volatile i64, ptr %argument
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, 100000000
  br i1 %more, label %again, label %done
done:
  call void @count(ptr %argument, i64 %rank, i64 %parties)
  ret void
}}
"""


@pytest.fixture(scope="module")
def code() -> Library:
    # Not closed: children of forks and daemon threads run it.
    return link(compile_object(COUNT, host_target()), ["count", "slow"], load_runtime().imports)


def argument_block(pool: ThreadPool) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * (2 + ROOM))(pool.control)


def launch_many(pool: ThreadPool, code: Library, times: int) -> list[int]:
    block = argument_block(pool)
    for _ in range(times):
        pool.launch(code["count"], ctypes.addressof(block))
    return block[2 : 2 + pool.threads]


def in_child(check: Callable[[], bool]) -> int | None:
    """Exit code of a forked child that runs `check`; None if it hangs."""

    def body() -> None:
        os._exit(0 if check() else 1)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_rank_runs_every_launch(code: Library, threads: int) -> None:
    pool = ThreadPool(threads)
    assert launch_many(pool, code, 30) == [30] * threads
    pool.close()


def test_one_thread_starts_no_worker(code: Library) -> None:
    before = threading.active_count()
    pool = ThreadPool(1)
    assert launch_many(pool, code, 3) == [3]
    assert threading.active_count() == before


def test_workers_start_with_the_first_launch_and_end_with_close(code: Library) -> None:
    before = threading.active_count()
    pool = ThreadPool(3)
    assert threading.active_count() == before
    launch_many(pool, code, 1)
    assert threading.active_count() == before + 2
    pool.close()
    assert threading.active_count() == before
    pool.close()
    assert launch_many(pool, code, 2) == [2, 2, 2]
    pool.close()


def test_a_pool_that_nobody_holds_ends_its_workers(code: Library) -> None:
    before = threading.active_count()
    pool = ThreadPool(2)
    launch_many(pool, code, 1)
    del pool
    gc.collect()
    assert threading.active_count() == before


def test_launches_from_several_python_threads_take_turns(code: Library) -> None:
    pool = ThreadPool(2)
    block = argument_block(pool)
    callers = [
        threading.Thread(
            target=lambda: [pool.launch(code["count"], ctypes.addressof(block)) for _ in range(50)], daemon=True
        )
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(TIMEOUT)
    assert not any(caller.is_alive() for caller in callers)
    assert block[2:4] == [200, 200]
    pool.close()


def test_programs_share_the_pool_of_a_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared_pool(2) is shared_pool(2)
    assert shared_pool(1) is not shared_pool(1)  # they would only wait for each other
    monkeypatch.setenv("CONVC_THREADS", "2")
    assert shared_pool() is shared_pool(2)


@pytest.mark.parametrize("threads", [0, -3, 5000])
def test_senseless_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(CompileError, match="value-threads"):
        ThreadPool(threads)


def test_no_more_threads_to_be_had_is_an_error_that_leaves_the_pool_usable(
    code: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()
    pool = ThreadPool(3)
    start = threading.Thread.start

    def refuse_the_second(thread: threading.Thread) -> None:
        if thread.name == "convc-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_the_second)
        with pytest.raises(CompileError, match="cannot start thread 3 of 3"):
            launch_many(pool, code, 1)
    assert threading.active_count() == before
    assert launch_many(pool, code, 2) == [2, 2, 2]
    pool.close()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@needs_fork
@pytest.mark.parametrize("spin", [None, (1, 1)], ids=["polling", "asleep"])
def test_child_and_parent_of_a_fork_both_go_on(code: Library, spin: tuple[int, int] | None) -> None:
    pool = ThreadPool(2, spin)
    control = pool.control
    assert launch_many(pool, code, 5) == [5, 5]
    assert in_child(lambda: launch_many(pool, code, 20) == [20, 20] and pool.control == control) == 0
    assert launch_many(pool, code, 5) == [5, 5]
    assert in_child(lambda: in_child(lambda: launch_many(pool, code, 3) == [3, 3]) == 0) == 0
    pool.close()


@needs_fork
def test_fork_during_a_launch_of_another_thread(code: Library) -> None:
    pool = ThreadPool(2)
    block = argument_block(pool)
    caller = threading.Thread(target=lambda: pool.launch(code["slow"], ctypes.addressof(block)), daemon=True)
    caller.start()
    while not pool._workers.lock.locked():  # pyright: ignore[reportPrivateUsage]
        pass
    # The fork waits for the step, so the child sees it finished.
    assert in_child(lambda: block[2:4] == [1, 1] and launch_many(pool, code, 20) == [20, 20]) == 0
    caller.join(TIMEOUT)
    assert block[2:4] == [1, 1]
    assert launch_many(pool, code, 5) == [5, 5]
    pool.close()


@needs_fork
def test_forks_while_other_threads_launch(code: Library) -> None:
    pool = ThreadPool(2)
    finished = threading.Event()

    def launch_on() -> None:
        while not finished.is_set():
            launch_many(pool, code, 10)

    caller = threading.Thread(target=launch_on, daemon=True)
    caller.start()
    codes = [in_child(lambda: launch_many(pool, code, 10) == [10, 10]) for _ in range(5)]
    finished.set()
    caller.join(TIMEOUT)
    assert codes == [0] * 5
    assert not caller.is_alive()
    pool.close()


@needs_fork
def test_forks_while_other_threads_compile() -> None:
    text = "define i64 @same(i64 %a) { ret i64 %a }"
    finished = threading.Event()

    def compile_and_run() -> bool:
        library = link(compile_object(text, host_target()), ["same"])
        return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library["same"])(7) == 7

    def compile_on() -> None:
        while not finished.is_set():
            compile_and_run()

    callers = [threading.Thread(target=compile_on, daemon=True) for _ in range(2)]
    for caller in callers:
        caller.start()
    codes = [in_child(compile_and_run) for _ in range(10)]
    finished.set()
    for caller in callers:
        caller.join(TIMEOUT)
    assert codes == [0] * 10


@pytest.mark.parametrize("ending", ["pass", "sys.exit(0)", "threading.Thread(target=forever, daemon=True).start()"])
def test_the_interpreter_ends_promptly_and_quietly(ending: str) -> None:
    script = f"""
        import ctypes, sys, threading
        from convc.codegen.llvm.link import link
        from convc.codegen.llvm.spmd import load_runtime
        from convc.codegen.llvm.target import compile_object, host_target
        from convc.runtime.threads import shared_pool, ThreadPool
        text = "define void @step(ptr %argument, i64 %rank, i64 %parties) {{ ret void }}"
        library = link(compile_object(text, host_target()), ["step"], load_runtime().imports)
        private = ThreadPool(3)
        def forever():
            while True:
                shared_pool(2).launch(library["step"], 0)
        for pool in (shared_pool(2), private):
            pool.launch(library["step"], 0)
        {ending}
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=TIMEOUT, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
