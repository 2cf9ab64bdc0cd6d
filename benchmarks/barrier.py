"""What it costs that threads meet: a barrier, and the launch of a step that does nothing, while the threads are hot.

    python -m benchmarks.barrier --threads 2

Times are of Python's clock around calls into native code, so a launch includes the call. Each is measured in rounds, of
which the median and the fastest are shown in microseconds. A round in which somebody else had one of the cores takes
many times as long: on a busy machine only the fastest says something.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable

from convc.codegen.llvm.link import link
from convc.codegen.llvm.spmd import BARRIER, load_runtime
from convc.codegen.llvm.target import compile_object, host_target
from convc.codegen.llvm.vocabulary import Function, module_text
from convc.runtime.cores import choose_threads
from convc.runtime.threads import ThreadPool

_ROUNDS = 101
_BARRIERS = 10_000
_LAUNCHES = 200


def _steps() -> str:
    """LLVM IR of `nothing` and of `meet`, which passes as many barriers as the second word of its argument says."""
    nothing, meet = Function("nothing", 0, "argument"), Function("meet", 0, "argument")
    control = meet.load(meet.context, 1, "ptr")
    count = meet.load(meet.address(meet.context, 1, "i64"), 1, "i64")
    with meet.loop(0, count):
        meet.call(BARRIER, control)
    nothing.exported = meet.exported = True
    return module_text([nothing, meet], "hidden")


def measure(threads: int) -> dict[str, dict[str, float]]:
    """Microseconds of a barrier and of a launch: `median` and `fastest` round."""
    target = host_target()
    library = link(compile_object(_steps(), target), ("nothing", "meet"), load_runtime().imports)
    pool = ThreadPool(threads)
    argument = (ctypes.c_int64 * 2)(pool.control, _BARRIERS)
    address, nothing, meet = ctypes.addressof(argument), library["nothing"], library["meet"]

    def launches() -> None:
        for _ in range(_LAUNCHES):
            pool.launch(nothing, address)

    def rounds(run: Callable[[], None], count: int) -> dict[str, float]:
        times: list[float] = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) / count * 1e6)
        return {"median": statistics.median(times), "fastest": min(times)}

    try:
        pool.launch(nothing, address)  # workers start with the first launch
        return {"barrier": rounds(lambda: pool.launch(meet, address), _BARRIERS), "launch": rounds(launches, _LAUNCHES)}
    finally:
        pool.close()
        library.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="default: what this process may use")
    threads = choose_threads(parser.parse_args().threads).threads
    print(json.dumps({"threads": threads, "microseconds": measure(threads)}))


if __name__ == "__main__":
    main()
