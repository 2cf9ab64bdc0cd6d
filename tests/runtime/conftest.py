"""Small nets, and every back end that this checkout has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import convc

TARGETS = ["reference", "cpu"] if importlib.util.find_spec("convc.runtime.native") else ["reference"]

TINY = """\
net tiny(classes = 4) {
  input 1x6x6
  conv 3 k=3 -> bn -> relu -> pool max 2
  fc 8 -> relu -> dropout 0.25
  fc classes
  loss softmax
}

train {
  batch 8
  optim sgd lr=0.1 momentum=0.9
}
"""

Compile = Callable[..., "convc.Program"]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def compile_text(tmp_path: Path, target: str) -> Iterator[Compile]:
    """Compile the text of a net (by default a tiny one with everything in it) for the back end under test."""
    programs: list[convc.Program] = []

    def build(text: str = TINY, mode: str = "train", **options: object) -> convc.Program:
        path = tmp_path / "net.cnn"
        path.write_text(text)
        program = convc.compile(convc.load(path), mode=mode, target=target, **options)  # type: ignore[arg-type]
        programs.append(program)
        return program

    yield build
    for program in programs:
        program.close()


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    """Eight images for the tiny net, and their classes."""
    random = np.random.default_rng(1)
    return random.random((8, 1, 6, 6), np.float32), random.integers(0, 4, 8)
