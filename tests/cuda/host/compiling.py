"""From the text of a launch to a program for the host, with a sanitizer in it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from convc.codegen.cuda.kernel import Launch
from tests.cuda_emulator.library import compiler

SHIM = Path(__file__).with_name("shim.hpp")
SANITIZERS = {"threads": "thread", "addresses": "address,undefined"}
# -fpermissive: a typedef of a class may hide one of outside after its use, which NVIDIA's compiler does not mind.
_FLAGS = ("-std=c++20", "-O1", "-g1", "-w", "-fpermissive", "-fno-strict-aliasing", "-ffp-contract=off", "-pthread")

# Inline assembly that the host has another word for; what is empty is for compilers, and stays.
_ASSEMBLY = {
    "cvt.f32.f16 %0, %1;": "y = host::from_half(x.bits)",
    "cvt.rn.f16.f32 %0, %1;": "y.bits = host::to_half(x)",
    "mov.u32 %0, %%tid.x;": "x = threadIdx.x",
    "mov.u32 %0, %%ctaid.x;": "x = blockIdx.x",
    "mov.u32 %0, %%ctaid.y;": "y = blockIdx.y",
    "mov.u32 %0, %%ctaid.z;": "z = blockIdx.z",
    "": None,
}
_ASM = re.compile(r'\basm(?: volatile)?\("([^"]*)"[^;]*\);')
_DYNAMIC = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(.+?) ?(\w+)\[\];")


class NotForTheHost(Exception):
    """The text has instructions of a GPU that stand for nothing here; the message names the first."""


class SanitizerReport(AssertionError):
    """What a sanitizer has found. `summary` is its own last line."""

    def __init__(self, launch: Launch, text: str) -> None:
        found = re.search(r"^SUMMARY: .*", text, re.MULTILINE) or re.search(r"^.*runtime error: .*", text, re.MULTILINE)
        self.summary = found[0] if found else text.strip()[-400:]
        super().__init__(f"{launch.name} of {launch.kernel.name}: {self.summary}\n{text[:3000]}")


def translated(source: str) -> str:
    """CUDA C++ as C++ of the host. Error: `NotForTheHost`."""

    def assembly(found: re.Match[str]) -> str:
        # Of a statement in a branch for newer GPUs there is another form in the other branch.
        if found[1] in _ASSEMBLY:
            other = _ASSEMBLY[found[1]]
            return found[0] if other is None else f"{other};"
        if found[1].startswith("cvt.rn.bf16"):
            return found[0]
        raise NotForTheHost(found[1])

    return _DYNAMIC.sub(r"\1* const \2 = static_cast<\1*>(host::dynamic);", _ASM.sub(assembly, source))


def program_text(launch: Launch, source: str) -> str:
    declared = source.partition("#define PARAMETERS ")[2].partition("\n")[0].split(", ")
    types = [parameter.replace("__restrict__ ", "").rpartition(" ")[0] for parameter in declared[:-1]]
    arguments = ", ".join(f"static_cast<{kind}>(given.at[{number}])" for number, kind in enumerate(types))
    return f"""#include "{SHIM}"
{translated(source)}
static host::Arguments given;
static int all_rows;
static void run() {{ KERNEL({arguments}, all_rows); }}
int main(int, char** words) {{
  const auto number = [&](int word) {{ return static_cast<unsigned>(std::atoi(words[word])); }};
  given.load(words[1]);
  all_rows = number(8);
  host::launch({{number(3), number(4), number(5)}}, number(6), number(7), run);
  given.save(words[2]);
}}
"""


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="convc-host-")


@cache
def _built(text: str, sanitizer: str) -> Path:
    made = Path(_folder().name) / f"{abs(hash((text, sanitizer))):x}"
    file = made.with_suffix(".cpp")
    file.write_text(text, encoding="utf-8")
    command = [
        str(compiler()),
        *_FLAGS,
        f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
        str(file),
        "-o",
        str(made),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:4000]}")
    return made


def build(launch: Launch, source: str, sanitizer: str) -> Path:
    """The program of a launch whose text is `source`. Errors: `NotForTheHost`, RuntimeError by the compiler."""
    return _built(program_text(launch, source), SANITIZERS[sanitizer])


@cache
def works(sanitizer: str) -> bool:
    """Whether programs with a sanitizer can be compiled and run here."""
    if compiler() is None:
        return False
    try:
        made = _built("int main() {}", SANITIZERS[sanitizer])
        return run_program(made, []).returncode == 0
    except (RuntimeError, OSError):
        return False


def run_program(program: Path, words: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    options = "halt_on_error=1:exitcode=66"
    environment = {**os.environ, "TSAN_OPTIONS": options, "ASAN_OPTIONS": f"{options}:detect_leaks=0"}
    command = [str(program), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=environment)
