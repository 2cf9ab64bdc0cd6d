"""Which algorithm computes which convolution: wishes, what applies, what a graph gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.types import DType
from convc.passes.algorithms.decision import decide
from convc.passes.algorithms.prediction import CONSTANTS
from convc.passes.algorithms.problem import CONVOLUTIONS, Problem
from convc.passes.algorithms.table import ALGORITHMS, BY_NAME
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.machine import MACHINES
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline

NET = "net n {\n  input 4x16x16\n  conv 8 k=3 pad=1 -> relu -> conv 8 k=3 pad=1 -> relu -> fc 3\n  loss softmax\n}\n"
Key = tuple[str, str]
PLAIN = Problem("forward", 2, 64, 64, (16, 16), (16, 16), (3, 3), padding=(1, 1, 1, 1))
WINOGRAD = [name for name in BY_NAME if name.startswith("winograd") and BY_NAME[name].obstacle(PLAIN) is None]


def chosen(wishes: str, mode: str = "train", recorded: Mapping[str, str] = MappingProxyType({})) -> dict[Key, str]:
    """The algorithm of every convolution, by layer and direction."""
    graph: Graph = loads(NET).graph(2)
    order = pipeline("train" if mode == "train" else "infer", choose=ChooseAlgorithms(wishes=wishes, recorded=recorded))
    PassManager(order).run(graph)
    found: dict[Key, str] = {}
    for node in graph.nodes_of(*CONVOLUTIONS):
        assert isinstance(node.op, CONVOLUTIONS)
        found[node.label, Problem.of(node).direction] = node.op.algorithm
    return found


def test_everything_is_decided() -> None:
    assert len(chosen("auto")) == 5  # the images need no gradient
    assert set(chosen("auto").values()) <= set(BY_NAME)


def test_of_two_wishes_the_later_one_counts() -> None:
    found = chosen("conv*=im2col,conv1=direct", "infer")
    assert found == {("conv1", "forward"): "direct", ("conv2", "forward"): "im2col"}
    found = chosen("conv1=direct,conv*=im2col", "infer")
    assert set(found.values()) == {"im2col"}


def test_a_wish_holds_in_every_direction() -> None:
    found = chosen("conv2=im2col")
    assert {name for (label, _), name in found.items() if label == "conv2"} == {"im2col"}
    assert len([key for key in found if key[0] == "conv2"]) == 3


@pytest.mark.parametrize("name", WINOGRAD)
@pytest.mark.parametrize(
    "change",
    [
        {"kernel": (3, 5)},
        {"kernel": (2, 3)},
        {"stride": (2, 2)},
        {"stride": (1, 2)},
        {"stride": (2, 1)},
        {"dilation": (1, 2)},
        {"dilation": (2, 1)},
    ],
    ids=str,
)
def test_winograd_takes_neighbouring_pixels_of_windows_with_3_taps(name: str, change: dict[str, object]) -> None:
    assert BY_NAME[name].obstacle(PLAIN) is None
    (key,) = change
    why = BY_NAME[name].obstacle(replace(PLAIN, **change))  # type: ignore[arg-type]
    assert why is not None
    assert key in why


def test_what_computes_everything() -> None:
    """Somebody can always do it: the direct algorithm, and im2col."""
    odd = replace(PLAIN, kernel=(2, 5), stride=(3, 1), dilation=(1, 2), padding=(0, 1, 2, 0), groups=4)
    assert {a.name for a in ALGORITHMS if a.obstacle(odd) is None} >= {"direct", "im2col"}


def test_problems_are_those_of_the_forward_convolution() -> None:
    graph: Graph = loads(NET).graph(2)
    PassManager(pipeline("train")).run(graph)
    (forward,) = (node for node in graph.nodes_of(Conv2d) if node.label == "conv2")
    (backward,) = graph.nodes_of(Conv2dBackwardData)
    assert backward.label == "conv2"
    assert Problem.of(backward) == replace(Problem.of(forward), direction="backward_data")


def test_recorded_choices_are_made_again_direction_by_direction() -> None:
    recorded = {"conv2 forward": "im2col", "conv2 backward_data": "direct", "conv2 backward_weights": "im2col"}
    for record in (recorded, {key: "direct" if name == "im2col" else "im2col" for key, name in recorded.items()}):
        found = chosen("auto", recorded=record)
        assert {f"conv2 {way}": name for (label, way), name in found.items() if label == "conv2"} == record
    # What is no algorithm any more, or cannot do it, is decided anew.
    assert chosen("auto", recorded=dict.fromkeys(recorded, "gone")) == chosen("auto")


def test_products_of_pairs_count_half() -> None:
    """Small images of many channels: Winograd saves too little to be worth it against an instruction twice as fast."""
    padding, with_dot = (1, 1, 1, 1), replace(MACHINES["avx512"], dot_bf16=True)
    plain = Problem("forward", 4, 512, 512, (14, 14), (14, 14), (3, 3), padding=padding)
    halves = replace(plain, dtype=DType.BF16)
    found = [
        decide(problem, machine, CONSTANTS["avx512"]).chosen
        for machine in (MACHINES["avx512"], with_dot)
        for problem in (plain, halves)
    ]
    assert found[-1] == "direct"
    assert all(name.startswith("winograd") for name in found[:-1])
