"""What the machine can do at all: fused multiply-adds and memory bandwidth, by loops made with LLVM like our kernels.

    python -m benchmarks.peak --threads 2

The arithmetic loop keeps independent accumulators in registers and touches no memory; the memory loops read, and copy,
arrays far larger than any cache. Results are the best of several rounds: ceilings, not averages.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from convc.runtime.machine_probe import measure_ceilings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps({"threads": arguments.threads, **asdict(measure_ceilings(arguments.threads))}))


if __name__ == "__main__":
    main()
