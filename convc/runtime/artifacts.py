"""What a compiled program can show of itself: graph, LLVM text, assembly, object code, and its plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from convc.ir.diagnostic import fail
from convc.ir.printer import print_ir
from convc.runtime.atomic import write_bytes
from convc.runtime.ir_file import write_ir

if TYPE_CHECKING:
    from convc.passes.plan import Plan
    from convc.runtime.program import Program


_OF_GPUS = ("cu", "ptx", "cubin", "sass")


def artifact(program: Program, kind: str) -> bytes:
    """The graph (`ir`), or what the back end made of it: `llvm`, `asm`, `obj`; for GPUs `cu`, `ptx`, `sass`, with all
    kernels in one text. Errors: `value-target`, those of `convc.runtime.cuda_kernels.joined`."""
    if kind == "ir":
        return print_ir(program.graph).encode()
    content: bytes | None = program.artifact(kind)
    if content is None:
        maker = "cuda" if kind in _OF_GPUS else "cpu"
        fail("value-target", f"the target {program.target} makes no {kind}", hint=f"compile for target {maker}")
    return content


def write_artifact(program: Program, kind: str, content: bytes, path: Path) -> list[Path]:
    """Write one artifact; large constants of a graph go into an npz file beside it. Returns the files."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail("file-write", f"cannot create {path.parent}: {error.strerror}")
    if kind == "ir":
        return write_ir(path, program.graph)
    write_bytes(path, content)
    return [path]


def plan_of(program: Program) -> Plan:
    """The plan that compiled code was made from. Error: `value-target` for a target that has none."""
    if program.plan is None:
        fail("value-target", f"the target {program.target} runs the graph as it is", hint="compile for target cpu")
    return program.plan
