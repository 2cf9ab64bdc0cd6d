"""Amounts of memory in words."""

from __future__ import annotations


def format_bytes(count: int) -> str:
    """`count` in the largest binary unit that leaves at least 1: 1536 is "1.5 KiB"."""
    if count < 1024:
        return f"{count} bytes"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} PiB" if amount < 1 << 30 else "more than a ZiB"
