"""A layer apart from its net: what it is, what it reads, and what it would be called in the language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from convc.ir.graph import Node
from convc.ir.ops.activation import Relu
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.types import Shape, f32
from convc.lazy import dataclass

Weights = Mapping[str, np.ndarray]  # "weight" and, where there is one, "bias", in the shapes of checkpoints


@dataclass(frozen=True)
class Layer:
    """A convolution, a fully connected layer, or a ReLU between them.

    `input` is the shape of one image, (C, H, W), or of one row, (D,). `weight` is the shape of the weights,
    (K, C/groups, R, S) or (O, D); None for a ReLU.
    """

    op: Conv2d | Linear | Relu
    input: Shape
    weight: Shape | None = None
    bias: bool = False

    @classmethod
    def of(cls, node: Node) -> Layer:
        """The layer that a node computes."""
        assert isinstance(node.op, (Conv2d, Linear, Relu))
        x, *parameters = node.operands
        weight = parameters[0].shape if parameters else None
        return cls(node.op, x.shape[1:], weight, len(parameters) > 1)

    @property
    def output(self) -> Shape:
        """The shape of what comes out for one image; raises `InferError` where the layer does not fit its input."""
        types = [f32(*shape) for shape in ((1, *self.input), *self.shapes.values())]
        return self.op.result_types(*types)[0].shape[1:]

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of its parameters by their names."""
        if self.weight is None:
            return {}
        return {"weight": self.weight} | ({"bias": self.weight[:1]} if self.bias else {})

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def macs(self) -> int:
        """Multiply-adds with weights for one image, those with padding included."""
        if self.weight is None:
            return 0
        return math.prod(self.output) * math.prod(self.weight[1:])

    @property
    def word(self) -> str:
        """`conv`, `fc` or `relu`."""
        return {Conv2d: "conv", Linear: "fc", Relu: "relu"}[type(self.op)]

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments in the language, without those that have their default; the positional one first.

        Numbers stand for equal pairs and sides, as a person would write them.
        """
        if self.weight is None:
            return {}
        found: dict[str, object] = {"filters" if isinstance(self.op, Conv2d) else "outputs": self.weight[0]}
        if isinstance(self.op, Conv2d):
            found["k"] = _short(self.weight[2:])
            given = {"s": self.op.stride, "pad": self.op.padding, "dil": self.op.dilation, "groups": (self.op.groups,)}
            usual = {"s": 1, "pad": 0, "dil": 1, "groups": 1}
            found |= {key: short for key, value in given.items() if (short := _short(value)) != usual[key]}
        return found if self.bias else found | {"bias": False}

    def run(self, x: np.ndarray, weights: Weights) -> np.ndarray:
        """The layer's output, by the reference rules of its op, in the precision of the arrays given."""
        operands = [weights[name] for name in self.shapes]
        return np.asarray(self.op.reference(x, *operands))


def run_layers(layers: Iterable[Layer], weights: Iterable[Weights], x: np.ndarray) -> np.ndarray:
    """What comes out of layers that are applied one after the other."""
    for layer, own in zip(layers, weights, strict=True):
        x = layer.run(x, own)
    return x


def _short(values: Sequence[int]) -> object:
    if len(set(values)) == 1:
        return values[0]
    if len(values) == 4 and tuple(values[:2]) == tuple(values[2:]):
        return tuple(values[:2])
    return tuple(values)
