"""`convc docs`: the words of the language, from the tables of the checker."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from convc.commands.manual import manual
from convc.commands.output import format_table, print_json
from convc.commands.parser import UsageError

if TYPE_CHECKING:
    from convc.frontend.reference import Argument, Entry

_HEADINGS = {
    "item": "items of a file",
    "layer": "layers",
    "statement": "statements",
    "function": "in expressions",
    "setting": "settings of train",
    "step": "steps of augment and test",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        metavar="WORD",
        nargs="*",
        help="a layer (conv, pool max), setting (optim adam), statement (residual) or function (min)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--markdown", action="store_true", help="print the page of a manual")


def run(arguments: argparse.Namespace) -> int:
    from convc.frontend.hints import did_you_mean
    from convc.frontend.reference import entries, find, known_words

    words = " ".join(arguments.words).split()
    found = find(words) if words else entries()
    if not found:
        hint = did_you_mean(" ".join(words), known_words()) or did_you_mean(words[0], known_words())
        raise UsageError(f"the language has no word {' '.join(words)!r}", hint or "`convc docs` lists all of them")
    if arguments.json:
        print_json({"entries": [asdict(entry) for entry in found]})
    elif arguments.markdown:
        print(manual(found, _HEADINGS), end="")
    elif sys.stdout.isatty():
        _print_rich(found, bool(words))
    elif words:
        print("\n\n".join(map(_described, found)))
    else:
        print(_overview(found))
    return 0


# Plain text


def _overview(found: Sequence[Entry]) -> str:
    parts: list[str] = []
    width = max(len(entry.title) for entry in found)
    for kind, heading in _HEADINGS.items():
        lines = [f"  {entry.title:<{width}}  {entry.doc}" for entry in found if entry.kind == kind]
        parts.append("\n".join([heading, *lines]))
    return "\n\n".join([*parts, "convc docs WORD tells more."])


def _described(entry: Entry) -> str:
    parts = [f"{entry.signature}\n  {entry.doc}  ({entry.kind})"]
    if entry.arguments:
        parts.append(_table("arguments", entry.arguments))
    if entry.common:
        parts.append(_table(f"every {entry.kind} takes", entry.common))
    if entry.notes:
        parts.append(_indented("notes", "\n".join(entry.notes)))
    parts.append(_indented("example", entry.example))
    return "\n\n".join(parts)


def _indented(heading: str, text: str) -> str:
    return f"{heading}\n" + "\n".join(f"  {line}".rstrip() for line in text.split("\n"))


def _rows(arguments: Sequence[Argument]) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"{argument.name}, {argument.long}" if argument.long else argument.name,
            "required" if argument.default is None else argument.default,
            argument.takes,
            argument.doc,
        )
        for argument in arguments
    ]


_COLUMNS = ("argument", "default", "takes", "meaning")


def _table(heading: str, arguments: Sequence[Argument]) -> str:
    text = format_table((heading, *_COLUMNS[1:]), [(f"  {row[0]}", *row[1:]) for row in _rows(arguments)], (0, 1, 2, 3))
    return text


# On a terminal


def _print_rich(found: Sequence[Entry], in_full: bool) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def table(heading: str, arguments: Sequence[Argument]) -> None:
        columns = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in (heading, *_COLUMNS[1:]):
            columns.add_column(name)
        for name, default, takes, doc in _rows(arguments):
            columns.add_row(Text(f"  {name}", "cyan"), Text(default), Text(takes), Text(doc))
        console.print(columns)
        console.print()

    def section(heading: str, text: str, style: str = "") -> None:
        console.print(Text(heading, "dim"))
        console.print(Padding(Text(text, style), (0, 0, 0, 2)))

    if not in_full:
        for kind, heading in _HEADINGS.items():
            console.print(Text(heading, "bold"))
            columns = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            for entry in found:
                if entry.kind == kind:
                    columns.add_row(Text(f"  {entry.title}", "cyan"), Text(entry.doc))
            console.print(columns)
            console.print()
        console.print(Text("convc docs WORD tells more.", "dim"))
        return
    for i, entry in enumerate(found):
        if i:
            console.rule(style="dim")
        console.print(Text(entry.signature, "bold"))
        console.print(Padding(Text(f"{entry.doc}  ({entry.kind})"), (0, 0, 1, 2)))
        if entry.arguments:
            table("argument", entry.arguments)
        if entry.common:
            table(f"every {entry.kind} takes", entry.common)
        if entry.notes:
            section("notes", "\n".join(entry.notes))
            console.print()
        section("example", entry.example, "green")
