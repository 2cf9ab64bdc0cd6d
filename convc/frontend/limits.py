"""Budgets: how much work a file may ask for, checked before the work is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds, all inclusive."""

    source_bytes: int = 1 << 20  # one file
    files: int = 100  # brought in by `use`
    tokens: int = 50_000  # in one file
    nesting: int = 64  # of brackets and of prefix operators
    errors: int = 50  # reported in one run
    steps: int = 20_000  # statements carried out, loops unrolled
    evaluations: int = 300_000  # operators and operands of expressions
    depth: int = 1_000  # bodies inside bodies, blocks instantiated
    integer_bits: int = 256
    extent: int = (1 << 31) - 1  # channels, rows, columns, filters
    elements: int = (1 << 31) - 1  # of one value for one image, or of one parameter
    parameter_elements: int = 1 << 32  # of all parameters together


DEFAULT_LIMITS = Limits()
