"""`convc decompile` as a user runs it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from convc.cli import main
from convc.frontend import load, loads
from convc.ir.equivalence import difference
from convc.ir.printer import print_ir

SOURCE = """
block unit(c) { residual { conv c k=3 pad=1 -> bn } skip auto -> relu }
net small(n = 3) { input 1x8x8 -> unit 4 -> fc n -> loss softmax }
train { data npz "pictures.npz" -> batch 8 }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "small.cnn"
    path.write_text(SOURCE)
    return path


def test_ir_to_a_file(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = load(source).graph(2)
    dump, out = tmp_path / "small.ir", tmp_path / "again.cnn"
    dump.write_text(print_ir(graph))
    assert main(["decompile", str(dump), "-o", str(out)]) == 0
    assert difference(graph, load(out).graph(2)) is None
    assert capsys.readouterr() == (f"wrote {out}\n", "")


def test_standard_streams(source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(source).graph(2)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(print_ir(graph).encode())))
    assert main(["decompile", "-"]) == 0
    assert difference(graph, loads(capsys.readouterr().out).graph(2)) is None


def test_a_cnn_file_keeps_its_settings(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decompile", str(source), "--set", "n=7"]) == 0
    net = loads(capsys.readouterr().out)
    assert (net.classes, net.settings.batch) == (7, 8)
    assert net.settings.data is not None
    assert net.settings.data.path == str(source.with_name("pictures.npz"))


def test_new_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.cnn"
    path.write_text("net n { input 1x8x8 -> conv 2 k=3 name=stem }")
    assert main(["decompile", str(path), "--renumber"]) == 0
    out, err = capsys.readouterr()
    assert "name=" not in out
    assert err == "2 parameters have new names: stem.weight is conv1.weight\n"


def test_large_constants_lie_beside_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    means = ", ".join(str(number / 32) for number in range(20))
    graph = loads(f"net n {{ input 20x4x4 mean=[{means}] -> relu }}").graph(1)
    constants: dict[str, np.ndarray] = {}
    dump = tmp_path / "n.ir"
    dump.write_text(print_ir(graph, constants))
    beside = tmp_path / "n.ir.constants.npz"
    np.savez(beside, **constants)  # type: ignore[arg-type]
    assert main(["decompile", str(dump)]) == 0
    assert difference(graph, loads(capsys.readouterr().out).graph(1)) is None
    beside.write_bytes(beside.read_bytes()[:60])
    assert main(["decompile", str(dump)]) == 1
    assert "error[file-unreadable]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["missing.ir"], 1, "file-missing"),
        (["."], 1, "file-directory"),
        (["bad.ir"], 1, "syntax-ir"),
        (["binary.ir"], 1, "file-encoding"),
        (["odd.ir"], 1, "odd.ir:9:9: error[missing-syntax]: exp b has no surface syntax"),
        (["odd.ir", "--net", "n"], 2, "--net belongs to a .cnn file"),
        (["odd.ir", "--out", "x"], 2, "unknown option --out"),
        (["fine.ir", "-o", "no/such/folder/x.cnn"], 1, "file-write"),
        ([], 2, "FILE is missing"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ir").write_text("convc-ir 1\ngraph nonsense")
    (tmp_path / "binary.ir").write_bytes(b"\xff\xfe\x00")
    fine = "convc-ir 1\ngraph @g(%x: f32[1,1,4,4]) params() -> (logits: %1) {\n  %1 = relu(%x) : f32[1,1,4,4]\n}\n"
    (tmp_path / "fine.ir").write_text(fine)
    odd = "".join(
        f'  %{number} = exp(%{before}) : f32[1,1,4,4]  @{label}  loc("odd.ir":9:{number})\n'
        for number, before, label in [(8, "x", "a"), *((n, n - 1, "b") for n in range(9, 40))]
    )
    (tmp_path / "odd.ir").write_text(f"convc-ir 1\ngraph @g(%x: f32[1,1,4,4]) params() -> (logits: %39) {{\n{odd}}}\n")
    assert main(["decompile", *words]) == code
    err = capsys.readouterr().err
    assert text in err
    if words == ["odd.ir"]:
        assert err.count("missing-syntax") == 32
