"""Golden diagnostics, to the letter: texts in `diagnostics.test`, files and commands in `command_diagnostics.test`.

`CONVC_UPDATE_GOLDEN=1 pytest tests/frontend/test_diagnostics.py` rewrites the expected parts; read the difference.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from convc.cli import main
from convc.frontend import loads, unsupported
from convc.ir.diagnostic import CompileError, Diagnostic, render

GOLDEN = Path(__file__).with_name("diagnostics.test")
COMMANDS = Path(__file__).with_name("command_diagnostics.test")
_CASE = re.compile(r"^\[case (\w+)\]\n(.*?)^\[out\]\n(.*?)(?=^\[case |\Z)", re.MULTILINE | re.DOTALL)
_PART = re.compile(r"^\[(command|file|bytes|folder|pipe|letters) ?(.*)\]\n((?:(?!\[).*\n)*)", re.MULTILINE)


def cases(golden: Path) -> dict[str, tuple[str, str]]:
    """What goes in and what comes out, by the name of the case."""
    return {name: (text, expected) for name, text, expected in _CASE.findall(golden.read_text(encoding="utf-8"))}


TEXTS, FILES = cases(GOLDEN), cases(COMMANDS)


def report(text: str) -> str:
    try:
        net = loads(text.removeprefix("[in]\n"), file="n.cnn")
    except CompileError as error:
        return str(error)
    return render([*net.warnings, *unsupported(net.settings)], net.sources) or "fine"


def compare(golden: Path, name: str, given: str, expected: str, actual: str) -> None:
    if os.environ.get("CONVC_UPDATE_GOLDEN"):
        text = golden.read_text(encoding="utf-8")
        old, new = f"[case {name}]\n{given}[out]\n{expected}", f"[case {name}]\n{given}[out]\n{actual}\n\n"
        assert text.count(old) == 1
        golden.write_text(text.replace(old, new), encoding="utf-8")
        return
    assert actual == expected.strip("\n")


@pytest.mark.parametrize("name", TEXTS)
def test_golden(name: str) -> None:
    text, expected = TEXTS[name]
    compare(GOLDEN, name, text, expected, report(text))


@pytest.mark.parametrize("name", FILES)
def test_golden_of_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = FILES[name]
    monkeypatch.chdir(tmp_path)
    command: list[str] = []
    for kind, argument, content in _PART.findall(text):
        if kind == "command":
            command = argument.split()
        elif kind == "file":
            Path(argument).write_text(content, encoding="utf-8")
        elif kind == "bytes":
            Path(argument).write_bytes(content.encode().decode("unicode_escape").encode("latin-1"))
        elif kind == "letters":
            Path(argument).write_text("#" * int(content))
        elif kind == "folder":
            Path(argument).mkdir()
        else:
            os.mkfifo(argument)
    code = main(command)
    shown = capsys.readouterr()
    actual = "\n".join([part.rstrip("\n") for part in (shown.err, shown.out) if part] + [f"exit code {code}"])
    compare(COMMANDS, name, text, expected, actual)


def test_all_cases_are_found() -> None:
    assert len(TEXTS) == GOLDEN.read_text(encoding="utf-8").count("[case ") > 80
    assert len(FILES) == COMMANDS.read_text(encoding="utf-8").count("[case ") > 10


# Codes of Python calls that no file and no command can bring about; tested where the calls are.
_OF_CALLS = {"value-assignment", "value-batch"}
# Not about texts of the language.
_ELSEWHERE = {"decompile.py"}


def codes_of(room: Path) -> set[str]:
    """Every code that the modules of a folder give to a diagnostic."""
    page = (room.parent.parent / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    documented = {
        code for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for code in re.findall(r"`([\w-]+)`", row)
    }
    found: set[str] = set()
    for path in room.glob("*.py"):
        if path.name not in _ELSEWHERE:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return found & documented


def test_every_code_of_the_front_end_has_a_case(repository: Path) -> None:
    shown = {
        code
        for _, expected in (*TEXTS.values(), *FILES.values())
        for code in re.findall(r"(?:error|warning)\[([\w-]+)\]", expected)
    }
    assert codes_of(repository / "convc" / "frontend") - shown == _OF_CALLS


def test_linear_with_a_number_is_meant_as_fc(problems: Callable[..., list[Diagnostic]]) -> None:
    (error,) = problems("net n {\n  input 1x8x8\n  linear 10\n  loss softmax\n}")
    assert error.code == "name-surplus"
    assert error.hint is not None
    assert "`fc N`" in error.hint
