"""Programs on more threads than there are cores, several programs at once, and threads that have nothing to do."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from convc.codegen.llvm.link import link
from convc.codegen.llvm.target import compile_object, host_target
from convc.ir.graph import Graph
from convc.runtime.native import NativeExecutor
from convc.runtime.threads import ThreadPool
from tests.codegen.test_nets import NESTEROV, noisy, small_lenet
from tests.codegen.whole_net import (
    Arrays,
    arrays_for,
    assert_agrees,
    assert_same_bits,
    executor_for,
    lowered,
    results,
    run,
    run_natively,
)

pytestmark = pytest.mark.slow

ROWS = 5
DEADLINE = 60.0  # seconds, for what takes milliseconds unless something is wrong

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the states of threads from /proc")


@pytest.fixture(scope="module", params=[small_lenet, noisy], ids=["lenet", "noisy"])
def step(request: pytest.FixtureRequest) -> tuple[Graph, Arrays, Arrays]:
    """A training step, arrays for it, and its results on one thread, which are right."""
    graph = lowered(request.param(), "train", NESTEROV)
    arrays = arrays_for(graph, ROWS)
    single = run_natively(graph, arrays)
    assert_agrees(graph, arrays, single)
    return graph, arrays, single


@pytest.mark.parametrize("threads", [2, 3, 5, 8, 17, 64])
def test_the_same_bits_on_any_number_of_threads(step: tuple[Graph, Arrays, Arrays], threads: int) -> None:
    graph, arrays, single = step
    assert_same_bits(single, run_natively(graph, arrays, threads))


# Two programs in one process


def trained(executor: NativeExecutor, arrays: Arrays, steps: int = 4) -> Arrays:
    for _ in range(steps):
        run(executor, arrays)
    return results(executor, ROWS)


@pytest.mark.parametrize("threads", [(2, 2), (2, 3), (1, 8)], ids=str)
def test_two_programs_in_turns_and_at_once(threads: tuple[int, int]) -> None:
    """Each computes what it does alone, whether both have a pool of their own or share one."""
    graphs = [lowered(net(), "train", NESTEROV) for net in (small_lenet, noisy)]
    arrays = [arrays_for(graph, ROWS) for graph in graphs]
    alone: list[Arrays] = []
    for graph, given in zip(graphs, arrays, strict=True):
        with executor_for(graph, given) as executor:
            alone.append(trained(executor, given))
    with executor_for(graphs[0], arrays[0], threads[0]) as one, executor_for(graphs[1], arrays[1], threads[1]) as two:
        both = (one, two)
        for _ in range(4):
            for executor, given in zip(both, arrays, strict=True):
                run(executor, given)
        for executor, given, expected in zip(both, arrays, alone, strict=True):
            assert_same_bits(expected, results(executor, ROWS))
            for name in executor.graph.parameters:
                executor.write(name, given[name])
        found: list[Arrays] = [{}, {}]

        def train(index: int) -> None:
            found[index] = trained(both[index], arrays[index])

        callers = [threading.Thread(target=train, args=(index,), daemon=True) for index in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(DEADLINE)
        for index in range(2):
            assert_same_bits(alone[index], found[index])


# Nothing to do


def asleep(thread: threading.Thread) -> bool:
    """Whether the kernel has it wait for something."""
    text = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return text.rpartition(")")[2].split()[0] == "S"


def rest(threads: list[threading.Thread]) -> bool:
    """Whether they sleep, and use no processor time for a while."""
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident]
    before = [time.clock_gettime_ns(clock) for clock in clocks]
    time.sleep(0.1)
    return all(map(asleep, threads)) and [time.clock_gettime_ns(clock) for clock in clocks] == before


@needs_linux
@pytest.mark.parametrize("threads", [2, 9])
def test_workers_without_work_sleep(threads: int) -> None:
    """And wake up for the next launch."""
    text = "define void @step(ptr %argument, i64 %rank, i64 %parties) { ret void }"
    library = link(compile_object(text, host_target()), ["step"])
    pool = ThreadPool(threads)
    for _ in range(2):
        pool.launch(library["step"], 0)
        workers = list(pool._workers.threads)  # pyright: ignore[reportPrivateUsage]
        assert len(workers) == threads - 1
        end = time.monotonic() + DEADLINE
        while not rest(workers):
            assert time.monotonic() < end
    pool.close()
    library.close()
