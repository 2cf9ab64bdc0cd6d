"""A net that compiles in no time, for benchmarks from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from convc.runtime.benchmark import machine

_TINY = """net tiny(size = 6) {
  input (1, size, size)
  conv 3 k=3 pad=1 -> relu
  pool avg global -> fc 3
  loss softmax
}
train {
  batch 4
  optim sgd lr=0.1 momentum=0.9
}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A file of a net with a convolution for images of any size; batch 4."""
    path = tmp_path / "tiny.cnn"
    path.write_text(_TINY)
    return path


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is ever busy, and it takes no time to see that."""
    monkeypatch.setattr(machine, "busy_cores", lambda seconds: 0.0)
