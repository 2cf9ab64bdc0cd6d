"""One contestant: a process that prepares one net and then, told to, works for a while and says how far it came.

    python -m convc.runtime.benchmark.contestant convc.runtime.benchmark.ours:prepare FOLDER/task.json RESULT.npy

It writes one JSON object a line: `{"ready": seconds, "version": …}` after preparing and the first steps, whose results
it has put into RESULT.npy, or `{"error": …}`. To `round SECONDS WARM_UP` on its standard input it answers `{"images":
n, "steps": n, "seconds": t, "peak_rss": bytes}`; the end of the input ends it. Between rounds it waits in a read and
uses no processor, so that contestants can take turns in one run.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from convc.ir.diagnostic import CompileError
from convc.runtime.benchmark.prepared import Prepared
from convc.runtime.benchmark.task import TRAIN, Task, read_task

CHECKED_STEPS = 4  # of training, from equal weights; their losses tell whether gradients and updates are equal, too


def prepare(entry: str, task: Task) -> Prepared:
    """Call the function that `entry` names as `module:function`."""
    module, _, name = entry.partition(":")
    function: Callable[[Task], Prepared] = getattr(import_module(module), name)
    return function(task)


def work(step: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Steps done and seconds taken: a step has ended when it returns."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count, passed


def peak_rss() -> int:
    """The most memory that this process has had, in bytes."""
    try:
        # `ru_maxrss` also counts what the process was before it became this program.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _told(error: Exception) -> str:
    """A line that says what is in the way."""
    if isinstance(error, CompileError):
        found = error.diagnostics
        return found[0].message + (f", and {len(found) - 1} more" if len(found) > 1 else "")
    lines = f"{type(error).__name__}: {error}".splitlines()
    return next(line for line in lines if line.strip())


def main(arguments: list[str]) -> int:
    entry, path, result = arguments
    # Answers go where the other side listens; whatever a library prints must not get between them.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    task = read_task(Path(path))
    start = time.perf_counter()
    try:
        prepared = prepare(entry, task)
        first = prepared.step()
        ready = time.perf_counter() - start
        numbers = prepared.numbers(first)
        if task.mode == TRAIN:
            losses = [numbers, *(prepared.numbers(prepared.step()) for _ in range(1, CHECKED_STEPS))]
            numbers = np.array(losses, np.float64)
        np.save(result, numbers, allow_pickle=False)
    except Exception as error:  # whatever it is, the others go on and the table shows it
        answer(error=_told(error))
        return 1
    answer(ready=ready, version=prepared.version)
    for line in sys.stdin:
        _, seconds, warm_up = line.split()
        work(prepared.step, float(warm_up))
        count, taken = work(prepared.step, float(seconds))
        answer(images=count * task.batch, steps=count, seconds=taken, peak_rss=peak_rss())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
