"""Training steps of a scaled loss as native code: the same gradients, updates that are skipped whole, kernels."""

from __future__ import annotations

import numpy as np
import pytest

from convc.frontend.load import loads
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.loss_scaling import AllFinite, Unscale
from convc.ir.ops.sweep import Accumulate
from convc.ir.ops.update import AdamUpdate, SgdUpdate, Update
from convc.passes.arrange import Arrange
from convc.passes.base import PassLog
from convc.passes.fusion import fuse
from convc.passes.half_precision import HalfPrecision
from convc.passes.machine import Machine
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.plan import Plan
from convc.passes.training import LossScaling
from convc.passes.verify_plan import plan_problems
from tests.codegen.test_ops import available_tiers
from tests.codegen.test_training_step import BATCH, NETS, OPTIMIZERS, forward, full_recipe
from tests.codegen.whole_net import (
    Arrays,
    arrays_for,
    assert_agrees,
    assert_same_bits,
    executor_for,
    lowered,
    run_natively,
)

DYNAMIC, STATIC = LossScaling(), LossScaling(1024.0, dynamic=False)
STATE = ("loss.scale", "loss.good", "loss.skipped")


def scaled(name: str, number: int, scaling: LossScaling | None = DYNAMIC) -> Graph:
    return lowered(forward(name), "train", Recipe(**{**vars(full_recipe(name, number)), "scaling": scaling}))


def arrays_at(graph: Graph, scale: float, rows: int = BATCH, good: float = 3.0) -> Arrays:
    arrays = arrays_for(graph, rows)
    given = {"loss.scale": scale, "loss.good": good, "loss.skipped": 1.0}
    return arrays | {name: np.asarray(value, np.float32) for name, value in given.items() if name in arrays}


def assert_right(graph: Graph, rows: int = BATCH) -> None:
    arrays = arrays_at(graph, 1024.0, rows)
    single = run_natively(graph, arrays)
    assert_agrees(graph, arrays, single)
    for threads in (2, 3):
        assert_same_bits(single, run_natively(graph, arrays, threads))


@pytest.mark.parametrize("number", range(len(OPTIMIZERS)), ids=lambda number: OPTIMIZERS[number].name)
@pytest.mark.parametrize("name", NETS)
def test_steps_agree_with_the_interpreter(name: str, number: int) -> None:
    graph = scaled(name, number)
    assert_right(graph)
    assert_right(graph, 2)
    with executor_for(graph, arrays_at(graph, 1024.0)) as executor:
        assert plan_problems(executor.plan) == []


@pytest.mark.slow
@pytest.mark.parametrize("tier", available_tiers())
@pytest.mark.parametrize("name", NETS)
def test_steps_agree_at_every_tier(name: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    for number in (1, 4):
        assert_right(scaled(name, number), 3)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", NETS)
def test_a_power_of_two_changes_no_bit(name: str, number: int) -> None:
    """Neither of gradients, nor of what clipping, means and updates make of them; nothing under- or overflows here."""
    graph, plain = scaled(name, number), scaled(name, number, None)
    arrays = arrays_at(graph, 4096.0)
    expected = run_natively(plain, {key: arrays[key] for key in (*plain.inputs, *plain.parameters)})
    results = run_natively(graph, arrays)
    assert [float(results.pop(key)) for key in STATE] == [4096.0, 4.0, 1.0]
    assert_same_bits(expected, results)
    reference = run_reference(plain, {key: arrays[key] for key in (*plain.inputs, *plain.parameters)})
    again = run_reference(graph, arrays)
    assert_same_bits(reference, {key: array for key, array in again.items() if key not in STATE})


@pytest.mark.parametrize(("scaling", "next_scale"), [(DYNAMIC, 1.5e38), (STATIC, 3e38)])
@pytest.mark.parametrize("name", NETS)
def test_an_overflow_changes_nothing_but_the_scale(name: str, scaling: LossScaling, next_scale: float) -> None:
    graph = lowered(forward(name), "train", Recipe(AdamUpdate(l2=0.01), clip=1.0, scaling=scaling))
    arrays = arrays_at(graph, 3e38)
    arrays["x"] = arrays["x"] * np.float32(1e4)
    if name == "pixels":  # whose batch norm makes large numbers small
        arrays["x"].flat[0] = np.inf
    with np.errstate(all="ignore"):
        reference = run_reference(graph, arrays)
    for results in (run_natively(graph, arrays), run_natively(graph, arrays, 3), reference):
        assert not all(np.isfinite(array).all() for key, array in results.items() if key.startswith("grad."))
        assert [float(results[key]) for key in STATE] == [np.float32(next_scale), 0.0, 2.0]
        for key in graph.updates:
            if graph.parameters[key].role not in ("mean", "var") and key not in STATE:
                np.testing.assert_array_equal(results[key], arrays[key], err_msg=key)


def test_the_scale_grows_when_it_is_time() -> None:
    graph = scaled("rows", 0)
    for results in (run_natively(graph, arrays_at(graph, 64.0, good=1999.0)),):
        assert [float(results[key]) for key in STATE] == [128.0, 0.0, 1.0]


def test_a_scaled_loss_that_nothing_updates_has_gradients() -> None:
    graph, plain = (lowered(forward("shared"), "train", Recipe(None, scaling=s)) for s in (DYNAMIC, None))
    arrays = arrays_at(graph, 512.0)
    assert set(graph.updates).isdisjoint(STATE)
    assert_same_bits(run_natively(plain, {k: arrays[k] for k in (*plain.inputs, *plain.parameters)}),
                     run_natively(graph, arrays))  # fmt: skip


def test_parameters_that_do_not_lead_to_the_loss_keep_their_place_among_the_others() -> None:
    """Their gradient is a constant, which nothing divides, among gradients that are divided where they lie."""
    net = loads("net n { input 1x4x4 -> fc 6 -> relu -> fc 5 -> loss softmax }")
    graph = net.graph(3)
    unused = graph.add_parameter("extra", graph.parameters["fc1.bias"].value.type, role="bias")
    names = list(graph.parameters)
    assert unused.name == names[-1]
    graph.parameters = {name: graph.parameters[name] for name in ("fc1.weight", "extra", *names[1:-1])}
    graph = lowered(graph, "train", Recipe(SgdUpdate(momentum=0.9), decay_bias=True, scaling=DYNAMIC))
    assert_right(graph, 3)


def test_no_update_waits_inside_the_kernel_of_its_gradient() -> None:
    net = loads("net n { input 3x5x5 -> fc 7 -> relu -> fc 5 -> loss softmax }")
    graph = lowered(net.graph(BATCH), "train", Recipe(SgdUpdate(), scaling=DYNAMIC))
    log = PassLog()
    Arrange().run(Plan(graph, Machine("avx2", 8, 16, False)), log)
    kernels = fuse(graph, log)
    assert all(kernel.update is None for kernel in kernels)
    missed = [str(entry) for entry in log.of("missed") if entry.rule == "update"]
    assert len(missed) == 2
    assert all("divided by the scale of the loss" in entry for entry in missed)


def test_one_sweep_per_equal_settings() -> None:
    recipe = Recipe(AdamUpdate(l2=0.01), clip=1.0, accumulate=2, scaling=DYNAMIC)
    graph = lowered(forward("dropconnect"), "train", recipe)
    log = PassLog()
    Arrange().run(Plan(graph, Machine("avx2", 8, 16, False)), log)
    kernels = fuse(graph, log)
    kinds = (Unscale, Accumulate, Update)
    sweeps = [kernel for kernel in kernels if isinstance(kernel.anchor.op, kinds)]
    sizes = sorted((kernel.anchor.op.name, 1 + len(kernel.riders)) for kernel in sweeps)
    assert sizes == sorted((name, n) for name in ("unscale", "accumulate", "adam_update") for n in (1, 2, 2))
    order = [next(i for i, kind in enumerate((*kinds, AllFinite)) if isinstance(k.anchor.op, kind))
             for k in kernels if isinstance(k.anchor.op, (*kinds, AllFinite))]  # fmt: skip
    assert order == [0, 0, 0, 1, 1, 1, 3, 2, 2, 2]


def test_gradients_take_no_place_of_their_own_once_more() -> None:
    plain, graph = scaled("pixels", 0, None), scaled("pixels", 0)
    with (
        executor_for(plain, arrays_for(plain, BATCH)) as before,
        executor_for(graph, arrays_for(graph, BATCH)) as after,
    ):
        sizes = [executor.plan.memory.persistent_bytes for executor in (before, after)]
    assert sizes[1] - sizes[0] == 3 * 64  # the scale and two counts


@pytest.mark.parametrize("threads", [2, 3])
def test_halves_underflow_unless_the_loss_is_scaled(threads: int) -> None:
    """Gradients of 1e-7 and less: fp16 has nothing for them."""
    net = loads("net n { input 2x9x9 -> conv 6 k=3 -> relu -> conv 5 k=3 -> relu -> fc 4 -> loss mse weight=1e-6 }")
    results: list[Arrays] = []
    for half, scaling in ((None, None), (HalfPrecision("fp16"), None), (HalfPrecision("fp16"), DYNAMIC)):
        graph = net.graph(4)
        PassManager(pipeline("train", recipe=Recipe(AdamUpdate(), scaling=scaling), types=half)).run(graph)
        arrays = arrays_at(graph, 65536.0, 4)
        single = run_natively(graph, arrays)
        assert_same_bits(single, run_natively(graph, arrays, threads, guards="after"))
        results.append(single)
    exact, lost, kept = (array["grad.conv1.weight"] for array in results)
    size = float(np.abs(exact).max())
    assert 0 < size < 1e-5
    assert float(np.abs(kept - exact).max()) < 0.01 * size
    assert float(np.abs(lost - exact).max()) > 0.1 * size


def test_equal_gradients_are_divided_each_where_it_lies() -> None:
    """Two biases whose outputs are added have one gradient; it must not be divided by the scale twice."""
    body = "input 2x5x5 -> residual { conv 4 k=1 } skip { conv 4 k=3 pad=1 } -> relu -> fc 3 -> loss softmax"
    graph = lowered(loads(f"net n {{ {body} }}").graph(4), "train", Recipe(SgdUpdate(momentum=0.9), scaling=DYNAMIC))
    arrays = arrays_at(graph, 1024.0, 4)
    results = run_natively(graph, arrays)
    equal = [name for name in results if name.startswith("grad.") and name.endswith("conv1.bias")]
    assert len(equal) == 2
    np.testing.assert_array_equal(*(results[name] for name in equal))
    assert np.abs(results[equal[0]]).max() > 0
    assert_right(graph, 4)
    with executor_for(graph, arrays) as executor:
        assert plan_problems(executor.plan) == []
