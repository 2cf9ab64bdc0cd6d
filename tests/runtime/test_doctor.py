"""What `convc doctor` reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convc._version import __version__
from convc.codegen.llvm import emission as module
from convc.runtime.doctor import doctor, print_doctor, render_doctor


def test_the_report_is_plain_data_and_the_self_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", "baseline")
    monkeypatch.setenv("CONVC_THREADS", "3")
    report = json.loads(json.dumps(doctor()))
    assert report["schema"] == 1
    assert report["versions"]["convc"] == __version__
    assert (report["cpu"]["tier"], report["cpu"]["why"]) == ("baseline", "CONVC_CPU=baseline")
    assert (report["threads"]["threads"], report["threads"]["why"]) == (3, "CONVC_THREADS=3")
    assert report["packages"]["lark"]
    assert report["ok"] is True
    assert report["self_test"]["passed"] is True


def test_wrong_settings_are_part_of_the_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", "avx9")
    monkeypatch.setenv("CONVC_THREADS", "many")
    report = doctor()
    assert "unknown CPU tier 'avx9'" in report["cpu"]["error"]
    assert "CONVC_THREADS=many" in report["threads"]["error"]
    assert report["ok"] is False
    assert "compiled code does NOT run here" in render_doctor(report)


def test_a_native_failure_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no such target")

    monkeypatch.setenv("CONVC_CACHE", "off")
    monkeypatch.setattr(module, "compile_object", broken)
    report = doctor()
    assert report["self_test"] == {"error": "RuntimeError: no such target"}
    assert report["ok"] is False


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    assert doctor()["cache"]["state"] == "in use"
    assert doctor()["cache"]["folder"] == str(tmp_path.resolve() / "objects")
    (tmp_path / "objects").chmod(0o755)
    assert "open to other users" in doctor()["cache"]["state"]
    monkeypatch.setenv("CONVC_CACHE", "off")
    assert doctor()["cache"] == {"folder": None, "state": "switched off", "entries": 0, "bytes": 0}


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    print_doctor(doctor())
    text = capsys.readouterr().out
    assert "self test" in text
    assert f"convc     {__version__}" in text
    assert all(len(line) < 1000 for line in text.splitlines())
