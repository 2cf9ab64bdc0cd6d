"""NVIDIA's compiler: what it makes and refuses, in several threads, through the cache, and where it is looked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convc.codegen.cuda import nvrtc
from convc.codegen.cuda.architectures import ARCHITECTURES
from convc.codegen.cuda.nvrtc import CompilationError, Compiled, compile, compile_all
from convc.codegen.llvm.object_cache import ObjectCache
from convc.ir.diagnostic import CompileError

needs_nvrtc = pytest.mark.skipif(nvrtc.nvrtc() is None, reason=nvrtc.MISSING)


def kernel(name: str, body: str = "*p = 1;") -> str:
    return f'extern "C" __global__ void {name}(int* p) {{ {body} }}\n'


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "convc" / "objects")


@pytest.fixture
def looked_for_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Before and after the test, nothing is known about where the library lies."""
    nvrtc.nvrtc.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    nvrtc.nvrtc.cache_clear()


# What it makes


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ptx_and_machine_code_of_one_compilation(architecture: str) -> None:
    made = compile(kernel("fill"), architecture)
    assert f".target {architecture}" in made.ptx
    assert ".entry fill" in made.ptx
    assert not made.ptx.endswith("\0")
    assert made.cubin.startswith(b"\x7fELF")
    assert made.log == ""


@needs_nvrtc
def test_options() -> None:
    plain = compile(kernel("fill"), "sm_80")
    assert "Used" in compile(kernel("fill"), "sm_80", [nvrtc.RESOURCES]).log
    lines = compile(kernel("fill"), "sm_80", [nvrtc.LINES], name="fill.cu")
    assert re.search(r'\.file\s+1 ".*fill\.cu"', lines.ptx)
    assert ".file" not in plain.ptx
    assert "31415926" in compile(kernel("fill", "*p = VALUE;"), "sm_80", ["-DVALUE=31415926"]).ptx


@needs_nvrtc
def test_version() -> None:
    assert nvrtc.version() >= (12, 0)


# What it refuses


@needs_nvrtc
@pytest.mark.parametrize("options", [(), (nvrtc.RESOURCES,)])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("__global__ void k() { undeclared(); }", "undeclared"),
        (kernel("k", "int unused; *p = 1;"), "never referenced"),
        ('extern "C" __global__ void k() { asm("frobnicate.s32;"); }', "frobnicate"),
        # The assembler's warnings come in a form of their own.
        ("__global__ void __launch_bounds__(99999) k() {}", "out of range"),
        ("#include <no_such_header.h>", "no_such_header"),
    ],
)
def test_errors_and_warnings(source: str, message: str, options: tuple[str, ...]) -> None:
    with pytest.raises(CompilationError, match=message) as caught:
        compile(source, "sm_80", options, name="pool.cu")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "failed-cuda-compile"
    assert "pool.cu for sm_80" in diagnostic.message
    assert message in caught.value.log


@needs_nvrtc
def test_an_architecture_that_it_does_not_know() -> None:
    with pytest.raises(CompilationError, match="gpu-architecture"):
        compile(kernel("fill"), "sm_20")


@needs_nvrtc
@pytest.mark.parametrize("name", ["warning", "error"])
def test_names_of_kernels_are_no_complaints(name: str) -> None:
    assert f"'{name}'" in compile(kernel(name), "sm_80", [nvrtc.RESOURCES]).log


# Many


@needs_nvrtc
@pytest.mark.parametrize("threads", [1, 3])
def test_all_at_once(threads: int) -> None:
    sources = [kernel(f"k{number % 5}") for number in range(7)]
    made = compile_all(sources, "sm_86", threads=threads)
    assert made == [compile(source, "sm_86") for source in sources]
    assert made[0] is made[5]


@needs_nvrtc
def test_the_first_failure_counts() -> None:
    sources = [kernel("good"), kernel("k", "first();"), kernel("k", "second();"), kernel("other")]
    with pytest.raises(CompilationError, match="first") as caught:
        compile_all(sources, "sm_80", threads=2)
    assert "second" not in caught.value.log


def test_nothing_to_do() -> None:
    assert compile_all([], "sm_80") == []


# The cache


@needs_nvrtc
def test_the_second_time_nothing_is_compiled(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [kernel("a"), kernel("b")]
    first = compile_all(sources, "sm_80", [nvrtc.RESOURCES], 2, cache)
    assert len(cache.entries()) == 2
    compiled = counted(monkeypatch)
    assert compile_all(sources, "sm_80", [nvrtc.RESOURCES], 2, cache) == first
    assert compiled == []
    assert compile_all([*sources, kernel("c")], "sm_80", [nvrtc.RESOURCES], 2, cache)[:2] == first
    assert compiled == [kernel("c")]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that are compiled from now on."""
    sources: list[str] = []
    real = nvrtc.compile

    def compile_and_count(source: str, *others: Any, **named: Any) -> Compiled:
        sources.append(source)
        return real(source, *others, **named)

    monkeypatch.setattr(nvrtc, "compile", compile_and_count)
    return sources


@needs_nvrtc
def test_the_key_has_everything_that_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [
        nvrtc.cache_key(kernel("a"), "sm_80", ()),
        nvrtc.cache_key(kernel("b"), "sm_80", ()),
        nvrtc.cache_key(kernel("a"), "sm_90", ()),
        nvrtc.cache_key(kernel("a"), "sm_80", ("-DA=1",)),
        nvrtc.cache_key(kernel("a"), "sm_80", ("-DA=", "1")),
    ]
    monkeypatch.setattr(nvrtc, "_build", lambda architecture: ("another",))
    keys.append(nvrtc.cache_key(kernel("a"), "sm_80", ()))
    assert len(set(keys)) == len(keys)


@needs_nvrtc
@pytest.mark.parametrize("damage", ["flipped", "cut", "foreign"])
def test_damaged_entries_are_made_anew(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    source = kernel("a")
    (first,) = compile_all([source], "sm_80", cache=cache)
    (entry,) = cache.entries()
    data = bytearray(entry.path.read_bytes())
    if damage == "flipped":
        data[-100] ^= 1
        entry.path.write_bytes(data)
    elif damage == "cut":
        entry.path.write_bytes(data[: len(data) // 2])
    else:
        # A sound entry of the cache that holds something else.
        cache.put(nvrtc.cache_key(source, "sm_80", ()), b"\1" * 64)
    compiled = counted(monkeypatch)
    assert compile_all([source], "sm_80", cache=cache) == [first]
    assert compile_all([source], "sm_80", cache=cache) == [first]
    assert compiled == [source]


@needs_nvrtc
def test_failures_are_not_kept(cache: ObjectCache) -> None:
    for _ in range(2):
        with pytest.raises(CompilationError, match="undeclared"):
            compile_all([kernel("k", "undeclared();")], "sm_80", cache=cache)
    assert cache.entries() == []


# Where it is


def test_a_folder_without_it(looked_for_anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked_for_anew.setenv(nvrtc.FOLDER_VARIABLE, str(tmp_path))
    assert nvrtc.nvrtc() is None
    for attempt in (nvrtc.version, lambda: compile("", "sm_80"), lambda: compile_all(["", "//"], "sm_80")):
        with pytest.raises(CompileError, match="NVRTC is not installed") as caught:
            attempt()
        assert caught.value.diagnostics[0].code == "missing-nvrtc"
        assert "pip install" in (caught.value.diagnostics[0].hint or "")


@needs_nvrtc
def test_a_folder_that_is_named(looked_for_anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = nvrtc.version()
    link_libraries(tmp_path)
    looked_for_anew.setenv(nvrtc.FOLDER_VARIABLE, str(tmp_path))
    nvrtc.nvrtc.cache_clear()
    assert nvrtc.version() == known


@needs_nvrtc
def test_a_toolkit(looked_for_anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = nvrtc.version()
    link_libraries(tmp_path / "lib64")
    looked_for_anew.delenv(nvrtc.FOLDER_VARIABLE, raising=False)
    looked_for_anew.setattr(nvrtc, "package_folders", lambda name: [])
    looked_for_anew.setenv("CUDA_PATH", str(tmp_path))
    nvrtc.nvrtc.cache_clear()
    assert nvrtc.version() == known
    assert compile(kernel("fill"), "sm_80").cubin


def link_libraries(folder: Path) -> None:
    """Put links to the library and its other half there."""
    library = nvrtc.nvrtc()
    assert library is not None
    found = Path(library._name)
    if not found.is_absolute():
        pytest.skip("the library is where the system's loader found it")
    folder.mkdir(exist_ok=True)
    for file in found.parent.glob("libnvrtc*"):
        (folder / file.name).symlink_to(file)
