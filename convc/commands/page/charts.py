"""Charts as SVG: bars along a line of time, a quantity over the kernels, kernels under the roofs of a processor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from convc.commands.page.markup import tag, text
from convc.lazy import dataclass

_WIDTH = 1100.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 78.0, 24.0, 14.0, 38.0
_COLOURS = ("#2b6cb0", "#2f855a", "#b7791f", "#9b2c2c", "#6b46c1", "#2c7a7b", "#97266d", "#4a5568")


@dataclass(frozen=True)
class Bar:
    """A piece of a timeline: its length, what it says when the pointer rests on it, where a click leads."""

    label: str
    value: float
    tip: str
    target: str


@dataclass(frozen=True)
class Dot:
    """A kernel under the roofs: flops per byte, GFLOP/s, its share of the time (0 to 1), a group that has a colour."""

    intensity: float
    gflops: float
    share: float
    tip: str
    group: str


def _svg(height: float, content: str, title: str) -> str:
    view = f"0 0 {_WIDTH:.0f} {height:.0f}"
    return tag(
        "div", tag("svg", tag("title", text(title)) + content, viewBox=view, width="100%", role="img"), class_="chart"
    )


def _label(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return tag("text", text(words), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return tag("line", "", **(places | attributes))


def _bar(x: float, y: float, width: float, height: float, colour: str, tip: str) -> str:
    content = tag("title", text(tip))
    return tag("rect", content, x=f"{x:.2f}", y=f"{y:.2f}", width=f"{width:.2f}", height=f"{height:.2f}", fill=colour)


def timeline(bars: Sequence[Bar], unit: str) -> str:
    """Bars one below the other, each beginning where the one before ends."""
    total = sum(bar.value for bar in bars) or 1.0
    row, left = 22.0, 190.0
    width = _WIDTH - left - 120
    parts: list[str] = []
    start = 0.0
    for number, bar in enumerate(bars):
        y = _TOP + number * row
        x, length = left + width * start / total, max(2.0, width * bar.value / total)
        shape = _bar(x, y, length, row - 6, _COLOURS[number % len(_COLOURS)], bar.tip)
        parts.append(tag("a", shape, href=f"#{bar.target}"))
        parts.append(_label(left - 10, y + 12, bar.label, "end"))
        parts.append(_label(x + length + 8, y + 12, f"{bar.value:.2f} {unit}", "start"))
        start += bar.value
    return _svg(_TOP + len(bars) * row + 10, "".join(parts), "timeline")


def steps(values: Sequence[int], tips: Sequence[str], limit: int, shown: Sequence[str], peak: int) -> str:
    """A quantity for each kernel; `limit` is a line above it, `shown` the words of the axis' ends and of the limit."""
    height = 300.0
    top = max([limit, *values]) or 1
    inner, floor = _WIDTH - _LEFT - _RIGHT, height - _BOTTOM
    scale = (floor - _TOP) / top
    width = inner / max(1, len(values))
    bars: list[str] = []
    for number, (value, tip) in enumerate(zip(values, tips, strict=True)):
        colour = _COLOURS[3] if number == peak else _COLOURS[0]
        place = _LEFT + number * width, floor - value * scale
        bars.append(_bar(*place, max(width - 0.4, 0.6), value * scale, colour, tip))
    roof = floor - limit * scale
    axis = [
        _line(_LEFT, floor, _WIDTH - _RIGHT, floor, class_="axis"),
        _line(_LEFT, roof, _WIDTH - _RIGHT, roof, stroke=_COLOURS[2], stroke_dasharray="6 4"),
        _label(_LEFT - 8, floor, shown[0], "end"),
        _label(_LEFT - 8, roof + 4, shown[1], "end"),
        _label(_LEFT, height - 12, "first kernel", "start"),
        _label(_WIDTH - _RIGHT, height - 12, "last kernel", "end"),
    ]
    return _svg(height, "".join([*bars, *axis]), "memory over time")


def roofline(dots: Sequence[Dot], peak_gflops: float, gigabytes: float) -> str:
    """Kernels by flops per byte and GFLOP/s, both on scales of powers of ten, under what the processor can do."""
    height = 420.0
    floor = height - _BOTTOM
    known = [dot for dot in dots if dot.intensity > 0 and dot.gflops > 0]
    x_low = min([0.05, *(dot.intensity for dot in known)])
    x_high = max([1000.0, *(dot.intensity for dot in known)]) * 1.5
    y_high = max([peak_gflops, *(dot.gflops for dot in known)]) * 2
    y_low = min([peak_gflops / 1e3, *(dot.gflops for dot in known)]) / 1.5

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(value / x_low) / math.log(x_high / x_low)

    def y(value: float) -> float:
        return floor - (floor - _TOP) * math.log(value / y_low) / math.log(y_high / y_low)

    parts: list[str] = []
    for power in range(math.ceil(math.log10(x_low)), math.floor(math.log10(x_high)) + 1):
        parts.append(_line(x(10**power), _TOP, x(10**power), floor, class_="axis"))
        parts.append(_label(x(10**power), floor + 16, f"{10**power:g}"))
    for power in range(math.ceil(math.log10(y_low)), math.floor(math.log10(y_high)) + 1):
        parts.append(_line(_LEFT, y(10**power), _WIDTH - _RIGHT, y(10**power), class_="axis"))
        parts.append(_label(_LEFT - 8, y(10**power) + 4, f"{10**power:g}", "end"))
    ridge = peak_gflops / gigabytes
    start = max(x_low, y_low / gigabytes)
    roof = {"stroke": _COLOURS[3], "stroke_width": 2}
    parts.append(_line(x(start), y(start * gigabytes), x(ridge), y(peak_gflops), **roof))
    parts.append(_line(x(ridge), y(peak_gflops), _WIDTH - _RIGHT, y(peak_gflops), **roof))
    parts.append(_label(_WIDTH - _RIGHT, y(peak_gflops) - 8, f"{peak_gflops:.0f} GFLOP/s", "end"))
    parts.append(_label(x(ridge) - 60, y(peak_gflops) - 8, f"{gigabytes:.0f} GB/s", "end"))
    groups = list(dict.fromkeys(dot.group for dot in dots))
    for dot in sorted(known, key=lambda dot: -dot.share):
        colour = _COLOURS[groups.index(dot.group) % len(_COLOURS)]
        place = {"cx": f"{x(dot.intensity):.1f}", "cy": f"{y(dot.gflops):.1f}"}
        radius = 3 + 16 * math.sqrt(dot.share)
        parts.append(
            tag(
                "circle",
                tag("title", text(dot.tip)),
                **place,
                r=f"{radius:.1f}",
                fill=colour,
                fill_opacity=0.55,
                stroke=colour,
            )
        )
    for number, group in enumerate(groups):
        colour = _COLOURS[number % len(_COLOURS)]
        # Where kernels are rare: many flops per byte, and slow all the same.
        left, middle = _WIDTH - _RIGHT - 250, floor - 12 - 18 * (len(groups) - 1 - number)
        parts.append(tag("circle", cx=left, cy=f"{middle:.0f}", r=5, fill=colour))
        parts.append(_label(left + 12, middle + 4, group, "start"))
    parts.append(_label(_WIDTH / 2, height - 4, "flops per byte"))
    return _svg(height, "".join(parts), "roofline")
