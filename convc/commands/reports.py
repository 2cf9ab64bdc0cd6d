"""The reports of `convc compile`: each as text for people and as content for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from convc.commands.output import format_bytes, format_table
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.passes.base import Entry
    from convc.passes.manager import PassReport
    from convc.passes.plan import Plan
    from convc.passes.plan_report import MemoryReport
    from convc.runtime.cuda_kernels import KernelReport
    from convc.runtime.program import Program


_LONGEST_BAR = 40  # characters


@dataclass(frozen=True)
class Report:
    """Two forms of one report on a compiled program, which may ask for the name of a GPU."""

    text: Callable[[Program, str | None], str]
    content: Callable[[Program, str | None], Any]


def _passes_text(program: Program, gpu: str | None = None) -> str:
    rows = [
        (
            report.name,
            f"{report.milliseconds:.2f}",
            str(len(report.log.of("changed"))),
            str(len(report.log.of("missed"))),
        )
        for report in program.reports
    ]
    lines = [format_table(("pass", "ms", "changed", "missed"), rows)]
    for report in program.reports:
        metrics = [f"{name} {value:,g}" for name, value in report.log.metrics.items()]
        if report.log.entries or metrics:
            lines += ["", f"{report.name}:", *(f"  {entry}" for entry in report.log.entries)]
            lines += [f"  {', '.join(metrics)}"] if metrics else []
    return "\n".join(lines)


def _kernels_text(program: Program, gpu: str | None = None) -> str:
    if program.cuda_step is not None:
        return _launches_text(program, gpu)
    from convc.passes.plan_report import kernel_rows
    from convc.runtime.artifacts import plan_of

    header = ("kernel", "layer", "line", "section", "Mflop", "read", "written", "scratch")
    rows = [
        (
            row.name,
            row.layer,
            str(row.line or ""),
            row.section,
            f"{row.flops / 1e6:,.2f}",
            format_bytes(row.read_bytes),
            format_bytes(row.written_bytes),
            format_bytes(row.scratch_bytes) if row.scratch_bytes else "",
        )
        for row in kernel_rows(plan_of(program))
    ]
    return format_table(header, rows, left=(0, 1, 3))


def _launches(program: Program, gpu: str | None) -> KernelReport:
    from convc.runtime.cuda_kernels import report_kernels

    assert program.cuda_step is not None
    return report_kernels(program.cuda_step, program.batch, gpu)


def _launches_text(program: Program, gpu: str | None) -> str:
    """The launches of a program for GPUs."""
    report = _launches(program, gpu)
    header = (
        *("kernel", "layer", "line", "section", "grid", "block", "registers", "spills", "shared", "dynamic"),
        *("occupancy", "Mflop", "bytes", "µs"),
    )
    rows: list[tuple[str, ...]] = [
        (
            row.kernel,
            row.layer,
            str(row.line or ""),
            row.section,
            "x".join(str(extent) for extent in _shortened(row.grid)),
            str(row.block),
            str(row.registers),
            format_bytes(row.spill_bytes) if row.spill_bytes else "",
            format_bytes(row.static_shared) if row.static_shared else "",
            format_bytes(row.dynamic_shared) if row.dynamic_shared else "",
            f"{row.occupancy:.0%}",
            f"{row.flops / 1e6:,.2f}",
            format_bytes(row.bytes),
            "-" if row.predicted_us is None else f"{row.predicted_us:,.1f}",
        )
        for row in report.kernels
    ]
    moved = format_bytes(sum(row.bytes for row in report.kernels))
    work = f"{sum(row.flops for row in report.kernels) / 1e6:,.2f}"
    blank = ("",) * 10
    rows.append((f"{len(report.kernels)} launches", *blank, work, moved, f"{report.predicted_us:,.1f}"))
    words = f"compiled for {report.arch}; occupancy and times are for {report.gpu}, {report.note}"
    return f"{format_table(header, rows, left=(0, 1, 3))}\n\n{words}"


def _shortened(grid: tuple[int, int, int]) -> tuple[int, ...]:
    """A grid without what is 1 at its end."""
    x, y, z = grid
    return (x, y, z) if z > 1 else (x, y) if y > 1 else (x,)


def _memory_text(program: Program, gpu: str | None = None) -> str:
    from convc.runtime.artifacts import plan_of

    return memory_text(plan_of(program), program.reports)


def memory_text(plan: Plan, passes: Iterable[PassReport]) -> str:
    """What a plan takes, what lives at the worst moment, and how much while each kernel runs."""
    from convc.passes.plan_report import kernel_rows, memory_report

    report = memory_report(plan, passes)
    lines = [
        f"arena {format_bytes(report.arena_bytes)}, of which {format_bytes(report.bound_bytes)} live at the peak",
        f"parameters, states, and gradients outside of the arena {format_bytes(report.persistent_bytes)}",
    ]
    if report.in_place:
        lines.append(f"{len(report.in_place)} results lie in the place of an operand (--report passes lists them)")
    if report.recomputed:
        flops = sum(value.flops for value in report.recomputed)
        kept = format_bytes(sum(value.bytes for value in report.recomputed))
        lines.append(
            f"{len(report.recomputed)} values, {kept}, are computed again in the backward pass: {flops / 1e9:.2f} Gflop"
        )
    if report.peak_kernel is not None:
        row = report.peak_kernel
        place = f", line {row.line}" if row.line else ""
        lines += [f"the peak is at kernel {row.number}, {row.name} of {row.layer}{place}; then live", ""]
        # What is too small to matter is one row.
        large = [tensor for tensor in report.live if tensor.bytes >= report.bound_bytes / 200]
        small = report.live[len(large) :]
        rows = [(tensor.layer, tensor.type, format_bytes(tensor.bytes)) for tensor in large]
        if small:
            rows.append((f"{len(small)} more", "", format_bytes(sum(tensor.bytes for tensor in small))))
        lines.append(format_table(("made by", "type", "bytes"), rows, left=(0, 1)))
        lines += ["", "while each kernel runs", ""]
        rows = [
            (str(row.number), row.name, row.layer, str(row.line or ""), format_bytes(live), _bar(live, report))
            for row, live in zip(kernel_rows(plan), report.timeline, strict=True)
        ]
        lines.append(format_table(("", "kernel", "layer", "line", "live", ""), rows, left=(1, 2, 5)))
    return "\n".join(lines)


def _bar(live: int, report: MemoryReport) -> str:
    """A share of the peak, which is as long as a bar can be."""
    return "#" * round(_LONGEST_BAR * live / max(1, report.bound_bytes))


def _passes(program: Program, gpu: str | None = None) -> list[dict[str, Any]]:
    return [pass_as_json(report) for report in program.reports]


def pass_as_json(report: PassReport) -> dict[str, Any]:
    """One pass as it ran: what it changed and what it could not, each with the reason."""

    def place(entry: Entry) -> dict[str, Any]:
        return {"why": entry.why, "line": entry.location[0].line if entry.location else None}

    return {
        "pass": report.name,
        "ms": report.milliseconds,
        "changed": [
            {"rule": entry.rule, "before": entry.before, "after": entry.after, **place(entry)}
            for entry in report.log.of("changed")
        ],
        "missed": [{"rule": entry.rule, "node": entry.before, **place(entry)} for entry in report.log.of("missed")],
        "metrics": report.log.metrics,
    }


def _kernels(program: Program, gpu: str | None = None) -> Any:
    if program.cuda_step is not None:
        return asdict(_launches(program, gpu))
    from convc.passes.plan_report import kernel_rows
    from convc.runtime.artifacts import plan_of

    return [asdict(row) for row in kernel_rows(plan_of(program))]


def _memory(program: Program, gpu: str | None = None) -> dict[str, Any]:
    from convc.passes.plan_report import memory_report
    from convc.runtime.artifacts import plan_of

    return asdict(memory_report(plan_of(program), program.reports))


REPORTS = {
    "passes": Report(_passes_text, _passes),
    "kernels": Report(_kernels_text, _kernels),
    "memory": Report(_memory_text, _memory),
}
