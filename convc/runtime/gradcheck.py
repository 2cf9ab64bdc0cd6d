"""`convc gradcheck`: are the gradients right?

Three answers are compared at one random point (parameters, images, labels and dropout masks drawn from a seed):

* numeric: central differences of the loss in float64, for sampled elements of every trained parameter;
* analytic: what differentiation emitted into the training graph, run by the interpreter in float64;
* compiled: what the back end computes in float32, for all elements.

After passes, the analytic gradients are those of the graph that all of them have left, and it is this graph that is
compiled; the loss whose differences are taken is that of the graph before them.

In half precision the graph has its casts. In float64 these round nothing, so that they are checked as all else is; the
compiled gradients are compared as closely as the interpreter's, which rounds where they say, come to those in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph
from convc.lazy import dataclass
from convc.passes.base import PlanPass
from convc.passes.half_precision import HalfPrecision
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.passes.planning import PLANNING
from convc.passes.quantization import QuantizeProducts
from convc.passes.specialize import Specialize
from convc.passes.training import Training
from convc.runtime.algorithms import AlgorithmOptions, choices_of
from convc.runtime.build import choose_passes, make_executor, require_decided
from convc.runtime.compiled_gradients import CompiledCheck, compare_compiled, exact_gradients
from convc.runtime.configuration import check_target, choose_precision, half_precision, make_recipe
from convc.runtime.cuda_driver import usable_gpu
from convc.runtime.finite_differences import LossProbe, straight_through
from convc.runtime.random_point import random_point

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.runtime.executor import Executor

Verdict = Literal["ok", "wrong", "untested"]

# Central differences in float64 are good for about 1e-8; a wrong formula is wrong in the first digits.
NUMERIC_TOLERANCE = 1e-5
# Gradients this much smaller than the net's largest are compared with that in place of themselves: rounding noise has
# no relative accuracy, and the gradient of a bias before batch norm is nothing but noise.
_NUMERIC_FLOOR = 1e-4
# Half a unit in the last place.
_ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8}
_STEP = 1 / 255


@dataclass(frozen=True)
class ParameterCheck:
    """One parameter. `skipped` elements lay on kinks; `worst` is the index of the largest relative error.

    `compiled_allowed` is the error of compiled code that rounding explains at the point where it was measured.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    skipped: int
    max_relative_error: float | None
    worst: tuple[int, ...] | None
    analytic: float | None
    numeric: float | None
    compiled_relative_error: float | None
    compiled_allowed: float | None
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class GradientReport:
    """All parameters that training changes, in file order; `passes` are those after which they were checked."""

    net: str
    batch: int
    target: str
    seed: int
    parameters: tuple[ParameterCheck, ...]
    passes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.verdict != "wrong" for check in self.parameters)


def gradcheck(
    net: Net,
    *,
    batch: int = 4,
    samples: int = 8,
    seed: int = 0,
    target: str = "cpu",
    precision: str | None = None,
    fp32: Sequence[str] = (),
    threads: int | None = None,
    after_passes: bool = False,
    passes: Sequence[str] | None = None,
    algorithms: AlgorithmOptions | None = None,
) -> GradientReport:
    """Check all gradients of a net; target "reference" leaves out compiled code.

    With `after_passes` the graph that a training program is made of is checked, settings and all; `passes` and
    `algorithms` are those of `convc.compile`, and each of them implies it. Errors: `value-loss` for a net without a
    loss, `unavailable-precision`, those of `convc.compile`; for target "cuda", which needs a GPU, those of
    `convc.runtime.cupy_device.open_device`.
    """
    check_target(target)
    if target == "cuda":
        usable_gpu()
    half = half_precision(choose_precision(precision, net.settings, "train"), net.layers, fp32)
    forward = net.graph(batch)
    if "loss" not in forward.outputs:
        fail("value-loss", f"{net.name} has no loss, so there are no gradients", hint="end the net with `loss softmax`")
    if after_passes or passes is not None or algorithms is not None:
        algorithms = algorithms or AlgorithmOptions()
        return _after_passes(net, forward, samples, seed, target, threads, passes, algorithms, half)
    graph = training_graph(forward, half)
    with _compiled(graph, target, threads) as executor:
        return check_gradients(
            graph, samples=samples, seed=seed, executor=executor, target=target, rounding=rounding_error(half)
        )


def rounding_error(types: HalfPrecision | QuantizeProducts | None) -> float:
    """The largest relative error of rounding to the types of a program that has 8 or 16 bits in places; of 8 bits
    relative to the end of a range."""
    if isinstance(types, QuantizeProducts):
        return _STEP
    return max((_ROUNDING[kind] for kind in types.kinds), default=0.0) if types is not None else 0.0


def _after_passes(
    net: Net,
    forward: Graph,
    samples: int,
    seed: int,
    target: str,
    threads: int | None,
    passes: Sequence[str] | None,
    algorithms: AlgorithmOptions,
    half: HalfPrecision | None,
) -> GradientReport:
    recipe = make_recipe(net.settings, forward)
    order = choose_passes("train", recipe, passes, target, algorithms.chooser(target, threads), types=half)
    before = forward.copy()
    PassManager([step for step in pipeline("train", recipe=recipe) if isinstance(step, _NEEDED)]).run(before)
    reports = PassManager(order.graph).run(forward)
    require_decided(forward, target)
    errors = [choice.decision.candidate(choice.decision.chosen).max_rel_error for choice in choices_of(reports)]
    with _compiled(forward, target, threads, order.plan) as executor:
        report = check_gradients(
            forward,
            samples=samples,
            seed=seed,
            executor=executor,
            target=target,
            loss_of=before,
            rounding=max(rounding_error(half), *(error for error in errors if error is not None), 0.0),
        )
    planned = order.plan if executor is not None else ()
    return replace(report, passes=tuple(step.name for step in (*order.graph, *planned)))


# What makes a training step of a forward graph; all other passes only change how it is computed.
_NEEDED = (Specialize, Training)


@contextmanager
def _compiled(
    graph: Graph, target: str, threads: int | None, passes: Sequence[PlanPass] = PLANNING
) -> Iterator[Executor | None]:
    """A copy of the graph as the back end runs it; None for the interpreter, which is what it is compared with."""
    if target == "reference":
        yield None
        return
    batch = graph.inputs["x"].shape[0]
    executor = make_executor(graph.copy(), target, batch=batch, threads=threads, passes=passes)
    try:
        yield executor
    finally:
        executor.close()


def training_graph(forward: Graph, half: HalfPrecision | None = None) -> Graph:
    """The gradients of a forward graph, without optimiser; with `half` in numbers of 16 bits where that pass says."""
    graph = forward.copy()
    PassManager(pipeline("train", types=half)).run(graph)
    return graph


def check_gradients(
    graph: Graph,
    *,
    samples: int = 8,
    seed: int = 0,
    executor: Executor | None = None,
    target: str = "reference",
    loss_of: Graph | None = None,
    rounding: float = 0.0,
) -> GradientReport:
    """Check a training graph (one with outputs `loss` and `grad.NAME`) at a random point.

    At most `samples` elements are checked per parameter: the one with the largest gradient, and random ones. With an
    `executor` of the same graph its float32 gradients are compared, too; `target` names it in the report, and
    `rounding` is the relative error of its convolutions, if it is more than rounding. The differences are those of the
    loss of `loss_of`, another graph for the same step.
    """
    loss_graph = graph if loss_of is None else loss_of
    arrays = random_point(graph, seed)
    gradients = exact_gradients(graph, arrays)
    largest = max((float(np.abs(g).max()) for g in gradients.values() if g.size), default=0.0)
    largest = max(largest, float(np.finfo(np.float64).tiny) / _NUMERIC_FLOOR)
    compiled: dict[str, CompiledCheck] = {}
    if executor is not None:
        compiled = compare_compiled(
            graph, executor, lambda attempt: random_point(graph, (seed, attempt) if attempt else seed), seed, rounding
        )
    probe, estimated = LossProbe(loss_graph, arrays), straight_through(loss_graph)
    checks: list[ParameterCheck] = []
    for number, (name, gradient) in enumerate(gradients.items()):
        if name in estimated:
            numeric = _Numeric(
                why=f"{estimated[name].label or estimated[name].op.name} passes an estimate on, not a derivative"
            )
        else:
            random = np.random.default_rng([seed, number])
            numeric = _compare_numeric(name, gradient, probe, samples, random, _NUMERIC_FLOOR * largest)
        checks.append(_judge(name, gradient, numeric, compiled.get(name)))
    batch = graph.inputs["x"].shape[0]
    return GradientReport(graph.name, batch, target, seed, tuple(checks))


@dataclass(frozen=True)
class _Numeric:
    """How one parameter compares with central differences; no error where no element could be used."""

    checked: int = 0
    skipped: int = 0
    error: float | None = None
    worst: int = 0
    slope: float | None = None
    why: str = ""


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


def _judge(name: str, gradient: np.ndarray, numeric: _Numeric, compiled: CompiledCheck | None) -> ParameterCheck:
    wrong: list[str] = []
    if numeric.error is not None and numeric.error > NUMERIC_TOLERANCE:
        wrong.append(f"differs from the numeric gradient by {numeric.error:.1e}")
    if compiled is not None and compiled.wrong:
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
        compiled_allowed=compiled.allowed if compiled else None,
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
        "compiled_relative_error", "compiled_allowed", "verdict", "why",
    )  # fmt: skip
    return {
        "schema": 1,
        "net": report.net,
        "batch": report.batch,
        "target": report.target,
        "seed": report.seed,
        "passes": list(report.passes),
        "passed": report.passed,
        "parameters": [{field: getattr(check, field) for field in fields} for check in report.parameters],
    }
