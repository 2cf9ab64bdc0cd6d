"""The rules that hold the rooms apart, read from the sources: who may import whom, and what stays out of the way."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "convc"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A room may import itself and these. frontend -> ir <- passes, codegen, runtime; the command line is on top.
ROOMS = {
    "ir": set[str](),
    "frontend": {"ir"},
    "passes": {"ir"},
    "codegen": {"ir", "passes"},
    "runtime": {"ir", "frontend", "passes", "codegen"},
}

# Libraries that belong to one place each, so that they can be replaced, and loaded only where they are needed.
HOMES = {
    "networkx": {"ir/graph.py"},
    "lark": {"frontend/"},
    "llvmlite": {"codegen/llvm/"},
    "PIL": {"runtime/"},
    "matplotlib": {"runtime/"},
    "safetensors": {"runtime/"},
    "onnx": {"frontend/onnx/", "codegen/onnx/", "ir/onnx_library.py"},
    "torch": {"runtime/benchmark/"},
    "cupy": {"runtime/cupy_device.py"},
    "onnxruntime": {"runtime/benchmark/"},
    "openvino": {"runtime/benchmark/"},
    "pygls": {"commands/language_server/"},
    "lsprotocol": {"commands/language_server/"},
}

# Costly to load: `import convc` must leave them alone.
HEAVY = ("llvmlite", "lark", "networkx", "matplotlib", "rich", "PIL", "safetensors", "pygls", "onnx", "torch", "cupy")


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and dotted name of everything that a file imports, inside functions and for type checking, too."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return tuple(found)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    allowed = {room, "_version", "lazy"} | ROOMS[room]
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in SOURCES
        if relative(path).startswith(f"{room}/")
        for line, name in imports(path)
        if name.startswith("convc.") and name.split(".")[1] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_at_home(library: str) -> None:
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in SOURCES
        for line, name in imports(path)
        if name.split(".")[0] == library and not any(relative(path).startswith(home) for home in HOMES[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_builder_of_llvm_ir_has_one_home() -> None:
    users = {relative(path) for path in SOURCES if any(name.startswith("llvmlite.ir") for _, name in imports(path))}
    assert len(users) <= 1, f"only the vocabulary of kernels speaks to llvmlite.ir, but {sorted(users)} do"


def test_files_stay_readable() -> None:
    long = {relative(path): count for path in SOURCES if (count := len(path.read_text("utf-8").splitlines())) > 500}
    assert not long, f"past 500 lines: {long}"


def test_every_room_and_file_says_what_it_is() -> None:
    silent = [relative(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert not silent, f"without a module docstring: {silent}"


def test_importing_convc_loads_nothing_heavy() -> None:
    program = f"import convc, sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""
