"""The comparison itself: case by case, prepare, check that all compute the same net, take turns, sum up."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from convc.ir.diagnostic import fail
from convc.runtime.benchmark import machine
from convc.runtime.benchmark.arithmetic import KernelFloor, flops_per_image, kernel_floors, profile_case
from convc.runtime.benchmark.case import Case, draws, write_material
from convc.runtime.benchmark.checking import compare
from convc.runtime.benchmark.peers import OURS, Field
from convc.runtime.benchmark.results import CaseResult, Report, best_of, entry_of, ratio_spread
from convc.runtime.benchmark.rounds import Contestant, Pace, await_ready, launch, take_turns
from convc.runtime.benchmark.task import TRAIN, Task
from convc.runtime.configuration import INT8, choose_precision
from convc.runtime.machine_probe import measure_ceilings


class Watcher(Protocol):
    """Told where a comparison stands. Called between turns only: whoever draws must not do so meanwhile."""

    def __call__(self, case: int, cases: int, share: float, what: str) -> None:
        """`share` of the case `case` (from 0) of `cases` is done; `what` comes next."""
        ...


def benchmark(
    cases: Sequence[Case],
    field: Field,
    pace: Pace,
    watch: Watcher,
    *,
    kernels: bool = False,
) -> Report:
    """Compare the contestants of `field` in every case, which are all of one mode and precision.

    Ctrl-C ends it with what was measured so far. A contestant that fails, or computes another net, is reported with the
    reason. Errors: those of the nets.
    """
    for case in cases:
        case.open()  # mistakes in the last file show before the first is measured
    report = Report(
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        cases[0].mode,
        cases[0].precision,
        pace,
        machine.describe(),
        field.left_out,
    )
    try:
        for index, case in enumerate(cases):
            if case.threads not in report.ceilings:
                watch(index, len(cases), 0.0, "ceilings")
                report.ceilings[case.threads] = measure_ceilings(case.threads)
            _Comparison(case, field, report, watch, index, len(cases)).run(kernels)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


class _Comparison:
    """One case."""

    def __init__(self, case: Case, field: Field, report: Report, watch: Watcher, index: int, count: int) -> None:
        self.case, self.field, self.report = case, field, report
        self._watch, self._index, self._count = watch, index, count

    def run(self, kernels: bool) -> None:
        case, report = self.case, self.report
        contestants: list[Contestant] = []
        with tempfile.TemporaryDirectory(prefix="convc-bench-") as scratch:
            self.watch(0.0, "weights")
            task = write_material(case, Path(scratch) / "net", model=self.field.needs_model)
            still = None
            if case.mode == TRAIN and draws(case.open().graph(1)):
                still = write_material(case, Path(scratch) / "still", model=False, still=True)
            ended = False
            try:
                if still is not None:
                    self._check_apart(contestants, still, task)
                else:
                    self._start(contestants, task, list(self.field.contestants))
                    check(contestants, case)
                rounds = report.pace.rounds
                take_turns(
                    contestants, report.pace, report.busy, lambda done: self.watch(done / rounds, f"round {done}")
                )
                ended = True
            finally:
                for contestant in contestants:
                    contestant.close(wait=ended)
                if ended or any(contestant.rates for contestant in contestants):
                    report.results.append(self._result(contestants))
            if kernels:
                self.watch(1.0, "kernels")
                floors = kernel_floors(profile_case(case, task), report.ceilings[case.threads])
                report.results[-1] = self._result(contestants, floors)

    def watch(self, share: float, what: str) -> None:
        self._watch(self._index, self._count, share, what)

    def _start(self, contestants: list[Contestant], task: Task, names: list[str]) -> None:
        """Start them one after the other: two that prepare themselves at once would share the cores."""
        for name in names:
            self.watch(0.0, f"starting {name}")
            contestants.append(launch(name, self.field.contestants[name], task))
            await_ready(contestants[-1])

    def _check_apart(self, contestants: list[Contestant], still: Task, task: Task) -> None:
        """Where training draws random numbers, the check is of the net without them, by processes of their own."""
        checked: list[Contestant] = []
        try:
            self._start(checked, still, list(self.field.contestants))
            check(checked, self.case)
        finally:
            for one in checked:
                one.close(wait=False)
        self._start(contestants, task, [one.name for one in checked if one.error is None])
        right = {one.name: one for one in contestants}
        for one in checked:
            if one.name in right:
                right[one.name].deviation = one.deviation
        contestants[:] = [right.get(one.name, one) for one in checked]

    def _result(self, contestants: list[Contestant], kernels: tuple[KernelFloor, ...] | None = None) -> CaseResult:
        case = self.case
        net = case.open()
        graph = net.graph(case.batch)
        flops = flops_per_image(graph, case.batch, case.mode)
        ceilings = self.report.ceilings[case.threads]
        best = best_of(contestants)
        ours = next((one for one in contestants if one.name == OURS and one.rates), None)
        entries = tuple(entry_of(one, best, flops, ceilings) for one in contestants)
        lowest, highest = ratio_spread(ours, best)
        weights = [p.value.type for p in graph.parameters.values() if p.trainable]
        return CaseResult(
            str(case.file),
            net.name,
            case.mode,
            self.report.precision,
            case.batch,
            case.threads,
            sum(type.size for type in weights),
            sum(type.bytes for type in weights),
            flops / 1e6,
            entries,
            best.name if best else None,
            next((entry.ratio for entry in entries if entry.name == OURS), None),
            lowest,
            highest,
            kernels,
        )


def with_precision(cases: Sequence[Case], asked: str | None) -> list[Case]:
    """The cases in the precision that is asked for, else in that of their files. Errors: `unavailable-precision`,
    `value-precision` for files of several."""
    found = [replace(case, precision=_precision_of(case, asked)) for case in cases]
    if len({case.precision for case in found}) > 1:
        each = ", ".join(f"{case.file} {case.precision}" for case in found)
        fail("value-precision", f"these nets are of several precisions: {each}", hint="--precision fp32")
    return found


def _precision_of(case: Case, asked: str | None) -> str:
    if asked == INT8 and case.mode != TRAIN:
        return INT8
    return choose_precision(asked, case.open().settings, "train" if case.mode == TRAIN else "infer")


def check(contestants: Sequence[Contestant], case: Case) -> None:
    """Compare everybody's first results with ours, and put out whoever computes something else."""
    ours = next((one for one in contestants if one.name == OURS), None)
    if ours is None or ours.error is not None:
        return
    expected = ours.numbers
    for one in contestants:
        if one is not ours and one.error is None:
            found = compare(one.numbers, expected, case.mode, case.precision)
            one.deviation, one.error = found.deviation, found.problem
