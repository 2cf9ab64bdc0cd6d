"""What `convc eval` and `convc compile --data` print of several precisions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from convc.commands.bench import rate
from convc.commands.output import format_bytes, format_table

if TYPE_CHECKING:
    from convc.runtime.precisions import Comparison

_HEADER = ("precision", "accuracy", "difference", "top five", "loss", "images/s", "weights", "arena", "memory")


def precision_text(found: Comparison) -> str:
    """A row for each; what was not measured is `-`."""
    from convc.runtime.progress import figure, percent

    rows = [
        (
            record.precision,
            percent(record.accuracy),
            "-" if record.difference is None else f"{record.difference:+.2f}",
            percent(record.top5),
            "-" if record.loss is None else figure(record.loss),
            "-" if record.images_per_second is None else rate(record.images_per_second),
            format_bytes(record.weight_bytes),
            "-" if record.arena_bytes is None else format_bytes(record.arena_bytes),
            "-" if record.memory_bytes is None else format_bytes(record.memory_bytes),
        )
        for record in found.records
    ]
    table = format_table(_HEADER, rows)
    if found.counts:
        return table
    return f"{table}\nTHESE SPEEDS DO NOT COUNT: other work kept {found.busy_cores:.2f} cores busy."


def precision_content(found: Comparison) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "precisions": [asdict(record) for record in found.records],
        "busy_cores": found.busy_cores,
        "counts": found.counts,
    }
