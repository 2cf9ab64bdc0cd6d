"""`convc check`: the mistakes in `.cnn` files."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from convc.commands.options import add_limit, limits_of
from convc.commands.output import print_json

if TYPE_CHECKING:
    from convc.ir.diagnostic import Diagnostic
    from convc.ir.span import Span


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help=".cnn files")
    parser.add_argument("--strict", action="store_true", help="take warnings as errors")
    add_limit(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from convc.frontend import check, sources_of
    from convc.frontend.hints import plural
    from convc.ir.diagnostic import render

    limits = limits_of(arguments)
    results: list[dict[str, Any]] = []
    for path in arguments.files:
        diagnostics = check([path], strict=arguments.strict, limits=limits)
        errors = [diagnostic for diagnostic in diagnostics if diagnostic.severity == "error"]
        results.append({"file": path, "ok": not errors, "diagnostics": [_as_json(d) for d in diagnostics]})
        if not arguments.json:
            if diagnostics:
                print(render(diagnostics, sources_of(diagnostics)), file=sys.stderr)
            if not errors:
                count = len(diagnostics)
                print(f"{path}: fine" + (f", but for {plural(count, 'warning')}" if count else ""))
    if arguments.json:
        print_json({"files": results})
    return 0 if all(result["ok"] for result in results) else 1


def _as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "severity": diagnostic.severity,
        "code": diagnostic.code,
        "message": diagnostic.message,
        **_place(diagnostic.span),
        "hint": diagnostic.hint,
        "notes": [{"message": note.message, **_place(note.span)} for note in diagnostic.notes],
    }


def _place(span: Span | None) -> dict[str, Any]:
    if span is None:
        return {"file": None, "line": None, "column": None, "end_line": None, "end_column": None}
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }
