"""The reference page of the manual: all words of the language as Markdown, from the tables of the checker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convc.frontend.reference import Argument, Entry

_HEAD = """\
# Every word of the language

Made by `convc docs --markdown` from the tables that the checker reads; a test keeps it true, and every example is
compiled by a test. An argument in capitals is given by its place, the others as `key=value`; what has no default must
be given. [The language](language.md) explains how the words go together.
"""


def manual(entries: Sequence[Entry], headings: Mapping[str, str]) -> str:
    """The whole page; `headings` are those of the kinds of entries, in their order."""
    parts = [_HEAD]
    for kind, heading in headings.items():
        found = [entry for entry in entries if entry.kind == kind]
        parts.append(f"## {heading[0].upper()}{heading[1:]}\n")
        if found and found[0].common:
            parts += [f"Every {kind} takes, besides its own arguments:\n", *_table(found[0].common)]
        parts += [_section(entry) for entry in found]
    return "\n".join(parts)


def _section(entry: Entry) -> str:
    lines = [f"### {entry.title}\n", f"`{entry.signature}` — {entry.doc}.\n"]
    if entry.arguments:
        lines += _table(entry.arguments)
    lines += [f"* {note}" for note in entry.notes]
    if entry.notes:
        lines.append("")
    return "\n".join([*lines, "```", entry.example, "```", ""])


def _table(arguments: Sequence[Argument]) -> list[str]:
    rows = ["| argument | default | takes | meaning |", "|---|---|---|---|"]
    for argument in arguments:
        name = f"`{argument.name}`" + (f", `{argument.long}`" if argument.long else "")
        default = "required" if argument.default is None else f"`{argument.default}`" if argument.default else ""
        rows.append(f"| {name} | {default} | {_cell(argument.takes)} | {_cell(argument.doc)} |")
    return [*rows, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
