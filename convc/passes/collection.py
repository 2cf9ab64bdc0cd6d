"""Keeps Python's search for unreachable cycles out of the way while passes run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """No search during the body: it walks all objects time and again while a graph grows, and finds next to nothing.

    For a net of a thousand layers that is half of the time, and what makes it grow faster than the net.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
