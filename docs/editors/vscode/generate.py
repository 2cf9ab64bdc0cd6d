"""Writes syntaxes/cnn.tmLanguage.json: the colours of `.cnn` files, with the words of convc's own tables.

    python docs/editors/vscode/generate.py

The regular expressions keep to what Oniguruma (VS Code) and Python understand alike: a test tries them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convc.frontend.expressions import FUNCTIONS
from convc.frontend.layers import LAYERS
from convc.frontend.parser import ITEM_WORDS
from convc.frontend.setting_kinds import PIPELINES, SETTINGS
from convc.frontend.statement_parser import STATEMENT_WORDS

TARGET = Path(__file__).parent / "syntaxes" / "cnn.tmLanguage.json"
_OPERATORS = ("and", "or", "not", "in")
_CONTROL = ("repeat", "for", "if", "else", "assert", "use", "refine")
_NAME = "[A-Za-z_][A-Za-z_0-9]*"
_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"


def grammar() -> dict[str, Any]:
    """The content of the file. Of the rules, at each place the first that matches there counts."""
    topology = [word for word in STATEMENT_WORDS if word not in (*_CONTROL, "let")]
    layers = [kind.word for kind in LAYERS]
    settings = [kind.word for kind in SETTINGS] + list(PIPELINES)
    steps = [step.word for pipeline in PIPELINES.values() for step in pipeline]
    choices = sorted({word for kind in (*LAYERS, *SETTINGS) for p in kind.parameters for word in p.kind.words})
    choices += sorted({kind.variant for kind in (*LAYERS, *SETTINGS) if kind.variant})
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "cnn",
        "scopeName": "source.cnn",
        "fileTypes": ["cnn"],
        "patterns": [
            _rule("comment.line.number-sign", "#.*$"),
            {
                "name": "string.quoted.double.cnn",
                "begin": '"',
                "end": '"|$',
                "patterns": [
                    _rule("constant.character.escape", r"\\."),
                    _rule("variable.other.interpolation", r"\{[^{}\"]*\}"),
                ],
            },
            {
                "match": rf"\b(net|block)[ \t]+({_NAME})",
                "captures": {"1": {"name": "storage.type.cnn"}, "2": {"name": "entity.name.function.cnn"}},
            },
            {
                "match": rf"\b(let)[ \t]+({_NAME})",
                "captures": {"1": {"name": "storage.type.cnn"}, "2": {"name": "variable.other.constant.cnn"}},
            },
            {
                "match": rf"\b(as|from|shared|reuse)[ \t]+({_NAME})",
                "captures": {"1": {"name": "keyword.control.cnn"}, "2": {"name": "variable.other.cnn"}},
            },
            _rule("variable.parameter", rf"\b{_NAME}(?=[ \t]*=(?!=))"),
            _words("storage.type", [word for word in ITEM_WORDS if word not in ("use", "let")]),
            _words("constant.language", ("yes", "no")),
            _words("keyword.operator.word", _OPERATORS),
            _words("keyword.control", (*_CONTROL, "let")),
            _words("keyword.control", topology),
            _words("support.function", FUNCTIONS, r"(?=\()"),
            _words("support.function.layer", layers),
            _words("support.type.setting", (*settings, *steps)),
            _words("support.constant", choices),
            _rule("constant.numeric.duration", rf"{_NUMBER}[es](?![A-Za-z_0-9]|[+-][0-9])"),
            _rule("constant.numeric.dimensions", r"\b[0-9]+(?:x[0-9]+)+(?![A-Za-z_0-9])"),
            _rule("constant.numeric", rf"(?<![A-Za-z_0-9]){_NUMBER}(?:[eE][+-]?[0-9]+)?(?![A-Za-z_0-9])"),
            _rule("keyword.operator.arrow", "->"),
            _rule("keyword.operator", r"\.\.|\*\*|//|==|!=|<=|>=|[-+*/%<>=]"),
            _rule("entity.name.function", rf"\b{_NAME}(?=\()"),
        ],
    }


def _rule(scope: str, pattern: str) -> dict[str, str]:
    return {"name": f"{scope}.cnn", "match": pattern}


def _words(scope: str, words: Iterable[str], behind: str = r"\b") -> dict[str, str]:
    # The longest first: an alternative that matches ends the search.
    unique = sorted(set(words), key=lambda word: (-len(word), word))
    return _rule(scope, rf"\b(?:{'|'.join(map(re.escape, unique))}){behind}")


def text() -> str:
    """The text of the file."""
    return json.dumps(grammar(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
