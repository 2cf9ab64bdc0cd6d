"""NVIDIA's run-time compiler through ctypes, from CUDA C++ to PTX and machine code; it needs no GPU and no driver.

The library is looked for in the folder that `CONVC_NVRTC` names, and nowhere else if that is set; then in the wheels
`nvidia-cuda-nvrtc` (CUDA 13) and `nvidia-cuda-nvrtc-cu12`, in `$CUDA_PATH/lib64`, and where the system's loader looks.

Several threads may compile at once: ctypes lets go of Python's lock, and NVRTC has none of its own around a compilation
(24 kernels, 13.0.88, two cores: 2.2 s with one thread, 1.1 s with two).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from convc.ir.diagnostic import CompileError, Diagnostic
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.codegen.llvm.object_cache import ObjectCache

FOLDER_VARIABLE = "CONVC_NVRTC"
# Options for `compile`: the log then tells what each kernel uses, and machine code knows its lines.
RESOURCES = "--ptxas-options=-v"
LINES = "-lineinfo"
MISSING = (
    "NVRTC is not installed: pip install nvidia-cuda-nvrtc, or set CONVC_NVRTC to the folder of libnvrtc.so.13 or .12"
)

# CuPy has every kernel take subnormal numbers of float32 for zeros. What is checked here is what runs there.
_ALWAYS = ("-std=c++17", "-ftz=true")
_LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12")
# Where wheels put it: the package, the library.
_WHEELS = (("nvidia.cu13", "libnvrtc.so.13"), ("nvidia.cuda_nvrtc", "libnvrtc.so.12"))
# Of the log, the lines that report resources: names of kernels may be any word there.
_REPORT = re.compile(r"^ptxas (info)? .*$", re.MULTILINE)
_COMPLAINT = re.compile(r"\b(?:warning|error)\b", re.IGNORECASE)
_PARTS = struct.Struct("<QQQ")


class CompilationError(CompileError):
    """What NVRTC says about a source, warnings included (`failed-cuda-compile`); `log` is its text."""

    def __init__(self, log: str, name: str = "kernel.cu", architecture: str = "") -> None:
        self.log = log
        place = f"{name} for {architecture}" if architecture else name
        super().__init__([Diagnostic("failed-cuda-compile", f"NVRTC refuses {place}:\n{log.strip()}")])


class NvrtcMissing(CompileError):
    """There is no NVRTC on this machine (`missing-nvrtc`)."""

    def __init__(self) -> None:
        what, _, hint = MISSING.partition(": ")
        super().__init__([Diagnostic("missing-nvrtc", what, hint=hint)])


@dataclass(frozen=True)
class Compiled:
    """A translation unit: text for the driver's compiler, machine code of one architecture, what NVRTC said."""

    ptx: str
    cubin: bytes
    log: str


@cache
def nvrtc() -> ctypes.CDLL | None:
    """The compiler's library, None where there is none."""
    for path in _candidates():
        if path.exists():
            # Wheels have no run path, so the library does not find its other half by itself.
            for builtins in sorted(path.parent.glob(f"libnvrtc-builtins.so.{path.name[-2:]}.*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
    if not os.environ.get(FOLDER_VARIABLE):
        for library in _LIBRARIES:
            try:
                return ctypes.CDLL(library)
            except OSError:
                continue
    return None


def version() -> tuple[int, int]:
    """NVRTC's version, such as (13, 0). Raises CompileError (`missing-nvrtc`)."""
    library = _loaded()
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def compile(source: str, architecture: str, options: Sequence[str] = (), name: str = "kernel.cu") -> Compiled:
    """Compile CUDA C++ for an architecture such as "sm_90"; `name` stands for the source in messages and line tables.

    Raises CompileError: `failed-cuda-compile` for an error or a warning, of the assembler, too; `missing-nvrtc`.
    """
    library = _loaded()
    program = ctypes.c_void_p()
    text = source.encode()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text, name.encode(), 0, None, None))
    try:
        flags = [f"-arch={architecture}", *_ALWAYS, *options]
        pointers = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        failed = library.nvrtcCompileProgram(program, len(flags), pointers)
        log = _fetch(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if failed or _COMPLAINT.search(_REPORT.sub("", log)):
            raise CompilationError(log or _reason(library, failed), name, architecture)
        ptx = _fetch(library, program, "PTX").rstrip(b"\0").decode()
        return Compiled(ptx, _fetch(library, program, "CUBIN"), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def compile_all(
    sources: Sequence[str],
    architecture: str,
    options: Sequence[str] = (),
    threads: int = 1,
    cache: ObjectCache | None = None,
) -> list[Compiled]:
    """`compile` for each of `sources`, on `threads` threads; a source that occurs twice is compiled once.

    What `cache` holds is not compiled, and what is compiled is put there. Raises what `compile` does, for the first
    source that fails.
    """

    def one(source: str) -> Compiled:
        key = cache_key(source, architecture, options) if cache is not None else ""
        found = _unpacked(cache.get(key)) if cache is not None else None
        if found is None:
            found = compile(source, architecture, options)
            if cache is not None:
                cache.put(key, _packed(found))
        return found

    distinct = list(dict.fromkeys(sources))
    with ThreadPoolExecutor(max(1, min(threads, len(distinct)))) as pool:
        futures = [pool.submit(one, source) for source in distinct]
        try:
            made = dict(zip(distinct, (future.result() for future in futures), strict=True))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [made[source] for source in sources]


def cache_key(source: str, architecture: str, options: Sequence[str]) -> str:
    """The name of what `compile` makes of these, hashed. Raises CompileError (`missing-nvrtc`)."""
    digest = hashlib.sha256()
    for part in ("nvrtc", *_build(architecture), architecture, *_ALWAYS, *options, source):
        data = part.encode("utf-8", "surrogateescape")
        # Lengths between the parts: otherwise two different lists could run together to the same bytes.
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()


def _candidates() -> Iterator[Path]:
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        yield from (Path(named) / library for library in _LIBRARIES)
        return
    for package, library in _WHEELS:
        yield from (folder / "lib" / library for folder in package_folders(package))
    toolkit = os.environ.get("CUDA_PATH")
    if toolkit:
        yield from (Path(toolkit) / "lib64" / library for library in _LIBRARIES)


def package_folders(name: str) -> list[Path]:
    """The folders of a package such as "nvidia.cu13" that has no modules; none where it is not installed."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return []
    return [Path(place) for place in (found.submodule_search_locations or [])] if found else []


def _loaded() -> ctypes.CDLL:
    library = nvrtc()
    if library is None:
        raise NvrtcMissing
    return library


@cache
def _build(architecture: str) -> tuple[str, ...]:
    """The version, and the build of the library: releases of one version differ in the code that they make."""
    # PTX begins with a comment that names the release and the build.
    release = compile('extern "C" __global__ void k() {}', architecture).ptx.split(".version")[0]
    return (*(str(number) for number in version()), release)


def _fetch(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        raise CompilationError(_reason(library, code))


def _reason(library: ctypes.CDLL, code: int) -> str:
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library.nvrtcGetErrorString(code).decode()


def _packed(compiled: Compiled) -> bytes:
    parts = (compiled.ptx.encode(), compiled.cubin, compiled.log.encode())
    return _PARTS.pack(*(len(part) for part in parts)) + b"".join(parts)


def _unpacked(data: bytes | None) -> Compiled | None:
    """What `_packed` made; None for anything else."""
    if data is None or len(data) < _PARTS.size:
        return None
    ptx, cubin, log = _PARTS.unpack_from(data)
    if len(data) != _PARTS.size + ptx + cubin + log:
        return None
    body = data[_PARTS.size :]
    return Compiled(body[:ptx].decode(), body[ptx : ptx + cubin], body[ptx + cubin :].decode())
