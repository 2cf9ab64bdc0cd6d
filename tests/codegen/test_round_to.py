"""Rounding at random: unbiased, to numbers beside the exact one, the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.op import InferError
from convc.ir.ops import Conv2d, Linear
from convc.ir.ops.round_to import HalfName, Rounding, RoundTo, round_at_random
from convc.ir.rounding import rounded
from convc.ir.types import DType, TensorType, f32
from convc.passes.sections import EVERYTHING
from convc.runtime.native import NativeExecutor
from tests.codegen.test_ops import available_tiers
from tests.halves import awkward_floats

KINDS: tuple[HalfName, ...] = ("f16", "bf16")
LARGEST = {"f16": 65504.0, "bf16": 3.3895313892515355e38}


def draw(x: np.ndarray, kind: HalfName, seed: int = 0, step: int = 0, stream: int = 3) -> np.ndarray:
    return RoundTo(kind, "stochastic", stream).reference(x, np.asarray(seed), np.asarray(step))


def neighbours(x: np.ndarray, kind: HalfName) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the type below and above each, equal where the type has it; beyond the largest, infinity."""
    exact = x.astype(np.float64)
    exponent = np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126)))
    unit = 2.0 ** (exponent - 7) if kind == "bf16" else 2.0 ** np.maximum(exponent - 10, -24)
    low, high = np.floor(exact / unit) * unit, np.ceil(exact / unit) * unit
    return tuple(np.where(np.abs(side) > LARGEST[kind], np.copysign(np.inf, exact), side) for side in (low, high))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_numbers_of_the_type_beside_the_exact_one(kind: HalfName) -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal(20000) * 10.0 ** random.uniform(-7, 4, 20000)).astype(np.float32)
    result = draw(x, kind)
    assert (rounded(result, DType(kind)) == result).all()
    low, high = neighbours(x, kind)
    assert ((result == low) | (result == high)).all()
    there = rounded(x, DType(kind))
    assert (draw(there, kind) == there).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [3.6, -3.6, 1.0001, 1e-6, -3e-8, 2.0**-14 - 2.0**-27, 60001.0, 0.1])
def test_is_unbiased(kind: HalfName, value: float) -> None:
    """How often it goes up is within five standard deviations of what makes the mean exact."""
    x = np.full(200_000, value, np.float32)
    low, high = (float(side[0]) for side in neighbours(x[:1], kind))
    up = float((draw(x, kind) == high).mean())
    share = (float(x[0]) - low) / (high - low) if high > low else 1.0
    assert abs(up - share) <= 5 * np.sqrt(share * (1 - share) / len(x)) + 2.0**-13


def test_the_example_of_the_lectures() -> None:
    """3.6 becomes 4 in 60 % of draws. The numbers of bfloat16 between 512 and 1024 are 4 apart: 514.4 is such a one."""
    x = np.full(100_000, 512 + 4 * 0.6, np.float32)
    result = draw(x, "bf16")
    assert set(result) == {512.0, 516.0}
    assert (result == 516).mean() == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_the_range(kind: HalfName) -> None:
    specials = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan])
    result = draw(specials, kind)
    assert np.signbit(result[:2]).tolist() == [False, True]
    assert (result[2:4] == specials[2:4]).all()
    assert np.isnan(result[4])
    largest = np.float32(LARGEST[kind])
    assert (draw(np.full(50, largest), kind) == largest).all()
    beyond = draw(np.full(2000, np.float32(65520 if kind == "f16" else 3.4e38)), kind)
    assert set(beyond) == {largest, np.float32(np.inf)}


def test_draws_depend_on_seed_step_stream_and_place_alone() -> None:
    x = np.full(4000, 1.004, np.float32)
    given = {"seed": 1, "step": 2, "stream": 3}
    first = draw(x, "bf16", **given)
    assert (first == draw(x, "bf16", **given)).all()
    for other in ({"seed": 2}, {"step": 3}, {"stream": 4}):
        assert 0.2 < (first == draw(x, "bf16", **{**given, **other})).mean() < 0.8
    assert (first[:100] == draw(x[:100], "bf16", **given)).all()


def graph_with(kind: HalfName, rounding: Rounding) -> Graph:
    """A packed filter with padding, a packed matrix and a vector, each rounded."""
    graph = Graph("g")
    b = Builder(graph)
    x, y = graph.add_input("x", f32(2, 5, 6, 6)), graph.add_input("y", f32(2, 33))
    seed, step = (graph.add_input(name, TensorType(DType.I64, ())) for name in ("seed", "step"))
    w, v, m = (graph.add_parameter(name, f32(*s)) for name, s in (("w", (19, 5, 3, 3)), ("v", (7,)), ("m", (4, 33))))
    graph.outputs["logits"] = b.add(Conv2d(), x, w)
    graph.outputs["fc"] = b.add(Linear(), y, m)
    for number, value in enumerate((w, v, m)):
        graph.outputs[f"r{number}"] = b.add(RoundTo(kind, rounding, 11 + number), value, seed, step)
    return graph


@pytest.mark.parametrize("tier", available_tiers())
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_native_code_has_the_bits_of_the_reference(
    rounding: Rounding, kind: HalfName, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    graph = graph_with(kind, rounding)
    floats = awkward_floats(DType(kind))
    floats = floats[(np.abs(floats) >= 2.0**-126) | (floats == 0)]  # what is smaller is flushed to zero
    random = np.random.default_rng(2)
    arrays = {name: random.choice(floats, p.value.shape) for name, p in graph.parameters.items()}
    expected = [
        node.op.reference(arrays[str(node.operands[0].name)], np.asarray(5), np.asarray(9))
        for node in graph.nodes_of(RoundTo)
    ]
    for threads in (1, 3):
        executor = NativeExecutor(graph.copy(), batch=2, threads=threads)
        try:
            executor.poison()
            for name, array in arrays.items():
                executor.write(name, array)
            executor.write_input("y", np.zeros((2, 33), np.float32))
            executor.run(EVERYTHING, np.zeros((2, 5, 6, 6), np.float32), None, step=9, seed=5)
            for number, array in enumerate(expected):
                np.testing.assert_array_equal(executor.output(f"r{number}", 2), array)
        finally:
            executor.close()


@settings(max_examples=200)
@given(
    value=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    word=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
)
def test_any_number_goes_to_a_neighbour(value: float, word: int, kind: HalfName) -> None:
    x = np.float32([value])
    result = float(round_at_random(x, DType(kind), np.uint32([word]))[0])
    assert result in {float(side[0]) for side in neighbours(x, kind)}


def test_mistakes() -> None:
    number = TensorType(DType.I32, ())
    with pytest.raises(InferError, match="f16 or bf16"):
        RoundTo("f32").infer(f32(2), number, number)  # type: ignore[arg-type]
    with pytest.raises(InferError, match="no rounding up"):
        RoundTo("f16", "up").infer(f32(2), number, number)  # type: ignore[arg-type]
    with pytest.raises(InferError, match="is not rounded"):
        RoundTo().infer(number, number, number)
    with pytest.raises(InferError, match="scalars"):
        RoundTo().infer(f32(2), TensorType(DType.I32, (2,)), number)
