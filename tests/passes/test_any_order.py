"""Any order of all passes makes the same training step and the same inference, interpreted and compiled.

Before differentiation, after it, between `specialize` and `training`, several times: outputs, gradients, statistics and
updated parameters are those of the bare step.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.update import AdamUpdate, SgdUpdate, Update
from convc.passes.base import Pass
from convc.passes.canonicalize import Canonicalize
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.common_subexpressions import CommonSubexpressions
from convc.passes.dead_code import DeadCode
from convc.passes.fold_batch_norm import FoldBatchNorm
from convc.passes.fold_constants import FoldConstants
from convc.passes.fold_input_scale import FoldInputScale
from convc.passes.half_precision import HalfPrecision, Precision
from convc.passes.manager import PassManager
from convc.passes.quantization import RANGE, Observe, QuantizeProducts
from convc.passes.recompute import Recompute
from convc.passes.registry import PASSES
from convc.passes.separate_moments import SeparateMoments
from convc.passes.specialize import Specialize
from convc.passes.training import GRADIENT, LossScaling, Training
from tests.codegen.whole_net import arrays_for, assert_agrees, exactly, run_natively, with_batch
from tests.detours import detoured
from tests.strategies import Draw, graphs

Order = tuple[Pass, ...]
OPTIMIZERS: tuple[Update | None, ...] = (None, SgdUpdate(momentum=0.5, l2=0.01), AdamUpdate())
# What may run at any time; `choose-algorithms` only says how, and its choices are free where rounding is compared.
ANYTIME: Order = (
    Canonicalize(),
    FoldConstants(),
    CommonSubexpressions(),
    DeadCode(),
    ChooseAlgorithms(),
    SeparateMoments(),
)
FORWARD: Order = (FoldInputScale(), FoldBatchNorm())


@st.composite
def training_orders(draw: Draw) -> tuple[Training, Order]:
    """`training`, and an order of passes around it."""
    scaling = draw(st.sampled_from([None, LossScaling(), LossScaling(1024.0, dynamic=False)]))
    step = Training(draw(st.sampled_from(OPTIMIZERS)), clip=draw(st.sampled_from([None, 0.5])), scaling=scaling)
    some = st.lists(st.sampled_from(ANYTIME), max_size=3)
    return step, (*draw(some), Specialize("train"), *draw(some), step, *draw(some))


@st.composite
def inference_orders(draw: Draw) -> Order:
    some = st.lists(st.sampled_from(ANYTIME), max_size=2)
    forward = st.lists(st.sampled_from((*ANYTIME, *FORWARD)), max_size=5)
    return (*draw(forward), Specialize("infer"), *draw(some))


def after(graph: Graph, passes: Order) -> Graph:
    twin = graph.copy()
    PassManager(passes).run(twin)
    return twin


def assert_same(actual: Graph, expected: Graph, rows: int) -> None:
    """Everything that a run gives back, in float64: constants are float32, so that folding some rounds them."""
    arrays = exactly(arrays_for(expected, rows))
    want = run_reference(expected, arrays)
    have = run_reference(actual, {name: arrays[name] for name in (*actual.inputs, *actual.parameters)})
    assert have.keys() == want.keys()
    for name, array in want.items():
        scale = max(1.0, float(np.abs(array).max(initial=0)))
        assert have[name] == pytest.approx(array, rel=0, abs=2e-7 * scale), name


def test_every_pass_takes_part() -> None:
    """`recompute` has tests of its own, with budgets to keep, and so has the rounding of `half-precision`."""
    used = {type(step) for step in (*ANYTIME, *FORWARD)} | {Specialize, Training, Recompute, HalfPrecision}
    assert used | {Observe, QuantizeProducts} == set(PASSES.values())


@settings(max_examples=40)
@given(graph=detoured(), drawn=training_orders(), kind=st.sampled_from(["bf16", "fp16"]))
def test_casts_change_nothing_where_nothing_is_rounded(
    graph: Graph, drawn: tuple[Training, Order], kind: Precision
) -> None:
    """In float64 the interpreter rounds nothing: casts are in the right places, and gradients pass through them."""
    training, order = drawn
    with_casts = tuple(part for step in order for part in (_before(step, kind), step) if part is not None)
    assert_same(after(graph, with_casts), after(graph, (Specialize("train"), training)), graph.inputs["x"].shape[0])


def _before(step: Pass, kind: Precision) -> Pass | None:
    return HalfPrecision(kind) if isinstance(step, Training) else None


@pytest.mark.parametrize("step", ANYTIME, ids=lambda step: step.name)
@settings(max_examples=15)
@given(graph=detoured(), optimizer=st.sampled_from(OPTIMIZERS))
def test_each_pass_alone_keeps_a_training_step(step: Pass, graph: Graph, optimizer: Update | None) -> None:
    bare = (Specialize("train"), Training(optimizer))
    assert_same(after(graph, (*bare, step)), after(graph, bare), graph.inputs["x"].shape[0])


@settings(max_examples=80)
@given(graph=detoured(), drawn=training_orders())
def test_any_order_makes_the_same_step(graph: Graph, drawn: tuple[Training, Order]) -> None:
    training, order = drawn
    expected = after(graph, (Specialize("train"), training))
    assert any(name.startswith(GRADIENT) for name in expected.outputs)
    assert_same(after(graph, order), expected, graph.inputs["x"].shape[0])


@settings(max_examples=60)
@given(graph=detoured(), order=inference_orders())
def test_any_order_makes_the_same_inference(graph: Graph, order: Order) -> None:
    assert_same(after(graph, order), after(graph, (Specialize("infer"),)), graph.inputs["x"].shape[0])


def quantised(graph: Graph, order: Order) -> Graph:
    """An order for inference, then products of whole numbers, all with one range, and the order again."""
    bare = after(graph, order)
    names = [name for name in after(bare, (Observe(),)).outputs if name.startswith(RANGE)]
    return after(bare, (QuantizeProducts({name.removeprefix(RANGE): (-2.0, 6.0) for name in names}), *ANYTIME))


@settings(max_examples=40)
@given(graph=detoured(), order=inference_orders())
def test_whole_numbers_change_nothing_where_nothing_is_rounded(graph: Graph, order: Order) -> None:
    assert_same(quantised(graph, order), after(graph, (Specialize("infer"),)), graph.inputs["x"].shape[0])


@pytest.mark.slow
@settings(max_examples=8)
@given(graph=graphs(max_layers=6), order=inference_orders(), batch=st.integers(1, 9))
def test_whole_numbers_compile_to_what_they_are(graph: Graph, order: Order, batch: int) -> None:
    """Sums that the interpreter rounds otherwise may end on the other side of half a step, here and there."""
    graph = quantised(with_batch(graph, batch), tuple(s for s in order if not isinstance(s, ChooseAlgorithms)))
    arrays = arrays_for(graph, batch)
    expected, found = run_reference(graph.copy(), arrays), run_natively(graph, arrays)
    scale = max(1.0, float(np.abs(expected["logits"]).max()))
    assert np.abs(found["logits"] - expected["logits"]).max() < 0.05 * scale


@pytest.mark.slow
@settings(max_examples=8)
@given(graph=graphs(max_layers=5), drawn=training_orders(), batch=st.integers(1, 9))
def test_any_order_compiles_to_the_same_step(graph: Graph, drawn: tuple[Training, Order], batch: int) -> None:
    training, order = drawn
    graph = with_batch(graph, batch)
    exact = tuple(step for step in order if not isinstance(step, ChooseAlgorithms))
    expected, compiled = after(graph, (Specialize("train"), training)), after(graph, exact)
    arrays = arrays_for(expected, batch)
    assert_agrees(expected, arrays, run_natively(compiled, arrays))


@pytest.mark.slow
@settings(max_examples=6)
@given(graph=graphs(max_layers=5), order=inference_orders(), batch=st.integers(1, 9))
def test_any_order_compiles_to_the_same_inference(graph: Graph, order: Order, batch: int) -> None:
    graph = with_batch(graph, batch)
    exact = tuple(step for step in order if not isinstance(step, ChooseAlgorithms))
    expected, compiled = after(graph, (Specialize("infer"),)), after(graph, exact)
    arrays = arrays_for(expected, batch)
    assert_agrees(expected, arrays, run_natively(compiled, arrays))
