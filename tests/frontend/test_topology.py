"""Control, names, joins: what the graphs look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convc.frontend import Net
from convc.ir.diagnostic import Diagnostic

Build = Callable[..., Net]


def kinds(net: Net) -> list[str]:
    return [layer.kind for layer in net.layers[1:]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("let n = 2 -> repeat n { relu }", ["relu"] * 2),
        ("repeat 0 { relu }", []),
        ("for c in [1, 2] { conv c k=1 } -> if in == 2 { tanh }", ["conv", "conv", "tanh"]),
        ("for (c, s) in [(1, 1), (2, 2)] { conv c k=1 s=s }", ["conv", "conv"]),
        ("for c, s in [1x1, 2x2] { conv c k=1 s=s }", ["conv", "conv"]),
        ("for i in 1..4 { relu }", ["relu"] * 3),
        ("for i in 3..1 { relu }", []),
        ("if in > 1 { relu } else if in == 1 { tanh } else { elu }", ["tanh"]),
        ("if in > 1 { relu }\n else { elu }", ["elu"]),
        ("let a = 1 -> repeat 2 { let b = a + 1 -> if b == 2 { relu } }", ["relu"] * 2),
        ("relu ->\n tanh\n -> elu", ["relu", "tanh", "elu"]),
        ("conv(2, k=3) -> pool(max, 2)", ["conv", "pool max"]),
        ("assert in == 1 and 2 > 1", []),
    ],
)
def test_control(net: Build, body: str, expected: list[str]) -> None:
    assert kinds(net(body)) == expected


def test_blocks_recurse_and_see_top_level_constants(net: Build) -> None:
    built = net(
        "tower(3)", before="let step = 2\nblock tower(n, c=in*step) { conv c k=1 -> if n > 1 { tower(n - 1) } }"
    )
    assert [layer.output for layer in built.layers[1:]] == [(2, 28, 28), (4, 28, 28), (8, 28, 28)]


def test_blocks_do_not_see_names_and_constants_of_their_caller(problems: Callable[..., list[Diagnostic]]) -> None:
    found = problems("block b() { add x -> conv k k=3 }\nnet n { input 1x8x8 as x\n let k = 3\n b }")
    assert [error.code for error in found] == ["name-value", "name-constant"]


def test_indexed_names_make_a_ladder(net: Build) -> None:
    built = net("for i in 0..3 { conv in*2 k=1 as rung[i] }\nfor i in 0..3 { from rung[2 - i] -> relu }")
    assert [layer.output for layer in built.layers[-3:]] == [(8, 28, 28), (4, 28, 28), (2, 28, 28)]


def test_names_survive_loops_but_not_bodies(problems: Callable[..., list[Diagnostic]], net: Build) -> None:
    assert kinds(net("repeat 1 { relu as a } -> tanh -> add a")) == ["relu", "tanh", "add"]
    (error,) = problems("net n { input 1x8x8 -> residual { relu as a } -> add a }")
    assert error.code == "name-value"


def test_joins_take_the_current_value_first(net: Build) -> None:
    graph = net("relu as a -> tanh as b -> sigmoid -> add a, b").graph(1)
    first, second = graph.nodes[-2:]
    assert [operand.producer.label for operand in first.operands] == ["sigmoid1", "relu1"]
    assert second.operands[0] is first.result
    assert second.operands[1].producer.label == "tanh1"


def test_mul_of_equal_shapes(net: Build) -> None:
    assert net("relu as a -> sigmoid -> mul a").graph(1).nodes[-1].op.name == "mul"


@pytest.mark.parametrize("body", ["from a -> mul g", "from g -> mul a"])
def test_mul_of_maps_weighs_the_larger(net: Build, body: str) -> None:
    graph = net(f"conv 3 k=3 as a -> pool avg global as g -> {body}").graph(1)
    weighed = graph.nodes[-1]
    assert weighed.op.name == "scale_maps"
    assert [operand.producer.label for operand in weighed.operands] == ["conv1", "pool1"]


def test_concat_takes_the_current_value_first(net: Build) -> None:
    graph = net("conv 2 k=3 as a -> conv 3 k=1 as b -> conv 4 k=1 -> concat a, b").graph(1)
    joined = graph.nodes[-1]
    assert joined.op.name == "concat"
    assert [operand.producer.label for operand in joined.operands] == ["conv3", "conv1", "conv2"]
    assert joined.result.shape[1] == 9


def test_branches_join_in_their_order(net: Build) -> None:
    graph = net("concat { branch { conv 2 k=1 } branch { linear } branch { conv 3 k=1 } }").graph(1)
    assert graph.nodes[-1].label == "concat1"
    assert [operand.name or operand.producer.label for operand in graph.nodes[-1].operands] == [
        "concat1.branch1.conv1",
        "x",
        "concat1.branch3.conv1",
    ]
    assert set(graph.parameters) >= {"concat1.branch1.conv1.weight", "concat1.branch3.conv1.bias"}


def test_a_concat_of_one_branch_is_that_branch(net: Build) -> None:
    assert [node.op.name for node in net("concat { branch { relu } }").graph(1).nodes] == ["relu"]


@pytest.mark.parametrize(("size", "stride"), [(28, (2, 2)), (7, (2, 2)), (8, (3, 3))])
def test_skip_auto_projects(net: Build, size: int, stride: tuple[int, int]) -> None:
    s = stride[0]
    built = net(f"residual {{ conv 4 k=3 s={s} pad=1 }} skip auto", shape=f"1x{size}x{size}")
    (projection,) = [node for node in built.graph(1).nodes if node.label == "skip1.conv1"]
    assert projection.op.attributes["stride"] == stride
    assert "skip1.conv1.bias" not in built.graph(1).parameters
    assert built.warnings == ()


def test_skip_auto_is_the_identity_where_shapes_agree(net: Build) -> None:
    assert kinds(net("residual { relu } skip auto")) == ["relu", "add"]


def test_side_losses(net: Build) -> None:
    built = net("aux { fc 5 -> loss softmax weight=0.3 } -> tanh -> fc 5 -> loss softmax")
    graph = built.graph(2)
    assert graph.outputs["logits"].producer.label == "fc1"
    assert [node.op.name for node in graph.nodes if node.label == "loss"] == ["mul", "add"] or "mul" in [
        node.op.name for node in graph.nodes
    ]
    assert graph.outputs["correct"].producer.operands[0] is graph.outputs["logits"]


def test_only_the_first_error_of_a_chain_is_told(problems: Callable[..., list[Diagnostic]]) -> None:
    found = problems(
        "net n { input 1x8x8 -> conv 3 k=9 -> conv 3 k=99 -> fc in -> add q -> cnv 3 -> conv 3 k=3 strde=2 }"
    )
    assert [error.code for error in found] == ["shape-conv", "name-value", "name-layer", "name-argument"]


def test_one_fault_of_a_block_is_told_once(problems: Callable[..., list[Diagnostic]]) -> None:
    (error,) = problems("block b() { cnv 3 }\nnet n { input 1x8x8 -> repeat 5 { b } }")
    assert error.notes[0].message == "in block `b`, called here"
