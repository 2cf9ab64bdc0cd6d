"""What the table of ops writes into: nodes, constants, and the names of values in the model.

Parameters keep their names. A node is called after its layer, with a number where a layer takes several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.graph import Node, Value
from convc.ir.op import Array
from convc.ir.ops.constant import Constant
from convc.lazy import dataclass

Attribute = int | float | str | Sequence[int]


@dataclass(frozen=True)
class OnnxNode:
    """One node of the model; `""` is an input left out."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Attribute]


@dataclass
class Writer:
    """`weights` are the parameters' values by name, `opset` the version of the operators to write."""

    weights: Mapping[str, Array]
    opset: int
    nodes: list[OnnxNode] = field(default_factory=list[OnnxNode])
    tensors: dict[str, Array] = field(default_factory=dict[str, Any])
    names: dict[Value, str] = field(default_factory=dict[Value, str])
    _taken: set[str] = field(default_factory=set[str])

    def reserve(self, *names: str) -> None:
        """Keep names for inputs, outputs and parameters."""
        self._taken.update(names)

    def node(self, op: str, inputs: Sequence[str], label: str, **attributes: Attribute) -> str:
        """Add a node and return the name of its output."""
        name = self._fresh(label or op.lower())
        self.nodes.append(OnnxNode(op, name, tuple(inputs), name, attributes))
        return name

    def tensor(self, label: str, array: Array) -> str:
        """Add a constant of the model (float32 or int64) and return its name."""
        name = self._fresh(label)
        self.tensors[name] = array
        return name

    def shape(self, label: str, sizes: Sequence[int]) -> str:
        return self.tensor(f"{label}.shape", np.asarray(sizes, np.int64))

    def value(self, value: Value, rank: int | None = None) -> str:
        """The name of a value. With `rank` a vector of one number per channel gets as many dimensions behind it."""
        spread = rank is not None and rank > 2 and len(value.shape) == 1
        if value in self.names and not spread:
            return self.names[value]
        array = self._known(value)
        if not spread:
            name = self.names[value] = self._named(value, array)
            return name
        assert rank is not None
        return self._named(value, array.reshape(-1, *(1,) * (rank - 2)))

    def _known(self, value: Value) -> Array:
        if value.producer is not None and isinstance(value.producer.op, Constant):
            return value.producer.op.reference()
        if value.name is not None and value.name in self.weights:
            return self.weights[value.name]
        label = value.producer.label if value.producer else value.name
        fail("onnx-op", f"{label}: a vector that is computed cannot be joined with images in an ONNX file")

    def _named(self, value: Value, array: Array) -> str:
        """A parameter under its own name, as long as it is written in one shape only."""
        array = np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)
        parameter = value.name if value.name in self.weights else None
        if parameter is None:
            return self.tensor(f"{value.producer.label if value.producer else 'value'}.constant", array)
        if parameter not in self.tensors:
            self.tensors[parameter] = array
        elif self.tensors[parameter].shape != array.shape:
            return self.tensor(parameter, array)
        return parameter

    def _fresh(self, label: str) -> str:
        name, number = label, 1
        while name in self._taken:
            number += 1
            name = f"{label}_{number}"
        self._taken.add(name)
        return name


def only_user(node: Node) -> Node | None:
    """The node that reads this one's result, if it is the only one."""
    users = node.result.users
    return users[0][0] if len(users) == 1 else None
