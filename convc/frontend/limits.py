"""Budgets: how much work a file may ask for, checked before the work is done.

On the command line `--limit NAME=NUMBER` changes one of them, in Python `load(..., limits=Limits(nodes=200_000))`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import Field, field, fields
from typing import Any

from convc.frontend.hints import did_you_mean
from convc.ir.diagnostic import fail
from convc.lazy import dataclass


def _limit(default: int, text: str, most: int | None = None) -> Any:
    """A bound with what it bounds. `most` is as far as it can be raised, where something beyond it would break."""
    return field(default=default, metadata={"text": text, "most": most})


@dataclass(frozen=True)
class Limits:
    """Upper bounds, all inclusive."""

    source_bytes: int = _limit(1 << 20, "bytes of one file")
    files: int = _limit(100, "files brought in by `use`", most=300)
    tokens: int = _limit(50_000, "words, numbers and signs of all files together")
    name_characters: int = _limit(100, "characters of one name")
    string_characters: int = _limit(4_096, "characters of one string")
    # The parser recurses: beyond this Python's own stack would be the limit.
    nesting: int = _limit(64, "brackets inside brackets, and prefix operators in a row", most=100)
    errors: int = _limit(50, "errors reported in one run")
    steps: int = _limit(20_000, "statements carried out, loops unrolled")
    evaluations: int = _limit(300_000, "operators and operands of expressions evaluated, items of lists")
    depth: int = _limit(1_000, "bodies inside bodies, blocks instantiated")
    integer_bits: int = _limit(256, "binary digits of a whole number", most=1_024)
    nodes: int = _limit(100_000, "operations of the graph and their operands")
    path_characters: int = _limit(16_000_000, "characters of the names of all layers together")
    # Offsets in compiled code and shapes in files hold no more.
    extent: int = _limit((1 << 31) - 1, "channels, rows, columns or filters", most=(1 << 31) - 1)
    elements: int = _limit((1 << 31) - 1, "elements of a value for one image, or of a parameter", most=(1 << 31) - 1)
    parameter_elements: int = _limit(1 << 32, "elements of all parameters together")
    instructions: int = _limit(4_000_000, "instructions of a compiled program, before the machine's")
    memory_bytes: int = _limit(1 << 40, "bytes of memory of a compiled program; never more than the machine has")


DEFAULT_LIMITS = Limits()
LIMITS: dict[str, Field[Any]] = {entry.name: entry for entry in fields(Limits)}


def parse_limits(items: Iterable[str]) -> Limits:
    """`["nodes=200_000"]` as limits, the others as they are. Raises a `CompileError` for what is no limit."""
    values: dict[str, int] = {}
    for item in items:
        name, equals, value = (part.strip() for part in item.partition("="))
        entry = LIMITS.get(name)
        if entry is None:
            hint = did_you_mean(name, LIMITS, "limits are")
            fail("name-limit", f"there is no limit `{name}`", hint=hint)
        if not equals or not re.fullmatch(r"\d[\d_,]{0,24}", value, re.ASCII):
            hint = f"--limit {name}={entry.default}"
            fail("value-limit", f"the limit `{name}` takes a whole number, not `{value}`", hint=hint)
        number = int(re.sub("[_,]", "", value))
        most = entry.metadata["most"]
        if number < 1 or (most is not None and number > most):
            bounds = f"from 1 to {most:,}" if most is not None else "at least 1"
            fail("value-limit", f"the limit `{name}` is {bounds}, not {number:,}")
        values[name] = number
    return Limits(**values)


def raised(name: str) -> str:
    """How a message says that a limit is an option."""
    return f"`--limit {name}=N` changes the limit"
