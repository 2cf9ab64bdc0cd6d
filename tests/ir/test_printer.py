"""The text form: golden output, and what it has to keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.ir.autodiff import differentiate
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Initializer
from convc.ir.ops.activation import Elu, Relu
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNormTraining
from convc.ir.ops.shape import Flatten
from convc.ir.ops.update import SgdUpdate
from convc.ir.parser import parse_ir
from convc.ir.printer import INLINE, content_hash, print_ir
from convc.ir.span import Span
from convc.ir.types import DType, Layout, TensorType, f32
from tests.op_cases import CASES, OpCase, operand_types
from tests.strategies import graphs

GOLDEN = """\
convc-ir 1
graph @tiny(%x: f32[2,1,4,4], %rate: f32[], %step: i32[]) params(
  %conv1.weight: f32[3,1,3,3] {role="weight", initial=he(0.0,9,27)} loc("tiny.cnn":3:3-3:11),
  %conv1.bias: f32[3] {role="bias", frozen=true, lr=2.0, decay=0.0},
  %bn.mean: f32[3] {role="mean", trainable=false}
) -> (y: %2, mean: %3) {
  %1 = conv2d(%x, %conv1.weight, %conv1.bias) {stride=(1,1), padding=(0,0,0,0), dilation=(1,1), groups=1} : \
f32[2,3,2,2]  @conv1  loc("tiny.cnn":3:3-3:11)
  %2, %3, %4, %5 = batch_norm_training(%1, %conv1.bias, %bn.mean) {eps=1e-05} : \
f32[2,3,2,2]{nhwc:4}, f32[3], f32[3], f32[3]  @block.bn  loc("tiny.cnn":4:3-5:1, "other file.cnn":9:1)
  %6 = sgd_update(%bn.mean, %3, %rate, %step) {l2=0.0, l1=0.0, lr_scale=1.0, momentum=0.0, nesterov=false} : f32[3]
  update %bn.mean = %6
}
"""


def tiny() -> Graph:
    graph = Graph("tiny")
    x = graph.add_input("x", f32(2, 1, 4, 4))
    rate = graph.add_input("rate", f32())
    step = graph.add_input("step", TensorType(DType.I32, ()))
    place = Span("tiny.cnn", 3, 3, 3, 11)
    weight = graph.add_parameter("conv1.weight", f32(3, 1, 3, 3), initial=Initializer("he", 0.0, 9, 27), span=place)
    bias = graph.add_parameter("conv1.bias", f32(3), role="bias", frozen=True, lr=2.0, decay=0.0)
    mean = graph.add_parameter("bn.mean", f32(3), role="mean", trainable=False)
    b = Builder(graph)
    with b.at((place,), "conv1"):
        y = b.add(Conv2d(), x, weight, bias)
    with b.at((Span("tiny.cnn", 4, 3, 5, 1), Span("other file.cnn", 9, 1, 9, 1)), "block.bn"):
        node = b.add_node(BatchNormTraining(), y, bias, mean)
    node.results[0].type = node.results[0].type.with_layout(Layout("nhwc", 4))
    graph.outputs.update(y=node.results[0], mean=node.results[1])
    graph.updates["bn.mean"] = b.add_node(SgdUpdate(), mean, node.results[1], rate, step).result
    return graph


def around(graph: Graph) -> Graph:
    """A graph after a journey through text; the text must not change."""
    constants: dict[str, np.ndarray] = {}
    text = print_ir(graph, constants)
    read = parse_ir(text, constants=constants)
    assert print_ir(read) == text
    return read


def test_golden_text() -> None:
    assert print_ir(tiny()) == GOLDEN


def test_everything_survives() -> None:
    graph, read = tiny(), around(tiny())
    assert read == graph
    assert read.name == "tiny"
    assert list(read.inputs) == ["x", "rate", "step"]
    for name, parameter in graph.parameters.items():
        twin = read.parameters[name]
        assert (twin.role, twin.trainable, twin.frozen, twin.initial, twin.lr, twin.decay, twin.span) == (
            parameter.role,
            parameter.trainable,
            parameter.frozen,
            parameter.initial,
            parameter.lr,
            parameter.decay,
            parameter.span,
        )
    for node, twin in zip(graph.nodes, read.nodes, strict=True):
        assert (twin.op, twin.label, twin.location) == (node.op, node.label, node.location)
        assert [value.type for value in twin.results] == [value.type for value in node.results]
    assert list(read.outputs) == ["y", "mean"]
    assert list(read.updates) == ["bn.mean"]


def test_equality_sees_every_difference() -> None:
    changes = [
        ("@tiny", "@other"),
        ("%x", "%z"),
        ("3:3-3:11", "3:3-3:12"),
        ("{nhwc:4}", "{nhwc:16}"),
        ("eps=1e-05", "eps=1e-06"),
        ("@conv1", "@conv2"),
        ("y: %2", "z: %2"),
        ("lr=2.0", "lr=2.5"),
        ("he(0.0,9,27)", "he(0.0,9,28)"),
        ("update %bn.mean = %6", "update %bn.mean = %4"),
        (', "other file.cnn":9:1', ""),
    ]
    for old, new in changes:
        assert GOLDEN.count(old) >= 1
        assert parse_ir(GOLDEN.replace(old, new)) != tiny(), old


@pytest.mark.parametrize("case", [c for c in CASES if not c.wide], ids=str)
def test_every_op_round_trips(case: OpCase) -> None:
    graph = Graph("case")
    operands = [graph.add_parameter(f"p{index}", t) for index, t in enumerate(operand_types(case))]
    node = Builder(graph).add_node(case.op, *operands)
    graph.outputs.update({f"y{index}": value for index, value in enumerate(node.results)})
    assert around(graph).nodes[0].op == case.op


FLOATS = [0.1, -0.0, 1e-45, 3.4028235e38, float("inf"), float("-inf"), float("nan"), 1 / 3, 16777217.0, 5e-324, 1e22]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("count", [0, 1, 3, INLINE, INLINE + 1])
def test_constants_keep_their_bits(dtype: type, count: int) -> None:
    generator = np.random.default_rng(count)
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            array = generator.choice(np.array(FLOATS), count).astype(dtype)
    else:
        limits = (0, 1) if dtype is np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        array = np.array([limits[i % 2] for i in range(count)], dtype)
    graph = Graph("constants")
    value = Builder(graph).add(Constant.of(array))
    graph.outputs["y"] = value
    result = around(graph).nodes[0].op.reference()
    assert isinstance(result, np.ndarray)
    assert result.dtype == array.dtype
    assert result.tobytes() == array.tobytes()


@given(st.lists(st.floats(width=32), min_size=1, max_size=INLINE))
def test_single_precision_is_exact(values: list[float]) -> None:
    array = np.array(values, np.float32)
    graph = Graph("floats")
    graph.outputs["y"] = Builder(graph).add(Constant.of(array))
    result = around(graph).nodes[0].op.reference()
    np.testing.assert_array_equal(result, array)


@given(st.floats())
def test_attributes_are_exact(value: float) -> None:
    graph = Graph("floats")
    x = graph.add_input("x", f32(1, 1))
    graph.outputs["y"] = Builder(graph).add(Elu(value), x)
    op = around(graph).nodes[0].op
    assert isinstance(op, Elu)
    assert repr(op.alpha) == repr(value)


def test_small_constants_are_readable_and_large_ones_hashed() -> None:
    graph = Graph("constants")
    b = Builder(graph)
    small = np.arange(INLINE, dtype=np.float32) / 10
    large = np.arange(INLINE + 1, dtype=np.float32) / 10
    graph.outputs.update(small=b.add(Constant.of(small)), large=b.add(Constant.of(large)))
    graph.outputs["fill"] = b.add(Constant.of(np.full((99, 99), 0.5, np.float32)))
    constants: dict[str, np.ndarray] = {}
    text = print_ir(graph, constants)
    assert "values=(0.0,0.1,0.2," in text
    assert "values=(0.5), shape=(99,99)" in text
    assert list(constants) == [content_hash(large)]
    assert content_hash(large) in text
    np.testing.assert_array_equal(constants[content_hash(large)], large)


def test_hash_depends_on_content_type_and_shape() -> None:
    array = np.arange(6, dtype=np.int32)
    others = [array.reshape(2, 3), array.astype(np.int64), array + 1]
    assert len({content_hash(a) for a in [array, *others]}) == 4
    assert content_hash(array.astype(">i4")) == content_hash(array)
    assert content_hash(array.reshape(2, 3).T.copy().T) == content_hash(array.reshape(2, 3))
    assert content_hash(np.arange(3, dtype=np.float32)).startswith("sha256:")


def test_zeros_of_both_signs_differ() -> None:
    assert Constant.of(np.array([0.0, -0.0], np.float32)).values == (0.0, -0.0)
    assert np.signbit(np.asarray(Constant.of(np.array([0.0, -0.0], np.float32)).reference())).tolist() == [False, True]


NAMES = ["3x3", "a b", 'quote"d', "back\\slash", "größe", "new\nline", "inf", "nan", "true", "loc", "update", "params"]
NAMES += ["graph", "sha256", "f32", "x", "1", "a/b-c.d", "", "%", "@", "}", "\ud800", "\u2028"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(name: str) -> None:
    graph = Graph(name)
    x = graph.add_input(name, f32(1, 2))
    w = graph.add_parameter(name + "w", f32(1, 2), role=name, initial=Initializer(name, 1.0, 1, 1))
    b = Builder(graph)
    with b.at((Span(name, 1, 2, 3, 4), Span(name, 1, 2, 1, 2)), name + "."):
        y = b.add(Add(), x, w)
    graph.outputs[name] = y
    graph.updates[name + "w"] = y
    read = around(graph)
    assert read.name == name
    assert list(read.inputs) == list(read.outputs) == [name]
    assert read.nodes[0].location == graph.nodes[0].location


@given(st.text())
def test_any_text_is_a_name(name: str) -> None:
    test_any_name_will_do(name)


def test_one_value_per_line() -> None:
    lines = print_ir(tiny()).splitlines()
    assert sum(line.startswith("  %") and " = " in line and "(" in line.split(" = ")[1] for line in lines) >= 3
    assert all("\n" not in line for line in lines)


def test_a_broken_graph_prints_all_the_same() -> None:
    graph = tiny()
    del graph.nodes[0]
    assert "batch_norm_training(%?, %conv1.bias, %bn.mean)" in str(graph)


def test_no_parameters_no_outputs() -> None:
    assert print_ir(Graph("empty")) == "convc-ir 1\ngraph @empty() params() -> () {\n}\n"
    assert around(Graph("empty")) == Graph("empty")


def test_copy_prints_the_same() -> None:
    assert tiny().copy() == tiny()
    assert tiny() != "a graph"


@given(graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    assert around(graph) == graph
    assert graph.copy() == graph


@given(graphs(noise=False, kinks=False, max_layers=3))
def test_differentiated_graphs_round_trip(graph: Graph) -> None:
    # batch_norm is differentiated after `specialize`, which is not the business of this test.
    if any(node.op.name == "batch_norm" for node in graph.nodes):
        return
    wanted = [parameter.value for parameter in graph.parameters.values()]
    for parameter, gradient in zip(
        list(graph.parameters), differentiate(graph, graph.outputs["loss"], wanted), strict=True
    ):
        if gradient is not None:
            graph.outputs[f"d {parameter}"] = gradient
    assert around(graph) == graph


def test_linear_time() -> None:
    graph = Graph("deep")
    value = graph.add_input("x", f32(1, 4))
    weight = graph.add_parameter("w", f32(4, 4))
    b = Builder(graph)
    for number in range(1500):
        with b.at((Span("net.cnn", number + 1, 1, number + 1, 9),), f"layer{number}"):
            value = b.add(Relu(), b.add(Linear(), b.add(Flatten(), value), weight))
    graph.outputs["y"] = value
    read = around(graph)
    assert len(read.nodes) == 4500
    assert len(read.parameters["w"].value.users) == 1500
