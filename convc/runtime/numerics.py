"""Whether passes keep what a graph computes: outputs and gradients before and after each of them, at a random point.

Both graphs are run by the interpreter in float64, with few rows of the batch. A graph that has a loss and no gradients
yet is differentiated for the comparison. What a pass is meant to change (`Pass.alters`) is not compared. Passes over
the plan are judged by their kernels (`kernel_numerics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING

import numpy as np

from convc.ir.autodiff import differentiate
from convc.ir.diagnostic import Note, fail
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import InferError
from convc.lazy import dataclass
from convc.passes.base import Entry, Mode, OutOfFuel, Pass, PassLog
from convc.passes.half_precision import HalfPrecision
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe
from convc.passes.quantization import QuantizeProducts, Ranges
from convc.passes.training import GRADIENT
from convc.runtime.algorithms import AlgorithmOptions, choices_of
from convc.runtime.build import choose_passes, require_decided
from convc.runtime.configuration import element_types, make_recipe
from convc.runtime.gradcheck import rounding_error
from convc.runtime.kernel_numerics import check_kernels
from convc.runtime.random_point import random_point

if TYPE_CHECKING:
    from convc.frontend.net import Net

_ROWS = 2
# Constants are float32: folding some may move a result by their rounding, and never by more than a few of these.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """One pass: the largest difference of an output, relative to its largest element, and which output it is.

    `outputs` are those that were compared. `error` is None where nothing could be, for the reason `why`.
    """

    name: str
    error: float | None
    worst: str = ""
    outputs: tuple[str, ...] = ()
    why: str = ""

    @property
    def right(self) -> bool:
        return self.error is None or self.error <= TOLERANCE


@dataclass
class NumericsCheck:
    """A watcher for `PassManager`: compares, and stops at the pass that changes what is computed (`value-numerics`)."""

    seed: int = 0
    bisect: bool = False
    comparisons: list[Comparison] = field(default_factory=list[Comparison])

    def __call__(self, step: Pass, before: Graph, after: Graph) -> None:
        found = compare(step, before, after, self.seed)
        self.comparisons.append(found)
        if not found.right:
            message = f"the pass `{step.name}` changes {found.worst} by {found.error:.2g} of its largest element"
            notes = [Note(line) for line in self.lines()[:-1]]
            if self.bisect:
                number, entry = guilty_change(step, before, self.seed)
                place = entry.location[0] if entry.location else None
                notes.append(Note(f"the first wrong change is number {number}: {entry}", place))
            fail("value-numerics", message, notes=tuple(notes))

    def lines(self) -> list[str]:
        """A line for each pass."""
        return [describe(comparison) for comparison in self.comparisons]


def verify_passes(
    net: Net,
    mode: Mode,
    passes: Sequence[str] | None = None,
    *,
    bisect: bool = False,
    target: str = "cpu",
    precision: str | None = None,
    fp32: Sequence[str] = (),
    ranges: Ranges | None = None,
    threads: int | None = None,
    algorithms: AlgorithmOptions | None = None,
) -> list[str]:
    """Run the passes of a program (those of `convc.compile`) on a small batch, comparing; a line for each of them, and
    where kernels are made, one for those. Errors: `value-numerics`, those of `convc.compile`."""
    forward = net.graph(_ROWS)
    half = element_types(precision, net.settings, mode, net.layers, fp32, ranges)
    recipe = make_recipe(net.settings, forward, half) if mode == "train" else Recipe()
    check = NumericsCheck(bisect=bisect)
    algorithms = algorithms or AlgorithmOptions()
    order = choose_passes(mode, recipe, passes, target, algorithms.chooser(target, threads), types=half)
    reports = PassManager(order.graph, watch=check).run(forward)
    lines = check.lines()
    if target == "cuda":
        lines.append("kernels of GPUs are not compared here: `convc gradcheck --target cuda` does so, on a GPU")
    if target == "cpu":
        require_decided(forward, target)
        errors = [choice.decision.candidate(choice.decision.chosen).max_rel_error for choice in choices_of(reports)]
        rounding = max(rounding_error(half), *(error for error in errors if error is not None), 0.0)
        found = check_kernels(forward, order.plan, threads=threads, rounding=rounding)
        planned = ", ".join(step.name for step in order.plan)
        if not found.right:
            message = (
                f"the kernels change {found.worst} by {found.error:.2g} of its largest element, and rounding "
                f"explains {found.allowed:.2g}: one of {planned}, or the code made from the plan"
            )
            fail("value-numerics", message, notes=tuple(Note(line) for line in lines))
        what = "the logits agree" if found.worst == "logits" else f"{found.compared} gradients agree"
        lines.append(f"{planned} and their kernels: {what}, error {found.error:.2g} ({found.worst}), in {_types(half)}")
    return lines


def _types(half: HalfPrecision | QuantizeProducts | None) -> str:
    kinds = half.kinds if isinstance(half, HalfPrecision) else ("int8",) if half is not None else ()
    return " and ".join(("float32", *kinds))


def describe(found: Comparison) -> str:
    """`fold: 2 outputs and 4 gradients agree, error 1.2e-16 (logits)`."""
    if found.error is None:
        return f"{found.name}: not compared: {found.why}"
    gradients = sum(name.startswith(GRADIENT) for name in found.outputs)
    outputs = len(found.outputs) - gradients
    counted = f"{outputs} output{'s' * (outputs != 1)}"
    if gradients:
        counted += f" and {gradients} gradient{'s' * (gradients != 1)}"
    verdict = "agree" if found.right else "differ"
    if len(found.outputs) == 1:
        verdict += "s"
    place = f" ({found.worst})" if found.error else ""
    return f"{found.name}: {counted} {verdict}, error {found.error:.2g}{place}"


def compare(step: Pass, before: Graph, after: Graph, seed: int = 0) -> Comparison:
    """What two graphs give under the same names, for the same random parameters and inputs."""
    reason = step.alters(before)
    if reason is not None:
        return Comparison(step.name, None, why=reason)
    old, new = _with_gradients(before), _with_gradients(after)
    names = tuple(name for name in old.outputs if name in new.outputs)
    if not names:
        return Comparison(step.name, None, why="no output has kept its name")
    arrays = _few_rows(random_point(new, seed) | random_point(old, seed), old)
    expected, actual = (_outputs(graph, arrays) for graph in (old, new))
    errors = {name: _error(actual[name], expected[name]) for name in names}
    worst = max(errors, key=errors.__getitem__)
    return Comparison(step.name, errors[worst], worst, names)


def guilty_change(step: Pass, before: Graph, seed: int = 0) -> tuple[int, Entry]:
    """The first change of a wrong pass after which the graph computes something else, and its number from 1."""
    right, wrong, entry = 0, _changes(step, before), None
    while entry is None or wrong - right > 1:
        fuel = wrong if entry is None else (right + wrong) // 2
        graph, log = before.copy(), PassLog(fuel=fuel)
        try:
            step.run(graph, log)
        except OutOfFuel:
            pass
        if fuel < wrong and compare(step, before, graph, seed).right:
            right = fuel
        else:
            wrong, entry = fuel, log.of("changed")[-1]
    return wrong, entry


def _changes(step: Pass, before: Graph) -> int:
    log = PassLog()
    step.run(before.copy(), log)
    return len(log.of("changed"))


def _with_gradients(graph: Graph) -> Graph:
    """A copy without updates, differentiated if it has a loss, no gradients yet, and only ops that have some."""
    twin = graph.copy()
    twin.updates = {}
    if "loss" not in twin.outputs or any(name.startswith(GRADIENT) for name in twin.outputs):
        return twin
    trained = {name: p.value for name, p in twin.parameters.items() if p.trainable and not p.frozen}
    try:
        gradients = differentiate(twin, twin.outputs["loss"], list(trained.values()))
    except InferError:
        # Layers that `specialize` has yet to give the form for training.
        twin = graph.copy()
        twin.updates = {}
        return twin
    twin.outputs |= {
        GRADIENT + name: value for name, value in zip(trained, gradients, strict=True) if value is not None
    }
    return twin


def _few_rows(arrays: dict[str, np.ndarray], graph: Graph) -> dict[str, np.ndarray]:
    cut = {name: arrays[name][:_ROWS] for name, value in graph.inputs.items() if value.type.rank > 0}
    rows = np.asarray(len(cut["x"]), np.int64)
    return arrays | cut | ({"rows": rows} if "rows" in arrays else {})


def _outputs(graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_reference(graph, {name: arrays[name] for name in (*graph.inputs, *graph.parameters)})


def _error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Infinite where shapes differ, or where one is finite and the other is not."""
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    if not np.array_equal(np.isfinite(actual), np.isfinite(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    difference = np.abs(np.where(finite, actual, 0) - np.where(finite, expected, 0)).max()
    scale = max(np.abs(np.where(finite, expected, 0)).max(), np.finfo(np.float64).tiny)
    return float(difference / scale)
