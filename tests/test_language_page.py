"""docs/language.md tells the truth: its programs compile."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend import loads, parse_data, unsupported
from convc.frontend.layers import BY_WORD

TEXT = (Path(__file__).parent.parent / "docs" / "language.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```cnn\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", PROGRAMS)
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_program_compiles_and_runs(text: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = loads(text, strict=True)
    assert unsupported(net.settings) == []
    if net.settings.init is not None:
        with convc.compile(net, threads=1) as program:
            program.save(net.settings.init.path)
    with convc.compile(net, batch=2, mode=mode, threads=1) as program:
        logits = program(np.zeros((2, *net.input_shape), np.float32))
    # The net with labels per pixel ends in maps of two classes.
    assert logits.shape == ((2, 2, 64, 64) if net.name == "cells" else (2, 10))
    assert np.isfinite(logits).all()


def test_there_are_examples() -> None:
    assert len(PROGRAMS) >= 5


def test_every_layer_is_mentioned() -> None:
    assert {word for word in BY_WORD if f"`{word}" not in TEXT} == set()


def test_every_schedule_and_kind_of_data_that_is_named_is_read() -> None:
    row = re.search(r"^\| `schedule` \| (.*) \|$", TEXT, re.MULTILINE)
    assert row is not None
    schedules = re.findall(r"`([^`]*)`", row[1])
    assert len(schedules) == 8
    for schedule in schedules[:-1]:
        loads(f"net n {{ input 1x2x2 -> fc 2 -> loss softmax }}\ntrain {{\n schedule {schedule}\n}}")
    for warm in ("constant", "step every=30e", "cosine", "poly"):
        loads(f"net n {{ input 1x2x2 -> fc 2 -> loss softmax }}\ntrain {{\n schedule {warm} {schedules[-1]}\n}}")
    row = re.search(r"^\| `data` \| (.*) \|$", TEXT, re.MULTILINE)
    assert row is not None
    assert [parse_data(item).kind for item in re.findall(r"`([^`]*)`", row[1])] == [
        "mnist",
        "digits",
        "fashion_mnist",
        "cifar10",
        "idx",
        "npz",
        "folder",
    ]
