"""A net as a drawing, with what it comes to below its title."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convc.commands.drawing.diagram import diagram
from convc.commands.drawing.layout import layout
from convc.commands.drawing.svg import svg
from convc.commands.output import format_count
from convc.passes.summary import Layer, layer_rows

if TYPE_CHECKING:
    from convc.frontend.net import Net


def rows_of(net: Net) -> list[Layer]:
    """The layers of a net for one image, with the words and lines of its text."""
    kinds = {layer.name: layer.kind.split()[0] for layer in net.layers}
    return list(layer_rows(net.graph(1), kinds, {layer.name: layer.span.line for layer in net.layers}))


def picture(net: Net, depth: int | None = None) -> str:
    """The drawing as SVG; blocks deeper than `depth` are a box each."""
    rows = rows_of(net)
    params, macs = sum(row.params for row in rows), sum(row.macs for row in rows)
    description = f"{format_count(params)} parameters, {format_count(macs)} multiply-adds per image"
    return svg(layout(diagram(net.graph(1), rows, depth)), description)
