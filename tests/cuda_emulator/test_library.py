"""The library of the runtime: how it is kept, and the patterns of its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda_emulator import library
from tests.cuda_emulator.faults import EmulationError
from tests.cuda_emulator.memory_table import all_handlers
from tests.cuda_emulator.patterns import expand
from tests.cuda_emulator.snippets import needs_compiler


def test_patterns() -> None:
    found = {e.opcode: (e.handler, e.bound, set(e.options)) for e in expand("add(.rn)[.ftz].{t:f16,f32}")}
    assert found == {
        "add.f16": ("add.f16", {"t": "f16"}, set()),
        "add.f32": ("add.f32", {"t": "f32"}, set()),
        "add.ftz.f16": ("add.ftz.f16", {"t": "f16"}, {"ftz"}),
        "add.ftz.f32": ("add.ftz.f32", {"t": "f32"}, {"ftz"}),
        "add.rn.f16": ("add.f16", {"t": "f16"}, set()),
        "add.rn.f32": ("add.f32", {"t": "f32"}, set()),
        "add.rn.ftz.f16": ("add.ftz.f16", {"t": "f16"}, {"ftz"}),
        "add.rn.ftz.f32": ("add.ftz.f32", {"t": "f32"}, {"ftz"}),
    }
    with pytest.raises(ValueError, match="no pattern"):
        list(expand("add.{f32}"))


@needs_compiler
def test_it_is_compiled_once() -> None:
    assert library.library() is library.library()
    assert len(all_handlers()) > 1000


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "compiler", lambda: None)
    with pytest.raises(EmulationError, match="needs a C\\+\\+ compiler"):
        library.library.__wrapped__()


@needs_compiler
def test_what_the_compiler_says(tmp_path: Path) -> None:
    with pytest.raises(EmulationError, match="nonsense"):
        library._build(["nonsense"], tmp_path / "library.so", [str(library.compiler()), "-fPIC"])  # pyright: ignore[reportPrivateUsage]
    assert not list(tmp_path.iterdir())


def test_a_cache_that_others_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVC_EMULATOR_CACHE", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = library._folder()  # pyright: ignore[reportPrivateUsage]
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(EmulationError, match="is not this user's alone"):
        library._folder()  # pyright: ignore[reportPrivateUsage]
