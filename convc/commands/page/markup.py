"""A few words for writing HTML: everything that comes from outside goes through `text`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def text(value: object) -> str:
    """The characters of a value, harmless inside elements and attributes."""
    return escape(str(value), quote=True)


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element around markup. `class_` is class, `data_line` data-line; None leaves an attribute out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{shown}>{content}</{name}>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are markup; the columns in `numbers` are flush right."""

    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(tag(kind, cell, class_="number" if i in numbers else None) for i, cell in enumerate(row))

    body = "".join(tag("tr", cells("td", row)) for row in rows)
    return tag("table", tag("thead", tag("tr", cells("th", header))) + tag("tbody", body))


def fold(summary: str, content: str, anchor: str | None = None, opened: bool = False) -> str:
    """A part that opens on a click."""
    return tag("details", tag("summary", summary) + content, id=anchor, open="" if opened else None)


def section(title: str, anchor: str, lead: str, content: str) -> str:
    """A heading, a paragraph that says how to read what follows, and that."""
    return tag("section", tag("h2", text(title)) + tag("p", text(lead), class_="lead") + content, id=anchor)
