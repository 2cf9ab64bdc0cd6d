"""`convc import`: an ONNX model as an editable .cnn file with weights beside it, or as IR."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.output import format_bytes, format_count
from convc.commands.parser import UsageError

if TYPE_CHECKING:
    from convc.frontend.onnx import ImportedNet
    from convc.ir.graph import Graph

_TEXT, _IR, _WEIGHTS = ".cnn", ".ir", ".safetensors"
_ORIGIN = "imported_from"  # in the weights' metadata
_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an .onnx file")
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", required=True, help="the .cnn (or .ir) file to write")
    parser.add_argument(
        "--weights", type=Path, metavar="W", help="safetensors file for the weights (default: OUT.safetensors, if new)"
    )
    parser.add_argument("--input", type=_shape, metavar="CxHxW", help="sizes of an image that the model leaves open")
    parser.add_argument("--output", metavar="NAME", help="which output, or other value of the model, the net ends in")
    parser.add_argument(
        "--keep-names", action="store_true", help="keep the model's names of layers with name= instead of numbering"
    )


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split("x")
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() and 0 < len(part) < 10 for part in parts):
        raise argparse.ArgumentTypeError(f"a shape such as 3x224x224 is needed, not {text!r}")
    return tuple(map(int, parts))


def run(arguments: argparse.Namespace) -> int:
    from convc.frontend.onnx import from_onnx
    from convc.ir.diagnostic import CompileError, fail, render

    out: Path = arguments.out
    if out.suffix not in (_TEXT, _IR):
        raise UsageError(f"-o {out}: the file to write ends in {_TEXT} or {_IR}")
    weights: Path = arguments.weights or out.with_suffix(_WEIGHTS)
    try:
        net = from_onnx(arguments.model, input_shape=arguments.input, output=arguments.output)
    except CompileError as error:
        # All of them, however many: the list is what one has to work through.
        print(render(error.diagnostics, error.sources), file=sys.stderr)
        return 1
    if arguments.weights is None and not _may_replace(weights):
        fail(
            "file-exists", f"{weights} exists already, and no import wrote it", hint=f"--weights {weights} replaces it"
        )
    if net.warnings:
        print(render(net.warnings, net.sources), file=sys.stderr)
    graph = net.graph(1)
    text, names = (None, None) if out.suffix == _IR else _text(graph, keep_names=arguments.keep_names)
    if text is None or names is None:
        out = out.with_suffix(_IR)
        names = {name: name for name in graph.parameters}
    _write_weights(weights, net, names)
    for path in [_write_text(out, text)] if text is not None else _write_ir(out, graph):
        print(f"wrote {path}")
    count = sum(array.size for array in net.weights.values())
    print(f"wrote {weights}: {format_count(count)} numbers, {format_bytes(weights.stat().st_size)}")
    return 0


def _may_replace(path: Path) -> bool:
    """Weights that nobody named are written over those of an earlier import only."""
    from convc.ir.diagnostic import CompileError
    from convc.runtime.checkpoint import read_checkpoint

    if not path.exists():
        return True
    try:
        return _ORIGIN in read_checkpoint(path).metadata
    except CompileError:
        return False


def _text(graph: Graph, *, keep_names: bool) -> tuple[str | None, dict[str, str] | None]:
    """The .cnn text and the names that parameters have in it; None where the language has no words for a node."""
    from convc.frontend.decompile import decompile
    from convc.ir.diagnostic import CompileError

    try:
        result = decompile(graph, keep_names=keep_names)
    except CompileError as error:
        reasons = list(dict.fromkeys(diagnostic.message for diagnostic in error.diagnostics))
        print("the language has no words for all of this net, so it is written as IR:", file=sys.stderr)
        for reason in reasons[:_SHOWN]:
            print(f"  {reason}", file=sys.stderr)
        if len(reasons) > _SHOWN:
            print(f"  and {len(reasons) - _SHOWN} more; `convc decompile` lists all of them", file=sys.stderr)
        return None, None
    return result.text, dict(result.names)


def _write_text(path: Path, text: str) -> Path:
    from convc.runtime.atomic import write_text

    write_text(path, text)
    return path


def _write_ir(path: Path, graph: Graph) -> list[Path]:
    """The graph, and the arrays of its large constants beside it."""
    import numpy as np

    from convc.ir.printer import print_ir
    from convc.runtime.atomic import replaced, write_text

    constants: dict[str, np.ndarray] = {}
    write_text(path, print_ir(graph, constants))
    if not constants:
        return [path]
    beside = path.with_name(path.name + ".constants.npz")
    with replaced(beside) as temporary, open(temporary, "wb") as file:
        np.savez(file, **constants)  # type: ignore[arg-type]
    return [path, beside]


def _write_weights(path: Path, net: ImportedNet, names: Mapping[str, str]) -> None:
    from convc.runtime.checkpoint import write_checkpoint

    arrays = {names[name]: array for name, array in net.weights.items()}
    write_checkpoint(path, arrays, {"kind": "weights", "net": net.name, _ORIGIN: Path(net.path).name})
