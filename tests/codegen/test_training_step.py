"""Training steps with everything that a train item can ask of them, as native code against the interpreter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from convc.frontend.load import loads
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.activation import Relu
from convc.ir.ops.sweep import Accumulate, GradientNorm
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate, Update
from convc.ir.types import f32
from convc.passes.arrange import Arrange
from convc.passes.base import PassLog
from convc.passes.fusion import fuse
from convc.passes.machine import Machine
from convc.passes.memory import gradient_blocks
from convc.passes.pipeline import Recipe
from convc.passes.plan import Plan
from convc.passes.sections import Section
from convc.passes.summary import summarize
from convc.runtime.gradcheck import check_gradients, training_graph
from tests.codegen.guarded import Side
from tests.codegen.test_ops import available_tiers
from tests.codegen.whole_net import (
    arrays_for,
    assert_agrees,
    assert_same_bits,
    executor_for,
    lowered,
    run,
    run_natively,
)

BATCH = 5

# Odd sizes; weights shared by layers that read different images; a layer that is frozen, multipliers, batch norm.
NETS = {
    "dropconnect": """
        input 3x6x5
        conv 5 k=3 -> relu -> pool max 2
        fc 37 dropconnect=0.5 -> relu
        fc 7 dropconnect=0.1 bias=no lr=0.5
        loss softmax smooth=0.1
    """,
    "shared": """
        input 4x3x3
        shared head { fc 36 dropconnect=0.25 -> relu }
        reuse head -> dropout 0.3
        reuse head -> fc 5
        loss hinge
    """,
    "one_bit": """
        input 3x6x5
        conv 5 k=3 pad=1 bits=1 -> relu -> conv 10 k=3 pad=1 bits=1 -> bn -> relu -> conv 10 k=1 groups=5 bits=1
        conv in k=3 groups=in pad=1 bits=1 bias=no lr=0.5 -> shared s { conv 10 k=1 bits=1 } -> reuse s -> pool max 2
        fc 37 bits=1 dropconnect=0.25 -> relu
        fc 7 bits=1
        loss softmax
    """,
    "pixels": """
        input 2x6x7
        conv 6 k=3 pad=1 groups=2 decay=2 -> bn -> relu as fine
        pool max 2 -> conv 9 k=3 pad=1 -> relu -> noise 0.1 -> deconv 7 k=2 s=2 out_pad=(0, 1) -> relu
        concat fine -> conv 3 k=1
        aux { conv 3 k=3 pad=1 freeze=yes -> prelu -> loss softmax weight=0.3 }
        loss softmax
    """,
    "regression": """
        input 1x7x7
        conv 4 k=3 s=2 -> tanh -> conv 2 k=3
        loss mse
    """,
    "rows": """
        input 1x4x4
        fc 9 -> sigmoid -> fc 3
        aux { linear -> loss mse weight=0.5 }
        loss mse
    """,
}
OPTIMIZERS: tuple[Update, ...] = (
    SgdUpdate(momentum=0.9, nesterov=True, l2=0.01),
    AdagradUpdate(l1=0.01),
    RmspropUpdate(momentum=0.9, l2=0.01),
    AdamUpdate(),
    AdamWUpdate(l2=0.05, l1=0.01),
)


def forward(name: str) -> Graph:
    return loads(f"net {name} {{ {NETS[name]} }}").graph(BATCH)


def assert_right(graph: Graph, rows: Iterable[int] = (BATCH, 2)) -> None:
    for count in rows:
        arrays = arrays_for(graph, count)
        single = run_natively(graph, arrays)
        assert_agrees(graph, arrays, single)
        for threads in (2, 3):
            assert_same_bits(single, run_natively(graph, arrays, threads))


def recipe(number: int) -> Recipe:
    """Every optimiser, with and without the rest."""
    weighed = (0.5, 2.0, 1.25)
    return Recipe(
        OPTIMIZERS[number],
        decay_bias=number % 2 == 0,
        clip=(0.25, None, 100.0, 0.01, 1.0)[number],
        accumulate=(1, 3, 1, 2, 4)[number],
        max_norm=(None, 1.0, 0.5, None, 2.0)[number],
        class_weights=weighed if number % 2 else (),
    )


def full_recipe(name: str, number: int) -> Recipe:
    asked = recipe(number)
    return asked if name == "pixels" else Recipe(**{**vars(asked), "class_weights": ()})


@pytest.mark.parametrize("number", range(len(OPTIMIZERS)), ids=lambda number: OPTIMIZERS[number].name)
@pytest.mark.parametrize("name", NETS)
def test_steps_agree_with_the_interpreter(name: str, number: int) -> None:
    assert_right(lowered(forward(name), "train", full_recipe(name, number)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
def test_updates_use_gradients_up_where_they_are_computed(optimizer: Update) -> None:
    net = loads("net n { input 3x5x5 -> fc 37 -> relu -> fc 21 -> relu -> fc 5 -> loss softmax }")
    graph = lowered(net.graph(BATCH), "train", optimizer)
    arrays = arrays_for(graph, BATCH)
    with executor_for(graph, arrays) as executor:
        fused = [kernel for kernel in executor.plan.kernels if kernel.update is not None]
        assert [kernel.label for kernel in fused] == ["fc3", "fc2", "fc1"]
        # One run that updates leaves alone what holds gradients on demand.
        places = [executor.stored(kernel.anchor.result) for kernel in fused]
        for place in places:
            place.fill(7.0)
        run(executor, arrays)
        assert all((place == 7.0).all() for place in places)
        for name in graph.parameters:
            executor.write(name, arrays[name])
        run(executor, arrays, Section.FORWARD | Section.GRADIENT)
        assert not any((place == 7.0).any() for place in places)
        for name in graph.parameters:
            np.testing.assert_array_equal(executor.read(name), arrays[name])
    assert_right(graph)


def test_gradients_that_others_read_are_stored() -> None:
    net = loads("net n { input 3x5x5 -> fc 7 -> relu -> fc 5 -> loss softmax }")
    for asked in (Recipe(SgdUpdate(), clip=1.0), Recipe(SgdUpdate(), accumulate=2), Recipe(None)):
        graph = lowered(net.graph(BATCH), "train", asked)
        with executor_for(graph, arrays_for(graph, BATCH)) as executor:
            assert executor.plan.memory.on_demand_bytes == 0
            assert all(kernel.update is None for kernel in executor.plan.kernels)


@pytest.mark.slow
@pytest.mark.parametrize("tier", available_tiers())
@pytest.mark.parametrize("name", NETS)
def test_steps_agree_at_every_tier(name: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    for number in (1, 4):  # the op cases have every optimiser at every tier
        assert_right(lowered(forward(name), "train", full_recipe(name, number)), (3,))
    assert_right(lowered(forward(name), "train", Recipe(OPTIMIZERS[0])), (3,))  # updates within kernels of gradients


@pytest.mark.parametrize("name", NETS)
def test_inference_uses_the_weights_as_they_are(name: str) -> None:
    assert_right(lowered(forward(name), "infer"))


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_right(name: str) -> None:
    report = check_gradients(training_graph(forward(name)), samples=12, seed=2)
    assert report.passed, report
    untested = {check.name for check in report.parameters if check.verdict == "untested"}
    # Signs have no derivative: see tests/codegen/test_binarize.py.
    assert untested == {check.name for check in report.parameters if name == "one_bit" and "weight" in check.name}


def test_the_mask_of_weights_is_one_for_all_rows_and_another_at_every_update() -> None:
    graph = lowered(loads("net n { input 1x3x3 -> fc 20 dropconnect=0.5 bias=no -> loss softmax }").graph(3), "train")
    arrays = arrays_for(graph, 3)
    arrays["x"] = np.ones_like(arrays["x"])
    first = run_natively(graph, arrays)["logits"]
    np.testing.assert_array_equal(first[0], first[1])
    assert not (run_natively(graph, arrays | {"step": np.asarray(4)})["logits"] == first).all()
    # Where every weight is 1 a mask of rate 0.5 leaves twice the number of those that were kept.
    ones = run_natively(graph, arrays | {"fc1.weight": np.ones((20, 9), np.float32)})["logits"][0] / 2
    assert ones.tolist() == np.round(ones).tolist()
    assert 0.35 < ones.sum() / 180 < 0.65


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(SgdUpdate(momentum=0.9, l2=0.01)),
        Recipe(AdamUpdate(), clip=0.5),
        Recipe(SgdUpdate(momentum=0.9), accumulate=2),
    ],
    ids=["momentum", "clip", "accumulate"],
)
@pytest.mark.parametrize("guards", [None, "after"])
def test_gradients_within_the_arena(recipe: Recipe, guards: Side | None) -> None:
    """Where all parameters are whole cache lines their gradients take places that others have used before."""
    text = """net wide {
        input 3x9x9
        conv 32 k=3 pad=1 -> bn -> relu
        conv 32 k=3 pad=1 -> relu -> conv 48 k=3 -> relu -> pool max 2
        fc 16
        loss softmax
    }"""
    graph = lowered(loads(text).graph(BATCH), "train", recipe)
    arrays = arrays_for(graph, BATCH)
    with executor_for(graph, arrays, threads=2, guards=guards) as executor:
        slots = executor.plan.memory.slots
        inside = [slots[value] for block in gradient_blocks(executor.plan) for value in block]
        assert len(inside) >= 3
        assert {slot.region for slot in inside} == {"arena"}
    assert_agrees(graph, arrays, run_natively(graph, arrays, threads=2, guards=guards))


def test_one_sweep_per_equal_settings() -> None:
    """Of the means as of the updates: clipping adds no pass over the parameters but the norm."""
    graph = lowered(forward("dropconnect"), "train", Recipe(AdamUpdate(l2=0.01), clip=1.0, accumulate=2))
    log = PassLog()
    Arrange().run(Plan(graph, Machine("avx2", 8, 16, False)), log)
    kernels = fuse(graph, log)
    sweeps = [kernel for kernel in kernels if isinstance(kernel.anchor.op, (Update, Accumulate))]
    sizes = [(kernel.anchor.op.name, 1 + len(kernel.riders)) for kernel in sweeps]
    # Weights with decay, biases without, and the layer with a rate of its own.
    assert sorted(sizes) == sorted([("accumulate", n) for n in (2, 2, 1)] + [("adam_update", n) for n in (2, 2, 1)])
    names = [kernel.anchor.op.name for kernel in kernels]
    assert names.index("gradient_norm") > max(index for index, name in enumerate(names) if name == "accumulate")


def test_mean_gradients_count_in_the_memory_of_a_training() -> None:
    graph = forward("rows")
    parameters = sum(p.value.type.bytes for p in graph.parameters.values())
    plain, several = summarize(graph, SgdUpdate()), summarize(graph, Recipe(SgdUpdate(), accumulate=2))
    assert plain.training_bytes is not None
    counts = 2 * 8  # of the rows now and before
    assert several.training_bytes == plain.training_bytes + parameters + counts


def test_a_tensor_counts_as_often_as_it_is_named() -> None:
    graph = Graph("norm")
    builder = Builder(graph)
    x = graph.add_input("x", f32(2, 3))
    w, v = graph.add_parameter("w", f32(5, 7)), graph.add_parameter("v", f32(3, 2))
    graph.outputs = {"logits": builder.add(Relu(), x), "norm": builder.add(GradientNorm(), w, v, w)}
    arrays = arrays_for(graph, 2)
    expected = np.sqrt(2 * (arrays["w"] ** 2).sum() + (arrays["v"] ** 2).sum())
    assert run_natively(graph, arrays)["norm"] == pytest.approx(expected, rel=1e-6)
