"""Shared by the tests of the front end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convc.frontend import Net, loads
from convc.ir.diagnostic import CompileError, Diagnostic


@pytest.fixture
def net() -> Callable[..., Net]:
    """A net from the statements of its body, behind an input of 1x28x28 unless told otherwise."""

    def build(body: str, *, before: str = "", shape: str = "1x28x28", after: str = "", **options: Any) -> Net:
        return loads(f"{before}\nnet n {{\ninput {shape}\n{body}\n}}\n{after}", file="n.cnn", **options)

    return build


@pytest.fixture
def problems() -> Callable[..., list[Diagnostic]]:
    """All errors of a text; there has to be one."""

    def find(text: str, **options: Any) -> list[Diagnostic]:
        with pytest.raises(CompileError) as caught:
            loads(text, file="n.cnn", **options)
        return list(caught.value.diagnostics)

    return find
