"""`convc docs` as users see it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from convc.cli import main
from convc.frontend.layers import LAYERS
from convc.frontend.reference import entries
from convc.frontend.setting_kinds import SETTINGS

Capture = pytest.CaptureFixture[str]


def test_overview(capsys: Capture) -> None:
    assert main(["docs"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    lines = [line.strip() for line in output.splitlines()]
    for kind in (*LAYERS, *SETTINGS):
        assert any(line.startswith(f"{kind.title} ") and line.endswith(kind.doc) for line in lines), kind.title
    for word in ("residual", "repeat", "min", "block", "augment crop"):
        assert any(line.startswith(f"{word} ") for line in lines)


def test_layer(capsys: Capture) -> None:
    assert main(["docs", "conv"]) == 0
    output, _ = capsys.readouterr()
    assert output.startswith("conv FILTERS k= [s=1]")
    assert "k, kernel" in output
    assert "every layer takes" in output
    assert "\nexample\n  conv 32 k=3" in output
    assert all(line == line.rstrip() for line in output.splitlines())


@pytest.mark.parametrize("words", [["pool", "max"], ["pool max"], ["optim", "adam"], ["residual"], ["len"], ["search"]])
def test_words(words: list[str], capsys: Capture) -> None:
    assert main(["docs", *words]) == 0
    assert f"{' '.join(words)}" in capsys.readouterr().out.split("\n")[0]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["cnov"], "`conv`"),
        (["pool", "mx"], "`pool max`"),
        (["optim", "adm"], "`optim adam`"),
        (["qqqqqq"], "lists all"),
    ],
)
def test_unknown_word(words: list[str], hint: str, capsys: Capture) -> None:
    assert main(["docs", *words]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert hint in errors


def test_json(capsys: Capture) -> None:
    assert main(["docs", "pool", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == 1
    assert [entry["title"] for entry in content["entries"]] == ["pool max", "pool avg"]
    k = content["entries"][0]["arguments"][0]
    assert (k["name"], k["long"], k["default"]) == ("k", "kernel", None)
    assert main(["docs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["entries"]) == len(entries())


@pytest.mark.parametrize("words", [[], ["conv"], ["noise"]])
def test_terminal(words: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["docs", *words]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert max(map(len, plain.splitlines())) <= 60
    for title in titles(words):
        assert title in " ".join(plain.split())


def titles(words: list[str]) -> list[str]:
    return [
        entry.title if not words else entry.signature.split()[0]
        for entry in entries()
        if not words or words[0] in entry.words
    ]


def test_the_page_of_the_manual_is_up_to_date(capsys: Capture) -> None:
    assert main(["docs", "--markdown"]) == 0
    page = Path(__file__).parents[2] / "docs" / "reference.md"
    assert capsys.readouterr().out == page.read_text("utf-8"), "run: convc docs --markdown > docs/reference.md"
