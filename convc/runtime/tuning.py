"""Measure algorithms on this machine, its processor or its GPU: each contender as a program of its own, its kernel
timed inside a whole run.

Times are remembered in the cache of compiled code, keyed by the problem, the algorithm, the processor's features, the
number of threads and the compiler's sources, so that a second `--tune` costs nothing.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Sequence

import numpy as np

from convc.codegen.cuda import nvrtc
from convc.codegen.llvm.object_cache import cache_key, shared_cache
from convc.codegen.llvm.target import host_target
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.ops.cast import Cast, cast
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.ops.elementwise import Negate
from convc.ir.ops.pool import MaxPool
from convc.ir.ops.quantize import Quantize, QuantizeWeights
from convc.ir.ops.shape import Relayout
from convc.ir.types import DType, TensorType
from convc.passes.algorithms.problem import CONVOLUTIONS, Problem
from convc.passes.plan import Plan
from convc.runtime.cores import choose_threads
from convc.runtime.cuda import CudaExecutor, Device
from convc.runtime.native import NativeExecutor

_ROUNDS = 7
_TIME = struct.Struct("<d")
LABEL = "convolution"  # of the nodes that are measured
# Kernels that bring operands into the type and the order of the measured one: in a net they serve several.
_CASTS = (Relayout.name, f"{Relayout.name}+{Cast.name}")

Clock = Callable[[], float]
Times = dict[tuple[Problem, str], float]


class Tuner:
    """Measures within a budget of seconds. Implements `convc.passes.choose_algorithms.Timer`.

    What is remembered is free; when the budget is spent, what was not measured stays unmeasured. `measured` counts.
    """

    def __init__(self, budget: float, threads: int | None = None) -> None:
        self.budget = budget
        self.threads = choose_threads(threads).threads
        self.measured = 0

    def __call__(self, requests: Sequence[tuple[Problem, str]]) -> Times:
        times: Times = {}
        deadline = time.monotonic() + self.budget
        for problem, algorithm in requests:
            known = self._recall(problem, algorithm)
            if known is None and time.monotonic() < deadline:
                known = self._measure(problem, algorithm)
                self.measured += 1
                shared_cache().put(self._key(problem, algorithm), _TIME.pack(known))
            if known is not None:
                times[problem, algorithm] = known
        return times

    def _measure(self, problem: Problem, algorithm: str) -> float:
        return measure(problem, algorithm, self.threads)

    def _key(self, problem: Problem, algorithm: str) -> str:
        return cache_key(f"time of {algorithm} for {problem!r}", host_target(), {"threads": self.threads})

    def _recall(self, problem: Problem, algorithm: str) -> float | None:
        payload = shared_cache().get(self._key(problem, algorithm))
        if payload is None or len(payload) != _TIME.size:
            return None
        (seconds,) = _TIME.unpack(payload)
        return seconds if math.isfinite(seconds) and seconds > 0 else None


class GpuTuner(Tuner):
    """Measures on the GPU of this machine; `open_device` gives it for each measurement."""

    def __init__(self, budget: float, gpu: str, capability: int, open_device: Callable[[int, Plan], Device]) -> None:
        super().__init__(budget)
        self._gpu, self._capability, self._open_device = gpu, capability, open_device

    def _measure(self, problem: Problem, algorithm: str) -> float:
        graph = graph_of(problem, algorithm)
        return _timed(CudaExecutor(graph, self._capability, self._open_device, batch=problem.batch), _ROUNDS)

    def _key(self, problem: Problem, algorithm: str) -> str:
        compiler = ".".join(map(str, nvrtc.version())) if nvrtc.nvrtc() is not None else "unknown"
        return cache_key(f"time of {algorithm} for {problem!r} on {self._gpu}", host_target(), {"nvrtc": compiler})


def measure(
    problem: Problem, algorithm: str, threads: int, rounds: int = _ROUNDS, clock: Clock = time.perf_counter
) -> float:
    """Median seconds of the convolution's kernel on random data."""
    return measure_graph(graph_of(problem, algorithm), problem.batch, threads, rounds, clock)


def measure_graph(
    graph: Graph, batch: int, threads: int, rounds: int = _ROUNDS, clock: Clock = time.perf_counter
) -> float:
    """Median seconds that the kernels of the nodes labelled `LABEL` take on random data.

    Without what brings the images of the interface into the order of kernels: within a net they have it.
    """
    return _timed(NativeExecutor(graph, batch=batch, threads=threads), rounds, clock)


def _timed(executor: NativeExecutor | CudaExecutor, rounds: int, *clock: Clock) -> float:
    """What `measure_graph` returns; the executor is closed."""
    random = np.random.default_rng(1)
    try:
        for name, parameter in executor.graph.parameters.items():
            executor.write(name, random.standard_normal(parameter.value.shape, np.float32))
        for name, value in executor.graph.inputs.items():
            if name != "x":
                executor.write_input(name, random.standard_normal(value.shape, np.float32))
        x = random.standard_normal(executor.graph.inputs["x"].shape, np.float32)
        profile = executor.profile(x, None, rounds, *clock)
    finally:
        executor.close()
    kernels = (kernel for kernel in profile.kernels if kernel.layer == LABEL and kernel.ops not in _CASTS)
    return sum(kernel.seconds for kernel in kernels)


# Numbers around 0, as whole ones: what is measured does not depend on the step.
_GRID = Quantize(1 / 32, 128)


def graph_of(problem: Problem, algorithm: str, rounded: bool = True) -> Graph:
    """A graph with the convolution alone; rows are inputs, weights a parameter. Without `rounded` a result of 16 bits
    is stored in float32."""
    images = (problem.batch, problem.channels, *problem.size)
    results = (problem.batch, problem.filters, *problem.output)
    graph = Graph("tune")
    builder, whole = Builder(graph), problem.dtype.is_whole

    def rows(name: str, shape: tuple[int, ...]) -> Value:
        # A layer's images come from other layers. Those of the interface, channel after channel, some algorithms read
        # as they are, and more slowly.
        with builder.at((), "images"):
            rows = builder.add(Negate(), graph.add_input(name, TensorType(DType.F32, shape)))
            return builder.add(_GRID, rows) if whole else cast(builder, rows, problem.dtype)

    def weights() -> Value:
        shape = (problem.filters, problem.channels // problem.groups, *problem.kernel)
        with builder.at((), "filters"):
            w = graph.add_parameter("w", TensorType(DType.F32, shape))
            return builder.add(QuantizeWeights(_GRID.zero), w) if whole else cast(builder, w, problem.dtype)

    geometry = {name: getattr(problem, name) for name in ("stride", "padding", "dilation", "groups")}
    with builder.at((), LABEL):
        if problem.direction == "forward":
            op = Conv2d(**geometry, algorithm=algorithm)
            result = builder.add(op, rows("x", images), weights())
        elif problem.direction == "backward_data":
            op = Conv2dBackwardData(size=problem.size, **geometry, algorithm=algorithm)
            result = builder.add(op, rows("x", results), weights())
        else:
            op = Conv2dBackwardWeights(kernel=problem.kernel, **geometry, algorithm=algorithm)
            result = builder.add(op, rows("x", images), rows("dy", results))
    assert isinstance(op, CONVOLUTIONS)
    if result.type.dtype.is_half:
        with builder.at((), "results"):
            # A cast alone rides in the convolution's epilogue, and float32 is stored.
            result = builder.add(MaxPool(kernel=(1, 1)), result) if rounded else result
            result = cast(builder, result, DType.F32)
    graph.outputs["logits"] = result
    if problem.direction == "forward" and not problem.prepared:
        # What a run may change is prepared by no run.
        graph.updates["w"] = graph.parameters["w"].value
    return graph
