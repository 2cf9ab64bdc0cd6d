"""Small combinations of loops and conditions that several kernels use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convc.codegen.llvm.vocabulary import Function, V


@contextmanager
def maybe(f: Function, condition: V | None) -> Iterator[None]:
    """`when`, or without a condition: always."""
    if condition is None:
        yield
    else:
        with f.when(condition):
            yield
