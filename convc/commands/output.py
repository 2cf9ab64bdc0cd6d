"""How verbs print: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convc.commands.parser import UsageError

SCHEMA = 1


def print_json(content: Mapping[str, Any]) -> None:
    """One object on one line, `"schema": 1` first. Numbers that JSON cannot hold (infinity, NaN) become null."""
    print(json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """What `print_json` prints."""
    return json.dumps(_plain({"schema": SCHEMA, **content}), allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns as wide as their widest cell; those in `left` flush left, the others (numbers) flush right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def refuse_input(source: str | Path, output: str | Path, hint: str = "name another one") -> None:
    """Refuse an output that is the file which is read."""
    if Path(source).exists() and Path(output).exists() and Path(source).samefile(output):
        raise UsageError(f"{output} is the file that is read", hint)


def table_as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """RFC 4180, with line feeds."""
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((header, *rows))
    return text.getvalue()


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
  body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #1c1e21; background: #fff; }}
  table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
  th, td {{ padding: 2px 10px; text-align: right; white-space: nowrap; }}
  th:first-child, td:first-child {{ text-align: left; font-family: ui-monospace, monospace; }}
  th {{ position: sticky; top: 0; background: #eef0f3; }}
  tr:nth-child(even) td {{ background: #f7f8fa; }}
</style>
<h1>{title}</h1>
<table>
<thead><tr>{header}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
{notes}
</html>
"""


def table_as_html(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A web page that needs nothing else: a heading, the table, a paragraph for each note."""
    from html import escape

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)

    return _PAGE.format(
        title=escape(title),
        header=cells("th", header),
        rows="\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in notes),
    )


def format_bytes(count: int) -> str:
    """`1.5 MiB`, with three digits."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000 or unit == "TiB":
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def format_count(count: int) -> str:
    """`431,080`."""
    return f"{count:,}"
