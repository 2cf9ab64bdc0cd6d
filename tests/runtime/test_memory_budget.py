"""What cannot fit is refused before it is compiled."""

from __future__ import annotations

import pytest

import convc
from convc.frontend import Limits, loads
from convc.ir.diagnostic import CompileError
from convc.runtime import memory_budget
from convc.runtime.memory_budget import least_bytes

TEXT = "net n { input 1x8x8 -> upsample 4 -> conv 2 k=1 -> pool avg global -> fc 10 -> loss softmax }"


def test_the_least_is_the_parameters_and_the_largest_value() -> None:
    # 2x32x32 behind the convolution; weights 2 + 2, 20 + 10.
    assert least_bytes(loads(TEXT).graph(3)) == 4 * (3 * 2 * 32 * 32 + 34)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_refused_beyond_the_limit(mode: str) -> None:
    needed = 4 * (3 * 2 * 32 * 32 + 34)
    with convc.compile(loads(TEXT, limits=Limits(memory_bytes=needed)), batch=3, mode=mode, target="reference"):
        pass
    with pytest.raises(CompileError, match=r"3 images needs more than 24\.1 KiB of memory; the limit is 24\.1 KiB"):
        convc.compile(loads(TEXT, limits=Limits(memory_bytes=needed - 1)), batch=3, mode=mode, target="reference")


def test_refused_beyond_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "available_bytes", lambda: 1000)
    with pytest.raises(CompileError, match="1000 bytes are available") as caught:
        convc.compile(loads(TEXT), batch=1)
    assert caught.value.diagnostics[0].code == "value-memory"


def test_absurd_sizes_are_refused_at_once() -> None:
    text = "net n { input 1x8x8 -> upsample 4096 -> relu -> pool avg global -> fc 10 }"
    with pytest.raises(CompileError, match="a pass of 4096 images needs more than 16"):
        convc.compile(loads(text), batch=4096)
