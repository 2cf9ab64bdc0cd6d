"""The TextMate grammar: up to date, understood by Python's `re` as well, and right about sample lines."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "editors" / "vscode"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRAMMAR = json.loads((FOLDER / "syntaxes" / "cnn.tmLanguage.json").read_text(encoding="utf-8"))


def test_it_is_up_to_date() -> None:
    hint = "run python docs/editors/vscode/generate.py"
    assert (FOLDER / "syntaxes" / "cnn.tmLanguage.json").read_text(encoding="utf-8") == generator().text(), hint


def scopes(line: str) -> list[tuple[str, str]]:
    """(text, scope) of what the grammar colours in a line: at each place the first rule that matches, as editors do."""
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(line):
        rule, match = first(line, position, GRAMMAR["patterns"])
        if match is None:
            break
        position = max(match.end(), position + 1)
        if "begin" in rule:
            end = next(m.end() for m in re.finditer(r'\\.|"|$', line[position:]) if not m.group().startswith("\\"))
            found.append((line[match.start() : position + end], rule["name"]))
            position += end
        elif "captures" in rule:
            found += [(match.group(int(number)), scope["name"]) for number, scope in rule["captures"].items()]
        else:
            found.append((match.group(), rule["name"]))
    return [(text, scope.removesuffix(".cnn")) for text, scope in found]


def first(line: str, position: int, rules: list[dict[str, Any]]) -> tuple[dict[str, Any], re.Match[str] | None]:
    matches = [(re.compile(rule.get("match") or rule["begin"]).search(line, position), rule) for rule in rules]
    best = min(((m.start(), i) for i, (m, _) in enumerate(matches) if m is not None), default=None)
    return ({}, None) if best is None else (matches[best[1]][1], matches[best[1]][0])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "net lenet(classes = 10) {  # a net",
            [
                ("net", "storage.type"),
                ("lenet", "entity.name.function"),
                ("classes", "variable.parameter"),
                ("=", "keyword.operator"),
                ("10", "constant.numeric"),
                ("# a net", "comment.line.number-sign"),
            ],
        ),
        (
            "conv in//2 k=(3, 5) pad=same -> relu6",
            [
                ("conv", "support.function.layer"),
                ("in", "keyword.operator.word"),
                ("//", "keyword.operator"),
                ("2", "constant.numeric"),
                ("k", "variable.parameter"),
                ("=", "keyword.operator"),
                ("3", "constant.numeric"),
                ("5", "constant.numeric"),
                ("pad", "variable.parameter"),
                ("=", "keyword.operator"),
                ("same", "support.constant"),
                ("->", "keyword.operator.arrow"),
                ("relu6", "support.function.layer"),
            ],
        ),
        (
            'assert n > .5e-3 "not {n} # \\" here"',
            [
                ("assert", "keyword.control"),
                (">", "keyword.operator"),
                (".5e-3", "constant.numeric"),
                ('"not {n} # \\" here"', "string.quoted.double"),
            ],
        ),
        (
            "schedule 0.1 for 80e, 0.01",
            [
                ("schedule", "support.type.setting"),
                ("0.1", "constant.numeric"),
                ("for", "keyword.control"),
                ("80e", "constant.numeric.duration"),
                ("0.01", "constant.numeric"),
            ],
        ),
        (
            "input 3x32x32 as x1 -> basic(64, s=2 if yes else 1) -> skip_3 conv_2",
            [
                ("input", "support.function.layer"),
                ("3x32x32", "constant.numeric.dimensions"),
                ("as", "keyword.control"),
                ("x1", "variable.other"),
                ("->", "keyword.operator.arrow"),
                ("basic", "entity.name.function"),
                ("64", "constant.numeric"),
                ("s", "variable.parameter"),
                ("=", "keyword.operator"),
                ("2", "constant.numeric"),
                ("if", "keyword.control"),
                ("yes", "constant.language"),
                ("else", "keyword.control"),
                ("1", "constant.numeric"),
                ("->", "keyword.operator.arrow"),
            ],
        ),
        (
            "residual { relu } skip auto",
            [("residual", "keyword.control"), ("relu", "support.function.layer"), ("skip", "keyword.control"),
             ("auto", "support.constant")],
        ),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)  # fmt: skip
def test_scopes(line: str, expected: list[tuple[str, str]]) -> None:
    assert scopes(line) == expected


def test_files_of_the_extension_fit_together() -> None:
    package = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))
    (language,) = package["contributes"]["languages"]
    (colours,) = package["contributes"]["grammars"]
    assert language["extensions"] == [".cnn"]
    assert colours["language"] == language["id"]
    assert colours["scopeName"] == GRAMMAR["scopeName"]
    for path in (language["configuration"], colours["path"], package["main"]):
        assert (FOLDER / path).is_file()
    configuration = json.loads((FOLDER / language["configuration"]).read_text(encoding="utf-8"))
    assert configuration["comments"] == {"lineComment": "#"}
    for pattern in configuration["indentationRules"].values():
        re.compile(pattern)
