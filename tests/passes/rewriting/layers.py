"""Layers with random weights, and ways to run what takes their place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.types import f32
from convc.passes.rewriting.layer import Layer, Weights
from convc.runtime.build import build


def convolution(
    channels: int,
    filters: int,
    kernel: int | tuple[int, int],
    size: tuple[int, int] = (11, 12),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] | None = None,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    bias: bool = True,
) -> Layer:
    """Without `padding` it keeps the size (with stride 1)."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding is None:
        down, across = dilation[0] * (rows // 2), dilation[1] * (columns // 2)
        padding = (down, across, down, across)
    weight = (filters, channels // groups, rows, columns)
    return Layer(Conv2d(stride, padding, dilation, groups=groups), (channels, *size), weight, bias)


def fully_connected(features: int, outputs: int, bias: bool = True) -> Layer:
    return Layer(Linear(), (features,), (outputs, features), bias)


def random_weights(layer: Layer, seed: int = 0) -> Weights:
    draw = np.random.default_rng([seed, *layer.shapes["weight"]])
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in layer.shapes.items()}


def random_inputs(layer: Layer, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, count]).standard_normal((count, *layer.input)).astype(np.float32)


def run_native(layers: Sequence[Layer], weights: Sequence[Weights], x: np.ndarray) -> np.ndarray:
    """What layers, one behind the other, give as a compiled program."""
    graph = Graph("layers")
    value = graph.add_input("x", f32(*x.shape))
    for number, layer in enumerate(layers):
        parameters = [graph.add_parameter(f"{number}.{name}", f32(*shape)) for name, shape in layer.shapes.items()]
        value = Builder(graph).add(layer.op, value, *parameters)
    graph.outputs["logits"] = value
    with build(graph, mode="infer", batch=len(x), target="cpu", seed=0, threads=2) as program:
        for number, own in enumerate(weights):
            program.set_params({f"{number}.{name}": array for name, array in own.items()})
        return program(x)
