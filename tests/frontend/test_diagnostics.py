"""Golden diagnostics: every case of `diagnostics.test` is checked to the letter.

`CONVC_UPDATE_GOLDEN=1 pytest tests/frontend/test_diagnostics.py` rewrites the expected parts; read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from convc.frontend import loads, unsupported
from convc.ir.diagnostic import CompileError, render

GOLDEN = Path(__file__).with_name("diagnostics.test")
_CASE = re.compile(r"^\[case (\w+)\]\n\[in\]\n(.*?)^\[out\]\n(.*?)(?=^\[case |\Z)", re.MULTILINE | re.DOTALL)
CASES = {name: (text, expected) for name, text, expected in _CASE.findall(GOLDEN.read_text(encoding="utf-8"))}


def report(text: str) -> str:
    try:
        net = loads(text, file="n.cnn")
    except CompileError as error:
        return str(error)
    return render([*net.warnings, *unsupported(net.settings)], net.sources) or "fine"


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    text, expected = CASES[name]
    actual = report(text)
    if os.environ.get("CONVC_UPDATE_GOLDEN"):
        golden = GOLDEN.read_text(encoding="utf-8")
        old, new = f"[case {name}]\n[in]\n{text}[out]\n{expected}", f"[case {name}]\n[in]\n{text}[out]\n{actual}\n\n"
        assert golden.count(old) == 1
        GOLDEN.write_text(golden.replace(old, new), encoding="utf-8")
        return
    assert actual == expected.strip("\n")


def test_all_cases_are_found() -> None:
    assert len(CASES) == GOLDEN.read_text(encoding="utf-8").count("[case ") > 80
