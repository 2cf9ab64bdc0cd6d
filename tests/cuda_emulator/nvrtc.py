"""NVIDIA's compiler for the tests, from CUDA C++ to PTX; convc.codegen.cuda.nvrtc says where it is looked for."""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.cuda.nvrtc import MISSING, CompilationError, NvrtcMissing, compile, nvrtc

__all__ = ["MISSING", "CompilationError", "NvrtcMissing", "compile_cuda", "nvrtc"]


def compile_cuda(source: str, arch: str = "sm_80", options: Sequence[str] = ()) -> str:
    """The PTX of a CUDA C++ source. The assembler runs as well, so what it refuses is refused here.

    Errors: `CompilationError` for an error or a warning, `NvrtcMissing`.
    """
    return compile(source, arch, options).ptx
