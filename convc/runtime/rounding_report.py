"""What rounding to 16 bits loses in a training step, op by op: what becomes infinite, and what becomes zero.

A step is run by the interpreter with the numbers that the program has. Every result is looked at before and after it is
rounded to its type, so that what is counted is lost there, and not in what it was made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.cast import Cast
from convc.ir.rounding import rounded
from convc.lazy import dataclass
from convc.passes.base import describe
from convc.runtime.data import BatchLoader, Source
from convc.runtime.diagnose import inputs_of
from convc.runtime.program import Program
from convc.runtime.training_state import Position

# Images of a step that the interpreter runs, which takes seconds for each.
_MOST_IMAGES = 16


@dataclass(frozen=True)
class Loss:
    """One op's results of one type: how many numbers, how many became infinite, or zero and were not; the largest
    before rounding."""

    op: str
    line: int | None
    dtype: str
    elements: int
    overflows: int
    underflows: int
    largest: float


def count_losses(graph: Graph, arrays: Mapping[str, np.ndarray]) -> tuple[Loss, ...]:
    """The ops of a graph whose results have 16 bits, or are not finite though their operands are, in their order.

    `arrays` are inputs and parameters by name, float32.
    """
    values: dict[Value, np.ndarray] = {value: np.asarray(arrays[name]) for name, value in graph.inputs.items()}
    values |= {p.value: np.asarray(arrays[name], np.float32) for name, p in graph.parameters.items()}
    remaining = {value: len(value.users) for node in graph.nodes for value in (*node.operands, *node.results)}
    found: list[Loss] = []
    for node in graph.nodes:
        operands = [values[value] for value in node.operands]
        with np.errstate(all="ignore"):
            # A cast is the rounding that is to be looked at.
            made = operands[0] if isinstance(node.op, Cast) else node.op.reference(*operands)
        results = [np.asarray(array) for array in (made if isinstance(made, tuple) else (made,))]
        stored = [rounded(array, value.type.dtype) for value, array in zip(node.results, results, strict=True)]
        values.update(zip(node.results, stored, strict=True))
        loss = _loss(node, operands, results, stored)
        if loss is not None:
            found.append(loss)
        for value in node.operands:
            remaining[value] -= 1
            if not remaining[value]:
                values.pop(value, None)
    return tuple(found)


def _loss(
    node: Node, operands: Sequence[np.ndarray], results: Sequence[np.ndarray], stored: Sequence[np.ndarray]
) -> Loss | None:
    """What one op has lost; None where there is nothing to tell."""
    halves = [value.type.dtype for value in node.results if value.type.dtype.is_half]
    sound = all(np.isfinite(array).all() for array in operands if array.dtype.kind == "f")
    numbers = [i for i, array in enumerate(results) if array.dtype.kind == "f" and array.size]
    # What comes from something infinite is nobody's fault here.
    overflows = sum(int((~np.isfinite(stored[i]) & (np.isfinite(results[i]) | sound)).sum()) for i in numbers)
    if not halves and not overflows:
        return None
    finite = [np.abs(results[i][np.isfinite(results[i])]).max(initial=0.0) for i in numbers]
    return Loss(
        describe(node),
        node.span.line if node.span else None,
        halves[0].value if halves else node.results[0].type.dtype.value,
        sum(results[i].size for i in numbers),
        overflows,
        sum(int(((results[i] != 0) & (stored[i] == 0)).sum()) for i in numbers),
        float(max(finite, default=0.0)),
    )


def first_overflow(losses: Sequence[Loss]) -> Loss | None:
    """The op with which it begins."""
    return next((loss for loss in losses if loss.overflows), None)


def summary(losses: Sequence[Loss]) -> str:
    """A sentence: how much is lost, and where it begins."""
    elements = sum(loss.elements for loss in losses) or 1
    if not losses:
        return "nothing has 16 bits, and everything is finite"
    under, over = (sum(getattr(loss, name) for loss in losses) for name in ("underflows", "overflows"))
    text = f"{under / elements:.2%} of {elements:,} numbers became zero, {over:,} infinite"
    first = first_overflow(losses)
    if first is None:
        return text
    place = f" in line {first.line}" if first.line else ""
    return f"{text}, first in {first.op}{place}"


def losses_of_step(program: Program, train: Source, batch: int, position: Position) -> tuple[Loss, ...]:
    """What the next step of a training loses, on the first images of an epoch."""
    with BatchLoader(train, min(batch, _MOST_IMAGES), seed=program.seed, epoch=position.epoch) as loader:
        images, labels = next(loader)
        inputs = inputs_of(program, images.copy(), labels.copy(), 0.0, position.step + 1)
    return count_losses(program.graph, {**inputs, **program.state_dict()})


def losses_table(losses: Sequence[Loss]) -> list[str]:
    """A line for each op, those that lose nothing left out, under a heading; nothing where all are."""
    telling = [loss for loss in losses if loss.overflows or loss.underflows]
    if not telling:
        return []
    rows = [("op", "line", "type", "numbers", "infinite", "zero", "largest")]
    for loss in telling:
        zero = f"{loss.underflows:,} ({loss.underflows / loss.elements:.1%})"
        counts = f"{loss.elements:,}", f"{loss.overflows:,}", zero, f"{loss.largest:.3g}"
        rows.append((loss.op, str(loss.line or ""), loss.dtype, *counts))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    first, *others = zip(*rows, strict=True)
    columns = [[cell.ljust(widths[0]) for cell in first]]
    columns += [[cell.rjust(width) for cell in column] for column, width in zip(others, widths[1:], strict=True)]
    return ["  " + "  ".join(row).rstrip() for row in zip(*columns, strict=True)]
