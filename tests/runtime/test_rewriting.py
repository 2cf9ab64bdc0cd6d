"""What rewriting needs of the machine: inputs of layers, and times."""

from __future__ import annotations

import numpy as np
import pytest

from convc.frontend import loads
from convc.ir.interpreter import run_reference
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.matching import candidates
from convc.passes.rewriting.timing import Model
from convc.runtime.data import Split
from convc.runtime.rewriting.activations import activations, choose_images
from convc.runtime.rewriting.stopwatch import Stopwatch

NET = "net n { input 1x8x8 mean=0.5 -> conv 3 k=3 -> bn -> relu -> conv 2 k=3 -> fc 4 }"


@pytest.mark.parametrize("path", ["conv1", "conv2", "fc1"])
def test_what_a_layer_reads(path: str) -> None:
    net = loads(NET)
    random = np.random.default_rng(0)
    graph = net.graph(5)
    weights = {
        name: np.abs(random.standard_normal(p.value.shape)).astype(np.float32) for name, p in graph.parameters.items()
    }
    images = random.random((5, 1, 8, 8), np.float32)
    graph.outputs = {"logits": candidates(graph)[path].operands[0]}
    needed = {name: array for name, array in weights.items() if name in graph.parameters}
    expected = run_reference(graph, {"x": images, **needed})["logits"]
    found = activations(net, weights, path, images, threads=1).x
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_net_that_begins_with_a_convolution() -> None:
    net = loads("net n { input 1x4x4 -> conv 2 k=3 }")
    images = np.ones((2, 1, 4, 4), np.float32)
    np.testing.assert_array_equal(activations(net, {}, "conv1", images).x, images)


def test_images_are_drawn_by_the_seed() -> None:
    split = Split(np.arange(300, dtype=np.float32).reshape(300, 1, 1, 1), np.zeros(300, np.int32))
    first, again, other = (choose_images(split, seed) for seed in (1, 1, 2))
    assert first.shape == (256, 1, 1, 1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_times_are_measured_within_the_budget() -> None:
    layers = [Layer(Conv2d(), (4, 6, 6), (8, 4, 3, 3)), Layer(Linear(), (40,), (8, 40))]
    model = Model("baseline", 1)
    assert Stopwatch(model, 0.0).measured([Layer(Linear(), (41,), (9, 41))], 3, "infer") is None
    watch = Stopwatch(model, 60.0)
    for layer in layers:
        for mode in ("infer", "train"):
            seconds = watch.measured([layer], 4, mode)  # type: ignore[arg-type]
            assert seconds is None or seconds > 0
