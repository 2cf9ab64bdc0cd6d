"""Numeric gradients by central differences, the judge of the ones that the compiler derives.

    ∂L/∂θ ≈ (L(θ + ε) − L(θ − ε)) / 2ε         in float64; truncation error O(ε²), rounding error O(1e-16·L/ε)

The formula holds where L is smooth between θ − ε and θ + ε. Activations and maxima have kinks, so at each of them is
watched which side its operands are on; when the two ends disagree, ε shrinks, and after the smallest ε the element is
given up as lying on a kink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ir.interpreter import Arrays, run_reference
from convc.ir.op import Op
from convc.ir.ops.activation import Elu, LeakyRelu, Maxout, Prelu, Relu, Relu6, Step
from convc.ir.ops.elementwise import Absolute, Greater, Maximum, Minimum, Sign, spread
from convc.ir.ops.pool import MaxPool
from convc.passes.base import PassLog
from convc.passes.dead_code import DeadCode

# From the best compromise of the two errors downwards, to slip between kinks.
_STEPS = (1e-5, 1e-6, 1e-7)
_DECISION = "decision."


@dataclass(frozen=True)
class Difference:
    """The numeric derivative by one element, `index` in row-major order; None if no ε keeps clear of kinks."""

    index: int
    slope: float | None


class LossProbe:
    """Evaluates the loss of a training graph, and which branch every kink takes, at float64 arrays by name."""

    def __init__(self, graph: Graph, arrays: Arrays) -> None:
        self._graph = graph.copy()
        self._graph.outputs = {"loss": self._graph.outputs["loss"]}
        self._graph.updates = {}
        DeadCode().run(self._graph, PassLog())
        self._kinks = [node for node in self._graph.nodes if type(node.op) in _SIDES]
        for number, node in enumerate(self._kinks):
            self._graph.outputs |= {f"{_DECISION}{number}.{i}": value for i, value in enumerate(node.operands)}
        self._arrays = {name: np.array(array) for name, array in arrays.items()}

    def slopes(self, name: str, indices: Iterable[int]) -> Iterable[Difference]:
        """Central differences by the elements `indices` of the parameter `name`, one after the other."""
        flat = self._arrays[name].reshape(-1)
        for index in indices:
            start = flat[index]
            yield Difference(index, self._slope(flat, index))
            flat[index] = start

    def _slope(self, flat: np.ndarray, index: int) -> float | None:
        start = flat[index]
        for step in _STEPS:
            flat[index] = start + step
            above, sides_above = self._evaluate()
            width = flat[index]
            flat[index] = start - step
            below, sides_below = self._evaluate()
            width -= flat[index]  # what was really moved, after rounding
            flat[index] = start
            if all(np.array_equal(a, b) for a, b in zip(sides_above, sides_below, strict=True)):
                return float((above - below) / width)
        return None

    def _evaluate(self) -> tuple[float, list[np.ndarray]]:
        results = run_reference(self._graph, {name: self._arrays[name] for name in self._needed()})
        sides = [
            _SIDES[type(node.op)](node.op, *(results[f"{_DECISION}{number}.{i}"] for i in range(len(node.operands))))
            for number, node in enumerate(self._kinks)
        ]
        return float(results["loss"]), sides

    def _needed(self) -> Iterable[str]:
        return (*self._graph.inputs, *self._graph.parameters)


def straight_through(graph: Graph) -> dict[str, Node]:
    """Parameters that reach the loss through a `step`, whose gradient is an estimate and no derivative."""
    found: dict[str, Node] = {}
    for step in graph.nodes_of(Step):
        nodes = graph.ancestors([step.result])
        for name, parameter in graph.parameters.items():
            if any(user in nodes for user, _ in parameter.value.users):
                found.setdefault(name, step)
    return found


def _positive(op: Op, *operands: np.ndarray) -> np.ndarray:
    return operands[0] > 0


def _between(op: Op, *operands: np.ndarray) -> np.ndarray:
    return (operands[0] > 0).astype(np.int8) + (operands[0] > 6)


def _larger(op: Op, *operands: np.ndarray) -> np.ndarray:
    rank = max(np.ndim(operand) for operand in operands)
    left, right = (spread(operand, rank) for operand in operands)
    return left > right


def _sign(op: Op, *operands: np.ndarray) -> np.ndarray:
    return np.sign(operands[0])


def _first_in_window(op: Op, *operands: np.ndarray) -> np.ndarray:
    assert isinstance(op, MaxPool)
    patches = op.window.patches(operands[0], fill=-np.inf)
    return patches.reshape(*patches.shape[:4], -1).argmax(-1)


def _first_in_group(op: Op, *operands: np.ndarray) -> np.ndarray:
    assert isinstance(op, Maxout)
    n, c, *rest = operands[0].shape
    return operands[0].reshape(n, c // op.group, op.group, *rest).argmax(2)


# For every op with a kink: which smooth piece its operands are on.
_SIDES: dict[type[Op], Callable[..., np.ndarray]] = {
    Relu: _positive,
    LeakyRelu: _positive,
    Prelu: _positive,
    Elu: _positive,
    Relu6: _between,
    Step: _positive,
    Absolute: _sign,
    Sign: _sign,
    Maximum: _larger,
    Minimum: _larger,
    Greater: _larger,
    MaxPool: _first_in_window,
    Maxout: _first_in_group,
}
