"""The parts of the page, each from the report to markup."""

from __future__ import annotations

from convc.commands.output import format_bytes, format_count
from convc.commands.page.charts import Bar, Dot, roofline, steps, timeline
from convc.commands.page.markup import fold, section, table, tag, text
from convc.commands.page.report import Report, entry_anchor, pass_anchor
from convc.ir.span import Location
from convc.passes.algorithms.decision import Candidate
from convc.passes.base import Entry
from convc.passes.choose_algorithms import Choice
from convc.passes.manager import PassReport


def figures(report: Report) -> str:
    """The numbers that one looks for first."""
    shown = {
        "passes": f"{sum(item.milliseconds for item in report.passes):.1f} ms",
        "changes": format_count(sum(len(item.log.of("changed")) for item in report.passes)),
        "chances missed": format_count(sum(len(item.log.of("missed")) for item in report.passes)),
    }
    if report.kernels:
        shown["kernels"] = format_count(len(report.kernels))
        shown["flops"] = f"{sum(row.flops for row in report.kernels) / 1e9:.2f} G"
    if report.memory is not None:
        shown["memory of a step"] = format_bytes(report.memory.arena_bytes)
        shown["parameters and states"] = format_bytes(report.memory.persistent_bytes)
    if report.profile is not None:
        shown["time of a step"] = f"{report.profile.wall_seconds * 1e3:.2f} ms"
    boxes = "".join(tag("div", tag("b", text(value)) + text(name)) for name, value in shown.items())
    return tag("div", boxes, class_="figures")


def source(report: Report) -> str:
    """The text, with what passes say of each line."""
    notes = report.notes()
    parts: list[str] = []
    for file, content in report.net.sources.items():
        rows: list[str] = []
        for number, line in enumerate(content.splitlines(), 1):
            links = "".join(
                tag("a", "&#9679;", href=f"#{note.anchor}", title=note.text, class_=note.kind)
                for note in notes.get((file, number), [])[:_MOST_NOTES]
            )
            cells = tag("span", str(number), class_="no mono") + tag("span", text(line) or " ", class_="text mono")
            rows.append(
                tag(
                    "div",
                    cells + tag("span", links, class_="notes"),
                    class_="row",
                    id=_line_anchor(report, file, number),
                )
            )
        parts.append(tag("h3", text(file)) + tag("div", "".join(rows), class_="source"))
    lead = (
        "A green dot is a change that a pass made because of this line, an amber one a chance that it missed. "
        "A click tells why."
    )
    return section("Source", "source", lead, "".join(parts))


_MOST_NOTES = 24


def _line_anchor(report: Report, file: str, line: int) -> str:
    return f"L{list(report.net.sources).index(file)}-{line}"


def _place(report: Report, location: Location) -> str:
    """Links to the lines of a location."""
    places = dict.fromkeys((span.file, span.line) for span in location)
    return " ".join(
        tag("a", text(line), href=f"#{_line_anchor(report, file, line)}") if file in report.net.sources else text(line)
        for file, line in places
    )


def network(drawing: str) -> str:
    """The net as a drawing."""
    lead = (
        "Every box is a layer with what follows it, and the shape of its result; blocks are groups. "
        "Rest on a box to see more."
    )
    return section("Network", "network", lead, tag("div", drawing, class_="scroll"))


def passes(report: Report) -> str:
    """The timeline, and what each pass did and did not do."""
    bars = [
        Bar(item.name, item.milliseconds, f"{item.name}: {item.milliseconds:.2f} ms", pass_anchor(number))
        for number, item in enumerate(report.passes)
    ]
    details = "".join(_pass(report, number, item) for number, item in enumerate(report.passes))
    lead = (
        "Passes rewrite the graph of the net, one after the other. Each says what it changed, and what it could not "
        "change and why."
    )
    return section("Passes", "passes", lead, timeline(bars, "ms") + details)


def _pass(report: Report, number: int, item: PassReport) -> str:
    changed, missed = item.log.of("changed"), item.log.of("missed")
    summary = (
        f"<b>{text(item.name)}</b> {item.milliseconds:.2f} ms, "
        f'<span class="changed">{len(changed)} changed</span>, <span class="missed">{len(missed)} missed</span>'
    )
    rows = [_entry(report, entry_anchor(number, index), entry) for index, entry in enumerate(item.log.entries)]
    head = "".join(tag("th", word) for word in ("", "rule", "before", "after", "why", "line"))
    content = tag("table", tag("thead", tag("tr", head)) + tag("tbody", "".join(rows))) if rows else ""
    metrics = [(text(name), text(f"{value:g}")) for name, value in item.log.metrics.items()]
    content += table(("figure", ""), metrics, numbers=(1,)) if metrics else ""
    description, example = _explanation(item.name)
    content = tag("p", text(description), class_="soft") + content
    content += fold("before and after, an example", tag("pre", text(example))) if example else ""
    return fold(summary, content, pass_anchor(number), opened=0 < len(rows) <= _MOST_OPEN)


_MOST_OPEN = 12


def _explanation(name: str) -> tuple[str, str]:
    from convc.passes.registry import ALL_PASSES, explanation

    return explanation(ALL_PASSES[name]) if name in ALL_PASSES else ("", "")


def _entry(report: Report, anchor: str, entry: Entry) -> str:
    cells = [
        tag("span", entry.kind, class_=entry.kind),
        text(entry.rule),
        tag("code", text(entry.before)),
        tag("code", text(entry.after)),
        text(entry.why),
        _place(report, entry.location),
    ]
    return tag("tr", "".join(tag("td", cell) for cell in cells), id=anchor)


def algorithms(report: Report) -> str:
    """All candidates of every convolution."""
    if not report.choices:
        return ""
    parts = [_choice(choice, report.threads) for choice in report.choices]
    lead = (
        "There are several ways to compute a convolution; each is predicted from its arithmetic and its traffic "
        "(or measured, with --tune), and the fastest that is exact enough is taken, for each direction by itself."
    )
    return section("Algorithms", "algorithms", lead, "".join(parts))


def _choice(choice: Choice, threads: int) -> str:
    decision = choice.decision
    summary = (
        f"<b>{text(choice.label)}</b> {text(choice.direction)}: <b>{text(decision.chosen)}</b> — {text(decision.why)}"
    )
    rows = [_candidate(candidate, decision.chosen, threads) for candidate in decision.candidates]
    names = ("algorithm", "predicted ms", "measured ms", "scratch", "error", "why")
    head = "".join(tag("th", name, class_="number" if 0 < i < 5 else None) for i, name in enumerate(names))
    content = tag("p", text(decision.problem), class_="soft mono")
    return fold(summary, content + tag("table", tag("thead", tag("tr", head)) + tag("tbody", "".join(rows))))


def _candidate(candidate: Candidate, chosen: str, threads: int) -> str:
    def milliseconds(seconds: float | None, share: int) -> str:
        return "" if seconds is None else f"{seconds / share * 1e3:.3f}"

    cells = [
        text(candidate.algorithm),
        milliseconds(candidate.predicted, threads),
        milliseconds(candidate.measured, 1),
        "" if candidate.scratch_bytes is None else format_bytes(candidate.scratch_bytes),
        "" if candidate.max_rel_error is None else f"{candidate.max_rel_error:.0e}",
        text(candidate.reason),
    ]
    kind = "chosen" if candidate.algorithm == chosen else None if candidate.applicable else "impossible"
    return tag(
        "tr", "".join(tag("td", c, class_="number" if 0 < i < 5 else None) for i, c in enumerate(cells)), class_=kind
    )


def memory(report: Report) -> str:
    """What lives while each kernel runs, and what fills the memory at the worst moment."""
    plan = report.memory
    if plan is None or not report.kernels:
        return ""
    tips = [
        f"kernel {row.number}: {row.name} {row.layer}\n{format_bytes(live)} live"
        for row, live in zip(report.kernels, plan.timeline, strict=True)
    ]
    peak = plan.peak_kernel.number if plan.peak_kernel is not None else 0
    shown = ("0", format_bytes(plan.arena_bytes))
    chart = steps(plan.timeline, tips, plan.arena_bytes, shown, peak)
    rows = [(text(item.layer), tag("code", text(item.type)), format_bytes(item.bytes)) for item in plan.live]
    where = ""
    if plan.peak_kernel is not None:
        row = plan.peak_kernel
        where = tag("p", text(f"The peak is at kernel {row.number}, {row.name} of {row.layer}. Then live:"))
    lead = (
        f"One block of {format_bytes(plan.arena_bytes)} holds everything that a step makes and forgets; "
        f"{format_bytes(plan.bound_bytes)} of it live at the peak, so no plan could take less. "
        f"Parameters, states, and the gradients that are not in it take {format_bytes(plan.persistent_bytes)} besides."
    )
    content = chart + where + fold("what lives at the peak", table(("made by", "type", "bytes"), rows, numbers=(2,)))
    return section("Memory over time", "memory", lead, content)


def kernels(report: Report) -> str:
    """Kernels under the roofs of the processor, and their times."""
    profile, constants = report.profile, report.constants
    if profile is None or constants is None:
        return ""
    total = profile.total_seconds or 1.0
    dots = [
        Dot(
            kernel.flops / max(kernel.bytes, 1),
            kernel.gflops,
            kernel.seconds / total,
            f"{kernel.layer} {kernel.ops}\n{kernel.seconds * 1e6:.1f} µs, {kernel.gflops:.1f} GFLOP/s, "
            f"{kernel.bytes / max(kernel.seconds, 1e-12) / 1e9:.1f} GB/s",
            kernel.ops.split("+")[0].split(" ")[-1],
        )
        for kernel in profile.kernels
    ]
    chart = roofline(dots, constants.product_gflops * report.threads, constants.memory_gbps * report.threads)
    rows = [
        (
            text(kernel.layer),
            tag("code", text(kernel.ops)),
            f"{kernel.seconds * 1e6:.1f}",
            f"{100 * kernel.seconds / total:.1f}",
            f"{kernel.gflops:.1f}",
            f"{kernel.bytes / 1e6:.2f}",
            _place(report, kernel.location),
        )
        for kernel in profile.kernels
    ]
    names = ("layer", "kernel", "µs", "%", "GFLOP/s", "MB", "line")
    lead = (
        "Each circle is a kernel, its area the share of the time. The lines are what the processor can do: on the "
        "slope memory is the limit, on the level arithmetic. Flops and bytes are those of the mathematics, each value "
        "touched once: an algorithm that needs fewer, or a cache, can lift a kernel above the lines."
    )
    return section("Kernels and roofline", "kernels", lead, chart + table(names, rows, numbers=(2, 3, 4, 5)))
