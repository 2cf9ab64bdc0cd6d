"""`convc opt`: passes on a graph given as text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.options import add_json, add_passes, add_verify_numerics
from convc.commands.output import print_json
from convc.commands.parser import UsageError
from convc.commands.reports import pass_as_json

if TYPE_CHECKING:
    import numpy as np

    from convc.passes.base import Pass

_STANDARD = "-"  # input or output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="IR text, as `convc compile --emit ir` writes it; - is the standard input"
    )
    add_passes(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", default=_STANDARD, help="an .ir file (default: standard output)"
    )
    parser.add_argument("--dump-dir", type=Path, metavar="D", help="write the graph after every pass, and what changed")
    add_verify_numerics(parser)
    add_json(parser)


def _over_graph(text: str) -> Pass:
    from convc.ir.diagnostic import fail
    from convc.passes.base import Pass
    from convc.passes.registry import parse_pass

    step = parse_pass(text)
    if not isinstance(step, Pass):
        message = f"the pass `{step.name}` cannot be used here: it plans a program for a processor"
        fail("unavailable-pass", message, hint="`convc compile FILE -p …` runs it")
    return step


def run(arguments: argparse.Namespace) -> int:
    from convc.ir.printer import print_ir
    from convc.passes.dump import Dump
    from convc.passes.manager import PassManager
    from convc.runtime.ir_file import decode_ir, read_ir, write_ir
    from convc.runtime.numerics import NumericsCheck

    if arguments.json and arguments.output == _STANDARD:
        raise UsageError("--json and the graph cannot both be printed", "-o OUT writes the graph to a file")
    passes = [_over_graph(text) for text in arguments.passes or ()]
    if arguments.file == _STANDARD:
        graph = decode_ir(sys.stdin.buffer.read(), "<stdin>")
    else:
        graph = read_ir(Path(arguments.file))
    check = NumericsCheck(bisect=arguments.bisect) if arguments.verify_numerics or arguments.bisect else None
    dump = Dump(arguments.dump_dir) if arguments.dump_dir else None
    reports = PassManager(passes, dump=dump, watch=check).run(graph)
    for line in check.lines() if check is not None else ():
        print(line, file=sys.stderr)
    if arguments.output == _STANDARD:
        constants: dict[str, np.ndarray] = {}
        print(print_ir(graph, constants), end="")
        if constants:
            warning = f"{len(constants)} large constant(s) are not in the text; -o OUT writes a file for them"
            print(f"warning: {warning}", file=sys.stderr)
        for report in reports:
            for entry in report.log.entries:
                print(f"{report.name}: {entry}", file=sys.stderr)
        return 0
    written = write_ir(Path(arguments.output), graph)
    if arguments.json:
        print_json({"passes": [pass_as_json(report) for report in reports]})
    else:
        for path in written:
            print(f"wrote {path}")
    return 0
