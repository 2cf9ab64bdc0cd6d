"""Programs in the words of the language reference: they load, or are refused only for what this version lacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convc.frontend import load, loads
from convc.ir.diagnostic import CompileError

CASES = re.findall(
    r"^\[(complete|lacking) ([\w -]+)\]\n(.*?)(?=^\[(?:complete|lacking) |\Z)",
    Path(__file__).with_name("reference.test").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
COMPLETE = {name: text for kind, name, text in CASES if kind == "complete"}
LACKING = {name: text for kind, name, text in CASES if kind == "lacking"}


@pytest.mark.parametrize("name", COMPLETE)
def test_complete(name: str) -> None:
    net = loads(COMPLETE[name])
    assert loads(net.resolved()).digest() == net.digest()


@pytest.mark.parametrize("name", LACKING)
def test_refused_by_name_only(name: str) -> None:
    with pytest.raises(CompileError) as caught:
        loads(LACKING[name])
    messages = [(error.code, error.message) for error in caught.value.diagnostics]
    assert {code for code, _ in messages} <= {"unavailable-layer", "unavailable-argument"}, messages


def test_the_first_example_in_full(tmp_path: Path) -> None:
    path = tmp_path / "lenet.cnn"
    path.write_text(COMPLETE["lenet"])
    net = load(path, set={"classes": 26}, strict=True)
    assert net.classes == 26
    settings = net.settings
    assert settings.data is not None
    assert settings.optimizer is not None
    assert (settings.data.kind, settings.batch, settings.epochs, settings.seed) == ("mnist", 64, 10, 7)
    assert (settings.optimizer.kind, settings.optimizer.lr) == ("adam", 0.001)
