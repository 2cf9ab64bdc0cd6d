"""Programs in the words of the language reference: they load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convc.frontend import load, loads

CASES = re.findall(
    r"^\[complete ([\w -]+)\]\n(.*?)(?=^\[complete |\Z)",
    Path(__file__).with_name("reference.test").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
COMPLETE = dict(CASES)


@pytest.mark.parametrize("name", COMPLETE)
def test_complete(name: str) -> None:
    net = loads(COMPLETE[name])
    assert loads(net.resolved()).digest() == net.digest()


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
