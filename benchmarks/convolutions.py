"""Single convolutions by every algorithm: time, and how many times faster than the direct one.

    python -m benchmarks.convolutions                              the layers below, 3x3, all directions
    python -m benchmarks.convolutions --layers 8x64x56 --algorithms direct winograd_f4x3 --threads 2
    python -m benchmarks.convolutions --layers 4x64x56 --kernel 7x7 --algorithms direct fft_8 fft_16 fft_32
    python -m benchmarks.convolutions --layers 8x16:32x28 --kernel 1x3

A layer is batch x channels x side of the image, and of the results, with as many filters as channels, or with channels
and filters told apart as in the last line. On one thread (the default) the
processor's time of that thread is measured, which says little about memory shared with others but holds on a busy
machine. Medians. GFLOP/s count the operations of the definition.
"""

from __future__ import annotations

import argparse
import time

from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.target import host_target
from convc.ir.types import DType
from convc.ir.window import Pair
from convc.passes.algorithms.algorithm import Algorithm
from convc.passes.algorithms.prediction import CONSTANTS, predict
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.algorithms.table import BY_NAME
from convc.passes.half_precision import HALVES
from convc.runtime.tuning import measure

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")
LAYERS = ("4x64x112", "8x64x56", "4x128x28", "4x256x28", "4x256x14", "4x512x14")
ROUNDS = 9


def problem_of(layer: str, direction: Direction, kernel: Pair = (3, 3), dtype: DType = DType.F32) -> Problem:
    batch, channels, size = layer.split("x")
    read, _, written = channels.partition(":")
    sides = (int(size), int(size))
    rows, columns = kernel
    padding = ((rows - 1) // 2, (columns - 1) // 2, rows // 2, columns // 2)
    return Problem(
        direction, int(batch), int(read), int(written or read), sides, sides, kernel, padding=padding, dtype=dtype
    )


def row(problem: Problem, algorithms: list[Algorithm], threads: int) -> list[str]:
    """`1.23 ms, 2.0x, 1.11` for each algorithm: measured, against the first, predicted."""
    tier = host_target().tier
    clock = time.thread_time if threads == 1 else time.perf_counter
    cells: list[str] = []
    first = None
    for algorithm in algorithms:
        if algorithm.obstacle(problem) is not None:
            cells.append("")
            continue
        seconds = measure(problem, algorithm.name, threads, ROUNDS, clock)
        first = first or seconds
        predicted = predict(algorithm, problem, machine_of(host_target()), CONSTANTS[tier], threads)
        rate = problem.flops / seconds / 1e9
        cells.append(f"{seconds * 1e3:.2f} ms, {rate:.0f} GFLOP/s, {first / seconds:.2f}x ({predicted * 1e3:.2f})")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="*", default=list(LAYERS))
    parser.add_argument("--kernel", default="3x3", help="rows and columns of the filters (default 3x3)")
    parser.add_argument("--directions", nargs="*", choices=DIRECTIONS, default=list(DIRECTIONS))
    parser.add_argument("--algorithms", nargs="*", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", *HALVES), default="fp32")
    options = parser.parse_args()
    dtype = HALVES.get(options.precision, DType.F32)
    rows, columns = map(int, options.kernel.split("x"))
    algorithms = [BY_NAME[name] for name in options.algorithms]
    print(f"{options.threads} threads, {host_target().tier}; (predicted ms)\n")
    print("| layer | direction |" + "".join(f" {algorithm.name} |" for algorithm in algorithms))
    print("|---|---|" + "---|" * len(algorithms))
    for layer in options.layers:
        for direction in options.directions:
            cells = row(problem_of(layer, direction, (rows, columns), dtype), algorithms, options.threads)
            print(f"| {layer} | {direction} |" + "".join(f" {cell} |" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
