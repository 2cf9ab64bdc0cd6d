"""`convc gradcheck`: are the gradients right?

Three answers are compared at one random point (parameters, images, labels and dropout masks drawn from a seed):

* numeric: central differences of the loss in float64, for sampled elements of every trained parameter;
* analytic: what differentiation emitted into the training graph, run by the interpreter in float64;
* compiled: what the back end computes in float32, for all elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Parameter
from convc.ir.interpreter import run_reference
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.passes.sections import ACCUMULATOR, Section
from convc.passes.training import GRADIENT
from convc.runtime.executor import ReferenceExecutor
from convc.runtime.finite_differences import LossProbe, straight_through

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.runtime.executor import Executor

Verdict = Literal["ok", "wrong", "untested"]

# Central differences in float64 are good for about 1e-8; a wrong formula is wrong in the first digits.
NUMERIC_TOLERANCE = 1e-5
# A whole net in float32 against float64. Some points are worse conditioned than others (batch norm over few images):
# compiled code may be this much further off than the interpreter is in float32.
COMPILED_TOLERANCE = 1e-4
_COMPILED_FACTOR = 5.0
# Gradients this much smaller than the net's largest are compared with that in place of themselves: rounding noise has
# no relative accuracy, and the gradient of a bias before batch norm is nothing but noise.
_NUMERIC_FLOOR = 1e-4
_COMPILED_FLOOR = 1e-2


@dataclass(frozen=True)
class ParameterCheck:
    """One parameter. `skipped` elements lay on kinks; `worst` is the index of the largest relative error."""

    name: str
    shape: tuple[int, ...]
    checked: int
    skipped: int
    max_relative_error: float | None
    worst: tuple[int, ...] | None
    analytic: float | None
    numeric: float | None
    compiled_relative_error: float | None
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class GradientReport:
    """All parameters that training changes, in file order."""

    net: str
    batch: int
    target: str
    seed: int
    parameters: tuple[ParameterCheck, ...]

    @property
    def passed(self) -> bool:
        return all(check.verdict != "wrong" for check in self.parameters)


def gradcheck(
    net: Net, *, batch: int = 4, samples: int = 8, seed: int = 0, target: str = "cpu", threads: int | None = None
) -> GradientReport:
    """Check all gradients of a net; target "reference" leaves out compiled code.

    Errors: `value-loss` for a net without a loss.
    """
    forward = net.graph(batch)
    if "loss" not in forward.outputs:
        fail("value-loss", f"{net.name} has no loss, so there are no gradients", hint="end the net with `loss softmax`")
    graph = training_graph(forward)
    if target == "reference":
        return check_gradients(graph, samples=samples, seed=seed, target=target)
    from convc.runtime.build import make_executor

    executor = make_executor(graph.copy(), target, batch=batch, threads=threads)
    try:
        return check_gradients(graph, samples=samples, seed=seed, executor=executor, target=target)
    finally:
        executor.close()


def training_graph(forward: Graph) -> Graph:
    """The gradients of a forward graph, without optimiser."""
    graph = forward.copy()
    PassManager(pipeline("train")).run(graph)
    return graph


def check_gradients(
    graph: Graph, *, samples: int = 8, seed: int = 0, executor: Executor | None = None, target: str = "reference"
) -> GradientReport:
    """Check a training graph (one with outputs `loss` and `grad.NAME`) at a random point.

    At most `samples` elements are checked per parameter: the one with the largest gradient, and random ones. With an
    `executor` of the same graph its float32 gradients are compared, too; `target` names it in the report.
    """
    arrays = random_point(graph, seed)
    results = run_reference(graph, arrays)
    gradients = {name: results[GRADIENT + name] for name in _trained(graph)}
    largest = max((float(np.abs(g).max()) for g in gradients.values() if g.size), default=0.0)
    largest = max(largest, float(np.finfo(np.float64).tiny) / _NUMERIC_FLOOR)
    compiled = (
        _compare_compiled(graph, arrays, gradients, executor, seed, _COMPILED_FLOOR * largest) if executor else {}
    )
    probe, estimated = LossProbe(graph, arrays), straight_through(graph)
    checks: list[ParameterCheck] = []
    for number, (name, gradient) in enumerate(gradients.items()):
        if name in estimated:
            numeric = _Numeric(why=f"{estimated[name].label or 'step'} passes an estimate on, not a derivative")
        else:
            random = np.random.default_rng([seed, number])
            numeric = _compare_numeric(name, gradient, probe, samples, random, _NUMERIC_FLOOR * largest)
        checks.append(_judge(name, gradient, numeric, compiled.get(name)))
    batch = graph.inputs["x"].shape[0]
    return GradientReport(graph.name, batch, target, seed, tuple(checks))


def random_point(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Values for all inputs and parameters of a training graph, float64 numbers that float32 can hold.

    Nothing is zero or equal by design (biases start at zero in training): at a generic point kinks are rare.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, parameter in graph.parameters.items():
        arrays[name] = _float32(_random_parameter(parameter, random))
    x = graph.inputs["x"]
    arrays["x"] = _float32(random.random(x.shape))
    if "labels" in graph.inputs:
        labels, classes = graph.inputs["labels"], graph.outputs["logits"].shape[1]
        if labels.type.dtype.is_float:
            arrays["labels"] = _float32(random.standard_normal(labels.shape))
        else:
            arrays["labels"] = random.integers(0, classes, labels.shape).astype(np.int32)
    arrays["step"], arrays["seed"] = np.asarray(1, np.int64), np.asarray(seed, np.int64)
    arrays["rows"], arrays["seen"] = np.asarray(len(arrays["x"]), np.int64), np.asarray(0, np.int64)
    arrays["lr"] = np.asarray(0.0)
    return arrays


def _random_parameter(parameter: Parameter, random: np.random.Generator) -> np.ndarray:
    shape = parameter.value.shape
    if parameter.role in ("state", ACCUMULATOR):
        return np.zeros(shape)
    noise = random.standard_normal(shape)
    if parameter.role == "weight":
        fan_in = max(1, int(np.prod(shape[1:])))
        return noise * np.sqrt(2 / fan_in)
    center = {"gamma": 1.0, "var": 1.0, "slope": 0.25}.get(parameter.role, 0.0)
    return center + 0.1 * (np.abs(noise) if parameter.role == "var" else noise)


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32).astype(np.float64)


def _trained(graph: Graph) -> list[str]:
    return [name for name in graph.parameters if GRADIENT + name in graph.outputs]


@dataclass(frozen=True)
class _Numeric:
    """How one parameter compares with central differences; no error where no element could be used."""

    checked: int = 0
    skipped: int = 0
    error: float | None = None
    worst: int = 0
    slope: float | None = None
    why: str = ""


@dataclass(frozen=True)
class _Compiled:
    """How compiled code compares with the interpreter in float64, and the error that float32 excuses."""

    error: float
    allowed: float


def _compare_compiled(
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    executor: Executor,
    seed: int,
    floor: float,
) -> dict[str, _Compiled]:
    actual = _gradients_of(executor, graph, arrays, seed)
    rounded = _gradients_of(ReferenceExecutor(graph, batch=executor.batch), graph, arrays, seed)
    found: dict[str, _Compiled] = {}
    for name, exact in gradients.items():
        usual = _largest_error(rounded[name], exact, floor)
        allowed = max(COMPILED_TOLERANCE, _COMPILED_FACTOR * usual)
        found[name] = _Compiled(_largest_error(actual[name], exact, floor), allowed)
    return found


def _gradients_of(
    executor: Executor, graph: Graph, arrays: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    for name in graph.parameters:
        executor.write(name, np.asarray(arrays[name], np.float32, order="C"))
    x = np.ascontiguousarray(arrays["x"], np.float32)
    labels = arrays.get("labels")
    if labels is not None and labels.dtype.kind == "f":
        labels = np.ascontiguousarray(labels, np.float32)
    executor.run(Section.FORWARD | Section.GRADIENT, x, labels, lr=0.0, step=1, seed=seed)
    return {name: executor.gradient(name) for name in _trained(graph)}


def _largest_error(actual: np.ndarray, expected: np.ndarray, floor: float) -> float:
    """max|a − b| / max|b|; infinite where a number is not finite."""
    difference = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    error = float(difference / max(float(np.abs(expected).max(initial=0.0)), floor))
    return error if np.isfinite(error) else float("inf")


def _compare_numeric(
    name: str, gradient: np.ndarray, probe: LossProbe, samples: int, random: np.random.Generator, floor: float
) -> _Numeric:
    flat = gradient.reshape(-1)
    result = _Numeric(why="every element tried lies on a kink")
    # Elements on kinks are replaced by others, but not without end.
    for difference in probe.slopes(name, _candidates(flat, 3 * samples, random)):
        if difference.slope is None:
            result = replace(result, skipped=result.skipped + 1)
            continue
        analytic, numeric = float(flat[difference.index]), difference.slope
        error = abs(analytic - numeric) / max(abs(analytic), abs(numeric), floor)
        error = error if np.isfinite(error) else float("inf")
        result = replace(result, checked=result.checked + 1, why="")
        if result.error is None or error > result.error:
            result = replace(result, error=error, worst=difference.index, slope=numeric)
        if result.checked == samples:
            break
    return result


def _judge(name: str, gradient: np.ndarray, numeric: _Numeric, compiled: _Compiled | None) -> ParameterCheck:
    wrong: list[str] = []
    if numeric.error is not None and numeric.error > NUMERIC_TOLERANCE:
        wrong.append(f"differs from the numeric gradient by {numeric.error:.1e}")
    if compiled is not None and compiled.error > compiled.allowed:
        wrong.append(f"compiled and interpreted gradients differ by {compiled.error:.1e}")
    tested = numeric.error is not None
    return ParameterCheck(
        name=name,
        shape=gradient.shape,
        checked=numeric.checked,
        skipped=numeric.skipped,
        max_relative_error=numeric.error,
        worst=tuple(int(i) for i in np.unravel_index(numeric.worst, gradient.shape)) if tested else None,
        analytic=float(gradient.reshape(-1)[numeric.worst]) if tested else None,
        numeric=numeric.slope,
        compiled_relative_error=compiled.error if compiled else None,
        verdict="wrong" if wrong else "ok" if tested else "untested",
        why="; ".join([*wrong, *([numeric.why] if numeric.why else [])]),
    )


def _candidates(flat: np.ndarray, most: int, random: np.random.Generator) -> list[int]:
    """Elements to try, each once: the largest gradient first, then a random choice."""
    if not flat.size:
        return []
    order = random.permutation(flat.size)[:most].tolist()
    largest = int(np.abs(flat).argmax())
    return [largest, *(index for index in order if index != largest)]


def as_json(report: GradientReport) -> dict[str, Any]:
    """The report made of JSON's types; `schema` is 1."""
    fields = (
        "name", "shape", "checked", "skipped", "max_relative_error", "worst", "analytic", "numeric",
        "compiled_relative_error", "verdict", "why",
    )  # fmt: skip
    return {
        "schema": 1,
        "net": report.net,
        "batch": report.batch,
        "target": report.target,
        "seed": report.seed,
        "passed": report.passed,
        "parameters": [{field: getattr(check, field) for field in fields} for check in report.parameters],
    }
