"""How much memory training takes: the peak resident set of a fresh process, ours beside PyTorch's eager modes.

    python -m benchmarks.memory --nets lenet,alexnet,resnet18,vgg16

*Peak* is all that a process ever had: interpreter, libraries, weights read from a file, compilation, steps. *Beside*
leaves out what no implementation does without: parameters, gradients and optimiser states, 12 bytes a parameter with
momentum. Ours is shown twice, compiling (*cold*) and with the code that the first process left (*warm*). Ratios are
ours by the smaller of PyTorch's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.run import net_batch, net_path
from convc.runtime.benchmark.case import Case, write_material
from convc.runtime.benchmark.peers import OURS, choose
from convc.runtime.benchmark.rounds import Pace, await_ready, launch
from convc.runtime.benchmark.task import TRAIN, Task
from convc.runtime.cores import choose_threads

_PACE = Pace(rounds=1, seconds=0.5, warm_up=0.0)
_STATES = 3  # of a trained parameter: itself, its gradient, its momentum


def peak(name: str, entry: str, task: Task) -> int:
    """Peak resident set, in bytes, of a fresh process that trains for some steps."""
    contestant = launch(name, entry, task)
    try:
        await_ready(contestant)
        if contestant.error is None:
            contestant.turn(0, _PACE)
    finally:
        contestant.close()
    if contestant.error is not None or contestant.peak_rss is None:
        sys.exit(f"{name}: {contestant.error}")
    return contestant.peak_rss


def trained_bytes(case: Case) -> int:
    """Parameters, gradients and optimiser states."""
    return _STATES * sum(p.value.type.bytes for p in case.open().graph(1).parameters.values() if p.trainable)


def row(net: str, threads: int) -> str:
    """One net as a row of the table."""
    case = Case(net_path(net), TRAIN, net_batch(net), threads)
    needed = trained_bytes(case)
    entries = choose(["torch"], TRAIN).contestants
    with tempfile.TemporaryDirectory(prefix="convc-memory-") as folder:
        os.environ["CONVC_CACHE_DIR"] = str(Path(folder) / "cache")
        task = write_material(case, Path(folder) / "net", model=False)
        cold, warm = (peak(OURS, entries[OURS], task) for _ in range(2))
        best = min(peak(name, entry, task) for name, entry in entries.items() if name != OURS)
    cells = [f"{net} ({case.batch})", *(f"{size / 1e6:,.0f}" for size in (needed, cold, warm, best))]
    cells += [f"{ours / best:.2f}" for ours in (cold, warm)]
    cells += [f"{(ours - needed) / (best - needed):.2f}" for ours in (cold, warm)]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="lenet,alexnet,resnet18,vgg16", help="of benchmarks/nets, by commas")
    parser.add_argument("--threads", type=int, help="default: what this process may use")
    options = parser.parse_args()
    threads = choose_threads(options.threads).threads
    columns = ("net (batch)", "trained, MB", "cold, MB", "warm, MB", "PyTorch, MB", "cold", "warm")
    print(f"| {' | '.join((*columns, 'beside, cold', 'beside, warm'))} |")
    print(f"|---{'|---:' * 8}|")
    for net in options.nets.split(","):
        print(row(net, threads), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
