"""The arithmetic that benchmark results are divided by."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Subtract
from convc.ir.ops.linear import Linear
from convc.ir.ops.shape import Flatten
from convc.ir.types import f32
from convc.runtime.benchmark.arithmetic import flops_per_image
from convc.runtime.machine_probe import measure_ceilings


@pytest.fixture
def graph() -> Graph:
    """Images minus a mean, a 3x3 convolution from 2 to 5 channels, a fully connected layer with 7 outputs; batch 4."""
    graph = Graph("net")
    builder = Builder(graph)
    x = builder.add(Subtract(), graph.add_input("x", f32(4, 2, 8, 8)), builder.constant(0.5))
    y = builder.add(Conv2d(), x, graph.add_parameter("conv1.weight", f32(5, 2, 3, 3)))
    y = builder.add(Flatten(), y)
    graph.outputs["logits"] = builder.add(Linear(), y, graph.add_parameter("fc1.weight", f32(7, 180)))
    return graph


def test_inference_counts_two_flops_per_multiply_add(graph: Graph) -> None:
    assert flops_per_image(graph, 4, "infer") == 2 * (5 * 36 * 18 + 7 * 180)


def test_training_needs_no_gradient_of_the_images(graph: Graph) -> None:
    assert flops_per_image(graph, 4, "train") == 2 * (2 * 5 * 36 * 18 + 3 * 7 * 180)


@pytest.mark.slow
def test_ceilings_are_plausible() -> None:
    ceilings = measure_ceilings(1)
    assert all(math.isfinite(value) and value > 0 for value in astuple(ceilings))
