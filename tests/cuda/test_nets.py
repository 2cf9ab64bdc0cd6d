"""Whole programs on the emulated GPU: awkward nets beside the interpreter, known ones over steps beside the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.frontend import loads
from convc.frontend.load import load
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.update import SgdUpdate, Update
from convc.passes.base import Mode
from convc.passes.half_precision import HalfPrecision, Precision
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.planning import PLANNING
from convc.passes.sections import EVERYTHING, Section
from convc.passes.training import GRADIENT, LossScaling
from convc.passes.verify_plan import plan_problems
from convc.runtime.cuda import CudaExecutor
from tests.codegen.guarded import SpreadMemory
from tests.codegen.test_half_nets import EPSILON, half
from tests.codegen.test_scaled_steps import arrays_at, scaled
from tests.codegen.test_training_step import NETS, OPTIMIZERS, forward, full_recipe
from tests.codegen.whole_net import (
    Arrays,
    arrays_for,
    assert_agrees,
    assert_same_bits,
    exactly,
    lowered,
    run_natively,
    with_batch,
)
from tests.cuda.conftest import FULL
from tests.cuda.emulated import EmulatedDevice
from tests.cuda.test_ops import needs_nvrtc
from tests.cuda_emulator.schedule import SCHEDULES
from tests.passes.test_half_precision import NET
from tests.strategies import graphs

pytestmark = needs_nvrtc


@contextmanager
def executor_on_gpu(
    graph: Graph, arrays: Mapping[str, np.ndarray], device: EmulatedDevice | None = None, spread: bool = True
) -> Iterator[CudaExecutor]:
    """A program with its parameters set and everything else NaN."""
    chosen = device or EmulatedDevice()
    passes = (*PLANNING[:-1], SpreadMemory()) if spread else PLANNING
    batch = graph.inputs["x"].shape[0]
    executor = CudaExecutor(graph.copy(), chosen.capability, lambda *_: chosen, batch=batch, passes=passes)
    try:
        for name in graph.parameters:
            executor.write(name, arrays[name])
        yield executor
    finally:
        executor.close()


def run(executor: CudaExecutor, arrays: Mapping[str, np.ndarray], sections: Section = EVERYTHING) -> None:
    executor.run(
        sections,
        np.ascontiguousarray(arrays["x"]),
        arrays.get("labels"),
        lr=float(arrays.get("lr", 0.0)),
        step=int(arrays.get("step", 1)),
        seed=int(arrays.get("seed", 0)),
        seen=int(arrays.get("seen", 0)),
    )


def results(executor: CudaExecutor, rows: int) -> Arrays:
    """Outputs, gradients, and updated parameters, buffers and states."""
    graph = executor.graph
    names = [name for name in graph.outputs if not name.startswith(GRADIENT)]
    gradients = {name: executor.gradient(name.removeprefix(GRADIENT)) for name in graph.outputs if name not in names}
    found = gradients | {name: executor.output(name, rows) for name in names}
    return found | {name: executor.read(name) for name in graph.updates}


def run_on_gpu(
    graph: Graph, arrays: Mapping[str, np.ndarray], device: EmulatedDevice | None = None, spread: bool = True
) -> Arrays:
    with executor_on_gpu(graph, arrays, device, spread) as executor:
        run(executor, arrays)
        return results(executor, len(arrays["x"]))


# Awkward nets


@pytest.mark.parametrize("number", range(len(OPTIMIZERS)), ids=lambda number: OPTIMIZERS[number].name)
@pytest.mark.parametrize("name", NETS)
def test_steps_agree_with_the_interpreter(name: str, number: int) -> None:
    graph = lowered(forward(name), "train", full_recipe(name, number))
    rows = (5, 2)[number % 2]
    arrays = arrays_for(graph, rows)
    assert_agrees(graph, arrays, run_on_gpu(graph, arrays))


@pytest.mark.parametrize("name", NETS)
def test_inference_agrees_with_the_interpreter(name: str) -> None:
    graph = lowered(forward(name), "infer")
    arrays = arrays_for(graph, 3)
    assert_agrees(graph, arrays, run_on_gpu(graph, arrays))


@pytest.mark.parametrize("name", NETS)
def test_scaled_steps_agree_with_the_interpreter(name: str) -> None:
    graph = scaled(name, 1)
    arrays = arrays_at(graph, 1024.0)
    assert_agrees(graph, arrays, run_on_gpu(graph, arrays))


@pytest.mark.parametrize("layers", ["bn -> dropout 0.5", "bn -> relu", "conv 5 k=1 -> bn -> dropout 0.5"])
def test_features_of_several_pixels_are_neighbours(layers: str) -> None:
    """Where a fully connected layer reads an image, what is finished at once may be several pixels of one channel."""
    net = loads(f"net n {{ input 1x4x7 -> {layers} -> fc 5 -> loss softmax }}")
    graph = lowered(net.graph(3), "train", OPTIMIZERS[0])
    arrays = arrays_for(graph, 3)
    assert_agrees(graph, arrays, run_on_gpu(graph, arrays))


@pytest.mark.parametrize("name", ["pixels", "dropconnect"])
def test_tensors_may_share_the_arena(name: str) -> None:
    """Places over time, and results in the place of operands, change no bit."""
    graph = lowered(forward(name), "train", full_recipe(name, 0))
    arrays = arrays_for(graph, 5)
    assert_same_bits(run_on_gpu(graph, arrays), run_on_gpu(graph, arrays, spread=False))


@pytest.mark.parametrize("capability", [80, pytest.param(75, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("kind", EPSILON)
def test_a_net_with_everything_in_16_bits(kind: Precision, mode: Mode, capability: int) -> None:
    """No further from exact arithmetic than the interpreter that rounds every value, a few roundings granted."""
    graph = half(loads(NET).graph(4), mode, kind)
    arrays = arrays_for(graph, 3)
    exact, rounded = run_reference(graph, exactly(arrays)), run_reference(graph, arrays)
    found = run_on_gpu(graph, arrays, EmulatedDevice(capability))
    for name, reference in exact.items():
        size = max(1.0, float(np.abs(reference).max(initial=0.0)))
        allowed = 4 * float(np.abs(rounded[name] - reference).max(initial=0.0)) + 4 * EPSILON[kind] * size
        assert float(np.abs(found[name] - reference).max(initial=0.0)) <= allowed, name


@pytest.mark.slow
@settings(max_examples=60 if FULL else 8, deadline=None)
@given(graphs(max_layers=6), st.integers(1, 4), st.booleans())
def test_any_net(graph: Graph, batch: int, infer: bool) -> None:
    twin = lowered(with_batch(graph, batch), "infer" if infer else "train", SgdUpdate(momentum=0.9))
    arrays = arrays_for(twin, batch)
    with executor_on_gpu(twin, arrays) as executor:
        assert plan_problems(executor.plan) == []
        run(executor, arrays)
        found = results(executor, batch)
    assert_agrees(twin, arrays, found)


# Known nets, over several steps

BLOCKS = {
    "resnet_block": """
        input 8x10x10
        conv 16 k=3 s=2 pad=1 bias=no -> bn -> relu as skip
        conv 16 k=3 pad=1 bias=no -> bn -> relu -> conv 16 k=3 pad=1 bias=no -> bn -> add skip -> relu
        pool avg global -> flatten -> fc 5
        loss softmax
    """,
    "inception_module": """
        input 6x8x8
        concat {
          branch { conv 4 k=1 -> relu }
          branch { conv 6 k=1 -> relu -> conv 8 k=3 pad=1 -> relu }
          branch { conv 3 k=1 -> relu -> conv 5 k=5 pad=2 -> relu }
          branch { pool max 3 s=1 pad=1 -> conv 3 k=1 -> relu }
        }
        lrn 5 -> pool max 3 s=2 -> dropout 0.4 -> flatten -> fc 7
        loss softmax
    """,
}


def prepared(graph: Graph, kind: Precision, optimizer: Update) -> Graph:
    types = None if kind == "fp32" else HalfPrecision(kind)
    recipe = Recipe(optimizer, scaling=LossScaling() if kind == "fp16" else None)
    PassManager(pipeline("train", recipe=recipe, types=types)).run(graph)
    return graph


def over_steps(graph: Graph, kind: Precision, rows: int, steps: int, schedule: int = 0) -> None:
    """The loss and all that a step changes, beside native code, step after step."""
    arrays = arrays_for(graph, rows)
    on_gpu, on_cpu = dict(arrays), dict(arrays)
    if "loss.scale" in arrays:
        for found in (on_gpu, on_cpu):
            found |= {"loss.scale": np.float32(1024), "loss.good": np.float32(0), "loss.skipped": np.float32(0)}
    tolerance = 2e-5 if kind == "fp32" else 8 * EPSILON[kind]
    device = EmulatedDevice(schedule=SCHEDULES[schedule])
    for step in range(1, steps + 1):
        moving = {"step": np.asarray(step), "lr": np.float32(0.02)}
        left = run_on_gpu(graph, on_gpu | moving, device)
        right = run_natively(graph, on_cpu | moving)
        for name, reference in right.items():
            size = max(0.1, float(np.abs(reference).max(initial=0.0)))
            error = float(np.abs(left[name] - reference).max(initial=0.0)) / size
            assert error <= tolerance * step, f"step {step}: {name} is off by {error:.2e}"
        on_gpu |= {name: left[name] for name in graph.updates}
        on_cpu |= {name: right[name] for name in graph.updates}


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_lenet_trains_as_on_the_cpu(kind: Precision) -> None:
    graph = load("examples/lenet.cnn").graph(2)
    over_steps(prepared(graph, kind, SgdUpdate(momentum=0.9)), kind, 2, 3)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_train_as_on_the_cpu(name: str, kind: Precision) -> None:
    graph = loads(f"net {name} {{ {BLOCKS[name]} }}").graph(4)
    over_steps(prepared(graph, kind, SgdUpdate(momentum=0.9)), kind, 4, 3)
