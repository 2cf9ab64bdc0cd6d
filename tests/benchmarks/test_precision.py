"""Which layers of the nets that `benchmarks.precision` trains have weights of one bit."""

from __future__ import annotations

import pytest

from benchmarks.precision import ONE_BIT, open_net
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear

# Convolutions, those of them that `skip auto` inserts, and fully connected layers.
LAYERS = {"lenet": (2, 0, 2), "deep_convnet": (6, 0, 2), "small_resnet": (9, 2, 1)}


@pytest.mark.parametrize("precision", ["fp32", *ONE_BIT])
@pytest.mark.parametrize("name", LAYERS)
def test_all_but_the_first_and_the_last_have_one_bit(name: str, precision: str) -> None:
    graph = open_net(name, 1, 1, precision).graph(2)
    convolutions, layers = list(graph.nodes_of(Conv2d)), list(graph.nodes_of(Linear))
    inserted = {node for node in convolutions if "skip" in node.label}
    assert (len(convolutions), len(inserted), len(layers)) == LAYERS[name]
    expected = set(convolutions[1:]) - inserted if precision in ONE_BIT else set()
    if precision == "fp32-bits-fc":
        expected |= set(layers[:-1])
    assert {user for node in graph.nodes_of(Binarize) for user, _ in node.result.users} == expected
