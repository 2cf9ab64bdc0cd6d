from __future__ import annotations

import math

import numpy as np
import pytest

from convc.ir.graph import Initializer, Parameter, Value
from convc.ir.types import f32
from convc.runtime.initial import initial_value


def parameter(
    name: str, shape: tuple[int, ...], kind: str, value: float = 0.0, fans: tuple[int, int] = (1, 1)
) -> Parameter:
    return Parameter(name, Value(f32(*shape), name), initial=Initializer(kind, value, *fans))


def test_constants() -> None:
    assert (initial_value(parameter("a", (3, 2), "zeros"), 1) == 0).all()
    assert (initial_value(parameter("a", (3, 2), "ones"), 1) == 1).all()
    assert (initial_value(parameter("a", (3, 2), "const", 0.25), 1) == 0.25).all()


@pytest.mark.parametrize(
    ("kind", "value", "fans", "deviation"),
    [
        ("he", 0.0, (50, 7), math.sqrt(2 / 50)),
        ("xavier", 0.0, (30, 20), math.sqrt(2 / 50)),
        ("gauss", 0.01, (1, 1), 0.01),
        ("uniform", 0.5, (1, 1), 0.5 / math.sqrt(3)),
    ],
)
def test_moments(kind: str, value: float, fans: tuple[int, int], deviation: float) -> None:
    array = initial_value(parameter("conv1.weight", (400, 501), kind, value, fans), 3)
    assert array.dtype == np.float32
    assert abs(array.mean()) < 5 * deviation / math.sqrt(array.size)
    assert array.std() == pytest.approx(deviation, rel=0.01)
    # Normal tails reach beyond, uniform ones do not.
    assert (np.abs(array).max() > 3.5 * deviation) == (kind != "uniform")
    assert np.unique(array).size > 0.95 * array.size or kind == "uniform"


def test_a_parameter_depends_on_seed_and_name_alone() -> None:
    first = initial_value(parameter("a", (5, 7), "he"), 1)
    assert (first == initial_value(parameter("a", (5, 7), "he"), 1)).all()
    assert (first != initial_value(parameter("a", (5, 7), "he"), 2)).all()
    assert (first != initial_value(parameter("b", (5, 7), "he"), 1)).all()


@pytest.mark.parametrize("kind", ["gauss", "uniform"])
@pytest.mark.parametrize("size", [1, 128, 129, 1001])
def test_chunks_do_not_show(kind: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = initial_value(parameter("a", (size,), kind, 1.0), 1)
    monkeypatch.setattr("convc.runtime.initial._CHUNK", 64)
    assert (whole == initial_value(parameter("a", (size,), kind, 1.0), 1)).all()


def test_values_are_fixed_for_ever() -> None:
    """Weights of a seed must not change between versions."""
    array = initial_value(parameter("conv1.weight", (4,), "gauss", 1.0), 7)
    assert array.tolist() == pytest.approx([-0.40399367, -0.38548943, 0.81614292, -0.77178031], abs=1e-6)


@pytest.mark.parametrize("shape", [(8, 3, 2, 2), (4, 3, 3, 3), (5, 5)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = initial_value(parameter("a", shape, "orthogonal"), 1).reshape(shape[0], -1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-6)
