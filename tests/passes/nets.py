"""Forward graphs for tests of analyses, written the way the front end writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.op import Op
from convc.ir.ops.activation import Relu
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy, label_type
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.pool import MaxPool
from convc.ir.ops.random import Dropout
from convc.ir.ops.shape import Flatten
from convc.ir.span import Span
from convc.ir.types import f32


class Net:
    """Applies layers one after the other, each on a line of its own."""

    def __init__(self, *shape: int, batch: int = 1, name: str = "net") -> None:
        self.graph = Graph(name)
        self.value = self.graph.add_input("x", f32(batch, *shape))
        self._builder = Builder(self.graph)
        self._counts: dict[str, int] = {}
        self._line = 1

    def apply(self, word: str, op: Op, *parameters: tuple[str, tuple[int, ...], str]) -> Net:
        count = self._counts[word] = self._counts.get(word, 0) + 1
        label = f"{word}{count}"
        self._line += 1
        values = [
            self.graph.add_parameter(f"{label}.{name}", f32(*shape), role=role, trainable=role not in ("mean", "var"))
            for name, shape, role in parameters
        ]
        with self._builder.at((Span("n.cnn", self._line, 3, self._line, 9),), label):
            if isinstance(op, Linear) and self.value.type.rank > 2:
                self.value = self._builder.add(Flatten(), self.value)
            self.value = self._builder.add(op, self.value, *values)
        return self

    def conv(
        self, count: int, k: int | tuple[int, int], s: int = 1, pad: int = 0, groups: int = 1, bias: bool = True
    ) -> Net:
        kernel = (k, k) if isinstance(k, int) else k
        weight = ("weight", (count, self.value.shape[1] // groups, *kernel), "weight")
        biases = (("bias", (count,), "bias"),) if bias else ()
        return self.apply("conv", Conv2d((s, s), (pad,) * 4, groups=groups), weight, *biases)  # type: ignore[arg-type]

    def fc(self, count: int) -> Net:
        features = math.prod(self.value.shape[1:])
        return self.apply("fc", Linear(), ("weight", (count, features), "weight"), ("bias", (count,), "bias"))

    def bn(self) -> Net:
        channels = self.value.shape[1]
        names = ("gamma", "beta", "mean", "var")
        return self.apply("bn", BatchNorm(), *((name, (channels,), name) for name in names))

    def relu(self) -> Net:
        return self.apply("relu", Relu())

    def dropout(self, rate: float = 0.5) -> Net:
        return self.apply("dropout", Dropout(rate, 1))

    def pool(self, k: int, s: int | None = None) -> Net:
        return self.apply("pool", MaxPool((k, k), (s or k, s or k)))

    def build(self, loss: bool = True) -> Graph:
        logits: Value = self.value
        self.graph.outputs["logits"] = logits
        if loss:
            labels = self.graph.add_input("labels", label_type(logits.type))
            with self._builder.at((Span("n.cnn", self._line + 1, 3, self._line + 1, 9),), "loss1"):
                self.graph.outputs["loss"] = self._builder.add(SoftmaxCrossEntropy(), logits, labels)
                self.graph.outputs["correct"] = self._builder.add(CountCorrect(), logits, labels)
        return self.graph


def vgg16(batch: int = 1) -> Graph:
    net = Net(3, 224, 224, batch=batch, name="vgg16")
    stages: Iterable[tuple[int, int]] = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    for channels, depth in stages:
        for _ in range(depth):
            net.conv(channels, 3, pad=1).relu()
        net.pool(2)
    return net.fc(4096).relu().fc(4096).relu().fc(1000).build()


def lenet(batch: int = 64) -> Graph:
    net = Net(1, 28, 28, batch=batch, name="lenet").conv(20, 5).relu().pool(2).conv(50, 5).relu().pool(2)
    return net.apply("flatten", Flatten()).fc(500).relu().fc(10).build()
