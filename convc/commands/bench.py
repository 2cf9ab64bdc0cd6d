"""`convc bench`: speed beside other libraries."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.commands.options import add_inference_precision, add_json, add_net_options, assignments, open_net
from convc.commands.output import format_bytes, format_count, format_table, print_json
from convc.commands.parser import OneOf, UsageError, fraction, positive, positives

if TYPE_CHECKING:
    from convc.runtime.benchmark.benchmark import Watcher
    from convc.runtime.benchmark.case import Case
    from convc.runtime.benchmark.results import CaseResult, Entry, Report

_NOBODY = "none"
_PEERS = OneOf("torch", "onnxruntime", "openvino", _NOBODY, several=True)
_HEADER = ("", "images/s", "lowest", "highest", "ms/step", "x best", "of peak", "first call", "peak RSS", "differs")
_KERNELS = ("kernel", "line", "µs", "% time", "GFLOP/s", "flops floor µs", "bytes floor µs", "of floor")
_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help=".cnn files")
    add_net_options(parser)
    text = "libraries to compare with, or none (default: those that are installed and know the mode)"
    parser.add_argument("--against", type=_PEERS, metavar="A,B,…", help=f"{_PEERS.metavar}: {text}")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes up to a minute a net")
    parser.add_argument("--mode", type=OneOf("train", "infer"), default="infer", help="train or infer (the default)")
    add_inference_precision(parser, calibrate=False)
    parser.add_argument("--batch", type=positives, metavar="N,…", help="images at a time (default: of the file)")
    parser.add_argument("--threads", type=positives, metavar="N,…", help="threads (default: all that may be used)")
    parser.add_argument("--rounds", type=positive, metavar="N", default=7, help="turns of each contestant (default: 7)")
    parser.add_argument("--seconds", type=fraction, metavar="S", default=1.5, help="length of a turn (default: 1.5)")
    parser.add_argument("--warm-up", type=fraction, metavar="S", default=0.3, help="before each turn (default: 0.3)")
    parser.add_argument(
        "--kernels", action="store_true", help="also each of our kernels: its time, and the least that it could take"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.runtime.benchmark.benchmark import benchmark, with_precision
    from convc.runtime.benchmark.peers import choose
    from convc.runtime.benchmark.rounds import Pace

    asked: list[str] | None = arguments.against
    if asked is not None and _NOBODY in asked:
        if len(asked) > 1:
            raise UsageError("--against none is against nobody", "leave out either none or the others")
        asked = []
    cases = with_precision(_cases(arguments), arguments.precision)
    field = choose(asked, arguments.mode, compiled=arguments.compile, precision=cases[0].precision)
    if arguments.compile and not any(name == "torch-compile" for name in field.contestants):
        raise UsageError("--compile is about PyTorch, which does not take part", "--against torch")
    for reason in field.left_out:
        print(f"left out: {reason}", file=sys.stderr)
    pace = Pace(arguments.rounds, arguments.seconds, arguments.warm_up)
    with _Progress() as progress:
        report = benchmark(cases, field, pace, progress, kernels=arguments.kernels)
    if arguments.json:
        print_json(report.as_json())
    else:
        print(as_text(report))
    if report.interrupted:
        print("interrupted: these are the rounds until then", file=sys.stderr)
        return _INTERRUPTED
    return 1 if report.failed else 0


def _cases(arguments: argparse.Namespace) -> list[Case]:
    from convc.runtime.benchmark.case import Case
    from convc.runtime.cores import choose_threads

    threads = arguments.threads or [choose_threads().threads]
    cases: list[Case] = []
    for file in arguments.files:
        net = open_net(argparse.Namespace(**{**vars(arguments), "file": file}))
        for batch in arguments.batch or [net.settings.batch]:
            for count in threads:
                choose_threads(count)  # refuses what cannot be
                cases.append(
                    Case(
                        Path(file),
                        arguments.mode,
                        batch,
                        count,
                        arguments.net,
                        assignments(arguments.set),
                        tuple(arguments.limit),
                    )
                )
    return cases


class _Progress:
    """A bar on a terminal, drawn between turns only; elsewhere a line for each case. On the error output."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._case = -1

    def __enter__(self) -> Watcher:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[what]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
            self._task = self._bar.add_task("", total=1.0, what="")
            self._bar.start()
        return self

    def __call__(self, case: int, cases: int, share: float, what: str) -> None:
        title = f"{case + 1} of {cases}"
        if self._bar is not None:
            self._bar.update(self._task, description=title, total=cases, completed=case + share, what=what)
            self._bar.refresh()
        elif case != self._case:
            self._case = case
            print(f"measuring {title}", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def as_text(report: Report) -> str:
    """The whole report for people."""
    blocks = [_machine(report)]
    for result in report.results:
        blocks.append(f"{_heading(result)}\n{format_table(_HEADER, [_row(entry) for entry in result.contestants])}")
        blocks += [f"{entry.name}: {entry.error}" for entry in result.contestants if entry.error]
        if result.ratio is not None:
            assert result.ratio_lowest is not None
            assert result.ratio_highest is not None
            blocks.append(
                f"{result.ratio:.2f} x the best peer, {result.best_peer} "
                f"(in single rounds {result.ratio_lowest:.2f} to {result.ratio_highest:.2f})"
            )
        if result.kernels is not None:
            blocks.append(_kernels(result))
    if len([result for result in report.results if result.ratio is not None]) > 1:
        blocks.append(f"geometric mean: {report.geometric_mean:.2f} x the best peer")
    if not report.counts:
        blocks.append(f"THIS RUN DOES NOT COUNT: other work kept {report.busy_cores:.2f} cores busy.")
    return "\n\n".join(blocks)


def _machine(report: Report) -> str:
    found, pace = report.machine, report.pace
    rounds = f"{pace.rounds} round{'s' * (pace.rounds > 1)}"
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"{found['processor']}, {found['cores']} cores, tier {found['tier']}, {found['memory_gib']} GiB",
        f"flags: {' '.join(found['flags']) or 'unknown'}",
        f"versions: {versions}",
        *(
            f"ceilings, {threads} thread{'s' * (threads > 1)}: FMA {found.fma_gflops:,.0f} GFLOP/s, "
            f"read {found.read_gbps:.1f} GB/s, copy {found.copy_gbps:.1f} GB/s"
            for threads, found in report.ceilings.items()
        ),
        f"{report.precision}, {rounds} of {pace.seconds:g} s after {pace.warm_up:g} s of warm-up",
    ]
    return "\n".join(lines)


def _heading(result: CaseResult) -> str:
    what = "training" if result.mode == "train" else "inference"
    threads = f"{result.threads} thread{'s' * (result.threads > 1)}"
    weights = f"{format_count(result.parameters)} parameters ({format_bytes(result.parameter_bytes)})"
    work = f"{result.mflop_per_image:,.1f} MFLOP an image"
    return f"{result.title}: {what}, batch {result.batch}, {threads}; {weights}, {work}"


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        _shown(entry.images_per_second, rate),
        _shown(entry.lowest, rate),
        _shown(entry.highest, rate),
        _shown(entry.milliseconds_per_step, lambda value: f"{value:,.3g}" if value < 100 else f"{value:,.0f}"),
        _shown(entry.ratio, lambda value: f"{value:.2f}"),
        _shown(entry.fraction_of_peak, lambda value: f"{value:.0%}"),
        _shown(entry.first_call_seconds, lambda value: f"{value:.2f} s"),
        _shown(entry.peak_rss_bytes, format_bytes),
        _shown(entry.deviation, lambda value: f"{value:.0e}"),
    )


def _shown(value: Any, form: Any) -> str:
    return "-" if value is None else form(value)


def rate(value: float) -> str:
    """Images per second, with at least three digits: `12,345`, `6.62`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _kernels(result: CaseResult) -> str:
    assert result.kernels is not None
    total = sum(kernel.seconds for kernel in result.kernels) or 1.0
    rows = [
        (
            f"{kernel.layer}: {kernel.ops}" if kernel.layer else kernel.ops,
            str(kernel.line or ""),
            f"{kernel.seconds * 1e6:,.1f}",
            f"{100 * kernel.seconds / total:.1f}",
            f"{kernel.flops / kernel.seconds / 1e9:,.1f}" if kernel.seconds else "-",
            f"{kernel.flops_floor_seconds * 1e6:,.1f}",
            f"{kernel.bytes_floor_seconds * 1e6:,.1f}",
            f"{kernel.fraction:.0%}",
        )
        for kernel in result.kernels
    ]
    floor = sum(kernel.floor_seconds for kernel in result.kernels)
    last = f"{total * 1e6:,.1f} µs in kernels, of which the floors are {floor / total:.0%}"
    return f"{format_table(_KERNELS, rows)}\n{last}"
