"""Writing files whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convc.ir.diagnostic import CompileError
from convc.runtime.atomic import write_text


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CompileError, match="it is not a regular file"):
        write_text(pipe, "x")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
