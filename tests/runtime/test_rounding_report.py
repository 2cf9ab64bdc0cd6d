"""`--numerics report`: what rounding loses is counted where it is lost, and the first op that overflows is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convc.cli import main
from convc.frontend import loads
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.cast import Cast
from convc.ir.ops.elementwise import Divide, Exp, Multiply, Subtract
from convc.ir.types import f32
from convc.passes.half_precision import HalfPrecision
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.runtime.random_point import random_point
from convc.runtime.rounding_report import count_losses, first_overflow, losses_table, summary

NET = "net n {\n  input 1x6x6\n  conv 3 k=3\n  relu\n  fc 4\n  loss softmax\n}\n"
TRAIN = 'train {\n  data npz "d.npz"\n  batch 4\n  epochs 1\n  optim sgd lr=0.01\n  precision bf16\n}\n'


def in_half(kind: str) -> Graph:
    graph = loads(NET).graph(2)
    PassManager(pipeline("train", types=HalfPrecision(kind))).run(graph)  # type: ignore[arg-type]
    return graph


def point(graph: Graph) -> dict[str, np.ndarray]:
    arrays = random_point(graph, 0)
    return {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()}


def test_counts_are_of_the_op_that_loses() -> None:
    graph = Graph("g")
    b = Builder(graph)
    x = graph.add_input("x", f32(1, 5))
    half = b.add(Cast("f16"), x)
    squares = b.add(Multiply(), half, half)
    graph.outputs["logits"] = b.add(Cast("f32"), b.add(Subtract(), squares, squares))
    numbers = np.float32([[0.0, 1.0, 300.0, 1e-5, 7e4]])
    cast, square, difference = count_losses(graph, {"x": numbers})
    assert (cast.op, cast.dtype, cast.elements, cast.overflows, cast.underflows) == ("cast", "f16", 5, 1, 0)
    assert cast.largest == pytest.approx(7e4)
    # 300² is too large, 1e-10 too small; what was infinite before is not counted again, nor that ∞ − ∞ is no number.
    assert (square.overflows, square.underflows) == (1, 1)
    assert (difference.overflows, difference.underflows) == (0, 0)
    found = first_overflow([square, cast])
    assert found is square
    assert summary([cast, square, difference]) == "6.67% of 15 numbers became zero, 2 infinite, first in cast"


def test_float32_is_told_of_only_where_it_overflows() -> None:
    graph = Graph("g")
    b = Builder(graph)
    x = graph.add_input("x", f32(1, 2))
    graph.outputs["logits"] = b.add(Divide(), b.add(Exp(), x), x)
    assert count_losses(graph, {"x": np.float32([[1, 2]])}) == ()
    assert summary(()) == "nothing has 16 bits, and everything is finite"
    (loss,) = count_losses(graph, {"x": np.float32([[1, 200]])})
    assert (loss.op, loss.dtype, loss.overflows) == ("exp", "f32", 1)


def test_the_first_op_that_overflows_is_named_with_its_line() -> None:
    graph = in_half("fp16")
    arrays = point(graph)
    arrays["conv1.weight"] = arrays["conv1.weight"] * np.float32(1e5)
    losses = count_losses(graph, arrays)
    first = first_overflow(losses)
    assert first is not None
    assert (first.op, first.line) in (("conv2d(conv1)", 3), ("cast(conv1)", 3))
    assert f"first in {first.op} in line 3" in summary(losses)
    text = "\n".join(losses_table(losses))
    assert first.op in text
    assert "infinite" in text
    # bfloat16 has the range of float32.
    wide = in_half("bf16")
    assert first_overflow(count_losses(wide, arrays)) is None


def test_underflow_of_gradients() -> None:
    graph = in_half("fp16")
    arrays = point(graph)
    arrays["fc1.weight"] = arrays["fc1.weight"] * np.float32(1e-7)
    lost = {loss.op: loss for loss in count_losses(graph, arrays) if loss.underflows}
    assert any(op.startswith("cast(fc1)") for op in lost)
    assert all(loss.line in (3, 4, 5) for loss in lost.values())
    assert losses_table([]) == []


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("n.cnn").write_text(NET + TRAIN)
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (12, 1, 6, 6)).astype(np.uint8), random.integers(0, 4, 12)
    np.savez("d.npz", images=images, labels=labels)
    assert main(["train", "n.cnn", "--numerics", "report", "--out", "run", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [event for event in events if event.get("event") == "numerics"]
    assert [event["when"] for event in found] == ["before the training", "after it"]
    assert {"conv2d(conv1)", "linear(fc1)"} <= {op["op"] for op in found[0]["ops"]}
    assert main(["train", "n.cnn", "--numerics", "all"]) == 2
