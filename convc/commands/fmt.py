"""`convc fmt`: `.cnn` files in canonical spelling."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.options import add_limit, limits_of

if TYPE_CHECKING:
    from convc.frontend.limits import Limits
    from convc.frontend.source import Source

STANDARD_INPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help=".cnn files; - stands for the standard input")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if anything would change")
    parser.add_argument("--diff", action="store_true", help="change nothing; show what would change")
    add_limit(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.ir.diagnostic import CompileError, render

    limits = limits_of(arguments)
    fine = True
    for name in dict.fromkeys(arguments.files):
        try:
            fine = _format(name, arguments.check, arguments.diff, limits) and fine
        except CompileError as error:
            # What is wrong with one file is no reason to leave the others alone.
            fine = False
            sys.stdout.flush()
            print(render(error.diagnostics, error.sources), file=sys.stderr)
    return 0 if fine else 1


def _format(name: str, check: bool, diff: bool, limits: Limits) -> bool:
    """Format one file; no if `check` finds that it would change. Raises a `CompileError` for a bad file."""
    from convc.frontend.formatter import format_text
    from convc.frontend.source import read_source

    source = _standard_input(limits) if name == STANDARD_INPUT else read_source(name, limits=limits)
    formatted = format_text(source.text, source.name, limits)
    changed = formatted != source.text
    if diff and changed:
        sys.stdout.write(_difference(source, formatted))
    if check:
        if changed:
            print(f"{source.name}: would change", file=sys.stderr if diff else sys.stdout)
        return not changed
    if diff:
        return True
    if name == STANDARD_INPUT:
        sys.stdout.write(formatted)
    elif changed:
        _compare(source, formatted, limits)
        _replace(name, formatted)
        print(f"{name}: changed")
    return True


def _standard_input(limits: Limits) -> Source:
    from convc.frontend.source import decode_source

    return decode_source("<stdin>", sys.stdin.buffer.read(limits.source_bytes + 1), limits=limits)


def _compare(source: Source, formatted: str, limits: Limits) -> None:
    """A user's file is replaced only after a look at what replaces it. A text at the limits may be beyond them now."""
    from convc.frontend.parser import parse
    from convc.frontend.source import Source
    from convc.frontend.syntax import same_syntax

    if not same_syntax(parse(source, limits), parse(Source(source.name, formatted), limits)):
        raise AssertionError(f"the formatted text of {source.name} would not mean the same; it was left alone")


def _replace(name: str, text: str) -> None:
    """New content for a file, which keeps its owner, its permissions and, behind symbolic links, its place."""
    from convc.ir.diagnostic import fail
    from convc.runtime.atomic import replaced

    status = os.stat(name)
    if not stat.S_ISREG(status.st_mode):
        fail("file-write", f"{name} is not a regular file; only those can be formatted in place", hint="convc fmt -")
    if not os.access(name, os.W_OK):
        fail("file-write", f"cannot write {name}: it is read-only")
    with replaced(Path(os.path.realpath(name))) as temporary:
        temporary.write_bytes(text.encode())
        with suppress(OSError):
            os.chown(temporary, status.st_uid, status.st_gid)  # root formats the files of others
        os.chmod(temporary, stat.S_IMODE(status.st_mode))


def _difference(source: Source, formatted: str) -> str:
    """A unified diff, as patch(1) reads it. Only line feeds end lines: a comment may hold other separators."""
    import difflib

    before, after = (text.split("\n") for text in (source.text, formatted))
    found = difflib.unified_diff(_lines(before), _lines(after), source.name, source.name)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in found)


def _lines(parts: list[str]) -> list[str]:
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
