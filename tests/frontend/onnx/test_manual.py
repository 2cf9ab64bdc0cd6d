"""docs/onnx.md shows the table of operators as it is, and says what the code says."""

from __future__ import annotations

from pathlib import Path

from convc.frontend.onnx.folding import FOLDS
from convc.frontend.onnx.model import NEWEST, OLDEST
from convc.frontend.onnx.table import OPERATORS


def rows() -> list[str]:
    """The table that the page has to hold."""
    return [
        f"| {name} | {', '.join(f'`{attribute}`' for attribute in operator.attributes)} | {operator.limits} |"
        for name, operator in sorted(OPERATORS.items(), key=lambda item: item[0].lower())
    ]


def page(repository: Path) -> str:
    return (repository / "docs" / "onnx.md").read_text(encoding="utf-8")


def test_the_page_shows_the_table(repository: Path) -> None:
    text = page(repository)
    section = text[text.index("| operator | attributes | limits |") :].split("\n\n")[0]
    assert section.splitlines()[2:] == rows()


def test_the_page_lists_what_is_computed_beforehand(repository: Path) -> None:
    text = page(repository)
    line = next(line for line in text.splitlines() if line.startswith("Abs, Add, And"))
    assert line == ", ".join(sorted({*FOLDS, "Constant"})) + "."


def test_the_page_names_the_opsets(repository: Path) -> None:
    assert f"opset {OLDEST} to {NEWEST}" in page(repository)
