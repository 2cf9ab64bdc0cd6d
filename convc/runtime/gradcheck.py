"""`convc gradcheck`: are the gradients right?

Three answers are compared at one random point (parameters, images, labels and dropout masks drawn from a seed):

* numeric: central differences of the loss in float64, for sampled elements of every trained parameter;
* analytic: what differentiation emitted into the training graph, run by the interpreter in float64;
* compiled: what the back end computes in float32, for all elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Parameter
from convc.ir.interpreter import run_reference
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.passes.sections import Section
from convc.passes.training import GRADIENT
from convc.runtime.finite_differences import LossProbe, straight_through

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.runtime.executor import Executor

Verdict = Literal["ok", "wrong", "untested"]

# Central differences in float64 are good for about 1e-8; a wrong formula is wrong in the first digits.
NUMERIC_TOLERANCE = 1e-5
# A whole net in float32 against float64.
COMPILED_TOLERANCE = 1e-4
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
    net: Net, *, batch: int = 4, samples: int = 12, seed: int = 0, target: str = "cpu", threads: int | None = None
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
    graph: Graph, *, samples: int = 12, seed: int = 0, executor: Executor | None = None, target: str = "reference"
) -> GradientReport:
    """Check a training graph (one with outputs `loss` and `grad.NAME`) at a random point.

    At most `samples` elements are checked per parameter: the one with the largest gradient, and random ones. With an
    `executor` of the same graph its float32 gradients are compared, too; `target` names it in the report.
    """
    arrays = random_point(graph, seed)
    results = run_reference(graph, arrays)
    gradients = {name: results[GRADIENT + name] for name in _trained(graph)}
    compiled = _compiled_gradients(graph, arrays, executor, seed) if executor else {}
    largest = max((float(np.abs(g).max()) for g in gradients.values() if g.size), default=0.0)
    largest = max(largest, float(np.finfo(np.float64).tiny) / _NUMERIC_FLOOR)
    probe, estimated = LossProbe(graph, arrays), straight_through(graph)
    checks: list[ParameterCheck] = []
    for number, (name, gradient) in enumerate(gradients.items()):
        error = _largest_error(compiled[name], gradient, _COMPILED_FLOOR * largest) if name in compiled else None
        if name in estimated:
            place = estimated[name].label or "step"
            why = f"{place} passes a straight-through estimate, not a derivative"
            checks.append(_untested(name, gradient, error, why))
        else:
            random = np.random.default_rng([seed, number])
            checks.append(_check(name, gradient, probe, samples, random, _NUMERIC_FLOOR * largest, error))
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
        classes = graph.outputs["logits"].shape[1]
        arrays["labels"] = random.integers(0, classes, graph.inputs["labels"].shape).astype(np.int32)
    arrays["step"], arrays["seed"] = np.asarray(1, np.int64), np.asarray(seed, np.int64)
    arrays["lr"] = np.asarray(0.0)
    return arrays


def _random_parameter(parameter: Parameter, random: np.random.Generator) -> np.ndarray:
    shape = parameter.value.shape
    if parameter.role == "state":
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


def _compiled_gradients(
    graph: Graph, arrays: Mapping[str, np.ndarray], executor: Executor, seed: int
) -> dict[str, np.ndarray]:
    for name in graph.parameters:
        executor.write(name, np.asarray(arrays[name], np.float32, order="C"))
    x = np.ascontiguousarray(arrays["x"], np.float32)
    executor.run(Section.FORWARD | Section.GRADIENT, x, arrays.get("labels"), lr=0.0, step=1, seed=seed)
    return {name: executor.gradient(name) for name in _trained(graph)}


def _largest_error(actual: np.ndarray, expected: np.ndarray, floor: float) -> float:
    """max|a − b| / max|b|; infinite where a number is not finite."""
    if not expected.size:
        return 0.0
    difference = np.abs(actual.astype(np.float64) - expected).max()
    error = float(difference / max(float(np.abs(expected).max()), floor))
    return error if np.isfinite(error) else float("inf")


def _check(
    name: str,
    gradient: np.ndarray,
    probe: LossProbe,
    samples: int,
    random: np.random.Generator,
    floor: float,
    compiled_error: float | None,
) -> ParameterCheck:
    flat = gradient.reshape(-1)
    checked = skipped = 0
    worst: tuple[float, int, float] | None = None
    # Elements on kinks are replaced by others, but not without end.
    for difference in probe.slopes(name, _candidates(flat, 3 * samples, random)):
        if difference.slope is None:
            skipped += 1
            continue
        checked += 1
        analytic, numeric = float(flat[difference.index]), difference.slope
        error = abs(analytic - numeric) / max(abs(analytic), abs(numeric), floor)
        error = error if np.isfinite(error) else float("inf")
        if worst is None or error > worst[0]:
            worst = error, difference.index, numeric
        if checked == samples:
            break
    if worst is None:
        return _untested(name, gradient, compiled_error, "every element tried lies on a kink", skipped)
    error, index, numeric = worst
    reasons: list[str] = []
    if error > NUMERIC_TOLERANCE:
        reasons.append(f"differs from the numeric gradient by {error:.1e}")
    if compiled_error is not None and compiled_error > COMPILED_TOLERANCE:
        reasons.append(f"compiled and interpreted gradients differ by {compiled_error:.1e}")
    return ParameterCheck(
        name,
        gradient.shape,
        checked,
        skipped,
        error,
        tuple(int(i) for i in np.unravel_index(index, gradient.shape)),
        float(flat[index]),
        numeric,
        compiled_error,
        "wrong" if reasons else "ok",
        "; ".join(reasons),
    )


def _candidates(flat: np.ndarray, most: int, random: np.random.Generator) -> list[int]:
    """Elements to try, each once: the largest gradient first, then a random choice."""
    if not flat.size:
        return []
    order = random.permutation(flat.size)[:most].tolist()
    largest = int(np.abs(flat).argmax())
    return [largest, *(index for index in order if index != largest)]


def _untested(
    name: str, gradient: np.ndarray, compiled_error: float | None, why: str, skipped: int = 0
) -> ParameterCheck:
    wrong = compiled_error is not None and compiled_error > COMPILED_TOLERANCE
    if wrong:
        why = f"compiled and interpreted gradients differ by {compiled_error:.1e}; {why}"
    return ParameterCheck(
        name, gradient.shape, 0, skipped, None, None, None, None, compiled_error, "wrong" if wrong else "untested", why
    )


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
