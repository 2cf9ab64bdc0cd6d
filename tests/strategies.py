"""Hypothesis strategies: random small, valid forward graphs, and arrays to run a graph on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Initializer, Value
from convc.ir.op import InferError, Op
from convc.ir.ops.activation import Elu, LeakyRelu, Maxout, Prelu, Relu, Relu6, Sigmoid, Tanh
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add, Subtract
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy, label_type
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.random import Dropout
from convc.ir.ops.shape import Flatten
from convc.ir.philox import stream_key
from convc.ir.span import Span
from convc.ir.types import TensorType, f32

Draw = Callable[[st.SearchStrategy[Any]], Any]
SMOOTH: tuple[Op, ...] = (Sigmoid(), Tanh())
ACTIVATIONS: tuple[Op, ...] = (Relu(), LeakyRelu(0.125), Elu(0.5), Relu6(), *SMOOTH)


class _Net:
    """A growing net: draws one layer at a time, with parameters, labels and places like the front end's."""

    def __init__(self, draw: Draw, graph: Graph, activations: tuple[Op, ...]) -> None:
        self.draw, self.graph, self.builder = draw, graph, Builder(graph)
        self.activations = activations
        self.count = 0

    def integer(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, most))

    def layer(self, kind: str, value: Value) -> Value:
        self.count += 1
        line = self.count + 1
        path, place = f"{kind}{self.count}", Span("net.cnn", line, 3, line, 3 + len(kind))
        with self.builder.at((place,), path):
            return getattr(self, kind)(path, place, value)

    def parameter(self, path: str, place: Span, role: str, *shape: int) -> Value:
        kinds = {"gamma": "ones", "var": "ones", "weight": "he"}
        initial = Initializer(kinds.get(role, "zeros"), 0.0, int(np.prod(shape[1:])), shape[0])
        trainable = role not in ("mean", "var")
        metadata = {"role": role, "initial": initial, "trainable": trainable, "span": place}
        return self.graph.add_parameter(f"{path}.{role}", f32(*shape), **metadata)

    def conv(self, path: str, place: Span, x: Value, same: bool = False) -> Value:
        c = x.shape[1]
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3, c) if c % g == 0]))
        kernel = (
            (2 * self.integer(0, 1) + 1, 2 * self.integer(0, 1) + 1)
            if same
            else (self.integer(1, 3), self.integer(1, 3))
        )
        k = c if same else groups * self.integer(1, 3)
        if same:
            down, across = kernel[0] // 2, kernel[1] // 2
            op = Conv2d(padding=(down, across, down, across), groups=groups)
        else:
            padding = tuple(self.integer(0, 2) for _ in range(4))
            stride, dilation = (self.integer(1, 2), self.integer(1, 3)), (self.integer(1, 2), self.integer(1, 2))
            op = Conv2d(stride, padding, dilation, groups)  # type: ignore[arg-type]
        fitting = op.window(kernel).output_size((x.shape[2], x.shape[3]))
        if min(fitting) < 1:
            op, kernel = Conv2d(groups=groups), (1, 1)
        weight = self.parameter(path, place, "weight", k, c // groups, *kernel)
        bias = self.parameter(path, place, "bias", k) if self.draw(st.booleans()) else None
        return self.builder.add(op, x, weight, bias)

    def fc(self, path: str, place: Span, x: Value, width: int | None = None) -> Value:
        if x.type.rank == 4:
            x = self.builder.add(Flatten(), x)
        width = width or self.integer(1, 7)
        weight = self.parameter(path, place, "weight", width, x.shape[1])
        bias = self.parameter(path, place, "bias", width) if self.draw(st.booleans()) else None
        return self.builder.add(Linear(), x, weight, bias)

    def pool(self, path: str, place: Span, x: Value) -> Value:
        kernel = (self.integer(1, 3), self.integer(1, 3))
        stride = (self.integer(1, 2), self.integer(1, 2))
        padding = tuple(self.integer(0, kernel[side % 2] - 1) for side in range(4))
        ceil = self.draw(st.booleans())
        kind = self.draw(st.sampled_from([MaxPool, AvgPool]))
        try:
            return self.builder.add(kind(kernel, stride, padding, ceil), x)
        except InferError:  # the window does not fit
            return x

    def bn(self, path: str, place: Span, x: Value) -> Value:
        vectors = [self.parameter(path, place, role, x.shape[1]) for role in ("gamma", "beta", "mean", "var")]
        return self.builder.add(BatchNorm(1e-3, 0.25), x, *vectors)

    def activation(self, path: str, place: Span, x: Value) -> Value:
        return self.builder.add(self.draw(st.sampled_from(self.activations)), x)

    def prelu(self, path: str, place: Span, x: Value) -> Value:
        return self.builder.add(Prelu(), x, self.parameter(path, place, "slope", x.shape[1]))

    def maxout(self, path: str, place: Span, x: Value) -> Value:
        return self.builder.add(Maxout(2), x) if x.shape[1] % 2 == 0 else x

    def dropout(self, path: str, place: Span, x: Value) -> Value:
        return self.builder.add(Dropout(self.draw(st.sampled_from([0.25, 0.5])), stream_key(path, "dropout")), x)

    def residual(self, path: str, place: Span, x: Value) -> Value:
        return self.builder.add(Add(), self.conv(path, place, x, same=True), x)


@st.composite
def graphs(draw: Draw, max_layers: int = 6, kinks: bool = True, noise: bool = True) -> Graph:
    """A forward graph as the front end emits it: inputs x and labels; outputs logits, loss and correct.

    Without `kinks` everything is smooth, so that numeric gradients exist; without `noise` there is no dropout.
    """
    graph = Graph("net")
    net = _Net(draw, graph, ACTIVATIONS if kinks else SMOOTH)
    batch, channels = net.integer(1, 3), net.integer(1, 4)
    x = graph.add_input("x", f32(batch, channels, net.integer(1, 8), net.integer(1, 8)))
    value = x
    if draw(st.booleans()):
        value = net.builder.add(Subtract(), value, net.builder.constant(0.25))
    kinds = ["conv", "bn", "activation", "residual"] + ["dropout"] * noise + ["pool", "prelu", "maxout"] * kinks
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=max_layers)):
        value = net.layer(kind, value)
    for _ in range(net.integer(0, 1)):
        value = net.layer("activation", net.layer("fc", value))
    logits = net.layer("fc", value)
    labels = graph.add_input("labels", label_type(logits.type))
    with net.builder.at((Span("net.cnn", net.count + 2, 3, net.count + 2, 15),), "loss"):
        smooth = draw(st.sampled_from([0.0, 0.125]))
        loss = net.builder.add(SoftmaxCrossEntropy(smooth), logits, labels)
        correct = net.builder.add(CountCorrect(), logits, labels)
    graph.outputs.update(logits=logits, loss=loss, correct=correct)
    return graph


def random_arrays(graph: Graph, seed: int = 0, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Arrays for the inputs and parameters of a graph: labels in range, variances positive, weights of moderate size.

    Floats have `dtype`, but always the values that float32 can hold.
    """
    generator = np.random.default_rng(seed)
    classes = graph.outputs["logits"].shape[1] if "logits" in graph.outputs else 2
    arrays: dict[str, np.ndarray] = {}

    def draw(type: TensorType, role: str) -> np.ndarray:
        if not type.dtype.is_float:
            return generator.integers(0, classes, type.shape).astype(type.dtype.numpy)
        if role in ("var", "square"):
            values = generator.uniform(0.5, 2.0, type.shape)
        else:
            fan_in = int(np.prod(type.shape[1:])) if role == "weight" else 1
            values = generator.standard_normal(type.shape) / np.sqrt(max(fan_in, 1))
        return np.asarray(values).astype(np.float32).astype(dtype)

    for name, value in graph.inputs.items():
        arrays[name] = draw(value.type, "input")
    for name, parameter in graph.parameters.items():
        arrays[name] = draw(parameter.value.type, parameter.role)
    return arrays
