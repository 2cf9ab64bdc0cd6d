"""How good the choice of algorithms is: predictions beside measurements, over the nine nets.

    python -m benchmarks.algorithms                              all nets, training and inference
    python -m benchmarks.algorithms --nets resnet18 --seconds 60 --json out.json

For every net: how many convolutions were measured, the rank correlation of predicted and measured times over all
candidates, what the choice without measurements loses against the best measured (over the whole net), and the same for
always taking the direct algorithm. Run it on a machine that does nothing else; times are remembered by the cache, so
that what one run has no time for the next one finds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import convc
from benchmarks.run import NETS, net_path
from convc.passes.base import Mode
from convc.passes.choose_algorithms import Choice
from convc.runtime.algorithms import AlgorithmOptions, Tune
from convc.runtime.explanation import Explanation, explain, spearman

MODES: tuple[Mode, ...] = ("train", "infer")
Pair = tuple[float, float]


def measured_times(choice: Choice) -> dict[str, float]:
    """Seconds by algorithm, of those that apply and were measured."""
    candidates = choice.decision.candidates
    return {c.algorithm: c.measured for c in candidates if c.applicable and c.measured is not None}


def pairs(choices: Iterable[Choice]) -> list[Pair]:
    """Predicted and measured seconds, one pair for each problem and algorithm."""
    found: dict[object, Pair] = {}
    for choice in choices:
        for candidate in choice.decision.candidates:
            if candidate.measured is not None and candidate.predicted is not None:
                found[choice.decision.problem, candidate.algorithm] = (candidate.predicted, candidate.measured)
    return list(found.values())


def losses(choices: Iterable[Choice]) -> tuple[float, float, int]:
    """What the model's choice and the direct one lose against the best, over all convolutions that were measured."""
    best = chosen = direct = 0.0
    count = 0
    for choice in choices:
        times = measured_times(choice)
        if choice.decision.predicted_choice in times and "direct" in times:
            best += min(times.values())
            chosen += times[choice.decision.predicted_choice]
            direct += times["direct"]
            count += 1
    return (chosen / best - 1, direct / best - 1, count) if best else (float("nan"), float("nan"), 0)


def record(name: str, explanation: Explanation) -> list[dict[str, Any]]:
    """Every candidate that was measured, with its problem: what constants can be fitted to."""
    return [
        {
            "net": name,
            "mode": explanation.mode,
            "layer": choice.label,
            "problem": asdict(choice.decision.problem),
            "algorithm": candidate.algorithm,
            "predicted": candidate.predicted,
            "measured": candidate.measured,
        }
        for choice in explanation.choices
        for candidate in choice.decision.candidates
        if candidate.measured is not None
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS), help="names, with commas between them")
    parser.add_argument("--mode", choices=MODES, help="only this one")
    parser.add_argument(
        "--seconds", type=float, help="time for measurements per net and mode (default: all that apply)"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every measurement")
    arguments = parser.parse_args()
    tune: Tune = arguments.seconds or "full"
    everything: list[Choice] = []
    rows: list[dict[str, Any]] = []
    print(f"{'net':16} {'mode':6} {'convs':>5} {'spearman':>8} {'untuned loses':>13} {'direct loses':>12}")
    interrupted = False
    try:
        for name in arguments.nets.split(","):
            for mode in (arguments.mode,) if arguments.mode else MODES:
                net = convc.load(net_path(name))
                options = AlgorithmOptions(tune=tune)
                found = explain(net, mode, batch=net.settings.batch, threads=arguments.threads, algorithms=options)
                everything += found.choices
                rows += record(name, found)
                print(_row(name, mode, list(found.choices)))
                sys.stdout.flush()
                if arguments.json:
                    arguments.json.write_text(json.dumps(rows))
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted: what was measured so far")
    print(_row("all", "", everything))
    if interrupted:
        sys.exit(130)


def _row(name: str, mode: str, choices: list[Choice]) -> str:
    chosen, direct, count = losses(choices)
    correlation = spearman(pairs(choices))
    shown = f"{correlation:.3f}" if correlation is not None else ""
    return f"{name:16} {mode:6} {count:5} {shown:>8} {100 * chosen:11.1f} % {100 * direct:10.1f} %"


if __name__ == "__main__":
    main()
