"""A laid-out diagram as SVG: text that stays text, a tool tip for every box, nothing that needs another file."""

from __future__ import annotations

from html import escape

from convc.commands.drawing.diagram import Box
from convc.commands.drawing.layout import LINE, Layout, Placed, Point, texts
from convc.commands.output import format_count
from convc.passes.summary import Layer

# Every rule begins with .net: inside a page the style of a drawing reaches the whole page.
_STYLE = """
  .net text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1c1e21; }
  .net .shape, .net .group > text { fill: #666c75; }
  .net .group > rect { fill: #8a94a6; fill-opacity: .08; stroke: #8a94a6; stroke-opacity: .6; rx: 8px; }
  .net .box > rect { stroke: #4a515c; rx: 4px; }
  .net .line { fill: none; stroke: #5b6470; stroke-width: 1.3; marker-end: url(#arrow); }
  .net .line.open { marker-end: none; }
"""
_ARROW = """\
<defs>
  <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
    <path d="M0,0 L8,4 L0,8 z" fill="#5b6470"/>
  </marker>
</defs>"""
_FILLS = {
    "input": "#ffffff",
    "conv": "#cfe2ff",
    "deconv": "#bfd7f5",
    "fc": "#e3d5f7",
    "pool": "#d3efd7",
    "upsample": "#d3efd7",
    "bn": "#fff3cd",
    "lrn": "#fff3cd",
    "loss": "#f8d7da",
    "add": "#e6e8eb",
    "mul": "#e6e8eb",
    "concat": "#e6e8eb",
    "block": "#f1f3f6",
}
_OTHER = "#ffe5cc"


def svg(layout: Layout, description: str) -> str:
    """The whole drawing. `description` is one line below the title, for people and screen readers."""
    width, height = layout.width, layout.height + LINE * 2
    size = f'width="{width:.0f}" height="{height:.0f}"'
    view = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="net" role="img" {size} {view}>',
        f"<title>{escape(layout.group.title)}</title>",
        f"<desc>{escape(description)}</desc>",
        f"<style>{_STYLE}</style>",
        _ARROW,
        f'<rect {size} fill="#fff"/>',
        f'<text x="10" y="{LINE:.0f}">{escape(layout.group.title)}</text>',
        f'<text class="shape" x="10" y="{2 * LINE - 1:.0f}">{escape(description)}</text>',
        f'<g transform="translate(0,{2 * LINE:.0f})">',
        *_content(layout),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _content(layout: Layout) -> list[str]:
    parts: list[str] = []
    for placed in layout.items:
        parts += _box(placed) if placed.inside is None else _group(placed, placed.inside)
    for line, (_, end) in zip(layout.lines, layout.group.edges, strict=True):
        # A line that goes on inside a group, or outside of this one, has its head there.
        closed = isinstance(end, Box)
        parts.append(f'<path class="line{"" if closed else " open"}" d="{_path(line)}"/>')
    return parts


def _box(placed: Placed) -> list[str]:
    box = placed.item
    assert isinstance(box, Box)
    fill = _FILLS.get(box.kind, _OTHER)
    size = f'width="{placed.width:.1f}" height="{placed.height:.1f}"'
    middle, shown = placed.x + placed.width / 2, texts(box)
    parts = [
        '<g class="box">',
        f"<title>{escape(_tip(box))}</title>",
        f'<rect x="{placed.x:.1f}" y="{placed.y:.1f}" {size} fill="{fill}"/>',
    ]
    for number, text in enumerate(shown, 1):
        y = placed.y + number * LINE + 1
        style = ' class="shape"' if number > len(box.lines) else ""
        parts.append(f'<text{style} x="{middle:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>')
    return [*parts, "</g>"]


def _group(placed: Placed, inside: Layout) -> list[str]:
    return [
        f'<g class="group" transform="translate({placed.x:.1f},{placed.y:.1f})">',
        f'<rect width="{placed.width:.1f}" height="{placed.height:.1f}"/>',
        f'<text x="8" y="{LINE:.0f}">{escape(inside.group.title)}</text>',
        *_content(inside),
        "</g>",
    ]


def _path(line: list[Point]) -> str:
    """Curves that begin and end upright."""
    (x, y), *rest = line
    path = f"M{x:.1f},{y:.1f}"
    for to_x, to_y in rest:
        if abs(to_x - x) < 0.5:
            path += f" L{to_x:.1f},{to_y:.1f}"
        else:
            half = (y + to_y) / 2
            path += f" C{x:.1f},{half:.1f} {to_x:.1f},{half:.1f} {to_x:.1f},{to_y:.1f}"
        x, y = to_x, to_y
    return path


def _tip(box: Box) -> str:
    return "\n".join(map(_line, box.layers))


def _line(layer: Layer) -> str:
    place = f" (line {layer.line})" if layer.line else ""
    sizes = f"{_sizes(layer.input)} to {_sizes(layer.output)}" if layer.kind != "input" else _sizes(layer.output)
    weights = f", {format_count(layer.params)} parameters" if layer.params else ""
    work = f", {format_count(layer.macs)} multiply-adds" if layer.macs else ""
    return f"{layer.name}{place}: {sizes}{weights}{work}"


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
