"""Replacements by cutting singular values off: exact at full rank, the best below it, and as much as was asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from convc.passes.rewriting.bottleneck import Bottleneck
from convc.passes.rewriting.composition import relative
from convc.passes.rewriting.depthwise import DepthwiseSeparable
from convc.passes.rewriting.factorize import Factorize
from convc.passes.rewriting.layer import Layer, run_layers
from convc.passes.rewriting.low_rank import LowRank
from convc.passes.rewriting.ranked import RankedRule
from convc.passes.rewriting.replacement import Samples
from tests.passes.rewriting.layers import convolution, fully_connected, random_inputs, random_weights, run_native

HORIZONTAL, VERTICAL = Factorize(), Factorize(order="vertical")

CONVOLUTIONS = {
    "3x3": convolution(5, 6, 3),
    "5x5": convolution(3, 7, 5, bias=False),
    "no padding": convolution(4, 5, 5, padding=(0, 0, 0, 0)),
    "strided": convolution(6, 5, 7, stride=(2, 2), size=(15, 14)),
    "oblong, uneven": convolution(4, 3, (5, 3), stride=(2, 1), padding=(2, 1, 0, 2)),
    "dilated": convolution(3, 4, 3, dilation=(2, 1)),
    "one channel": convolution(1, 6, 5),
}
ROWS = {"wide": fully_connected(20, 13), "tall": fully_connected(9, 16, bias=False)}
CASES = [
    *(
        pytest.param(rule, old, id=f"{rule.name} {getattr(rule, 'order', '')} {name}")
        for rule, (name, old) in itertools.product(
            (HORIZONTAL, VERTICAL, DepthwiseSeparable(), Bottleneck()), CONVOLUTIONS.items()
        )
    ),
    *(pytest.param(LowRank(), old, id=f"low-rank {name}") for name, old in ROWS.items()),
]


def with_options(rule: RankedRule, **options: float) -> RankedRule:
    return type(rule)(**{**rule.options, **options})


@pytest.mark.parametrize(("rule", "old"), CASES)
def test_full_rank_is_exact(rule: RankedRule, old: Layer) -> None:
    weights, x = random_weights(old), random_inputs(old)
    found = with_options(rule, rank=max(rule.full_ranks(old))).fit(old, weights, Samples(x))
    assert found.report.weight_error < 1e-6
    assert found.report.kept_energy == pytest.approx(1)
    assert "exact" in found.report.method
    assert found.report.output is not None
    assert found.report.output.whole < 1e-5
    expected = old.run(x.astype(np.float64), weights)
    assert relative(run_native(found.layers, found.weights, x), expected) < 1e-5


@pytest.mark.parametrize(("rule", "old"), CASES)
def test_what_is_reported_is_what_the_layers_do(rule: RankedRule, old: Layer) -> None:
    weights, x = random_weights(old), random_inputs(old)
    found = with_options(rule, rank=2).fit(old, weights, Samples(x))
    report = found.report
    assert [layer.input for layer in found.layers[1:]] == [layer.output for layer in found.layers[:-1]]
    assert found.layers[-1].output == old.output
    assert report.kept_energy == pytest.approx(1 - report.weight_error**2, abs=1e-6)
    expected = old.run(x.astype(np.float64), weights)
    assert report.output is not None
    assert relative(run_layers(found.layers, found.weights, x), expected) == pytest.approx(
        report.output.whole, rel=1e-4
    )
    assert relative(run_native(found.layers, found.weights, x), expected) == pytest.approx(
        report.output.whole, rel=1e-4
    )
    assert found.layers == with_options(rule, rank=2).form(old)


UNFOLDINGS: list[tuple[RankedRule, Layer, Callable[[np.ndarray], list[np.ndarray]]]] = [
    (HORIZONTAL, CONVOLUTIONS["5x5"], lambda w: [np.moveaxis(w, (1, 3), (0, 1)).reshape(3 * 5, 7 * 5)]),
    (VERTICAL, CONVOLUTIONS["oblong, uneven"], lambda w: [np.moveaxis(w, (1, 2), (0, 1)).reshape(4 * 5, 3 * 3)]),
    (DepthwiseSeparable(), CONVOLUTIONS["3x3"], lambda w: [w[:, c].reshape(6, 9) for c in range(5)]),
    (LowRank(), ROWS["wide"], lambda w: [w]),
]


@pytest.mark.parametrize(("rule", "old", "matrices"), UNFOLDINGS, ids=lambda value: getattr(value, "name", ""))
def test_no_rank_could_do_better(
    rule: RankedRule, old: Layer, matrices: Callable[[np.ndarray], list[np.ndarray]]
) -> None:
    """Eckart–Young: the error is the root of the squares of the singular values that are left out."""
    weights = random_weights(old)
    sigma = np.array([np.linalg.svd(matrix, compute_uv=False) for matrix in matrices(weights["weight"])])
    for rank in range(1, sigma.shape[1]):
        report = with_options(rule, rank=rank).fit(old, weights).report
        tail = np.sqrt(np.sum(sigma[:, rank:] ** 2) / np.sum(sigma**2))
        assert report.weight_error == pytest.approx(tail, rel=1e-4)


def test_a_tucker_kernel_is_recovered() -> None:
    old = convolution(12, 10, 3)
    draw = np.random.default_rng(3)
    core, first, last = (draw.standard_normal(shape) for shape in ((3, 4, 3, 3), (4, 12), (10, 3)))
    weights = {**random_weights(old), "weight": np.einsum("kj,jirs,ic->kcrs", last, core, first).astype(np.float32)}
    found = Bottleneck(energy=1 - 1e-10).fit(old, weights)
    assert found.report.ranks == (4, 3)
    assert found.report.weight_error < 1e-5


def test_iterating_improves_on_the_singular_vectors() -> None:
    old = convolution(12, 10, 3)
    weight = random_weights(old)["weight"].astype(np.float64)
    inner = np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(12, -1))[0][:, :3]
    outer = np.linalg.svd(weight.reshape(10, -1))[0][:, :3]
    plain = np.einsum("kj,mj,mcrs,ci,di->kdrs", outer, outer, weight, inner, inner)
    found = Bottleneck(rank=3).fit(old, random_weights(old))
    assert found.report.ranks == (3, 3)
    assert found.report.weight_error < relative(plain, weight) - 1e-3


@pytest.mark.parametrize(("rule", "old"), CASES)
def test_energy_is_kept_with_as_little_as_possible(rule: RankedRule, old: Layer) -> None:
    weights = random_weights(old)
    report = with_options(rule, energy=0.8).fit(old, weights).report
    assert report.kept_energy is not None
    assert report.kept_energy >= 0.8
    if isinstance(rule, Bottleneck):
        return  # two ranks: the fewest weights, which is no order of ranks
    (rank,) = report.ranks
    if rank > 1:
        less = with_options(rule, rank=rank - 1).fit(old, weights).report
        assert less.kept_energy is not None
        assert less.kept_energy < 0.8


@pytest.mark.parametrize(("rule", "old"), CASES)
@pytest.mark.parametrize("speedup", [0.5, 1.0, 1.7])
def test_the_largest_rank_that_is_fast_enough(rule: RankedRule, old: Layer, speedup: float) -> None:
    asked = with_options(rule, speedup=speedup)
    if (why := asked.refusal(old)) is not None:
        assert "out of reach" in why
        return
    layers = asked.form(old)
    macs = sum(layer.macs for layer in layers)
    assert macs * speedup <= old.macs
    rank = max(layer.weight[0] for layer in layers[:-1] if layer.weight)
    if isinstance(rule, DepthwiseSeparable):
        rank //= old.input[0]
    if rank < max(rule.full_ranks(old)):
        more = with_options(rule, rank=rank + 1).form(old)
        assert sum(layer.macs for layer in more) * speedup > old.macs


# Of the lectures: weights per C², as many channels in as out.
LECTURE = {
    "3x3 as 1x3 and 3x1": (Factorize(), 3, 6),
    "5x5 as 1x5 and 5x1": (Factorize(), 5, 10),
    "bottleneck": (Bottleneck(), 3, 3.25),
}


@pytest.mark.parametrize(("rule", "kernel", "weights"), LECTURE.values(), ids=LECTURE)
def test_forms_of_the_lectures(rule: RankedRule, kernel: int, weights: float) -> None:
    old = convolution(16, 16, kernel, bias=False)
    assert old.parameters == kernel**2 * 16**2
    assert sum(layer.parameters for layer in rule.form(old)) == weights * 16**2
    found = rule.fit(old, random_weights(old))
    assert found.parameters == (kernel**2 * 16**2, weights * 16**2)
    assert any("nothing was asked for" in note for note in found.report.notes)


REFUSALS = {
    "groups": (Factorize(), convolution(4, 4, 3, groups=2), "2 groups do not mix channels"),
    "depthwise groups": (DepthwiseSeparable(), convolution(4, 4, 3, groups=4), "4 groups already"),
    "bottleneck groups": (Bottleneck(), convolution(4, 4, 3, groups=2), "2 groups do not mix channels"),
    "a row": (Factorize(), convolution(4, 4, (1, 5)), "1x5 is one row or column already"),
    "pointwise": (DepthwiseSeparable(), convolution(4, 4, 1), "1x1 mixes channels only"),
    "bottleneck of 1x1": (Bottleneck(), convolution(4, 4, 1), "1x1 has nothing to put between"),
    "no convolution": (Factorize(), ROWS["wide"], "not a convolution"),
    "no fc": (LowRank(), CONVOLUTIONS["3x3"], "not a fully connected layer"),
    "one output": (LowRank(), fully_connected(9, 1), "as narrow as can be"),
    "two answers": (Factorize(rank=3, energy=0.9), CONVOLUTIONS["3x3"], "rank=3 and energy=0.9 are several answers"),
    "rank 0": (Factorize(rank=0), CONVOLUTIONS["3x3"], "rank=0 keeps nothing"),
    "energy": (Bottleneck(energy=1.5), CONVOLUTIONS["3x3"], "above 0, at most 1"),
    "no weights": (Factorize(energy=0.9), CONVOLUTIONS["3x3"], "read off trained weights, and none are given"),
    "no number": (Factorize(speedup=math.nan), CONVOLUTIONS["3x3"], "a factor above 0"),
    "too fast": (Factorize(speedup=1000), CONVOLUTIONS["3x3"], "out of reach: rank 1 takes"),
}


@pytest.mark.parametrize(("rule", "old", "why"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_say_why(rule: RankedRule, old: Layer, why: str) -> None:
    assert why in (rule.refusal(old) or "")


@pytest.mark.parametrize(("rule", "old"), CASES)
def test_zero_weights_stay_zero(rule: RankedRule, old: Layer) -> None:
    weights = {name: np.zeros_like(array) for name, array in random_weights(old).items()}
    report = with_options(rule, energy=0.9).fit(old, weights, Samples(random_inputs(old))).report
    assert (report.weight_error, report.kept_energy) == (0, 1)
    assert report.output is not None
    assert report.output.whole == 0


def test_the_second_run_gives_the_same_bits() -> None:
    old = CONVOLUTIONS["3x3"]
    for rule in (HORIZONTAL, DepthwiseSeparable(), Bottleneck()):
        first, second = (rule.fit(old, random_weights(old)) for _ in range(2))
        for one, other in zip(first.weights, second.weights, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
