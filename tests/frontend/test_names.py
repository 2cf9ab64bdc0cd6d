"""Names of parameters, which are the interface of checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convc.frontend import Net


def names(net: Net) -> list[str]:
    return [layer.name for layer in net.layers[1:]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("relu -> relu -> tanh -> relu", ["relu1", "relu2", "tanh1", "relu3"]),
        ("pool max 2 -> pool avg 2 -> pool max 2", ["pool1", "pool2", "pool3"]),
        ("relu6 -> relu6", ["relu6_1", "relu6_2"]),
        (
            "repeat 2 { relu } -> for i in 0..2 { if i == 0 { relu } else { relu -> tanh } }",
            ["relu1", "relu2", "relu3", "relu4", "tanh1"],
        ),
        ("relu name=first -> relu", ["first", "relu2"]),
        (
            "residual { relu } -> residual { relu } skip { tanh }",
            ["res1.relu1", "res1.add", "res2.relu1", "skip2.tanh1", "res2.add"],
        ),
        ("residual { conv 2 k=3 s=2 pad=1 } skip auto", ["res1.conv1", "skip1.conv1", "skip1.bn1", "res1.add"]),
        ("relu as a -> relu -> add a -> relu", ["relu1", "relu2", "add", "relu3"]),
        (
            "aux { fc 3 -> loss softmax } -> relu -> aux { fc 3 -> loss softmax }",
            ["aux1.fc1", "aux1.loss1", "relu1", "aux2.fc1", "aux2.loss1"],
        ),
        ("shared trunk { relu } -> relu -> reuse trunk", ["trunk.relu1", "relu1", "trunk.relu1"]),
        ("repeat 3 { shared s { conv 1 k=3 pad=1 } }", ["s.conv1", "s.conv1", "s.conv1"]),
    ],
)
def test_layer_names(net: Callable[..., Net], body: str, expected: list[str]) -> None:
    assert names(net(body)) == expected


BLOCKS = """
block unit(c) { residual { conv c k=3 pad=1 -> bn } skip auto }
block stage2(c) { unit(c) -> unit c name=last }
"""


def test_blocks(net: Callable[..., Net]) -> None:
    built = net("unit(2) -> stage2(4) -> unit 4 name=end", before=BLOCKS)
    parameters = [name for name in built.graph(1).parameters if name.endswith("conv1.weight")]
    assert parameters == [
        "unit1.res1.conv1.weight",
        "unit1.skip1.conv1.weight",
        "stage2_1.unit1.res1.conv1.weight",
        "stage2_1.unit1.skip1.conv1.weight",
        "stage2_1.last.res1.conv1.weight",
        "end.res1.conv1.weight",
    ]


def test_inserting_a_layer_renumbers_only_its_own_kind(net: Callable[..., Net]) -> None:
    before = net("conv 2 k=3 -> bn -> conv 2 k=3 -> fc 3")
    after = net("conv 2 k=3 -> relu -> bn -> tanh -> conv 2 k=3 -> dropout 0.1 -> fc 3")
    assert list(before.graph(1).parameters) == list(after.graph(1).parameters)


def test_shared_parameters_are_one(net: Callable[..., Net]) -> None:
    graph = net("shared s { conv 1 k=3 pad=1 -> bn } -> relu -> reuse s").graph(1)
    assert list(graph.parameters) == [
        "s.conv1.weight",
        "s.conv1.bias",
        "s.bn1.gamma",
        "s.bn1.beta",
        "s.bn1.mean",
        "s.bn1.var",
    ]
    assert len(graph.parameters["s.conv1.weight"].value.users) == 2


def test_modifiers_of_blocks_multiply(net: Callable[..., Net]) -> None:
    graph = net("unit 2 lr=0.5 freeze=yes -> fc 3", before="block unit(c) { conv c k=3 lr=0.5 decay=2 }").graph(1)
    weight = graph.parameters["unit1.conv1.weight"]
    assert (weight.lr, weight.decay, weight.frozen) == (0.25, 2.0, True)
    assert not graph.parameters["fc1.weight"].frozen
