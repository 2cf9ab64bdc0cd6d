"""How exact the algorithms of convolutions are: their largest errors against float64, beside what they promise.

    python -m benchmarks.exactness                                    all algorithms, kernels of several sizes
    python -m benchmarks.exactness --algorithms winograd_f4x3 fft_16 --kernels 3x3 1x3

Images and filters are normal random numbers. The error is the largest difference from the float64 definition, divided
by the largest magnitude of the exact result; each line is the worst of three draws. The last column divides it by
`max_rel_error`, what choosers are told: half of it leaves room for other data. Ends with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from convc.ir.window import Pair
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.algorithms.table import BY_NAME
from convc.runtime.exactness import largest_error

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")
DRAWS = 3

# Batch, channels (as many filters), pixels a side: sums of one term and of many, over channels and over positions.
SHAPES = [(2, 1, 24), (2, 4, 24), (2, 16, 24), (2, 64, 24), (2, 64, 56), (8, 16, 56), (1, 256, 14), (2, 512, 14)]
KERNELS = ("3x3", "1x3", "3x1", "5x5", "1x5", "5x1", "1x7", "7x1")


def problems(kernel: Pair) -> Iterator[Problem]:
    """With an odd kernel (rows, columns), padded to results of the images' size."""
    down, across = (taps // 2 for taps in kernel)
    for batch, channels, size in SHAPES:
        for direction in DIRECTIONS:
            sides = (size, size)
            yield Problem(
                direction, batch, channels, channels, sides, sides, kernel, padding=(down, across, down, across)
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="*", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--kernels", nargs="*", default=KERNELS, help="rows x columns, odd numbers")
    options = parser.parse_args()
    kernels = [(int(rows), int(columns)) for rows, columns in (kernel.split("x") for kernel in options.kernels)]
    worst = 0.0
    for name in options.algorithms:
        for problem in (problem for kernel in kernels for problem in problems(kernel)):
            if BY_NAME[name].obstacle(problem) is None:
                error, promised = largest_error(problem, name, DRAWS), BY_NAME[name].max_rel_error(problem)
                worst = max(worst, error / promised)
                print(
                    f"{name:14} {problem.direction:17} {problem!s:38} {error:.1e} {error / promised:5.2f}", flush=True
                )
    return 1 if worst > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
