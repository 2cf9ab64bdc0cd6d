"""How speed grows with the batch, the depth, the resolution and the threads, ours beside the peers that are installed.

    python -m benchmarks.scaling                                             everything, training
    python -m benchmarks.scaling batch threads --nets lenet,vgg16 --mode infer
    python -m benchmarks.scaling depth resolution --rounds 3 --seconds 0.5   a look, in a third of the time
    python -m benchmarks.scaling resolution --nets resnet50 --sizes 128,224 --against none

`batch`: every net with 1, 2, 4 … images at a time, up to the batch of its file. `depth`: CIFAR's ResNets with 20, 32,
56 and 110 layers (`examples/cifar_resnet.cnn`). `resolution`: nets that take images of any size, of those chosen
(`--nets`; by default ResNet-18), from 96 to 320 pixels a side. `threads`: every net with its batch on one thread and on
two. The first three use as many threads as the last one has at most.

Each series is a table with a row for each point and a column for each contestant: images per second and, in brackets,
its arithmetic per second (counted as direct convolution) by that of the first row; on perfect scaling over threads that
is their number, elsewhere 1 is what a library keeps that is no better and no worse at the other point. The comparison
is that of `convc bench` (docs/performance.md). Ctrl-C ends a run with what it has measured so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import convc
from benchmarks.pass_time import EXAMPLES
from benchmarks.report import INTERRUPTED, markdown, not_counting, write_json
from benchmarks.run import NETS, announce, chosen_nets, net_path, ratio_text
from convc.commands.bench import rate
from convc.runtime.benchmark.benchmark import benchmark
from convc.runtime.benchmark.case import Case
from convc.runtime.benchmark.peers import choose
from convc.runtime.benchmark.results import CaseResult, Entry, Report
from convc.runtime.benchmark.rounds import Pace
from convc.runtime.cores import choose_threads

AXES = ("batch", "depth", "resolution", "threads")
DEPTHS = (20, 32, 56, 110)
SIZES = (96, 128, 160, 192, 224, 256, 288, 320)
THREADS = (1, 2)
_SIZED = ("resnet18",)  # nets of the series of resolutions


@dataclass(frozen=True)
class Point:
    """A case of a series; `value` is its place on the axis."""

    axis: str
    series: str
    value: int
    case: Case


def batches(most: int) -> list[int]:
    """1, 2, 4 … and `most` itself."""
    powers = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent < most]
    return [*powers, most]


def points(axis: str, files: Sequence[Path], sized: Sequence[Path], options: argparse.Namespace) -> list[Point]:
    """The points of one axis, series by series. `sized` are the nets that are measured at several resolutions."""
    mode, threads = options.mode, max(options.threads)
    if axis == "depth":
        file = EXAMPLES / "cifar_resnet.cnn"
        batch = convc.load(file).settings.batch
        cases = [(depth, Case(file, mode, batch, threads, set={"depth": str(depth)})) for depth in options.depths]
        return [Point(axis, file.stem, depth, case) for depth, case in cases]
    found: list[Point] = []
    for file in sized if axis == "resolution" else files:
        batch = convc.load(file).settings.batch
        if axis == "batch":
            values = [(size, Case(file, mode, size, threads)) for size in batches(batch)]
        elif axis == "threads":
            values = [(count, Case(file, mode, batch, count)) for count in options.threads]
        else:
            values = [(size, Case(file, mode, batch, threads, set={"size": str(size)})) for size in options.sizes]
        found += [Point(axis, file.stem, value, case) for value, case in values]
    return found


def tables(measured: Sequence[tuple[Point, CaseResult]]) -> str:
    """A table for each series."""
    blocks: list[str] = []
    for (axis, series), group in groupby(measured, key=lambda pair: (pair[0].axis, pair[0].series)):
        rows = list(group)
        first = rows[0][1]
        fixed = {
            "batch": f"threads {first.threads}",
            "threads": f"batch {first.batch}",
        }.get(axis, f"batch {first.batch}, threads {first.threads}")
        what = "training" if first.mode == "train" else "inference"
        blocks += [f"## {series} over {axis}: {what}, {fixed}", _series(axis, rows)]
    return "\n\n".join(blocks)


def _series(axis: str, rows: Sequence[tuple[Point, CaseResult]]) -> str:
    """One row for each point."""
    names = list(dict.fromkeys(entry.name for _, result in rows for entry in result.contestants))
    base: dict[str, float] = {}
    cells: list[tuple[str, ...]] = []
    for point, result in rows:
        entries = {entry.name: entry for entry in result.contestants}
        shown: list[str] = []
        for name in names:
            entry = entries.get(name)
            speed = arithmetic_rate(entry, result)
            if entry is None or entry.images_per_second is None or speed is None:
                shown.append(entry.error or "" if entry else "")
                continue
            base.setdefault(name, speed)
            shown.append(f"{rate(entry.images_per_second)} ({speed / base[name]:.2f})")
        peak = entries[names[0]].fraction_of_peak
        shown += ["" if peak is None else f"{peak:.0%}", result.best_peer or "", ratio_text(result)]
        cells.append((str(point.value), *shown))
    return markdown((axis, *names, f"{names[0]}, of FMA peak", "best peer", "x best peer"), cells, left=0)


def arithmetic_rate(entry: Entry | None, result: CaseResult) -> float | None:
    """MFLOP/s; None where nothing was measured."""
    if entry is None or entry.images_per_second is None:
        return None
    return entry.images_per_second * result.mflop_per_image


def as_json(report: Report, measured: Iterable[tuple[Point, CaseResult]]) -> dict[str, object]:
    """The object of `convc bench --json`, whose results also say where they belong."""
    content = report.as_json()
    for result, (point, _) in zip(content["results"], measured, strict=True):
        result |= {"axis": point.axis, "series": point.series, "value": point.value}
    return content


def _numbers(text: str) -> list[int]:
    values = sorted({int(word) for word in text.split(",")})
    if values[0] < 1:
        raise ValueError
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"some of {', '.join(AXES)} (default: all)")
    parser.add_argument("--nets", help=f"of batch, resolution, threads: all, some of {','.join(NETS)}, or files")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--depths", type=_numbers, default=list(DEPTHS), metavar="N,…", help="6n + 2 layers")
    parser.add_argument("--sizes", type=_numbers, default=list(SIZES), metavar="N,…", help="pixels a side")
    parser.add_argument("--threads", type=_numbers, default=list(THREADS), metavar="N,…")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes up to a minute a point")
    parser.add_argument("--against", help="peers, with commas, or none (default: those that are installed)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the object of `convc bench --json`")
    options = parser.parse_args(arguments)
    axes = options.axes or list(AXES)
    if unknown := set(axes) - set(AXES):
        parser.error(f"no axis {', '.join(sorted(unknown))}; there are {', '.join(AXES)}")
    for count in options.threads:
        choose_threads(count)  # refuses what cannot be
    files = chosen_nets(options.nets or "all", parser)
    sized = [net_path(name) for name in _SIZED]
    if options.nets:
        sized = [file for file in files if "size" in convc.load(file).parameters]
        if not sized and "resolution" in options.axes:
            parser.error("the resolution axis takes nets that have a parameter `size`")
    asked = None if options.against is None else [] if options.against == "none" else options.against.split(",")
    field = choose(asked, options.mode, compiled=options.compile)
    chosen = [point for axis in axes for point in points(axis, files, sized, options)]
    pace = Pace(options.rounds, options.seconds)
    minutes = len(chosen) * pace.total(len(field.contestants)) / 60
    print(f"{len(chosen)} points, {minutes:.0f} minutes of rounds, and preparation", file=sys.stderr, flush=True)
    titles = [f"{point.series}, {point.axis} {point.value}" for point in chosen]
    report = benchmark([point.case for point in chosen], field, pace, announce(titles))
    # Ctrl-C leaves the results of the first cases.
    measured = list(zip(chosen, report.results, strict=False))
    ceilings = "; ".join(f"{threads}: {found.fma_gflops:.0f} GFLOP/s" for threads, found in report.ceilings.items())
    heading = f"{report.machine['processor']}, FMA peak by threads: {ceilings}"
    print(*filter(None, [heading, tables(measured), *report.left_out, not_counting(report.busy)]), sep="\n\n")
    if options.json:
        write_json(options.json, as_json(report, measured))
    return INTERRUPTED if report.interrupted else int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
