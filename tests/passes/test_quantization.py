"""Which products are computed in whole numbers, what is stored as q8, and what says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend.net import Net
from convc.ir.graph import Graph
from convc.ir.ops import AvgPool, Cast, Concat, Conv2d, Linear, MaxPool, Quantize, QuantizeWeights
from convc.ir.types import DType, Grid
from convc.passes.base import PassLog
from convc.passes.manager import PassManager, PassReport
from convc.passes.pipeline import pipeline
from convc.passes.quantization import RANGE, Observe, QuantizeProducts, grid_of

BRANCHES = """net branches(classes = 3) {
  input 3x8x8
  conv 8 k=3 pad=1 -> bn -> relu
  concat {
    branch { conv 8 k=1 -> relu }
    branch { pool max 3 stride=1 pad=1 -> conv 8 k=3 pad=1 -> relu }
  }
  residual { conv 16 k=3 pad=1 -> bn } -> relu
  conv 16 k=3 pad=1 groups=16 -> relu
  conv 8 k=1 -> relu
  pool avg global
  fc classes
  loss softmax
}
"""


def load(folder: Path, text: str = BRANCHES) -> Net:
    path = folder / "net.cnn"
    path.write_text(text)
    return convc.load(path)


def quantized(net: Net, **options: object) -> tuple[Graph, PassReport]:
    """The graph that the pass leaves with ranges of -1 … 3 everywhere, and its report."""
    graph = net.graph(2)
    PassManager(pipeline("infer", types=Observe())).run(graph)
    names = [name.removeprefix(RANGE) for name in graph.outputs if name.startswith(RANGE)]
    step = QuantizeProducts(dict.fromkeys(names, (-1.0, 3.0)), **options)  # type: ignore[arg-type]
    graph = net.graph(2)
    reports = PassManager(pipeline("infer", types=step)).run(graph)
    return graph, next(report for report in reports if report.name == step.name)


def test_products_read_whole_numbers_and_give_float32(tmp_path: Path) -> None:
    graph, report = quantized(load(tmp_path))
    for node in graph.nodes_of(Conv2d, Linear):
        grouped = isinstance(node.op, Conv2d) and node.op.groups > 1
        types = tuple(operand.type.dtype for operand in node.operands[:2])
        assert types == ((DType.F32, DType.F32) if grouped else (DType.Q8, DType.QW8))
        assert node.result.type.dtype is DType.F32
    assert graph.outputs["logits"].type.dtype is DType.F32
    assert report.log.metrics == {"whole": 6, "single": 1, "quantized": 6}
    (entry,) = report.log.of("missed")
    assert "the channels of a group are multiplied in float32" in entry.why


def test_what_meets_has_one_step(tmp_path: Path) -> None:
    graph, _ = quantized(load(tmp_path))
    (join,), (pool,) = graph.nodes_of(Concat), graph.nodes_of(MaxPool)
    assert {value.type.grid for value in (*join.operands, join.result)} == {grid_of(-1.0, 3.0)}
    assert pool.operands[0].type.dtype is DType.Q8
    assert pool.result.type.grid == pool.operands[0].type.grid
    (mean,) = graph.nodes_of(AvgPool)
    assert mean.operands[0].type.dtype is DType.F32  # nothing multiplies it
    assert not list(graph.nodes_of(Cast))


def test_a_value_is_quantised_once(tmp_path: Path) -> None:
    graph, _ = quantized(load(tmp_path))
    sources = [node.operands[0] for node in graph.nodes_of(Quantize)]
    assert len(sources) == len(set(sources))
    weights = [node.operands[0] for node in graph.nodes_of(QuantizeWeights)]
    assert len(weights) == len(set(weights)) == 6


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("input 1x6x6\n  conv 4 k=3", "a single channel has no neighbours"),
        ("input 4x6x6\n  conv 1 k=3", "a single output fills no vector"),
        ("input 4x6x6\n  deconv 4 k=2 stride=2", "a transposed convolution"),
        ("input 4x6x6\n  conv 8 k=3 algo=winograd", "`winograd` is asked for"),
        ("input 4x6x6\n  conv 8 k=3 precision=bf16", "`precision=bf16` is asked for"),
        ("input 1x5x5\n  fc 8", "25 features are no multiple of four"),
        ("input 70000x1x1\n  fc 8", "a sum of 70,000 products may not fit 32 bits"),
    ],
)
def test_what_stays_float32_says_why(text: str, why: str, tmp_path: Path) -> None:
    net = load(tmp_path, f"net n {{\n  {text}\n}}\n")
    _, report = quantized(net, layers=tuple((x.name, x.precision) for x in net.layers if x.precision))
    assert any(why in entry.why for entry in report.log.of("missed"))
    assert report.log.metrics["whole"] == 0


def test_patterns_keep_layers_in_float32(tmp_path: Path) -> None:
    graph, report = quantized(load(tmp_path), fp32=("conv1", "fc*"))
    named = {entry.before for entry in report.log.of("missed") if entry.why == "asked for"}
    assert named == {"conv2d(conv1)", "linear(fc1)"}
    assert report.log.metrics["whole"] == 4
    first = next(graph.nodes_of(Conv2d))
    assert first.operands[0].type.dtype is DType.F32


def test_without_a_range_nothing_happens(tmp_path: Path) -> None:
    graph = load(tmp_path).graph(2)
    log = PassLog()
    QuantizeProducts({}).run(graph, log)
    assert not any(value.type.dtype.is_whole for node in graph.nodes for value in node.results)
    assert any("no range of" in entry.why for entry in log.of("missed"))


@pytest.mark.parametrize(
    ("low", "high", "grid"),
    [
        (0.0, 255.0, Grid(1.0, 0)),
        (2.0, 510.0, Grid(2.0, 0)),  # 0 is always one of the numbers
        (-1.0, 0.0, Grid(float(np.float32(1 / 255)), 255)),
        (-128.0, 127.0, Grid(1.0, 128)),
        (0.0, 0.0, Grid(1.0)),
        (-0.0, 1e-40, Grid(1.0)),
    ],
)
def test_grids(low: float, high: float, grid: Grid) -> None:
    assert grid_of(low, high) == grid
    assert grid_of(low, high).low <= 0 <= grid_of(low, high).high


def test_ir_text_has_steps_and_zeros(tmp_path: Path) -> None:
    graph, _ = quantized(load(tmp_path))
    text = convc.print_ir(graph)
    assert "q8<0.0156" in text
    assert convc.print_ir(convc.parse_ir(text)) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("q8<0.5:0>", "q8<0:0>", "a step is a number above 0, not 0.0"),
        ("q8<0.5:0>", "q8<0.5:256>", "the zero of a q8 is one of 0 … 255, not 256"),
        ("q8<0.5:0>", "q8<nan:0>", "a step is a number above 0, not nan"),
        ("q8<0.5:0>", "q8<x:0>", "could not convert"),
        ("q8<0.5:0>", "q8", "q8, and nothing else, has a step and a zero"),
        ("q8<0.5:0>", "f32<0.5:0>", "q8, and nothing else, has a step and a zero"),
        ("q8<0.5:0>", "q8<0.25:0>", "quantize gives q8<0.5:0>[2,3], not q8<0.25:0>[2,3]"),
    ],
)
def test_malformed_types(old: str, new: str, message: str) -> None:
    text = (
        "convc-ir 1\ngraph @n(%x: f32[2,3]) params() -> (logits: %2) {\n"
        "  %1 = quantize(%x) {step=0.5, zero=0} : q8<0.5:0>[2,3]\n  %2 = relu(%1) : f32[2,3]\n}\n"
    )
    convc.parse_ir(text)
    with pytest.raises(convc.CompileError, match="type-ir") as caught:
        convc.parse_ir(text.replace(old, new))
    assert message in str(caught.value)
