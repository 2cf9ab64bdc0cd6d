"""Parts of an unrolled loop: their heads, and how a single iteration stands without one."""

from __future__ import annotations

import textwrap

from convc.frontend import syntax
from convc.frontend.expressions import literal
from convc.frontend.rewriting.expressions import Slice, oneline
from convc.frontend.rewriting.frames import Loop, LoopRuns


def head(loop: Loop, runs: LoopRuns, start: int, stop: int | None, slice: Slice) -> str | None:
    """The head of iterations `start` to before `stop` (None: to the end); None for one iteration that needs none.

    A single iteration of a `for` keeps its head: its variables have their values then, and nothing has to be put in
    their place.
    """
    if isinstance(loop, syntax.Repeat):
        return _repeat(loop, runs, start, stop, slice)
    names = ", ".join(name.name for name in loop.names)
    return f"for {names} in {_values(loop, runs, start, stop, slice)}"


def _repeat(loop: syntax.Repeat, runs: LoopRuns, start: int, stop: int | None, slice: Slice) -> str | None:
    count = (runs.whole.count if stop is None else stop) - start
    # A constant ends with its body; without one it would be defined once more, or last too long.
    if count == 1 and not any(isinstance(statement, syntax.Let) for statement in loop.body.statements):
        return None
    if stop is None and not isinstance(loop.count, syntax.Number):
        return f"repeat {_operand(loop.count, slice)} - {start}"
    return f"repeat {count}"


def _values(loop: syntax.For, runs: LoopRuns, start: int, stop: int | None, slice: Slice) -> str:
    if loop.stop is not None:
        last = oneline(slice(loop.stop.span)) if stop is None else _offset(loop.values, stop, slice)
        return f"{_offset(loop.values, start, slice)}..{last}"
    if isinstance(loop.values, syntax.Sequence):
        items = [oneline(slice(item.span)) for item in loop.values.items[start:stop]]
    else:
        items = [literal(value) for value in runs.whole.values[start:stop]]
    return f"[{', '.join(items)}]"


def _offset(expression: syntax.Expression, distance: int, slice: Slice) -> str:
    """The text of a sum."""
    if isinstance(expression, syntax.Number):
        return str(int(expression.value) + distance)
    if distance == 0:
        return oneline(slice(expression.span))
    return f"{_operand(expression, slice)} + {distance}"


def _operand(expression: syntax.Expression, slice: Slice) -> str:
    text = oneline(slice(expression.span))
    return f"({text})" if isinstance(expression, (syntax.Binary, syntax.Conditional)) else text


def inlined(body: str, indent: str) -> str:
    """The statements of a body, given with its braces, as they stand in the body around it."""
    first, *others = body[1:-1].strip("\n").split("\n")
    lines = [first.strip(), *textwrap.dedent("\n".join(others)).split("\n")] if first.strip() else others
    text = textwrap.dedent("\n".join(lines)).strip()
    lines = [f"{indent}{line}".rstrip() if number else line for number, line in enumerate(text.split("\n"))]
    # What follows the loop on its line must not become part of a comment.
    return "\n".join(lines) + (f"\n{indent}" if "#" in lines[-1] else "")
