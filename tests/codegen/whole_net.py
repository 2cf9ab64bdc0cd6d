"""Whole nets run natively and by the interpreter: what the tests that compare the two have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ir.interpreter import run_reference
from convc.ir.ops.update import Update
from convc.ir.types import TensorType
from convc.passes.base import Mode
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.sections import EVERYTHING, Section
from convc.passes.training import GRADIENT
from convc.runtime.native import NativeExecutor
from tests.codegen.guarded import GuardedExecutor, Side
from tests.strategies import random_arrays

Arrays = dict[str, np.ndarray]


def with_batch(graph: Graph, batch: int) -> Graph:
    """The same net for another number of rows."""
    twin = Graph(graph.name)
    twins = {v: twin.add_input(name, _rows(v.type, batch)) for name, v in graph.inputs.items()}
    for name, parameter in graph.parameters.items():
        metadata = {key: item for key, item in vars(parameter).items() if key not in ("name", "value")}
        twins[parameter.value] = twin.add_parameter(name, parameter.value.type, **metadata)
    for node in graph.nodes:
        clone = Node(node.op, tuple(twins[value] for value in node.operands), node.location, node.label)
        twin.insert(clone)
        twins.update(zip(node.results, clone.results, strict=True))
    twin.outputs = {name: twins[value] for name, value in graph.outputs.items()}
    return twin


def _rows(type: TensorType, batch: int) -> TensorType:
    return type.with_shape((batch, *type.shape[1:])) if type.shape else type


def lowered(graph: Graph, mode: Mode, optimizer: Update | Recipe | None = None) -> Graph:
    """A forward graph made a training step or an inference program; the graph given is left alone."""
    twin = graph.copy()
    recipe = optimizer if isinstance(optimizer, Recipe) else Recipe(optimizer)
    PassManager(pipeline(mode, recipe=recipe)).run(twin)
    return twin


def arrays_for(graph: Graph, rows: int, seed: int = 0, step: int = 3) -> Arrays:
    """Inputs with `rows` rows, parameters and states of a lowered graph, all float32."""
    arrays = random_arrays(graph, seed)
    arrays = {name: a[:rows] if name in graph.inputs and a.ndim else a for name, a in arrays.items()}
    # Second moments are not negative.
    arrays |= {name: np.abs(a) for name, a in arrays.items() if name.endswith((".square", ".sum"))}
    context = {"lr": np.float32(0.125), "step": np.int64(step), "seed": np.int64(seed + 5)}
    context |= {"rows": np.int64(rows), "seen": np.int64(7)}
    return arrays | {name: np.asarray(value) for name, value in context.items() if name in graph.inputs}


@contextmanager
def executor_for(
    graph: Graph, arrays: Mapping[str, np.ndarray], threads: int = 1, guards: Side | None = None
) -> Iterator[NativeExecutor]:
    """A program with its parameters set and everything else NaN."""
    batch = graph.inputs["x"].shape[0]
    if guards is None:
        executor = NativeExecutor(graph.copy(), batch=batch, threads=threads)
    else:
        executor = GuardedExecutor(graph.copy(), batch=batch, threads=threads, side=guards)
    try:
        executor.poison()
        for name in graph.parameters:
            executor.write(name, arrays[name])
        yield executor
    finally:
        executor.close()


def run(executor: NativeExecutor, arrays: Mapping[str, np.ndarray], sections: Section = EVERYTHING) -> None:
    executor.run(
        sections,
        np.ascontiguousarray(arrays["x"]),
        arrays.get("labels"),
        lr=float(arrays.get("lr", 0.0)),
        step=int(arrays.get("step", 1)),
        seed=int(arrays.get("seed", 0)),
        seen=int(arrays.get("seen", 0)),
    )


def results(executor: NativeExecutor, rows: int) -> Arrays:
    """Outputs, gradients, and updated parameters, buffers and states."""
    graph = executor.graph
    outputs = {name: executor.output(name, rows) for name in graph.outputs if not name.startswith(GRADIENT)}
    return outputs | gradients_of(executor) | {name: executor.read(name) for name in graph.updates}


def run_natively(
    graph: Graph, arrays: Mapping[str, np.ndarray], threads: int = 1, guards: Side | None = None
) -> Arrays:
    """The results of one run; with `guards`, every buffer has pages of its own, between inaccessible ones."""
    with executor_for(graph, arrays, threads, guards) as executor:
        return run_for_results(executor, arrays)


def run_for_results(executor: NativeExecutor, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The results of one run. Gradients that updates use up come from a run without updates before it."""
    gradients: Arrays = {}
    if executor.plan.memory.on_demand_bytes:
        run(executor, arrays, Section.FORWARD | Section.GRADIENT)
        gradients = gradients_of(executor)
        executor.poison()
    run(executor, arrays)
    return results(executor, len(arrays["x"])) | gradients


def gradients_of(executor: NativeExecutor) -> Arrays:
    """The gradients of the last run, under the names of the outputs."""
    names = [name for name in executor.graph.outputs if name.startswith(GRADIENT)]
    return {name: executor.gradient(name[len(GRADIENT) :]) for name in names}


def exactly(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The same values in float64."""
    return {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in arrays.items()}


def assert_agrees(graph: Graph, arrays: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> None:
    """Native results against the interpreter in float64.

    How large rounding errors may be is told by the interpreter in float32: where a sum cancels, or a small variance
    magnifies, it errs as well. Besides that, a few units in the last place of the largest element, or of 1, which is
    the size of what goes into the sums here: a bias before batch norm has a gradient of exactly 0.
    """
    exact, single = run_reference(graph, exactly(arrays)), run_reference(graph, arrays)
    assert actual.keys() == exact.keys()
    off: dict[str, tuple[float, float]] = {}
    for name, reference in exact.items():
        assert actual[name].shape == reference.shape, name
        size = max(1.0, float(np.abs(reference).max(initial=0)))
        allowed = 3e-6 * size + 30 * _distance(single[name], reference)
        error = _distance(actual[name], reference)
        if not error <= allowed:
            off[name] = error, allowed
    if off:
        jumps = _jumps(graph, exactly(arrays), exact)
        off = {name: (error, allowed) for name, (error, allowed) in off.items() if not error <= allowed + jumps[name]}
    assert not off, "\n".join(f"{name} is off by {e:.2e}, allowed are {a:.2e}" for name, (e, a) in off.items())


def _distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max(initial=0))


def _jumps(graph: Graph, arrays: Arrays, results: Arrays) -> dict[str, float]:
    """How far results move when everything given moves by about one part in a million.

    Gradients jump where rounding takes a value across the kink of an activation, or changes the larger of two maxima.
    """
    generator = np.random.default_rng(0)
    jumps = dict.fromkeys(results, 0.0)
    for _ in range(8):
        moved = {
            name: array * (1 + 1e-6 * generator.standard_normal(array.shape)) if array.dtype == np.float64 else array
            for name, array in arrays.items()
        }
        for name, result in run_reference(graph, moved).items():
            jumps[name] = max(jumps[name], 2 * _distance(result, results[name]))
    return jumps


def assert_same_bits(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)
