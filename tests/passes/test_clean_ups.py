"""The clean-ups on random graphs, alone and in any order: the same outputs, the same gradients, and an end of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.activation import Tanh
from convc.ir.ops.rearrange import Rearrange
from convc.ir.printer import print_ir
from convc.ir.types import f32
from convc.passes.base import Pass
from convc.passes.canonical.shapes import common_pieces, fewest_axes
from convc.passes.canonicalize import RULES, Canonicalize
from convc.passes.common_subexpressions import CommonSubexpressions
from convc.passes.dead_code import DeadCode
from convc.passes.fold_batch_norm import FoldBatchNorm
from convc.passes.fold_constants import FoldConstants
from convc.passes.fold_input_scale import FoldInputScale
from convc.passes.manager import PassManager
from convc.passes.training import GRADIENT
from convc.runtime.gradcheck import training_graph
from tests.detours import DETOURS, detoured
from tests.passes.cases import FOLDER, read_cases
from tests.strategies import random_arrays

EXACT: tuple[Pass, ...] = (FoldConstants(), CommonSubexpressions(), Canonicalize(), DeadCode())
# For inference; rounded differently, but the same in exact arithmetic.
ALL: tuple[Pass, ...] = (*EXACT, FoldInputScale(), FoldBatchNorm())
_names: Callable[[Pass], str] = lambda step: step.name  # noqa: E731


def after(graph: Graph, *steps: Pass) -> Graph:
    twin = graph.copy()
    PassManager(steps).run(twin)
    return twin


def outputs(graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_reference(graph, {name: arrays[name] for name in (*graph.inputs, *graph.parameters)})


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max(initial=0)))
        assert actual[name] == pytest.approx(array, rel=0, abs=1e-7 * scale), name


@pytest.mark.parametrize("step", EXACT, ids=_names)
@settings(max_examples=60, deadline=None)
@given(graph=detoured())
def test_exact_passes_keep_every_bit(step: Pass, graph: Graph) -> None:
    arrays = random_arrays(graph, seed=1)
    actual = outputs(after(graph, step), arrays)
    for name, array in outputs(graph, arrays).items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@settings(max_examples=120, deadline=None)
@given(graph=detoured(), steps=st.permutations(ALL))
def test_any_order_means_the_same(graph: Graph, steps: list[Pass]) -> None:
    arrays = random_arrays(graph, seed=2, dtype=np.float64)
    assert_close(outputs(after(graph, *steps), arrays), outputs(graph, arrays))


@settings(max_examples=60, deadline=None)
@given(graph=detoured(), steps=st.permutations(EXACT))
def test_any_order_has_the_same_gradients(graph: Graph, steps: list[Pass]) -> None:
    expected, actual = training_graph(graph), training_graph(after(graph, *steps))
    arrays = random_arrays(expected, seed=3, dtype=np.float64)
    assert any(name.startswith(GRADIENT) for name in expected.outputs)
    assert_close(outputs(actual, arrays), outputs(expected, arrays))


@settings(max_examples=50, deadline=None)
@given(graph=detoured())
def test_exact_passes_hold_after_differentiation_too(graph: Graph) -> None:
    training = training_graph(graph)
    arrays = random_arrays(training, seed=4)
    actual = outputs(after(training, *EXACT), arrays)
    for name, array in outputs(training, arrays).items():
        scale = max(1.0, float(np.abs(array).max(initial=0)))
        assert actual[name] == pytest.approx(array, rel=0, abs=1e-5 * scale), name


@pytest.mark.parametrize("step", ALL, ids=_names)
@settings(max_examples=30, deadline=None)
@given(graph=detoured())
def test_a_second_run_changes_nothing(step: Pass, graph: Graph) -> None:
    once = after(graph, step)
    text = print_ir(once)
    (report,) = PassManager([step]).run(once)
    assert report.log.of("changed") == []
    assert print_ir(once) == text


@pytest.mark.parametrize("name", DETOURS)
def test_detours_are_undone(name: str) -> None:
    """But for what a detour computes by itself: then it is shorter, at least."""
    graph = Graph("g")
    b = Builder(graph)
    first = b.add(Tanh(), graph.add_input("x", f32(2, 3, 4, 5)))
    graph.outputs["logits"] = b.add(Tanh(), DETOURS[name](b, first))
    short = after(graph, FoldConstants(), Canonicalize(), CommonSubexpressions(), DeadCode())
    computing = {"positive": 3, "clipped": 3, "twice": 6, "scaled": 4, "bordered": 4}
    assert len(short.nodes) == computing.get(name, 2) < len(graph.nodes)


def test_every_rule_has_a_golden_case() -> None:
    cases = read_cases(FOLDER / "canonicalize.test")
    used = {
        line.split()[1] for case in cases for line in case.sections["log"].splitlines() if line.startswith("changed")
    }
    assert {rule.name for rule in RULES} == used


def test_a_folded_parameter_still_takes_effect() -> None:
    (case, *_) = read_cases(FOLDER / "fold-batch-norm.test")
    graph = after(case.graph(), FoldBatchNorm())
    arrays = random_arrays(graph, seed=5)
    arrays["bn1.gamma"] = np.zeros(3, np.float32)
    y = outputs(graph, arrays)["logits"]
    np.testing.assert_array_equal(y, np.broadcast_to(np.maximum(arrays["bn1.beta"], 0)[:, None, None], y.shape))


@pytest.mark.parametrize(
    ("left", "right", "pieces"),
    [
        ((6, 4), (2, 12), ([[2, 3], [4]], [[2], [3, 4]])),
        ((1, 6), (6, 1, 1), ([[], [6]], [[6], [], []])),
        ((1,), (1, 1), ([[]], [[], []])),
        ((2, 3), (3, 2), None),
    ],
)
def test_axes_split_into_common_pieces(left: tuple[int, ...], right: tuple[int, ...], pieces: object) -> None:
    assert common_pieces(left, right) == pieces


@given(st.permutations(range(5)), st.lists(st.integers(1, 3), min_size=5, max_size=5))
def test_fewest_axes_move_alike(order: list[int], view: list[int]) -> None:
    x = np.arange(np.prod(view))
    small, places = fewest_axes(tuple(view), tuple(order))
    assert x.reshape(small).transpose(places).ravel().tolist() == x.reshape(view).transpose(order).ravel().tolist()
    assert all(later != earlier + 1 for earlier, later in pairwise(places))


@given(
    view=st.lists(st.integers(1, 3), min_size=3, max_size=4),
    first=st.permutations(range(4)),
    second=st.permutations(range(3)),
    cut=st.integers(1, 3),
)
def test_two_rearrangements_are_one(view: list[int], first: list[int], second: list[int], cut: int) -> None:
    """The second reads what the first has moved with two neighbouring axes as one."""
    order = [axis for axis in first if axis < len(view)]
    moved = [view[axis] for axis in order]
    cut = min(cut, len(view) - 1)
    joined = (*moved[: cut - 1], moved[cut - 1] * moved[cut], *moved[cut + 1 :])
    size = int(np.prod(view))
    graph = Graph("g")
    b = Builder(graph)
    inner = b.add(Rearrange(tuple(view), tuple(order), (size,)), b.add(Tanh(), graph.add_input("x", f32(2, size))))
    outer = Rearrange(joined, tuple(axis for axis in second if axis < len(joined)), (size,))
    graph.outputs["logits"] = b.add(Tanh(), b.add(outer, inner))
    short = after(graph, Canonicalize())
    assert sum(isinstance(node.op, Rearrange) for node in short.nodes) <= 1
    x = {"x": np.arange(2.0 * size).reshape(2, size) / 100}
    np.testing.assert_array_equal(outputs(short, x)["logits"], outputs(graph, x)["logits"])
