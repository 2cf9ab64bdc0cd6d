"""The constants of the cost model as measured: that they are measured at all, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from convc.codegen.llvm.probes import PROBES, probe_module
from convc.codegen.llvm.target import emit_assembly, host_target
from convc.ir.diagnostic import CompileError
from convc.passes.algorithms.prediction import Constants
from convc.runtime.machine_probe import keep_constants, kept_constants, require_constants


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))


def test_probes_do_what_they_claim() -> None:
    """Products are multiply-adds on whole vectors, not scalars that a compiler has left over."""
    target = host_target()
    text = emit_assembly(probe_module(target), target)
    assert all(f"{name}:" in text for name in PROBES)
    if target.tier == "avx512":
        assert text.count("vfmadd") >= 28
        assert "zmm" in text


def test_kept_constants_come_back() -> None:
    with pytest.raises(CompileError, match="missing-constants"):
        require_constants()
    constants = Constants(1.5, 2.5, 3.5, 4.5, 5.5)
    assert keep_constants(constants)
    assert require_constants() == constants


def test_without_a_cache_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CACHE", "off")
    assert not keep_constants(Constants(1.0, 1.0, 1.0, 1.0, 1.0))
    assert kept_constants() is None
