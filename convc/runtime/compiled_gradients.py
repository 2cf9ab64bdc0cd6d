"""Gradients of compiled code beside those of the interpreter in float64.

Rounding alone may move a gradient by far more than rounding: a ReLU's operand within 1e-7 of zero is positive on one
side and negative on the other, and so is the order of two pixels in the window of a maximum. Such a point says little
about the code. So where the two differ by more than rounding explains, the interpreter is asked again, in float64, with
all inputs moved by about as much as rounding moves what follows from them. What moves its gradients as far is no proof
of a mistake, and another point is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.lazy import dataclass
from convc.passes.sections import Section
from convc.passes.training import GRADIENT
from convc.runtime.executor import Executor, ReferenceExecutor

Arrays = Mapping[str, np.ndarray]

# A whole net in float32 against float64. Some points are worse conditioned than others (batch norm over few images):
# compiled code may be this much further off than the interpreter is in float32.
TOLERANCE = 1e-4
_FACTOR = 5.0
# Gradients this much smaller than the net's largest are compared with that in place of themselves: rounding noise has
# no relative accuracy, and the gradient of a bias before batch norm is nothing but noise.
_FLOOR = 1e-2
# Relative error of what a layer of direct kernels computes in float32, and how often the inputs are moved by that.
_ROUNDING = 1e-6
_MOVES = 6
# Times the rounding of one layer: how close gradients come that went through some.
_CLOSE = 10.0
# How many points are tried, one after the other, until one tells.
_POINTS = 3


@dataclass(frozen=True)
class CompiledCheck:
    """The error of one gradient, max|a − b| / max|b|, the one that is excused, and the one that is as small as can be
    expected."""

    error: float
    allowed: float
    close: float = TOLERANCE

    @property
    def wrong(self) -> bool:
        return self.error > self.allowed

    @property
    def told(self) -> bool:
        """Whether the point was good enough to compare closely."""
        return self.error <= self.close


def compare_compiled(
    graph: Graph, executor: Executor, point: Callable[[int], Arrays], seed: int, rounding: float = _ROUNDING
) -> dict[str, CompiledCheck]:
    """Check all gradients of a training graph that `executor` has compiled.

    `point` gives the values of all inputs and parameters for attempt 0, 1, …; `seed` is the one that draws depend on.
    `rounding` is the relative error that the algorithms of the convolutions are known for, or that numbers of 16 bits
    have, if it is larger.
    """
    found: dict[str, CompiledCheck] = {}
    for attempt in range(_POINTS):
        again = _at(graph, executor, point(attempt), np.random.default_rng([seed, attempt]), max(rounding, _ROUNDING))
        found = {name: _better(found.get(name), check) for name, check in again.items()}
        if all(check.wrong or check.told for check in found.values()):
            break
    return found


def _better(one: CompiledCheck | None, other: CompiledCheck) -> CompiledCheck:
    """What counts of two points: a mistake, else the closer comparison."""
    if one is None or other.wrong:
        return other
    return one if one.wrong or one.error <= other.error else other


def _at(
    graph: Graph, executor: Executor, arrays: Arrays, random: np.random.Generator, rounding: float
) -> dict[str, CompiledCheck]:
    exact = exact_gradients(graph, arrays)
    scales = _scales(exact)
    actual = _gradients_of(executor, graph, arrays)
    errors = {name: _error(actual[name], array, scales[name]) for name, array in exact.items()}
    rounded = _gradients_of(ReferenceExecutor(graph, batch=executor.batch), graph, arrays)
    close = max(TOLERANCE, _CLOSE * rounding)
    allowed = {
        name: max(TOLERANCE, _FACTOR * _error(rounded[name], array, scales[name])) for name, array in exact.items()
    }
    if any(errors[name] > TOLERANCE for name in exact):
        for _ in range(_MOVES):
            moved = exact_gradients(graph, _moved(arrays, random, rounding))
            for name, array in exact.items():
                allowed[name] = max(allowed[name], _FACTOR * _error(moved[name], array, scales[name]))
    return {name: CompiledCheck(errors[name], allowed[name], close) for name in exact}


def exact_gradients(graph: Graph, arrays: Arrays) -> dict[str, np.ndarray]:
    """What the interpreter computes, by the names of the parameters, in the precision of the arrays."""
    results = run_reference(graph, arrays)
    return {name: results[GRADIENT + name] for name in graph.parameters if GRADIENT + name in graph.outputs}


def _moved(arrays: Arrays, random: np.random.Generator, by: float) -> dict[str, np.ndarray]:
    """The arrays with every number that a tensor holds multiplied by about 1 ± `by`."""
    return {
        name: array * (1 + by * random.standard_normal(array.shape))
        if array.dtype.kind == "f" and array.ndim
        else array
        for name, array in arrays.items()
    }


def _gradients_of(executor: Executor, graph: Graph, arrays: Arrays) -> dict[str, np.ndarray]:
    for name in graph.parameters:
        executor.write(name, np.asarray(arrays[name], np.float32, order="C"))
    x = np.ascontiguousarray(arrays["x"], np.float32)
    labels = arrays.get("labels")
    if labels is not None and labels.dtype.kind == "f":
        labels = np.ascontiguousarray(labels, np.float32)
    step, seed = int(arrays["step"]), int(arrays["seed"])
    executor.run(Section.FORWARD | Section.GRADIENT, x, labels, lr=0.0, step=step, seed=seed)
    return {name: executor.gradient(name) for name in graph.parameters if GRADIENT + name in graph.outputs}


def _scales(gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What the error of each gradient is divided by."""
    largest = {name: float(np.abs(array).max(initial=0.0)) for name, array in gradients.items()}
    floor = max(_FLOOR * max(largest.values(), default=0.0), float(np.finfo(np.float64).tiny))
    return {name: max(size, floor) for name, size in largest.items()}


def _error(actual: np.ndarray, expected: np.ndarray, scale: float) -> float:
    """max|a − b| / scale; infinite where a number is not finite."""
    error = float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0) / scale)
    return error if np.isfinite(error) else float("inf")
