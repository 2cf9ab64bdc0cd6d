"""Why each convolution of a net is computed as it is, and how good the predictions behind that were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from statistics import correlation
from typing import TYPE_CHECKING, Literal

from convc.lazy import dataclass
from convc.passes.algorithms.decision import Candidate
from convc.passes.algorithms.problem import Problem
from convc.passes.base import Mode
from convc.passes.choose_algorithms import Choice
from convc.passes.half_precision import Precision
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe
from convc.runtime.algorithms import AlgorithmOptions, choices_of
from convc.runtime.build import choose_passes, require_loss
from convc.runtime.configuration import choose_precision, half_precision, make_recipe, positive
from convc.runtime.cores import choose_threads

if TYPE_CHECKING:
    from convc.frontend.net import Net


@dataclass(frozen=True)
class Miss:
    """A prediction beside its measurement, in seconds on the threads there are."""

    label: str
    direction: str
    algorithm: str
    predicted: float
    measured: float

    @property
    def factor(self) -> float:
        """How far off the prediction was, at least 1."""
        ratio = self.predicted / self.measured
        return max(ratio, 1 / ratio)


@dataclass(frozen=True)
class Explanation:
    """The choices for all convolutions of a net, and what they were made with.

    `spearman` is the rank correlation of predicted and measured times (None with fewer than two measurements), `worst`
    are the predictions that were most off. `errors` are those that were measured, by problem and algorithm.
    """

    net: str
    mode: Mode
    batch: int
    precision: Precision
    tier: str
    threads: int
    choices: tuple[Choice, ...]
    spearman: float | None
    worst: tuple[Miss, ...]
    errors: Mapping[tuple[Problem, str], float] = field(default_factory=dict[tuple[Problem, str], float])


def explain(
    net: Net,
    mode: Mode,
    *,
    batch: int | None = None,
    precision: str | None = None,
    fp32: Sequence[str] = (),
    threads: int | None = None,
    algorithms: AlgorithmOptions | None = None,
    measure_errors: Literal["none", "chosen", "all"] = "none",
) -> Explanation:
    """Run the passes of a program up to the choice of algorithms. Nothing is compiled but what is measured.

    `precision` and `fp32` are those of `convc.compile`. `measure_errors`: of the algorithms that were chosen, or of all
    that apply, against float64.
    Errors: those of the choice (`unavailable-algorithm`, …); `value-loss` for a training step without a loss;
    `unavailable-precision`, `name-layer`.
    """
    settings = net.settings
    size = settings.batch if batch is None else positive(batch, "batch")
    graph = net.graph(size)
    if mode == "train":
        require_loss(graph)
    chosen = choose_precision(precision, settings, mode)
    half = half_precision(chosen, net.layers, fp32)
    recipe = make_recipe(settings, graph, half) if mode == "train" else Recipe()
    cores = choose_threads(threads).threads
    choose = (algorithms or AlgorithmOptions()).chooser("cpu", threads)
    assert choose is not None
    order = choose_passes(mode, recipe, None, "cpu", choose, types=half)
    reports = PassManager(order.graph, check=False).run(graph)
    choices = tuple(choices_of(reports))
    misses = _misses(choices, cores)
    return Explanation(
        net.name,
        mode,
        size,
        chosen,
        choose.tier,
        cores,
        choices,
        spearman([(miss.predicted, miss.measured) for miss in misses]),
        tuple(_by_factor(misses)[:_WORST]),
        _errors(choices, measure_errors == "all") if measure_errors != "none" else {},
    )


_WORST = 5


def _errors(choices: tuple[Choice, ...], all_candidates: bool) -> Mapping[tuple[Problem, str], float]:
    from convc.runtime.exactness import measure_errors

    return measure_errors(
        (choice.decision.problem, candidate.algorithm)
        for choice in choices
        for candidate in choice.decision.candidates
        if candidate.algorithm == choice.decision.chosen or (all_candidates and candidate.applicable)
    )


def _misses(choices: tuple[Choice, ...], threads: int) -> list[Miss]:
    """One for each problem and algorithm that was measured."""
    found: dict[object, Miss] = {}
    for choice in choices:
        for candidate in choice.decision.candidates:
            if candidate.measured is not None and candidate.predicted is not None:
                key = choice.decision.problem, candidate.algorithm
                found.setdefault(key, _miss(choice, candidate, threads))
    return list(found.values())


def _miss(choice: Choice, candidate: Candidate, threads: int) -> Miss:
    predicted, measured = (candidate.predicted or 0.0) / threads, candidate.measured or 0.0
    return Miss(choice.label, choice.direction, candidate.algorithm, predicted, measured)


def _by_factor(misses: list[Miss]) -> list[Miss]:
    return sorted(misses, key=lambda miss: -miss.factor)


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Rank correlation: Pearson's of the ranks, equal values sharing theirs. None where it has no meaning."""
    predicted, measured = _ranks([pair[0] for pair in pairs]), _ranks([pair[1] for pair in pairs])
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        return None
    return correlation(predicted, measured)


def _ranks(values: list[float]) -> list[float]:
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in set(values)}
    count = {value: ordered.count(value) for value in set(values)}
    return [first[value] + (count[value] - 1) / 2 for value in values]
