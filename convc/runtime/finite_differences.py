"""Numeric gradients by central differences, the judge of the ones that the compiler derives.

    ∂L/∂θ ≈ (L(θ + ε) − L(θ − ε)) / 2ε         in float64; truncation error O(ε²), rounding error O(1e-16·L/ε)

The formula holds where L is smooth between θ − ε and θ + ε. Activations and maxima have kinks, so at each of them is
watched which side its operands are on; when the two ends disagree, ε shrinks, and after the smallest ε the element is
given up as lying on a kink.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, MutableMapping

import numpy as np

from convc.ir.graph import Graph, Node, Value
from convc.ir.interpreter import Arrays
from convc.ir.op import Op
from convc.ir.ops.activation import Elu, LeakyRelu, Maxout, Prelu, Relu, Relu6, Step
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.distance import Hinge
from convc.ir.ops.elementwise import Absolute, Greater, Maximum, Minimum, Sign, spread
from convc.ir.ops.pool import MaxPool
from convc.lazy import dataclass

# From the best compromise of the two errors downwards, to slip between kinks.
_STEPS = (1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class Difference:
    """The numeric derivative by one element, `index` in row-major order; None if no ε keeps clear of kinks."""

    index: int
    slope: float | None


class LossProbe:
    """Evaluates the loss of a training graph, and which branch every kink takes, around float64 arrays by name.

    Only what depends on a perturbed parameter is computed again.
    """

    def __init__(self, graph: Graph, arrays: Arrays) -> None:
        self._loss = graph.outputs["loss"]
        self._parameters = {name: parameter.value for name, parameter in graph.parameters.items()}
        needed = graph.ancestors([self._loss])
        self._nodes = [node for node in graph.nodes if node in needed]
        self._values = {value: np.array(arrays[name]) for name, value in self._parameters.items()}
        self._values |= {value: np.array(arrays[name]) for name, value in graph.inputs.items()}
        self._run(self._nodes, self._values)

    def slopes(self, name: str, indices: Iterable[int]) -> Iterator[Difference]:
        """Central differences by the elements `indices` of the parameter `name`, one after the other."""
        parameter = self._parameters[name]
        changed = {parameter}
        dependent: list[Node] = []
        for node in self._nodes:
            if not changed.isdisjoint(node.operands):
                dependent.append(node)
                changed.update(node.results)
        flat = self._values[parameter].reshape(-1)
        for index in indices:
            start = flat[index]
            slope = self._slope(dependent, flat, index)
            flat[index] = start
            yield Difference(index, slope)

    def _slope(self, dependent: list[Node], flat: np.ndarray, index: int) -> float | None:
        start = flat[index]
        for step in _STEPS:
            flat[index] = start + step
            above, sides_above = self._evaluate(dependent)
            width = flat[index]
            flat[index] = start - step
            below, sides_below = self._evaluate(dependent)
            width -= flat[index]  # what was really moved, after rounding
            if all(np.array_equal(a, b) for a, b in zip(sides_above, sides_below, strict=True)):
                return float((above - below) / width)
        return None

    def _evaluate(self, dependent: list[Node]) -> tuple[float, list[np.ndarray]]:
        """The loss, and the side of every kink among the nodes that are computed again."""
        values = ChainMap[Value, np.ndarray]({}, self._values)
        self._run(dependent, values)
        sides = [
            KINKS[type(node.op)](node.op, *(values[operand] for operand in node.operands))
            for node in dependent
            if type(node.op) in KINKS
        ]
        return float(values[self._loss]), sides

    @staticmethod
    def _run(nodes: list[Node], values: MutableMapping[Value, np.ndarray]) -> None:
        for node in nodes:
            results = node.op.reference(*(values[operand] for operand in node.operands))
            for value, array in zip(node.results, results if isinstance(results, tuple) else (results,), strict=True):
                # Float32 constants must not narrow the computation.
                array = np.asarray(array)
                values[value] = array.astype(np.float64) if array.dtype == np.float32 else array


def straight_through(graph: Graph) -> dict[str, Node]:
    """Parameters that reach the loss through a `step`, or as weights of one bit, with the node: their gradient is an
    estimate and no derivative."""
    found: dict[str, Node] = {}
    for estimate in graph.nodes_of(Step, Binarize):
        nodes = graph.ancestors([estimate.result])
        for name, parameter in graph.parameters.items():
            if any(user in nodes for user, _ in parameter.value.users):
                found.setdefault(name, estimate)
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


def _violated(op: Op, *operands: np.ndarray) -> np.ndarray:
    assert isinstance(op, Hinge)
    return op.violations(*operands) > 0


# For every op with a kink: which smooth piece its operands are on.
KINKS: dict[type[Op], Callable[..., np.ndarray]] = {
    Relu: _positive,
    LeakyRelu: _positive,
    Prelu: _positive,
    Elu: _positive,
    Relu6: _between,
    Step: _positive,
    Binarize: _sign,
    Absolute: _sign,
    Sign: _sign,
    Maximum: _larger,
    Minimum: _larger,
    Greater: _larger,
    MaxPool: _first_in_window,
    Maxout: _first_in_group,
    Hinge: _violated,
}
