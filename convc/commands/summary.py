"""`convc summary`: a net layer by layer."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.commands.options import add_batch, add_net_options, open_net
from convc.commands.output import (
    format_bytes,
    format_count,
    format_table,
    print_json,
    refuse_input,
    table_as_csv,
    table_as_html,
)

if TYPE_CHECKING:
    from convc.passes.receptive_field import ReceptiveField
    from convc.passes.summary import Layer, Summary

_STANDARD_OUTPUT = "-"
_HEADER = (
    "layer",
    "line",
    "input",
    "output",
    "params",
    "MACs",
    "activations",
    "sees",
    "every",
    "from",
    "sparse",
    "dense",
)
_COLUMNS = (
    "name",
    "kind",
    "line",
    "input",
    "output",
    "params",
    "macs",
    "activation_bytes",
    "receptive_field",
    "receptive_field_stride",
    "receptive_field_offset",
    "dense_weights",
    "sparse_weights",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    add_net_options(parser)
    add_batch(parser, "the file's, else 64")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    for option, what in (("--csv", "comma-separated values"), ("--html", "a web page")):
        text = f"write {what} to OUT, or to the standard output"
        form.add_argument(option, nargs="?", metavar="OUT", const=_STANDARD_OUTPUT, help=text)


def run(arguments: argparse.Namespace) -> int:
    from convc.passes.pipeline import Recipe
    from convc.passes.summary import summarize
    from convc.runtime.configuration import make_update

    refuse_input(arguments.file, arguments.csv or arguments.html or _STANDARD_OUTPUT)
    net = open_net(arguments)
    batch = arguments.batch or net.settings.batch
    # `pool max` and `pool avg` are of one kind, as in the names of layers.
    kinds = {layer.name: layer.kind.split()[0] for layer in net.layers}
    lines = {layer.name: layer.span.line for layer in net.layers}
    recipe = Recipe(make_update(net.settings), accumulate=net.settings.accumulate)
    summary = summarize(net.graph(batch), recipe, kinds, lines)
    if arguments.json:
        print_json(_as_json(summary))
    elif arguments.csv:
        _write(arguments.csv, table_as_csv(_COLUMNS, [_plain(layer) for layer in summary.layers]))
    elif arguments.html:
        title = f"{summary.net}, batch {summary.batch}"
        _write(
            arguments.html, table_as_html(title, _HEADER, [_row(layer) for layer in summary.layers], _totals(summary))
        )
    else:
        print(_as_text(summary))
    return 0


def _write(place: str, text: str) -> None:
    from convc.runtime.atomic import write_text

    if place == _STANDARD_OUTPUT:
        print(text, end="")
    else:
        write_text(Path(place), text)
        print(f"wrote {place}")


def _as_json(summary: Summary) -> dict[str, Any]:
    return {
        "net": summary.net,
        "batch": summary.batch,
        "layers": [_layer(layer) for layer in summary.layers],
        "total": {
            "params": summary.params,
            "macs": summary.macs,
            "activation_bytes": summary.activation_bytes,
            "training_bytes": summary.training_bytes,
            "inference_bytes": summary.inference_bytes,
        },
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "line": layer.line,
        "input": list(layer.input),
        "output": list(layer.output),
        "params": layer.params,
        "macs": layer.macs,
        "activation_bytes": layer.activation_bytes,
        "receptive_field": _field(layer.receptive_field),
        "dense_weights": layer.dense_weights,
        "sparse_weights": layer.sparse_weights,
    }


def _field(field: ReceptiveField | None) -> dict[str, list[int | float]] | None:
    if field is None:
        return None
    return {
        "size": list(field.size),
        "stride": [float(stride) if isinstance(stride, Fraction) else stride for stride in field.stride],
        "offset": list(field.offset),
    }


def _plain(layer: Layer) -> tuple[str, ...]:
    """The cells of a row for programs: numbers without separators."""
    return (
        layer.name,
        layer.kind,
        str(layer.line or ""),
        _shape(layer.input),
        _shape(layer.output),
        str(layer.params),
        str(layer.macs),
        str(layer.activation_bytes),
        *_field_cells(layer.receptive_field),
        str(layer.dense_weights),
        str(layer.sparse_weights),
    )


def _row(layer: Layer) -> tuple[str, ...]:
    """The cells of a row for people."""
    return (
        layer.name,
        str(layer.line or ""),
        _shape(layer.input),
        _shape(layer.output),
        format_count(layer.params) if layer.params else "",
        format_count(layer.macs) if layer.macs else "",
        format_bytes(layer.activation_bytes) if layer.activation_bytes else "",
        *_field_cells(layer.receptive_field),
        format_count(layer.sparse_weights) if layer.sparse_weights else "",
        format_count(layer.dense_weights) if layer.dense_weights else "",
    )


def _field_cells(field: ReceptiveField | None) -> tuple[str, str, str]:
    """Size, stride and offset, as one number where both axes agree."""
    if field is None:
        return "", "", ""
    vertical, horizontal = field.offset
    offset = f"{vertical}" if vertical == horizontal else f"{vertical},{horizontal}"
    down, across = (f"{stride}" for stride in field.stride)
    return _shape(field.size), down if down == across else f"{down}x{across}", offset


def _as_text(summary: Summary) -> str:
    rows = [_row(layer) for layer in summary.layers]
    heading = f"{summary.net}, batch {summary.batch}"
    return "\n".join((heading, "", format_table(_HEADER, rows), "", *_totals(summary)))


def _totals(summary: Summary) -> tuple[str, ...]:
    memory = f"activations {format_bytes(summary.activation_bytes)}"
    memory += f"; memory for inference about {format_bytes(summary.inference_bytes)}"
    if summary.training_bytes is not None:
        memory += f", for training about {format_bytes(summary.training_bytes)}"
    work = f"{format_count(summary.params)} parameters, {format_count(summary.macs)} multiply-adds per image"
    return work, memory


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "-"
