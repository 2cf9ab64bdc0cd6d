"""Inference of nets in several precisions, in one process and by turns: images per second, beside float32.

    python -m benchmarks.inference_precisions --nets resnet50,resnet18,vgg16

First weights and random images, on which int8 is calibrated: speeds do not depend on either. Peers in these precisions:
`python -m benchmarks.run --mode infer --precision P`. What precisions do to accuracy: `convc eval --precision A,B`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import convc
from benchmarks.run import net_batch, net_path
from convc.runtime.atomic import write_bytes
from convc.runtime.benchmark.results import average_busy, is_quiet
from convc.runtime.configuration import INFERENCE_PRECISIONS
from convc.runtime.data import Split
from convc.runtime.precisions import BASE, take_turns


def measure(name: str, precisions: Sequence[str]) -> tuple[dict[str, list[float]], float | None]:
    """Images per second of each round by precision, and how many cores others kept busy."""
    net, batch = convc.load(net_path(name)), net_batch(name)
    images = np.random.default_rng(0).random((batch, *net.input_shape), np.float32)
    ranges = convc.calibrate(net, images) if "int8" in precisions else None
    with ExitStack() as stack:
        programs = {
            precision: stack.enter_context(convc.compile(net, batch=batch, precision=precision, ranges=ranges))
            for precision in precisions
        }
        rates, busy = take_turns(programs, Split(images, np.zeros(batch, np.int32)))
    return rates, average_busy(busy)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference_precisions", description=__doc__)
    parser.add_argument("--nets", default="resnet50,resnet18,vgg16", help="names, with commas between them")
    parser.add_argument("--precisions", nargs="+", choices=INFERENCE_PRECISIONS, default=list(INFERENCE_PRECISIONS))
    parser.add_argument("--out", type=Path, help="write all rounds to this file, as JSON")
    arguments = parser.parse_args()
    precisions = list(dict.fromkeys((BASE, *arguments.precisions)))
    print(f"| net (batch) | {' | '.join(precisions)} |\n|---|{'---:|' * len(precisions)}")
    found: dict[str, object] = {}
    for name in arguments.nets.split(","):
        rates, busy = measure(name, precisions)
        found[name] = {"batch": net_batch(name), "rounds": rates, "busy_cores": busy}
        base = statistics.median(rates[BASE])
        medians = {precision: statistics.median(rates[precision]) for precision in precisions}
        cells = [f"{value:.1f}" + ("" if p == BASE else f" ({value / base:.2f}x)") for p, value in medians.items()]
        noise = "" if busy is None or is_quiet([busy]) else f" others kept {busy:.2f} cores busy"
        print(f"| {name} ({net_batch(name)}) | {' | '.join(cells)} |{noise}", flush=True)
    if arguments.out:
        write_bytes(arguments.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
