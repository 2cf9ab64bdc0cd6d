"""Whole nets as native code against the interpreter: training and inference, partial batches, threads, sections."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.activation import Sigmoid
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate, Update
from convc.ir.window import Sides
from convc.passes.fusion import resolve
from convc.passes.layout import pack, unpack
from convc.passes.sections import Section
from convc.passes.training import GRADIENT
from convc.runtime.native import NativeExecutor
from tests.codegen.test_ops import available_tiers
from tests.codegen.whole_net import (
    Arrays,
    arrays_for,
    assert_agrees,
    assert_same_bits,
    exactly,
    executor_for,
    lowered,
    results,
    run,
    run_for_results,
    run_natively,
    with_batch,
)
from tests.passes.nets import Net
from tests.strategies import graphs

NESTEROV = SgdUpdate(momentum=0.9, nesterov=True, l2=0.01)
OPTIMIZERS: tuple[Update | None, ...] = (
    None, NESTEROV, SgdUpdate(l1=0.01), AdamUpdate(l2=0.01), AdagradUpdate(), RmspropUpdate(l2=0.01),
    AdamWUpdate(l1=0.01),
)  # fmt: skip
BATCH = 5  # of the nets below: one for all tests, so that most programs are compiled once
VALUE_AND_GRAD = Section.FORWARD | Section.GRADIENT | Section.STATISTICS


def small_lenet(batch: int = BATCH) -> Graph:
    net = Net(1, 14, 14, batch=batch).conv(20, 5).relu().pool(2).conv(37, 3, pad=1).relu().pool(2)
    return net.fc(50).relu().fc(10).build()


def noisy(batch: int = BATCH) -> Graph:
    """Batch norm, dropout, three colours, groups, padding lanes (of which sigmoid would make a half)."""
    net = Net(3, 9, 7, batch=batch).conv(6, 3, pad=1, bias=False).bn().relu().dropout(0.25).conv(9, 3, s=2, groups=3)
    return net.bn().relu().pool(2).fc(7).bn().apply("sigmoid", Sigmoid()).fc(5).build()


def run_of(graph: Graph, rows: int, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Arrays, and the results of one thread."""
    arrays = arrays_for(graph, rows, seed)
    return arrays, run_natively(graph, arrays)


def assert_right(graph: Graph, rows: int, seed: int = 0) -> None:
    """As the interpreter says, the same bits on 1, 2 and 3 threads, and no access beyond a buffer."""
    arrays, single = run_of(graph, rows, seed)
    assert_agrees(graph, arrays, single)
    assert_same_bits(single, run_natively(graph, arrays, threads=2))
    assert_same_bits(single, run_natively(graph, arrays, threads=3, guards="after"))


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_any_training_step(data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 19), "batch")
    rows = data.draw(st.integers(1, batch), "rows")
    optimizer = data.draw(st.sampled_from(OPTIMIZERS), "optimizer")
    graph = with_batch(data.draw(graphs(), "graph"), batch)
    assert_right(lowered(graph, "train", optimizer), rows, data.draw(st.integers(0, 99), "seed"))


@pytest.mark.slow
@settings(max_examples=20)
@given(st.data())
def test_any_inference(data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 19), "batch")
    rows = data.draw(st.integers(1, batch), "rows")
    assert_right(lowered(with_batch(data.draw(graphs(), "graph"), batch), "infer"), rows)


@pytest.mark.parametrize("net", [small_lenet, noisy])
@pytest.mark.parametrize("rows", [5, 2])
def test_nets_with_wide_and_odd_layers(net: Callable[[], Graph], rows: int) -> None:
    assert_right(lowered(net(), "train", NESTEROV), rows)
    assert_right(lowered(net(), "infer"), rows)


@pytest.mark.slow
@pytest.mark.parametrize("tier", available_tiers())
@pytest.mark.parametrize("net", [small_lenet, noisy])
def test_every_tier(net: Callable[[], Graph], tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    assert_right(lowered(net(), "train", NESTEROV), 4)


def test_any_number_of_rows_and_nothing_left_of_the_run_before() -> None:
    graph = lowered(noisy(), "train", NESTEROV)
    full = arrays_for(graph, BATCH, seed=1)
    for rows in range(1, BATCH + 1):
        arrays, fresh = run_of(graph, rows)
        with executor_for(graph, arrays, threads=2) as executor:
            run(executor, full)
            for name in graph.parameters:
                executor.write(name, arrays[name])
            assert_same_bits(fresh, run_for_results(executor, arrays))


@pytest.mark.parametrize(
    ("kernel", "padding"), [((1, 1), (0, 1, 0, 0)), ((1, 1), (1, 0, 0, 0)), ((2, 1), (0, 1, 1, 0))]
)
@pytest.mark.parametrize("channels", [2, 8])
def test_filters_that_never_meet_the_image(kernel: tuple[int, int], padding: Sides, channels: int) -> None:
    """All positions see padding: only the bias is left, and the gradient of the filters is 0."""
    net = Net(channels, 1, 1, batch=3).conv(4, 1)
    weight = ("weight", (5, 4, *kernel), "weight")
    net.apply("conv", Conv2d(stride=(2, 2), padding=padding), weight, ("bias", (5,), "bias"))
    assert_right(lowered(net.fc(3).build(), "train"), 3)


# Sections


def parameters_of(executor: NativeExecutor) -> Arrays:
    return {name: executor.read(name) for name in executor.graph.parameters}


def test_forward_changes_nothing() -> None:
    graph = lowered(noisy(), "train", NESTEROV)
    arrays, whole = run_of(graph, 4)
    with executor_for(graph, arrays) as executor:
        before = parameters_of(executor)
        given = executor.run(Section.FORWARD, arrays["x"], None, step=3, seed=5)
        assert_same_bits(before, parameters_of(executor))
    assert (given.loss, given.correct) == (None, None)
    np.testing.assert_array_equal(given.logits, whole["logits"])


def test_value_and_grad_changes_buffers_only() -> None:
    graph = lowered(noisy(), "train", NESTEROV)
    arrays, whole = run_of(graph, 4)
    with executor_for(graph, arrays) as executor:
        before = parameters_of(executor)
        run(executor, arrays, VALUE_AND_GRAD)
        after = parameters_of(executor)
        buffers = {name for name in before if name.endswith((".mean", ".var"))}
        assert {name for name, array in after.items() if (array != before[name]).any()} == buffers
        for name in buffers:
            np.testing.assert_array_equal(after[name], whole[name])
        for name in graph.outputs:
            if name.startswith(GRADIENT):
                np.testing.assert_array_equal(executor.gradient(name.removeprefix(GRADIENT)), whole[name])


def test_gradients_alone_change_nothing() -> None:
    graph = lowered(noisy(), "train", NESTEROV)
    arrays, whole = run_of(graph, 4)
    with executor_for(graph, arrays) as executor:
        before = parameters_of(executor)
        given = executor.run(Section.FORWARD | Section.GRADIENT, arrays["x"], arrays["labels"], step=3, seed=5)
        assert_same_bits(before, parameters_of(executor))
    assert given.loss == whole["loss"]
    assert given.correct == whole["correct"]


# Training


def trained(graph: Graph, threads: int, seed: int, steps: int = 3) -> Arrays:
    arrays = arrays_for(graph, 4) | {"seed": np.asarray(seed)}
    with executor_for(graph, arrays, threads) as executor:
        for step in range(1, steps + 1):
            run(executor, arrays | {"step": np.asarray(step)})
        return results(executor, 4)


@pytest.mark.parametrize("optimizer", [NESTEROV, AdamUpdate()], ids=lambda optimizer: optimizer.name)
def test_training_repeats_to_the_bit(optimizer: Update) -> None:
    graph = lowered(noisy(), "train", optimizer)
    first = trained(graph, threads=1, seed=5)
    assert_same_bits(first, trained(graph, threads=1, seed=5))
    assert_same_bits(first, trained(graph, threads=3, seed=5))
    other = trained(graph, threads=1, seed=6)
    assert any((array != other[name]).any() for name, array in first.items())


def test_several_steps_follow_the_interpreter() -> None:
    graph = lowered(noisy(), "train", AdamUpdate())
    arrays = exactly(arrays_for(graph, 4) | {"seed": np.asarray(5), "lr": np.asarray(0.01, np.float32)})
    actual = arrays_for(graph, 4) | {"seed": np.asarray(5), "lr": np.asarray(0.01, np.float32)}
    with executor_for(graph, actual) as executor:
        for step in range(1, 6):
            run(executor, actual | {"step": np.asarray(step)})
            arrays |= run_reference(graph, arrays | {"step": np.asarray(step)})
        for name in graph.parameters:
            np.testing.assert_allclose(executor.read(name), arrays[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("net", [small_lenet, noisy])
@pytest.mark.parametrize(
    "optimizer",
    [NESTEROV, AdagradUpdate(), RmspropUpdate(momentum=0.9), AdamUpdate(), AdamWUpdate(l2=0.1)],
    ids=lambda optimizer: optimizer.name,
)
def test_padding_stays_zero(net: Callable[[], Graph], optimizer: Update) -> None:
    """Kernels rely on it: what lies between the real channels must never become anything else."""
    graph = lowered(net(), "train", optimizer)
    arrays = arrays_for(graph, 5)
    with executor_for(graph, arrays, threads=2) as executor:
        for _ in range(2):
            run(executor, arrays)
        graph = executor.graph  # the copy whose values the plan knows
        kept = [parameter.value for parameter in graph.parameters.values()]
        kept += [value for name, value in graph.outputs.items() if name.startswith(GRADIENT)]
        for value in kept:
            layout, stored = executor.plan.layouts[resolve(value)], executor.stored(value)
            np.testing.assert_array_equal(pack(layout, unpack(layout, stored, value.shape)), stored, str(value))
