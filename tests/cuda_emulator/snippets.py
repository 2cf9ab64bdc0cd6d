"""Small kernels in PTX for the tests: a few instructions between loads of their operands and stores of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.cuda_emulator.counters import Counters
from tests.cuda_emulator.launching import In, Module, Out
from tests.cuda_emulator.library import compiler
from tests.cuda_emulator.nvrtc import MISSING, nvrtc
from tests.cuda_emulator.ptx import size_of

needs_compiler = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")
needs_nvrtc = pytest.mark.skipif(nvrtc() is None, reason=MISSING)

HEAD = ".version 8.6\n.target sm_90\n.address_size 64\n"
REGISTERS = """
    .reg .pred %p<10>;
    .reg .b16 %h<20>;
    .reg .b32 %r<60>;
    .reg .b64 %l<20>;
"""
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def kernel(body: str, parameters: Sequence[str] = ("u64", "u64"), variables: str = "") -> str:
    """A module with the kernel `k`; its parameters are called p0, p1, ..., its registers %p, %h, %r, %l."""
    declared = ", ".join(f".param .{kind} p{number}" for number, kind in enumerate(parameters))
    return f"{HEAD}{variables}\n.visible .entry k({declared})\n{{{REGISTERS}{body}\n ret;\n}}\n"


def with_addresses(body: str, *, inputs: int = 1, scale: int = 4, variables: str = "") -> str:
    """A kernel of `inputs` and one output: %l0, %l1, ... are the addresses of this thread's elements in each, %r0 is
    the thread."""
    lines = [" mov.u32 %r0, %tid.x;"]
    for number in range(inputs + 1):
        lines.append(f" ld.param.u64 %l{number}, [p{number}];")
        lines.append(f" mad.wide.u32 %l{number}, %r0, {scale}, %l{number};")
    return kernel("\n".join([*lines, body]), ["u64"] * (inputs + 1), variables)


def evaluate(opcode: str, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[int]:
    """The results, as bits, of a lane-wise instruction: `rows` has the bits of the sources, a lane each; `types` those
    of the result and the sources. Predicates are 0 or 1."""
    threads = len(rows)
    columns = list(zip(*rows, strict=True))
    arrays = [np.array(column, _BITS[_bytes(kind)]) for kind, column in zip(types[1:], columns, strict=True)]
    output = np.empty(threads, _BITS[_bytes(types[0])])
    lines = [" mov.u32 %r0, %tid.x;"]
    names = []
    for number, kind in enumerate((types[0], *types[1:])):
        size = _bytes(kind)
        lines += [f" ld.param.u64 %l{number}, [p{number}];", f" mad.wide.u32 %l{number}, %r0, {size}, %l{number};"]
        name = {1: "%h", 2: "%h", 4: "%r", 8: "%l"}[size] + str(10 + number)
        if number and kind == "pred":
            lines += [f" ld.global.u32 {name}, [%l{number}];", f" setp.ne.u32 %p{number}, {name}, 0;"]
            name = f"%p{number}"
        elif number:
            lines.append(f" ld.global.b{8 * size} {name}, [%l{number}];")
        elif kind == "pred":
            name = "%p0"
        names.append(name)
    lines.append(f" {opcode} {', '.join(names)};")
    if types[0] == "pred":
        lines += [" selp.u32 %r10, 1, 0, %p0;", " st.global.u32 [%l0], %r10;"]
    else:
        lines.append(f" st.global.b{8 * _bytes(types[0])} [%l0], {names[0]};")
    module = Module(kernel("\n".join(lines), ["u64"] * len(types)))
    module.launch("k", 1, threads, [Out(output), *(In(array) for array in arrays)])
    return output.tolist()


def _bytes(kind: str) -> int:
    return 4 if kind == "pred" else size_of(kind)


def run(text: str, output: np.ndarray, *inputs: np.ndarray, threads: int = 32, **options: Any) -> Counters:
    """Launches `k` in one block."""
    return Module(text).launch("k", 1, threads, [*(In(array) for array in inputs), Out(output)], **options)
