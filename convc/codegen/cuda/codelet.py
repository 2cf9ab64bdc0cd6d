"""Codelets: straight-line programs as device functions, along one axis of a tile or along both.

They are the programs that the CPU runs, derived in `passes/algorithms` and proved there; here they become text:

    __device__ __forceinline__ void images_down(const float (&x)[4], float (&y)[4]) {
      y[0] = x[0] - x[2];
      const float t5 = x[1] + x[2];
      …
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.cuda.expressions import literal
from convc.passes.algorithms.straight_line import StraightLine, Term

_HEAD = "__device__ __forceinline__ void"


def function(name: str, program: StraightLine) -> str:
    """`name(x, y)`: the program from its inputs x to its outputs y, which are different arrays."""
    names = [f"x[{number}]" for number in range(program.inputs)]
    lines: list[str] = []
    for number, step in enumerate(program.steps, program.inputs):
        lines.append(f"  const float t{number} = {_sum(names, step)};")
        names.append(f"t{number}")
    lines += [f"  y[{number}] = {names[value]};" for number, value in enumerate(program.outputs)]
    head = f"{_HEAD} {name}(const float (&x)[{program.inputs}], float (&y)[{len(program.outputs)}]) {{"
    return "\n".join([head, *lines, "}"])


def function_of_tile(name: str, down: StraightLine, across: StraightLine) -> str:
    """`name(x, take)`: `down` applied down every column of a tile x (rows of numbers), then `across` along every row of
    what that gives. `take(i, y)` gets row i as an array: what is done with a row at once needs no registers later."""
    height, width, rows, columns = down.inputs, across.inputs, len(down.outputs), len(across.outputs)
    lines = [
        function(f"{name}_down", down),
        function(f"{name}_across", across),
        "template <typename Take>",
        f"{_HEAD} {name}(const float (&x)[{height}][{width}], Take take) {{",
        f"  float half[{rows}][{width}];",
        "#pragma unroll",
        f"  for (int j = 0; j < {width}; ++j) {{",
        f"    float column[{height}], result[{rows}];",
        "#pragma unroll",
        f"    for (int i = 0; i < {height}; ++i) column[i] = x[i][j];",
        f"    {name}_down(column, result);",
        "#pragma unroll",
        f"    for (int i = 0; i < {rows}; ++i) half[i][j] = result[i];",
        "  }",
        "#pragma unroll",
        f"  for (int i = 0; i < {rows}; ++i) {{",
        f"    float y[{columns}];",
        f"    {name}_across(half[i], y);",
        "    take(i, y);",
        "  }",
        "}",
    ]
    return "\n".join(lines)


def _sum(names: Sequence[str], terms: Sequence[Term]) -> str:
    """One step. The unit term, if there is one, is what a multiply-add adds to."""
    if len(terms) == 1:
        return _multiple(names, terms[0])
    one, other = terms if terms[0].unit else (terms[1], terms[0])
    if other.unit:
        if one.scale == other.scale == 1:
            return f"{names[one.value]} + {names[other.value]}"
        if one.scale != other.scale:
            positive, negative = (one, other) if one.scale == 1 else (other, one)
            return f"{names[positive.value]} - {names[negative.value]}"
    return f"fmaf({literal(float(other.scale))}, {names[other.value]}, {_multiple(names, one)})"


def _multiple(names: Sequence[str], term: Term) -> str:
    name = names[term.value]
    if term.scale in (1, -1):
        return name if term.scale == 1 else f"-{name}"
    return f"{literal(float(term.scale))} * {name}"
