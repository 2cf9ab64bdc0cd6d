"""docs/diagnostics.md lists every code that the package uses, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from convc.frontend.layers import BY_WORD

_PREFIXES = (
    "assert|budget|checkpoint|data|failed|file|mismatched|missing|name|onnx|platform|redundant|shape|suspicious|syntax|"
    "train|type|unavailable|unsupported|unused|value|verify"
)
_CODE = re.compile(rf"(?:{_PREFIXES})(?:-[a-z]+)+")
# Words of this form that are no codes: passes, events, packages.
_OTHERS = {"value-error"}


def used(package: Path) -> set[str]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py"))
    texts = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and _CODE.fullmatch(text)} - _OTHERS


def documented(page: Path) -> set[str]:
    rows = re.findall(r"^\| (`.*?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([\w-]+)`", row)}


def test_every_code_is_documented_and_every_documented_code_is_used(repository: Path) -> None:
    known, listed = used(repository / "convc"), documented(repository / "docs" / "diagnostics.md")
    assert known - listed == set()
    # Codes made of the word of a layer or join.
    by_word = {f"shape-{word}" for word in (*BY_WORD, "add", "mul")}
    assert "shape-WORD" in listed
    assert listed - known - by_word == {"shape-WORD"}
