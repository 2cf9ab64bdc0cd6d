"""`convc decompile`: a graph back to a `.cnn` file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.options import add_net_options, limits_of, open_net
from convc.commands.output import refuse_input
from convc.commands.parser import UsageError

if TYPE_CHECKING:
    from convc.ir.graph import Graph

_STANDARD = "-"  # input or output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="IR text, or a .cnn file; - stands for IR on the standard input")
    parser.add_argument("-o", "--output", metavar="OUT", default="-", help="a .cnn file (default: standard output)")
    parser.add_argument(
        "--renumber", action="store_true", help="number all layers instead of keeping names that need a name="
    )
    add_net_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.frontend.decompile import decompile
    from convc.ir.diagnostic import CompileError, render

    graph, settings = _graph(arguments)
    try:
        result = decompile(graph, settings=settings, keep_names=not arguments.renumber, limits=limits_of(arguments))
    except CompileError as error:
        # All of them, however many: the list is what one has to work through.
        print(render(error.diagnostics, error.sources), file=sys.stderr)
        return 1
    if arguments.output == _STANDARD:
        sys.stdout.write(result.text)
    else:
        from convc.runtime.atomic import write_text

        refuse_input(arguments.file, arguments.output)
        write_text(Path(arguments.output), result.text)
        print(f"wrote {arguments.output}")
    if result.renamed:
        old, new = next(iter(result.renamed.items()))
        print(f"{len(result.renamed)} parameters have new names: {old} is {new}", file=sys.stderr)
    return 0


def _graph(arguments: argparse.Namespace) -> tuple[Graph, str | None]:
    """The graph, and the settings that a `.cnn` file has for it."""
    if Path(arguments.file).suffix == ".cnn":
        from convc.frontend.decompile import forward_graph, settings_text

        net = open_net(arguments)
        return forward_graph(net, 1), settings_text(net)
    given = [option for option in ("net", "set", "strict") if getattr(arguments, option)]
    if given:
        raise UsageError(f"--{given[0]} belongs to a .cnn file, and {arguments.file} is read as IR")
    from convc.runtime.ir_file import decode_ir, read_ir

    if arguments.file == _STANDARD:
        return decode_ir(sys.stdin.buffer.read(), "<stdin>"), None
    return read_ir(Path(arguments.file)), None
