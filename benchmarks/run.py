"""The nine nets beside convc's peers, against the goals: what `convc bench` does, as Markdown for docs/performance.md.

    python -m benchmarks.run                          # lenet, simple, deep; training
    python -m benchmarks.run --nets all --mode infer --compile

Prints a table, the geometric mean and the lowest ratio beside what they should be, and writes one JSON file, the object
of `convc bench --json`. docs/performance.md says how a comparison is made.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import convc
from benchmarks.report import INTERRUPTED, markdown, not_counting, write_json
from convc.commands.bench import rate
from convc.runtime.benchmark.benchmark import Watcher, benchmark, with_precision
from convc.runtime.benchmark.case import Case
from convc.runtime.benchmark.peers import OURS, choose
from convc.runtime.benchmark.results import CaseResult, Entry, Report
from convc.runtime.benchmark.rounds import Pace
from convc.runtime.configuration import INFERENCE_PRECISIONS

FOLDER = Path(__file__).parent
NETS = ("lenet", "simple", "deep", "cifar_resnet20", "alexnet", "googlenet", "resnet18", "resnet50", "vgg16")
DEFAULT_NETS = NETS[:3]


@dataclass(frozen=True)
class Goal:
    """Ratios to the best peer: `accept` and `aim` for the geometric mean over the nine nets, `floor` for every net,
    where `nets` does not ask more of some."""

    accept: float
    floor: float
    aim: float
    nets: dict[str, float] = field(default_factory=dict[str, float])

    def least(self, net: str) -> float:
        return self.nets.get(net, self.floor)


GOALS = {
    ("train", "fp32"): Goal(2.2, 1.5, 3.0),
    ("infer", "fp32"): Goal(1.5, 1.05, 1.8, {"vgg16": 2.2}),
    ("train", "bf16"): Goal(2.2, 1.3, 3.0),
    ("infer", "bf16"): Goal(1.05, 0.85, 1.3),
}


def net_path(name: str) -> Path:
    return FOLDER / "nets" / f"{name}.cnn"


def net_batch(name: str) -> int:
    """The batch that a net is measured with: that of its file."""
    return convc.load(net_path(name)).settings.batch


def chosen_nets(text: str, parser: argparse.ArgumentParser) -> list[Path]:
    """The files of `all`, of names, or of paths with commas between them. Ends the program where there is none."""
    names = NETS if text == "all" else tuple(text.split(","))
    files = [net_path(name) if name in NETS else Path(name) for name in names]
    if missing := [str(file) for file in files if not file.is_file()]:
        parser.error(f"no net {', '.join(missing)}; there are {', '.join(NETS)}")
    return files


def table(report: Report) -> str:
    """Results as GitHub-flavoured Markdown."""
    columns = ("images/s", "lowest to highest", "of FMA peak", "first call", "peak RSS", "x best peer")
    rows = [_row(result, entry) for result in report.results for entry in result.contestants]
    return markdown(("net (batch)", "contestant", *columns), rows, left=2)


def _row(result: CaseResult, entry: Entry) -> tuple[str, ...]:
    title = (f"{result.title} ({result.batch})", entry.name)
    if entry.images_per_second is None:
        return (*title, entry.error or "not measured", "", "", "", "", "")
    assert entry.lowest is not None
    assert entry.highest is not None
    return (
        *title,
        rate(entry.images_per_second),
        f"{rate(entry.lowest)} to {rate(entry.highest)}",
        f"{entry.fraction_of_peak:.0%}",
        f"{entry.first_call_seconds:.2f} s",
        f"{(entry.peak_rss_bytes or 0) / 1e6:,.0f} MB",
        ratio_text(result) if entry.name == OURS else "",
    )


def ratio_text(result: CaseResult) -> str:
    """Our ratio to the best peer, and those of single rounds; nothing without peers."""
    if result.ratio is None:
        return ""
    return f"**{result.ratio:.2f}** ({result.ratio_lowest:.2f} to {result.ratio_highest:.2f})"


def announce(names: Sequence[str]) -> Watcher:
    """Says on the error output which contestant of which case is started; `names` are those of the cases."""

    def watch(case: int, cases: int, share: float, what: str) -> None:
        if what.startswith("starting"):
            print(f"{case + 1} of {cases}, {names[case]}: {what}", file=sys.stderr, flush=True)

    return watch


def verdict(report: Report, goal: Goal) -> str:
    """The mean and every net beside the goal, as sentences."""
    mean = report.geometric_mean
    if mean is None:
        return "nothing was compared"
    compared = [result for result in report.results if result.ratio is not None]
    met = "met" if mean >= goal.accept else "missed"
    first = f"geometric mean over {len(compared)} nets: {mean:.2f} x the best peer"
    lines = [f"{first}; accepted are {goal.accept}, aimed at {goal.aim}: {met}"]
    if {result.title for result in compared} < set(NETS):
        lines[0] += f" (the goal is over all {len(NETS)} nets)"
    for result in compared:
        ratio, least = result.ratio or math.nan, goal.least(result.title)
        if ratio < least:
            lines.append(f"{result.title}: {ratio:.2f}, and {least} are asked for: missed")
    if len(lines) == 1:
        lines.append("no net is below its floor")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(DEFAULT_NETS), help=f"all, or some of {','.join(NETS)}")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes up to a minute a net")
    parser.add_argument("--against", help="peers, with commas (default: those that are installed)")
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, default="fp32", help="of products and activations")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/MODE-TIME.json)")
    arguments = parser.parse_args()
    nets = NETS if arguments.nets == "all" else tuple(arguments.nets.split(","))
    if unknown := set(nets) - set(NETS):
        parser.error(f"no net {', '.join(sorted(unknown))}; there are {', '.join(NETS)}")
    asked = arguments.against.split(",") if arguments.against else None
    peers = choose(asked, arguments.mode, compiled=arguments.compile, precision=arguments.precision)
    cases = [Case(net_path(name), arguments.mode, net_batch(name), arguments.threads) for name in nets]
    cases = with_precision(cases, arguments.precision)
    report = benchmark(cases, peers, Pace(arguments.rounds, arguments.seconds), announce(nets))
    ceilings = ", ".join(f"{found.fma_gflops:.0f} GFLOP/s" for found in report.ceilings.values())
    print(f"{report.machine['processor']}, {arguments.threads} threads, FMA peak {ceilings}\n")
    goal = GOALS.get((arguments.mode, arguments.precision))
    print(table(report), *([verdict(report, goal)] if goal else []), *report.left_out, sep="\n\n")
    if sentence := not_counting(report.busy):
        print(f"\n{sentence}")
    path = arguments.out or FOLDER / "results" / f"{arguments.mode}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(path, report.as_json())
    print(f"\nwritten to {path}")
    return INTERRUPTED if report.interrupted else int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
