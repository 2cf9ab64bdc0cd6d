"""The graph's own operations, the interpreter's contract, and the small types beside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from convc.ir.builder import Builder
from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail, render
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import Cost
from convc.ir.ops.activation import Relu
from convc.ir.ops.elementwise import Add, Divide, Multiply, Negate
from convc.ir.ops.linear import Linear, LinearBackwardWeights
from convc.ir.ops.reduce import Sum
from convc.ir.span import Span, union
from convc.ir.types import DType, Layout, TensorType, f32
from convc.ir.verify import verify
from convc.ir.window import Window
from tests.strategies import graphs, random_arrays


def chain() -> Graph:
    """relu -> add(y, y) -> negate."""
    graph = Graph("chain")
    b = Builder(graph)
    y = b.add(Relu(), graph.add_input("x", f32(2, 3)))
    graph.outputs["y"] = b.add(Negate(), b.add(Add(), y, y))
    return graph


def test_replace_uses() -> None:
    graph = chain()
    relu, add, negate = graph.nodes
    graph.replace_uses(relu.result, graph.inputs["x"])
    assert add.operands == (graph.inputs["x"],) * 2
    assert relu.result.users == []
    graph.remove([relu])
    verify(graph)
    graph.replace_uses(negate.result, add.result)
    assert graph.outputs["y"] is add.result
    graph.remove([negate])
    verify(graph)
    np.testing.assert_array_equal(run_reference(graph, {"x": -np.ones((2, 3))})["y"], -2)


def test_replace_only_some_uses() -> None:
    graph = chain()
    relu, add, negate = graph.nodes
    graph.set_operand(negate, 0, relu.result)
    graph.replace_uses(relu.result, graph.inputs["x"], only=lambda node: node is add)
    assert add.operands == (graph.inputs["x"],) * 2
    assert negate.operands == (relu.result,)
    verify(graph)


def test_insert_before() -> None:
    graph = chain()
    relu, add, _ = graph.nodes
    value = Builder(graph, before=add).add(Negate(), relu.result)
    graph.set_operand(add, 1, value)
    assert [node.op.name for node in graph.nodes] == ["relu", "neg", "add", "neg"]
    verify(graph)


def test_networkx_has_an_edge_per_use() -> None:
    graph = chain()
    relu, add, _ = graph.nodes
    multigraph = graph.networkx()
    assert multigraph.number_of_edges(relu, add) == 2
    assert sorted(data["operand"] for _, _, data in multigraph.edges(relu, data=True)) == [0, 1]


def test_liveness_ancestors_and_names() -> None:
    graph = chain()
    relu, add, negate = graph.nodes
    assert graph.ancestors([add.result]) == {relu, add}
    assert graph.ancestors([graph.inputs["x"]]) == set()
    assert graph.is_live(negate.result)
    del graph.outputs["y"]
    assert not graph.is_live(negate.result)
    with pytest.raises(ValueError, match="w exists already"):
        graph.add_parameter("w", f32(1)) and graph.add_parameter("w", f32(1))


def test_batched_values() -> None:
    graph = Graph("net")
    x, rate = graph.add_input("x", f32(4, 3)), graph.add_input("rate", f32())
    w = graph.add_parameter("w", f32(5, 3))
    b = Builder(graph)
    y = b.add(Linear(), x, w)
    dw = b.add(LinearBackwardWeights(), x, y)
    total = b.add(Sum(), y)
    scaled = b.add(Multiply(), y, rate)
    decayed = b.add(Multiply(), w, rate)
    found = graph.batched()
    assert {x, y, scaled} <= found
    assert found.isdisjoint({rate, w, dw, total, decayed})


# Interpreter


def test_inputs_may_have_fewer_rows() -> None:
    graph = chain()
    assert run_reference(graph, {"x": np.ones((1, 3))})["y"].shape == (1, 3)
    assert run_reference(graph, {"x": np.ones((5, 3), np.float32)})["y"].dtype == np.float32


def test_bad_arrays() -> None:
    graph = chain()
    with pytest.raises(CompileError, match=r"no array for x: f32\[2,3\]"):
        run_reference(graph, {})
    with pytest.raises(CompileError, match=r"x is \[2, 4\], but should be \[2, 3\]"):
        run_reference(graph, {"x": np.ones((2, 4))})
    with pytest.raises(CompileError, match=r"x is \[6\]"):
        run_reference(graph, {"x": np.ones(6)})
    graph.add_input("z", f32(2, 1))
    with pytest.raises(CompileError, match="x has 2, z has 3"):
        run_reference(graph, {"x": np.ones((2, 3)), "z": np.ones((3, 1))})


def test_double_precision_is_not_narrowed_by_constants() -> None:
    graph = Graph("net")
    b = Builder(graph)
    third = b.add(Divide(), b.constant(1.0), b.constant(3.0))
    graph.outputs["y"] = b.add(Multiply(), graph.add_input("x", f32(1)), third)
    assert run_reference(graph, {"x": np.array([1.0])})["y"] == 1 / 3
    assert run_reference(graph, {"x": np.array([1.0], np.float32)})["y"].dtype == np.float32


def test_updates_are_results() -> None:
    graph = Graph("net")
    w = graph.add_parameter("w", f32(2))
    graph.updates["w"] = Builder(graph).add(Negate(), w)
    np.testing.assert_array_equal(run_reference(graph, {"w": np.array([1.0, 2.0])})["w"], [-1, -2])


@settings(max_examples=30)
@given(graphs())
def test_a_copy_computes_the_same(graph: Graph) -> None:
    arrays = random_arrays(graph, 1)
    left, right = run_reference(graph, arrays), run_reference(graph.copy(), arrays)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


@settings(max_examples=30)
@given(graphs())
def test_rows_are_independent_at_inference(graph: Graph) -> None:
    arrays = random_arrays(graph, 1, np.float64)
    whole = run_reference(graph, arrays)["logits"]
    part = run_reference(graph, {**arrays, "x": arrays["x"][:1], "labels": arrays["labels"][:1]})["logits"]
    np.testing.assert_allclose(part, whole[:1], rtol=1e-9, atol=1e-12)


# Types, spans, windows, diagnostics


def test_types() -> None:
    t = TensorType(DType.BF16, (2, 3), Layout("nhwc", 16))
    assert str(t) == "bf16[2,3]{nhwc:16}"
    assert (t.size, t.bytes, t.rank) == (6, 12, 2)
    assert t.with_shape((4,)) == TensorType(DType.BF16, (4,))
    assert f32().size == 1
    assert str(f32()) == "f32[]"
    assert [dtype.value for dtype in DType if dtype.is_float] == ["f32", "f64", "f16", "bf16"]
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_spans() -> None:
    start, end = Span("a.cnn", 1, 2, 1, 5), Span("a.cnn", 3, 1, 3, 4)
    assert start.to(end) == Span("a.cnn", 1, 2, 3, 4)
    assert str(start) == "a.cnn:1:2"
    assert union((start, end), (end,), ()) == (start, end)


@pytest.mark.parametrize("ceil", [False, True])
def test_patches_and_scatter_are_adjoint(ceil: bool) -> None:
    window = Window((3, 2), (2, 3), (1, 0, 2, 1), ceil=ceil)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 3, 8, 9))
    patches = window.patches(x)
    dy = generator.standard_normal(patches.shape)
    assert float((patches * dy).sum()) == pytest.approx(float((x * window.scatter(dy, (8, 9))).sum()))


def test_ceil_windows_start_inside_the_image() -> None:
    # The third window would start in the bottom padding: it does not count (as in PyTorch).
    assert Window((2, 2), (2, 2), (1, 1, 1, 1), ceil=True).output_size((2, 2)) == (2, 2)
    assert Window((2, 2), (2, 2), (1, 1, 1, 1), ceil=True).output_size((3, 3)) == (2, 2)
    assert Window((3, 3), (2, 2), ceil=True).output_size((6, 6)) == (3, 3)
    assert Window((3, 3), (2, 2)).output_size((6, 6)) == (2, 2)
    assert Window((3, 3)).output_size((2, 9)) == (0, 7)


def test_rendered_diagnostic() -> None:
    span = Span("net.cnn", 2, 6, 2, 8)
    text = render(
        [Diagnostic("shape-conv", "too large", span, (Note("from here", span),), "pad=1")],
        {"net.cnn": "a\nconv 50 k=7\n"},
    )
    assert text.splitlines() == [
        "net.cnn:2:6: error[shape-conv]: too large",
        "  2 | conv 50 k=7",
        "    |      ^^",
        "  note: net.cnn:2:6: from here",
        "  hint: pad=1",
    ]
    assert render([Diagnostic("x-y", "no place", severity="warning")]) == "warning[x-y]: no place"


def test_the_caret_of_a_long_line_is_visible() -> None:
    line = "x" * 500 + "BAD" + "y" * 500
    text = render([Diagnostic("a-b", "m", Span("f", 1, 501, 1, 504))], {"f": line})
    _, shown, caret = text.splitlines()
    assert len(shown) < 160
    assert shown[caret.index("^") : caret.rindex("^") + 1] == "BAD"


@pytest.mark.parametrize(
    "span", [Span("f", 9, 1, 9, 2), Span("f", 0, 0, 0, 0), Span("g", 1, 1, 1, 2), Span("f", 1, 99, 1, 99)]
)
def test_spans_outside_the_source_render(span: Span) -> None:
    assert "error[a-b]: m" in render([Diagnostic("a-b", "m", span)], {"f": "one line"})


def test_fail() -> None:
    with pytest.raises(CompileError) as caught:
        fail("data-empty", "nothing", hint="look again")
    assert str(caught.value) == "error[data-empty]: nothing\n  hint: look again"
