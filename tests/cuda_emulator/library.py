"""The runtime as a shared library: the tables become C++, the system's compiler makes machine code of it, once.

The library has a handler for every opcode of the tables, so a kernel needs no compilation of its own. It is kept in a
folder of the user's below the system's temporary folder (`CONVC_EMULATOR_CACHE` names another one), under a digest of
everything that it is made of.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import filelock

from tests.cuda_emulator.faults import EmulationError
from tests.cuda_emulator.memory_table import all_handlers

_RUNTIME = Path(__file__).parent / "runtime"
_HEADERS = ("machine.hpp", "arithmetic.hpp", "memory.hpp", "collective.hpp", "scheduler.hpp")
# -ffp-contract: products and sums are fused where PTX says so. The rest lets lanes be vectors.
_FLAGS = [
    *("-std=c++20", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-fPIC", "-w", "-fwrapv"),
    *("-fno-strict-aliasing", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
_UNITS = 8  # translation units, compiled side by side


def compiler() -> str | None:
    """The C++ compiler of the system, `$CXX` if set."""
    return shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    except OSError:
        return platform.processor() + platform.machine()


def _unit(number: int) -> str:
    """Handlers of one translation unit, found by whoever links them by their numbers."""
    lines = ['#include "collective.hpp"', "using namespace emulator;"]
    for position, spec in enumerate(all_handlers().values()):
        if position % _UNITS == number:
            lines.append(f"// {spec.name}")
            lines.append(f"void handler_{position}(Warp& warp, const Instruction& i, uint32_t mask) {{ {spec.code} }}")
    return "\n".join(lines) + "\n"


def _main() -> str:
    number = len(all_handlers())
    return "\n".join(
        [
            '#include "scheduler.hpp"',
            "using namespace emulator;",
            *(f"void handler_{k}(Warp&, const Instruction&, uint32_t);" for k in range(number)),
            f"static const Handler HANDLERS[] = {{{', '.join(f'handler_{k}' for k in range(number))}}};",
            'extern "C" int emulate(Launch* launch) { return run(*launch, HANDLERS); }',
            'extern "C" unsigned long instruction_bytes() { return sizeof(Instruction); }',
            'extern "C" unsigned long launch_bytes() { return sizeof(Launch); }',
            "",
        ]
    )


def _folder() -> Path:
    named = os.environ.get("CONVC_EMULATOR_CACHE")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"convc-cuda-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or (not named and status.st_mode & 0o022):
        raise EmulationError(f"{folder} is not this user's alone; set CONVC_EMULATOR_CACHE to a folder that is")
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"{' '.join(command)}\n{done.stderr[:4000]}")


def _build(sources: list[str], target: Path, command: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        for header in _HEADERS:
            (folder / header).write_text((_RUNTIME / header).read_text(encoding="utf-8"), encoding="utf-8")
        for number, source in enumerate(sources):
            (folder / f"{number}.cpp").write_text(source, encoding="utf-8")

        def compile_unit(number: int) -> None:
            _run([*command, "-c", str(folder / f"{number}.cpp"), "-o", str(folder / f"{number}.o")])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_unit, range(len(sources))))
        objects = [str(folder / f"{number}.o") for number in range(len(sources))]
        made = folder / "library.so"
        _run([*command, "-shared", *objects, "-o", str(made)])
        made.replace(target)


@cache
def library() -> ctypes.CDLL:
    """The runtime, compiled if need be. Error: `EmulationError` where there is no compiler, or it refuses."""
    found = compiler()
    if found is None:
        raise EmulationError("the emulator needs a C++ compiler, c++ or g++")
    native = ["-march=native"] if platform.machine() in ("x86_64", "AMD64") else []
    command = [found, *_FLAGS, *native]
    sources = [*(_unit(number) for number in range(_UNITS)), _main()]
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    digest = hashlib.sha256()
    for text in (*command, version, _processor(), *sources, *((_RUNTIME / header).read_text() for header in _HEADERS)):
        digest.update(text.encode() + b"\0")
    target = _folder() / f"{digest.hexdigest()[:24]}.so"
    with filelock.FileLock(str(target) + ".lock"):
        if not target.exists():
            _build(sources, target, command)
    loaded = ctypes.CDLL(str(target))
    loaded.emulate.restype = ctypes.c_int
    return loaded
