"""From objects and C text to a shared library, by the system's C compiler."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail

COMPILER_VARIABLE = "CC"
_SOURCES = ("layouts.c", "runtime.c", "safetensors.c", "scaled_steps.c", "schedule.c", "training.c")
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread", "-ffp-contract=off")
# `now` and `relro`: every symbol is resolved when the library is loaded, and the tables are read-only from then on.
_LINK = ("-shared", "-Wl,--no-undefined", "-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,--as-needed")
_SHOWN = 8


def c_compiler() -> tuple[str, ...]:
    """The command: what `CC` says, else `cc`. Errors: `platform-unsupported`, `missing-compiler`."""
    if sys.platform != "linux":
        fail("platform-unsupported", f"standalone libraries are made on Linux, not on {sys.platform}")
    given = os.environ.get(COMPILER_VARIABLE, "").strip()
    try:
        command = tuple(shlex.split(given)) or ("cc",)
    except ValueError as error:
        fail("missing-compiler", f"{COMPILER_VARIABLE}={given} is no command: {error}")
    if shutil.which(command[0]) is None:
        origin = f" that {COMPILER_VARIABLE} names" if given else ""
        hint = "install one (on Debian: apt install gcc libc6-dev), or let CC name it"
        fail(
            "missing-compiler",
            f"a standalone library needs a C compiler, and there is no {command[0]}{origin}",
            hint=hint,
        )
    return command


def build_library(
    folder: Path,
    output: Path,
    *,
    source: str,
    header: tuple[str, str],
    data: bytes,
    objects: Mapping[str, bytes],
    exports: Sequence[str],
    name: str,
) -> None:
    """Write everything into `folder` (empty, of our own) and link the library `output` there.

    `source` is the text of model.c, `header` name and text of what it includes, `data` the numbers inside, `objects`
    the compiled code by file name, `exports` the public symbols, `name` the library's own name.
    Errors: those of `c_compiler`, `failed-compiler`.
    """
    command = c_compiler()
    for file in _SOURCES:
        shutil.copy(Path(__file__).parent / file, folder / file)
    (folder / "model.c").write_text(source, encoding="utf-8")
    (folder / header[0]).write_text(header[1], encoding="utf-8")
    (folder / "data.bin").write_bytes(data)
    for file, image in objects.items():
        (folder / file).write_bytes(image)
    symbols = " ".join(f"{symbol};" for symbol in exports)
    (folder / "exports.map").write_text(f"{{ global: {symbols} local: *; }};\n", encoding="utf-8")
    script, soname = "-Wl,--version-script=exports.map", f"-Wl,-soname,{name}"
    words = [*command, *_FLAGS, "model.c", *objects, *_LINK, script, soname, "-lm", "-o", str(output)]
    # Compilers speak the language of the user, and so may what is shown of them.
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace")
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()][-_SHOWN:]
        message = f"the C compiler {command[0]} ended with code {result.returncode}"
        notes = tuple(Note(line) for line in said)
        raise CompileError([Diagnostic("failed-compiler", message, notes=notes, hint="CC names another compiler")])
