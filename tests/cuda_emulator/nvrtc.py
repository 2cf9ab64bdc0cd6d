"""NVIDIA's compiler, from CUDA C++ to PTX, through ctypes; it needs no GPU and no driver.

It comes from the wheel `nvidia-cuda-nvrtc` (`pip install -e '.[cuda-test]'`), or from the folder that
`CONVC_NVRTC` names.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

MISSING = "NVRTC is not installed: pip install -e '.[cuda-test]', or set CONVC_NVRTC to the folder of libnvrtc.so.13"


class CompilationError(Exception):
    """What NVRTC says about a source, warnings included."""


class NvrtcMissing(Exception):
    """There is no NVRTC on this machine."""


def _folder() -> Path | None:
    named = os.environ.get("CONVC_NVRTC")
    if named:
        return Path(named)
    try:
        package = importlib.util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        return None
    for place in (package.submodule_search_locations or []) if package else []:
        if (Path(place) / "lib" / "libnvrtc.so.13").exists():
            return Path(place) / "lib"
    return None


@cache
def nvrtc() -> ctypes.CDLL | None:
    """The compiler's library, None where there is none."""
    folder = _folder()
    if folder is None or not (folder / "libnvrtc.so.13").exists():
        return None
    # The wheel has no run path, so the library does not find its other half by itself.
    for builtins in sorted(folder.glob("libnvrtc-builtins.so.13*"))[:1]:
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(folder / "libnvrtc.so.13"))


def compile_cuda(source: str, arch: str = "sm_80", options: Sequence[str] = ()) -> str:
    """The PTX of a CUDA C++ source. The assembler runs as well, so what it refuses is refused here.

    Errors: `CompilationError` for an error or a warning, `NvrtcMissing`.
    """
    library = nvrtc()
    if library is None:
        raise NvrtcMissing(MISSING)
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None))
    try:
        flags = [f"-arch={arch}", "-std=c++17", *options]
        pointers = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        failed = library.nvrtcCompileProgram(program, len(flags), pointers)
        log = _text(library, program, "ProgramLog")
        if failed or "warning" in log or "error" in log:
            raise CompilationError(log)
        return _text(library, program, "PTX")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.value.decode()


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompilationError(library.nvrtcGetErrorString(code).decode())
