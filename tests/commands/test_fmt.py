"""`convc fmt` on files, pipes and what else users give it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convc.cli import main

UGLY = "net n {\ninput 1x4x4->conv 3 k = 2 # c\n}"
NEAT = "net n {\n  input 1x4x4 -> conv 3 k=2  # c\n}\n"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_are_rewritten_and_named(capsys: Capture) -> None:
    Path("a.cnn").write_text(UGLY)
    Path("b.cnn").write_text(NEAT)
    assert main(["fmt", "a.cnn", "b.cnn", "a.cnn"]) == 0
    assert capsys.readouterr() == ("a.cnn: changed\n", "")
    assert Path("a.cnn").read_text() == NEAT
    assert main(["fmt", "a.cnn", "b.cnn"]) == 0
    assert capsys.readouterr() == ("", "")
    assert sorted(os.listdir()) == ["a.cnn", "b.cnn"]


def test_check_changes_nothing(capsys: Capture) -> None:
    Path("a.cnn").write_text(UGLY)
    Path("b.cnn").write_text(NEAT)
    assert main(["fmt", "--check", "a.cnn", "b.cnn"]) == 1
    assert capsys.readouterr() == ("a.cnn: would change\n", "")
    assert Path("a.cnn").read_text() == UGLY
    assert main(["fmt", "--check", "b.cnn"]) == 0


def test_diff_shows_what_would_change(capsys: Capture) -> None:
    Path("a.cnn").write_text(UGLY)
    assert main(["fmt", "--diff", "a.cnn"]) == 0
    expected = (
        "--- a.cnn\n+++ a.cnn\n@@ -1,3 +1,3 @@\n net n {\n-input 1x4x4->conv 3 k = 2 # c\n-}\n"
        "\\ No newline at end of file\n+  input 1x4x4 -> conv 3 k=2  # c\n+}\n"
    )
    assert capsys.readouterr() == (expected, "")
    assert Path("a.cnn").read_text() == UGLY
    assert main(["fmt", "--diff", "--check", "a.cnn"]) == 1
    assert capsys.readouterr() == (expected, "a.cnn: would change\n")


def test_bad_files_are_left_alone_and_the_others_done(capsys: Capture) -> None:
    Path("bad.cnn").write_text("net n { -> relu\n}\nnet { }\n")
    Path("latin.cnn").write_bytes(b"# \xe9\n")
    Path("a.cnn").write_text(UGLY)
    assert main(["fmt", "bad.cnn", "missing.cnn", "latin.cnn", ".", "a.cnn"]) == 1
    output, errors = capsys.readouterr()
    assert output == "a.cnn: changed\n"
    for code in ("syntax-arrow", "syntax-unexpected", "file-missing", "file-encoding", "file-directory"):
        assert f"error[{code}]" in errors
    assert Path("bad.cnn").read_text().startswith("net n { -> relu")
    assert Path("a.cnn").read_text() == NEAT


def test_permissions_and_links_stay(capsys: Capture) -> None:
    Path("real").mkdir()
    target = Path("real/a.cnn")
    target.write_text(UGLY)
    target.chmod(0o640)
    Path("link.cnn").symlink_to(target)
    assert main(["fmt", "link.cnn"]) == 0
    assert capsys.readouterr().out == "link.cnn: changed\n"
    assert Path("link.cnn").is_symlink()
    assert target.read_text() == NEAT
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_file(capsys: Capture) -> None:
    Path("a.cnn").write_text(UGLY)
    Path("a.cnn").chmod(0o444)
    assert main(["fmt", "a.cnn"]) == 1
    assert "error[file-write]" in capsys.readouterr().err
    assert Path("a.cnn").read_text() == UGLY


def test_line_ends_and_mark_are_changes(capsys: Capture) -> None:
    Path("a.cnn").write_bytes(b"\xef\xbb\xbf" + NEAT.replace("\n", "\r\n").encode())
    assert main(["fmt", "a.cnn"]) == 0
    assert Path("a.cnn").read_bytes() == NEAT.encode()
    assert capsys.readouterr().out == "a.cnn: changed\n"


def test_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    give(UGLY.encode())
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr() == (NEAT, "")
    give(UGLY.encode())
    assert main(["fmt", "--check", "-"]) == 1
    assert capsys.readouterr() == ("<stdin>: would change\n", "")
    give(b"net {")
    assert main(["fmt", "-"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert "<stdin>:1:5: error[" in errors
    give(b"\xff")
    assert main(["fmt", "-"]) == 1
    assert "file-encoding" in capsys.readouterr().err


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "convc", "fmt", "-"]
    done = subprocess.run(command, input=UGLY, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, NEAT, "")


def test_no_files(capsys: Capture) -> None:
    assert main(["fmt"]) == 2
    assert "FILE is missing" in capsys.readouterr().err


def test_limits_are_those_of_the_other_verbs(capsys: Capture) -> None:
    Path("a.cnn").write_text(UGLY)
    assert main(["fmt", "a.cnn", "--limit", "tokens=5"]) == 1
    assert "syntax-budget" in capsys.readouterr().err
    assert Path("a.cnn").read_text() == UGLY
