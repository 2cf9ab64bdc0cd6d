"""What a compiled kernel takes, read from the assembler's log, and which instructions it consists of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from convc.codegen.cuda.nvrtc import package_folders
from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail
from convc.lazy import dataclass


@dataclass(frozen=True)
class Resources:
    """What a kernel takes: registers and barriers (a number for the block), everything else in bytes.

    `stack` is per thread, functions that it calls included. `spill_stores` and `spill_loads` are the sizes of accesses
    in the code of the kernel and its functions. `shared` is memory of fixed size only. `constant` includes the
    variables of the translation unit; from sm_90 on the log leaves out the parameters of the kernel.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    constant: int
    barriers: int


_ENTRY = re.compile(r"Compiling entry function '(.*)' for '(.*)'")
_CONSTANT = re.compile(r"(\d+) bytes cmem\[\d+\]")
# How the log puts each amount, in the lines of the kernel itself and of the functions that it calls.
_AMOUNTS = {
    "registers": re.compile(r"Used (\d+) registers"),
    "barriers": re.compile(r"used (\d+) barriers"),
    "frame": re.compile(r"(\d+) bytes stack frame"),
    "cumulative": re.compile(r"(\d+) bytes cumulative stack size"),
    "spill_stores": re.compile(r"(\d+) bytes spill stores"),
    "spill_loads": re.compile(r"(\d+) bytes spill loads"),
    "shared": re.compile(r"(\d+) bytes smem"),
    "constant": _CONSTANT,
}


def parse_resources(log: str) -> dict[str, Resources]:
    """The kernels of a log that was written with `nvrtc.RESOURCES`, in its order."""
    unit, *kernels = re.split(r"(?=^.*Compiling entry function)", log, flags=re.MULTILINE)
    common = sum(int(size) for size in _CONSTANT.findall(unit))
    found: dict[str, Resources] = {}
    for text in kernels:
        entry = _ENTRY.search(text)
        if entry is None:
            continue
        amounts = {name: [int(size) for size in pattern.findall(text)] for name, pattern in _AMOUNTS.items()}
        found[entry[1]] = Resources(
            registers=max(amounts["registers"], default=0),
            # The frame of the kernel comes first; those of its functions are in the cumulative size.
            stack=max([*amounts["frame"][:1], *amounts["cumulative"]], default=0),
            spill_stores=sum(amounts["spill_stores"]),
            spill_loads=sum(amounts["spill_loads"]),
            shared=max(amounts["shared"], default=0),
            constant=common + sum(amounts["constant"]),
            barriers=max(amounts["barriers"], default=0),
        )
    return found


def sass(cubin: bytes) -> str:
    """The machine code as text, by NVIDIA's disassembler `nvdisasm`, or `cuobjdump` where there is only that.

    They are looked for in the wheels `nvidia-cuda-nvdisasm` and `nvidia-cuda-cuobjdump`, in `$CUDA_PATH/bin`, on PATH.
    Raises CompileError: `missing-nvdisasm`; `failed-nvdisasm` where the tool refuses the code, as an old one does that
    does not know the architecture.
    """
    tool = find_tool("nvdisasm")
    options = ["-c"]
    if tool is None:
        tool, options = find_tool("cuobjdump"), ["-sass"]
    if tool is None:
        hint = "pip install nvidia-cuda-nvdisasm"
        fail("missing-nvdisasm", "machine code for GPUs is shown by nvdisasm, which is not installed", hint=hint)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        result = subprocess.run([tool, *options, file], capture_output=True, text=True, errors="replace")
    if result.returncode:
        said = tuple(Note(line) for line in (result.stderr or result.stdout).splitlines() if line.strip())
        message = f"{tool} ended with code {result.returncode}"
        raise CompileError([Diagnostic("failed-nvdisasm", message, notes=said, hint="a newer nvidia-cuda-nvdisasm")])
    return result.stdout


def find_tool(name: str) -> Path | None:
    """An executable of NVIDIA's, such as "nvdisasm"; None where it is not installed."""
    places = [folder / "bin" / name for folder in package_folders("nvidia.cu13")]
    toolkit = os.environ.get("CUDA_PATH")
    if toolkit:
        places.append(Path(toolkit) / "bin" / name)
    for place in places:
        if os.access(place, os.X_OK):
            return place
    found = shutil.which(name)
    return Path(found) if found else None


# An address, a predicate such as @!P0 or @UP1, and the family: what comes before the first dot.
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9]*)", re.MULTILINE)


def instruction_counts(sass: str) -> Counter[str]:
    """How often each family of instructions (HMMA, LDSM, LDGSTS, FFMA, LDG, STG, BAR, …) stands in a text of `sass`.

    They are counted as they stand there, not as often as they run. NOP, which fills up the end, is left out.
    """
    counts = Counter(_INSTRUCTION.findall(sass))
    del counts["NOP"]
    return counts
