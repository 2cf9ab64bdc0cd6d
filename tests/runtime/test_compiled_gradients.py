"""Compiled gradients are compared closely where rounding decides nothing, and never blamed for what rounding does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from convc.ir.graph import Graph
from convc.ir.ops.activation import Tanh
from convc.passes.sections import Section
from convc.runtime.compiled_gradients import TOLERANCE, compare_compiled
from convc.runtime.executor import ReferenceExecutor, Result
from convc.runtime.gradcheck import check_gradients, training_graph
from convc.runtime.random_point import random_point
from tests.passes.nets import Net

Arrays = dict[str, np.ndarray]


def relu_net() -> Graph:
    return training_graph(Net(1, 1, 1, batch=2).conv(2, 1).relu().fc(3).build())


def pool_net() -> Graph:
    return training_graph(Net(2, 2, 2, batch=2).conv(1, 1).pool(2).fc(3).build())


def on_the_kink(graph: Graph) -> Arrays:
    """The operand of the ReLU is 1e-8 for both images: positive, unless somebody rounds."""
    arrays = random_point(graph, 0)
    arrays["x"][:], arrays["conv1.weight"][:], arrays["conv1.bias"][:] = 1.0, 0.5, -0.5 + 1e-8
    return arrays


def tied(graph: Graph) -> Arrays:
    """Two pixels of each window are as good as equal, and the largest; each is made of another channel."""
    arrays = random_point(graph, 0)
    arrays["conv1.weight"][:] = 1.0
    arrays["x"][:] = np.array([[[0.9, 0.0], [0.1, 0.1]], [[0.0, 0.9 - 1e-8], [0.1, 0.1]]])
    return arrays


NEAR: list[tuple[Callable[[], Graph], Callable[[Graph], Arrays], str, float]] = [
    (relu_net, on_the_kink, "conv1.bias", -1e-6),
    (pool_net, tied, "x", 1e-6),
]


class Rounding(ReferenceExecutor):
    """Comes out on the other side of the kink: one array is off by rounding. `factor` spoils a gradient besides."""

    name, by, factor = "", 0.0, 1.0

    def write(self, name: str, array: np.ndarray) -> None:
        super().write(name, array + np.float32(self.by) if name == self.name else array)

    def run(
        self,
        sections: Section,
        x: np.ndarray,
        labels: np.ndarray | None,
        *,
        lr: float,
        step: int,
        seed: int,
        seen: int = 0,
    ) -> Result:
        if self.name == "x":
            x = x.copy()
            x[..., 0, 1] += np.float32(self.by)
        return super().run(sections, x, labels, lr=lr, step=step, seed=seed, seen=seen)

    def gradient(self, name: str) -> np.ndarray:
        return super().gradient(name) * np.float32(self.factor if name == "fc1.weight" else 1.0)


def rounding(graph: Graph, name: str, by: float, factor: float = 1.0) -> Rounding:
    executor = Rounding(graph, batch=2)
    executor.name, executor.by, executor.factor = name, by, factor
    return executor


@pytest.mark.parametrize(("net", "near", "name", "by"), NEAR, ids=["relu", "max pool"])
def test_rounding_across_a_kink_is_no_mistake(
    net: Callable[[], Graph], near: Callable[[Graph], Arrays], name: str, by: float
) -> None:
    graph = net()
    executor = rounding(graph, name, by)
    # At this one point the gradients are nothing alike, and it is seen that the point says nothing.
    there = compare_compiled(graph, executor, lambda attempt: near(graph), 0)
    assert max(check.error for check in there.values()) > 0.01
    assert not any(check.wrong for check in there.values())
    # Elsewhere they can be compared closely.
    points = [near(graph), random_point(graph, (0, 1)), random_point(graph, (0, 2))]
    found = compare_compiled(graph, executor, points.__getitem__, 0)
    assert all(check.told and not check.wrong for check in found.values())
    assert all(check.error < TOLERANCE for check in found.values())


@pytest.mark.parametrize(("net", "near", "name", "by"), NEAR, ids=["relu", "max pool"])
def test_a_mistake_beside_a_kink_is_found(
    net: Callable[[], Graph], near: Callable[[Graph], Arrays], name: str, by: float
) -> None:
    graph = net()
    executor = rounding(graph, name, by, factor=1.01)
    points = [near(graph), random_point(graph, (0, 1)), random_point(graph, (0, 2))]
    found = compare_compiled(graph, executor, points.__getitem__, 0)
    assert [name for name, check in found.items() if check.wrong] == ["fc1.weight"]


def test_one_good_point_is_enough() -> None:
    asked: list[int] = []
    graph = relu_net()

    def point(attempt: int) -> Arrays:
        asked.append(attempt)
        return random_point(graph, 3)

    compare_compiled(graph, ReferenceExecutor(graph, batch=2), point, 3)
    assert asked == [0]


def test_numbers_that_are_not_finite_are_mistakes() -> None:
    graph = relu_net()
    found = compare_compiled(
        graph, rounding(graph, "", 0.0, factor=float("nan")), lambda attempt: random_point(graph, attempt), 0
    )
    assert [(name, check.error) for name, check in found.items() if check.wrong] == [("fc1.weight", float("inf"))]


@pytest.mark.parametrize(("rough", "wrong"), [(0.0, True), (1e-3, False)])
def test_algorithms_may_be_as_rough_as_they_say(rough: float, wrong: bool) -> None:
    graph = training_graph(Net(2, 6, 6, batch=2).conv(3, 3).apply("tanh", Tanh()).fc(3).build())
    executor = rounding(graph, "conv1.weight", 3e-4)
    report = check_gradients(graph, samples=1, executor=executor, target="cpu", rounding=rough)
    assert report.passed != wrong
    errors = [check.compiled_relative_error for check in report.parameters]
    assert all(error is not None and error > TOLERANCE for error in errors[:1])
