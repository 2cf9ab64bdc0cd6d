"""`convc opt`, `convc passes`, and orders of passes for `convc compile`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from convc import parse_ir
from convc.cli import main
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.constant import Constant
from convc.ir.ops.elementwise import Add
from convc.ir.types import f32
from convc.passes.pipeline import pipeline
from convc.passes.registry import ALL_PASSES
from convc.runtime.ir_file import read_ir, write_ir

NET = "net n {\n  input 1x6x6\n  conv 3 k=3 bias=no -> bn -> relu -> dropout 0.5\n  fc 4\n  loss softmax\n}\n"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("n.cnn").write_text(NET)
    assert main(["compile", "n.cnn", "--target", "reference", "--dump-dir", "dump"]) == 0
    capsys.readouterr()
    return tmp_path / "dump" / "00-input.ir"


def test_passes_on_text(graph: Path, capsys: Capture) -> None:
    assert main(["opt", str(graph), "-p", "specialize", "-p", "dead-code"]) == 0
    output, errors = capsys.readouterr()
    after = parse_ir(output)
    assert list(after.outputs) == ["logits"]
    assert not {node.op.name for node in after.nodes} & {"batch_norm", "dropout", "softmax_cross_entropy"}
    assert "specialize: changed batch_norm" in errors


def test_the_usual_order_does_what_the_compiler_does(graph: Path, capsys: Capture) -> None:
    order = [path.stem[3:] for path in sorted(graph.parent.glob("*.log"))]
    assert main(["opt", str(graph), "--passes", ",".join(order)]) == 0
    last = graph.parent / f"{len(order):02d}-{order[-1]}.ir"
    assert capsys.readouterr().out == last.read_text()


def test_options_and_both_spellings(graph: Path, capsys: Capture) -> None:
    assert main(["opt", str(graph), "-p", "specialize:mode=train", "--passes", "training,dead-code"]) == 0
    after = parse_ir(capsys.readouterr().out)
    assert "grad.conv1.weight" in after.outputs


def test_standard_input_and_no_pass(graph: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    text = graph.read_text()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["opt", "-"]) == 0
    assert capsys.readouterr().out == text


def test_report(graph: Path, capsys: Capture) -> None:
    assert main(["opt", str(graph), "-p", "specialize", "-o", "out.ir", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    (entry,) = content["passes"]
    assert set(entry) == {"pass", "ms", "changed", "missed", "metrics"}
    assert {change["rule"] for change in entry["changed"]} >= {"batch_norm", "dropout", "loss"}
    assert all(set(change) == {"rule", "before", "after", "why", "line"} for change in entry["changed"])
    assert parse_ir(Path("out.ir").read_text()).outputs
    assert main(["opt", str(graph), "--json"]) == 2


def test_bad_input(graph: Path, capsys: Capture) -> None:
    assert main(["opt", str(graph), "-p", "flod"]) == 1
    assert "there is no pass `flod`" in capsys.readouterr().err
    assert main(["opt", str(graph), "-p", "fuse"]) == 1
    assert "it plans a program for a processor" in capsys.readouterr().err
    assert main(["opt", "missing.ir"]) == 1
    Path("bad.ir").write_text("convc-ir 1\nnonsense")
    assert main(["opt", "bad.ir"]) == 1
    assert "bad.ir:2" in capsys.readouterr().err


def test_the_list(capsys: Capture) -> None:
    assert main(["passes"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}: " in text for name in ALL_PASSES)
    assert "mode=infer (infer or train)" in text
    assert main(["passes", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)["passes"]] == list(ALL_PASSES)


def test_another_order_for_a_program(graph: Path, capsys: Capture) -> None:
    words = ["compile", "n.cnn", "--target", "reference", "--report", "passes", "--json"]
    assert main([*words, "-p", "dead-code", "-p", "specialize", "-p", "dead-code"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [entry["pass"] for entry in content["passes"]] == ["dead-code", "specialize", "dead-code"]
    assert main([*words, "--passes", "dead-code"]) == 1
    assert "inference needs the pass `specialize`" in capsys.readouterr().err


def test_passes_that_plan(graph: Path, capsys: Capture) -> None:
    words = ["compile", "n.cnn", "--dump-dir", "planned", "--report", "passes"]
    assert main([*words, "--json"]) == 0
    usual = {entry["pass"]: entry for entry in json.loads(capsys.readouterr().out)["passes"]}
    assert list(usual)[-4:] == ["arrange", "fuse", "schedule", "memory"]
    fused = usual["fuse"]["metrics"]
    assert fused["kernels"] < fused["kernels_before"]
    assert fused["bytes_not_stored"] > 0
    assert usual["memory"]["metrics"]["arena_bytes"] >= usual["memory"]["metrics"]["bound_bytes"] > 0
    assert usual["arrange"]["metrics"] == {"relayouts": 0, "padding_channels": 1}
    folder = Path("planned")
    count = len(usual)
    assert parse_ir((folder / f"{count - 3:02d}-arrange.ir").read_text())
    assert (folder / f"{count - 3:02d}-arrange.diff").read_text() == ""
    log = (folder / f"{count - 2:02d}-fuse.log").read_text()
    assert "changed epilogue  conv2d(conv1)" in log
    assert "kernel 0 [" in log
    assert "@arena+" in (folder / f"{count:02d}-memory.log").read_text()
    assert main([*words, "-p", "fuse:depth=0", "--json"]) == 0
    (single,) = (e for e in json.loads(capsys.readouterr().out)["passes"] if e["pass"] == "fuse")
    assert single["metrics"]["kernels"] == single["metrics"]["kernels_before"] == fused["kernels_before"]
    assert single["metrics"]["bytes_not_stored"] == 0
    assert main(["compile", "n.cnn", "--print-after", "fuse"]) == 0
    assert capsys.readouterr().out == log
    assert main(words) == 0
    assert f"kernels {fused['kernels']}, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-p fuse -p specialize", "`fuse` plans the graph that `specialize` has left, and comes after it"),
        ("-p fuse:depth=-1", "the option `depth` of `fuse` is at least 0, not -1"),
        ("-p fuse --target reference", "the interpreter runs the graph as it is"),
    ],
)
def test_plans_that_cannot_be(graph: Path, capsys: Capture, words: str, message: str) -> None:
    assert main(["compile", "n.cnn", *words.split()]) == 1
    assert message in capsys.readouterr().err


def test_numerics_are_verified(graph: Path, capsys: Capture) -> None:
    words = ["compile", "n.cnn", "--target", "reference", "--mode", "train", "--verify-numerics"]
    assert main(words) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [step.name for step in pipeline("train")]
    assert "specialize: not compared: training draws masks and noise" in lines
    assert sum("agree" in line for line in lines) == len(lines) - 1
    assert main(["opt", str(graph), "-p", "specialize", "--verify-numerics"]) == 0
    assert "specialize: 1 output agrees" in capsys.readouterr().err


def test_clean_ups_in_any_order(graph: Path, capsys: Capture) -> None:
    passes = "canonicalize,fold,fold-batch-norm,specialize,fold,cse,dead-code"
    assert main(["opt", str(graph), "--passes", passes, "--verify-numerics"]) == 0
    output, errors = capsys.readouterr()
    assert parse_ir(output).outputs
    assert errors.count("agree") == 7
    words = ["compile", "n.cnn", "--target", "cpu", "--batch", "2", "--passes"]
    assert main([*words, "canonicalize,fold,specialize,cse,dead-code"]) == 0
    assert main([*words, "fold-batch-norm,specialize"]) == 0
    assert main([*words, "fold-batch-norm,specialize,training", "--mode", "train"]) == 1
    assert "it is for inference only" in capsys.readouterr().err


def test_large_constants_lie_beside_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    graph = Graph("g")
    builder, x = Builder(graph), graph.add_input("x", f32(2, 500))
    values = np.random.default_rng(0).random(500).astype(np.float32)
    graph.outputs["logits"] = builder.add(Add(), x, builder.add(Constant.of(values)))
    written = write_ir(Path("g.ir"), graph)
    assert [path.name for path in written] == ["g.ir", "g.ir.constants.npz"]
    assert main(["opt", "g.ir", "-p", "dead-code", "-o", "h.ir"]) == 0
    assert Path("g.ir").read_text() == Path("h.ir").read_text()
    assert read_ir(Path("h.ir")) == graph
    capsys.readouterr()
    assert main(["opt", "g.ir"]) == 0
    assert "1 large constant(s) are not in the text" in capsys.readouterr().err


def test_no_output_is_the_input(graph: Path, capsys: Capture) -> None:
    before = Path("n.cnn").read_text()
    for words in (["export"], ["decompile"]):
        assert main([*words, "n.cnn", "-o", "n.cnn"]) == 2
        assert "is the file that is read" in capsys.readouterr().err
    assert main(["summary", "n.cnn", "--csv", "n.cnn"]) == 2
    assert Path("n.cnn").read_text() == before
