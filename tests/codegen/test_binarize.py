"""Weights of one bit as native code: any packed layout, its padding, and what training makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from convc.frontend import loads
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.types import f32
from convc.passes.layout import WeightLayout
from convc.passes.sections import Section
from convc.passes.training import GRADIENT
from convc.runtime.gradcheck import training_graph
from tests.codegen.test_ops import available_tiers
from tests.codegen.whole_net import arrays_for, exactly, executor_for, lowered, run

# Filters by the number of groups, with what the images of each have for channels.
FILTERS = {
    "odd": ((19, 5, 3, 3), 1),
    "one_channel": ((20, 1, 5, 5), 1),
    "wide": ((70, 33, 1, 1), 1),
    "groups": ((21, 3, 3, 2), 7),
    "groups_of_4": ((24, 4, 3, 3), 6),
    "large_groups": ((36, 17, 3, 3), 2),
    "depthwise": ((37, 1, 3, 3), 37),
}


def graph_of_weights() -> Graph:
    """Layers that read the weights of one bit of each kind, and these themselves as outputs."""
    graph = Graph("g")
    b = Builder(graph)
    for name, (shape, groups) in FILTERS.items():
        x = graph.add_input("x" if name == "odd" else f"x.{name}", f32(2, shape[1] * groups, 6, 6))
        w = b.add(Binarize(), graph.add_parameter(name, f32(*shape)))
        graph.outputs["logits" if name == "odd" else f"y.{name}"] = b.add(Conv2d(groups=groups), x, w)
        graph.outputs[f"binary.{name}"] = w
    w = b.add(Binarize(), graph.add_parameter("matrix", f32(7, 33)))
    graph.outputs["y.matrix"] = b.add(Linear(), graph.add_input("x.matrix", f32(2, 33)), w)
    graph.outputs["binary.matrix"] = w
    return graph


def expected(w: np.ndarray) -> np.ndarray:
    means = np.abs(w.astype(np.float64)).mean(tuple(range(1, w.ndim)), keepdims=True).astype(np.float32)
    return np.where(w < 0, -means, means)


@pytest.mark.parametrize("tier", available_tiers())
@pytest.mark.parametrize("threads", [1, 3])
def test_every_layout_has_the_bits_of_the_definition_and_zeros_in_its_padding(
    threads: int, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    graph = graph_of_weights()
    arrays = arrays_for(graph, 2)
    # Zeros of both signs, an output of nothing else, and what is flushed to zero but has a sign.
    for name in (*FILTERS, "matrix"):
        flat = arrays[name].reshape(-1)
        flat[::7], flat[1::11], flat[2::13] = 0.0, -0.0, -1e-42
        arrays[name][-1] = -0.0
    with executor_for(graph, arrays, threads) as executor:
        for name in executor.graph.inputs:
            if name != "x":
                executor.write_input(name, arrays[name])
        run(executor, arrays)
        for name in (*FILTERS, "matrix"):
            value = executor.graph.outputs[f"binary.{name}"]
            layout = executor.plan.layouts[value]
            assert isinstance(layout, WeightLayout)
            np.testing.assert_array_equal(executor.stored(value), layout.pack(expected(arrays[name])), name)
        reference = run_reference(graph, exactly(arrays))
        for name, output in reference.items():
            if not name.startswith("binary."):
                np.testing.assert_allclose(executor.output(name, 2), output, rtol=1e-4, atol=1e-5)


BODY = "conv 6 k=3{bits} -> relu -> conv 4 k=3 groups=2 bias=no{bits} -> bn -> relu -> fc 5{bits} -> loss softmax"


def training(bits: str) -> Graph:
    return training_graph(loads(f"net n {{ input 2x7x6 -> {BODY.format(bits=bits)} }}").graph(4))


def test_gradients_are_those_of_the_net_with_the_binary_weights_where_weights_are_small() -> None:
    graph, plain = training(" bits=1"), training("")
    arrays = {name: 4 * a if name.endswith("weight") else a for name, a in exactly(arrays_for(graph, 4)).items()}
    binary = {name: Binarize().reference(a) if name.endswith("weight") else a for name, a in arrays.items()}
    found, through = run_reference(graph, arrays), run_reference(plain, binary)
    assert found.keys() == through.keys()
    for name, gradient in through.items():
        if name.startswith(GRADIENT) and name.endswith("weight"):
            inside = np.abs(arrays[name.removeprefix(GRADIENT)]) <= 1
            assert 0.05 < inside.mean() < 0.95
            gradient = np.where(inside, gradient, 0)
        np.testing.assert_allclose(found[name], gradient, rtol=1e-12, atol=1e-12)


def test_inference_takes_signs_once() -> None:
    net = loads(f"net n {{ input 2x7x6 -> {BODY.format(bits=' bits=1')} }}")
    graph = lowered(net.graph(4), "infer")
    arrays = arrays_for(graph, 4)
    with executor_for(graph, arrays) as executor:
        kernels = [k for k in executor.plan.kernels if isinstance(k.anchor.op, Binarize)]
        assert [k.section for k in kernels] == [Section.PREPARE] * 3
