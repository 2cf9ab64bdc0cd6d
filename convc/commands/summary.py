"""`convc summary`: a net layer by layer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from convc.commands.options import add_batch, add_json, add_net_options, open_net
from convc.commands.output import format_bytes, format_count, format_table, print_json

if TYPE_CHECKING:
    from convc.passes.receptive_field import ReceptiveField
    from convc.passes.summary import Layer, Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    add_net_options(parser)
    add_batch(parser, "the file's, else 64")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.passes.summary import summarize
    from convc.runtime.configuration import make_update

    net = open_net(arguments)
    batch = arguments.batch or net.settings.batch
    # `pool max` and `pool avg` are of one kind, as in the names of layers.
    kinds = {layer.name: layer.kind.split()[0] for layer in net.layers}
    summary = summarize(net.graph(batch), make_update(net.settings), kinds)
    if arguments.json:
        print_json(_as_json(summary))
    else:
        print(_as_text(summary))
    return 0


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


def _field(field: ReceptiveField | None) -> dict[str, list[int]] | None:
    if field is None:
        return None
    return {"size": list(field.size), "stride": list(field.stride), "offset": list(field.offset)}


def _as_text(summary: Summary) -> str:
    header = ("layer", "line", "input", "output", "params", "MACs", "activations", "sees", "sparse", "dense")
    rows = [
        (
            layer.name,
            str(layer.line or ""),
            _shape(layer.input),
            _shape(layer.output),
            format_count(layer.params) if layer.params else "",
            format_count(layer.macs) if layer.macs else "",
            format_bytes(layer.activation_bytes),
            _shape(layer.receptive_field.size) if layer.receptive_field else "",
            format_count(layer.sparse_weights) if layer.sparse_weights else "",
            format_count(layer.dense_weights) if layer.dense_weights else "",
        )
        for layer in summary.layers
    ]
    memory = f"activations {format_bytes(summary.activation_bytes)}"
    memory += f"; memory for inference about {format_bytes(summary.inference_bytes)}"
    if summary.training_bytes is not None:
        memory += f", for training about {format_bytes(summary.training_bytes)}"
    work = f"{format_count(summary.params)} parameters, {format_count(summary.macs)} multiply-adds per image"
    return "\n".join((f"{summary.net}, batch {summary.batch}", "", format_table(header, rows), "", work, memory))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "-"
