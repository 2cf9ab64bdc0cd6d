"""Convolutions in their three directions, by any algorithm, natively against their float64 definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.codegen.llvm.target import TIERS, host_target
from convc.ir.builder import Builder
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import Op
from convc.ir.ops import Add, Conv2d, Conv2dBackwardData, Conv2dBackwardWeights, DropoutTraining, Greater, Relu, Select
from convc.ir.types import DType, TensorType
from convc.ir.window import Pair, Sides, Window
from convc.passes.algorithms.algorithm import Algorithm
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction, Problem
from convc.passes.sections import fixed_values
from tests.codegen.native_graph import run_natively, single_op_graph
from tests.op_case import Array, OpCase, Random, Shape, make_operands, normal

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")


@dataclass(frozen=True)
class Geometry:
    """Images (N, C, H, W), filters (K, C/groups, R, S)."""

    images: Shape
    filters: Shape
    padding: Sides = (0, 0, 0, 0)
    groups: int = 1
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)

    def case(self, direction: Direction, algorithm: str, bias: bool = True) -> OpCase:
        n, _, height, width = self.images
        k, _, r, s = self.filters
        window = Window((r, s), self.stride, self.padding, self.dilation)
        results = (n, k, *window.output_size((height, width)))
        shape = {name: getattr(self, name) for name in ("padding", "groups", "stride", "dilation")}
        how: dict[str, Any] = {**shape, "algorithm": algorithm}
        op: Op
        operands: tuple[Random, ...]
        if direction == "forward":
            op, operands = Conv2d(**how), (normal(*self.images), normal(*self.filters))
            operands += (normal(k),) if bias else ()
        elif direction == "backward_data":
            op, operands = Conv2dBackwardData(size=(height, width), **how), (normal(*results), normal(*self.filters))
        else:
            op, operands = Conv2dBackwardWeights(kernel=(r, s), **how), (normal(*self.images), normal(*results))
        return OpCase(f"{algorithm}_{direction}", op, operands)


def lower_tiers() -> list[str]:
    """The processor's tiers but the best."""
    found: list[str] = []
    for tier in TIERS:
        try:
            host_target(tier)
        except CompileError:
            continue
        found.append(tier)
    return found[1:]


def problem_of(graph: Graph) -> Problem:
    (node,) = graph.nodes_of(*CONVOLUTIONS)
    return Problem.of(node, fixed_values(graph))


def with_changing_weights(graph: Graph) -> Graph:
    """The same, but for all that is known ahead a run may change the parameters, so that nothing is prepared."""
    twin = graph.copy()
    twin.updates = {name: parameter.value for name, parameter in twin.parameters.items()}
    return twin


def check(case: OpCase, algorithm: Algorithm, rows: int | None = None, threads: tuple[int, ...] = (2,)) -> None:
    """Within the error that the algorithm promises, on `rows` of the images; the same bits on 1 and more threads."""
    arrays = make_operands(case, np.float32)
    graph, named = single_op_graph(case, arrays)
    batched = (0, 1) if isinstance(case.op, Conv2dBackwardWeights) else (0,)
    few = [array[:rows] if index in batched else array for index, array in enumerate(arrays)]
    named = {name: array[:rows] if name in graph.inputs else array for name, array in named.items()}
    exact = case.op.reference(*(array.astype(np.float64) for array in few))
    problem = problem_of(graph)
    assert algorithm.obstacle(problem) is None
    single = run_natively(graph.copy(), named, threads=1, batch=len(arrays[0]))["logits"]
    assert_close(single, np.asarray(exact), algorithm.max_rel_error(problem), problem)
    if problem.prepared:
        changing = with_changing_weights(graph)
        assert not problem_of(changing).prepared
        np.testing.assert_array_equal(single, run_natively(changing, named, threads=2, batch=len(arrays[0]))["logits"])
    for count in threads:
        again = run_natively(graph.copy(), named, threads=count, batch=len(arrays[0]))["logits"]
        np.testing.assert_array_equal(single, again)


def assert_close(result: Array, exact: Array, bound: float, problem: Problem) -> None:
    # Where there are few results, all of them may be small by chance: as large as usual are these.
    usual = math.sqrt(problem.flops / 2 / result.size)
    error = float(np.abs(result - exact).max()) / max(float(np.abs(exact).max()), usual)
    assert error <= bound, f"relative error {error:.2e}, {error / bound:.2f} times what is promised"


CHAINS = ("relu", "add", "dropout", "long", "stored twice")


# Partial tiles, and channels that do not fill vectors.
UNEVEN = Geometry((2, 5, 7, 9), (6, 5, 3, 3), (1, 1, 1, 1))


def chained(direction: Direction, algorithm: str, chain: str, geometry: Geometry) -> tuple[Graph, dict[str, Array]]:
    """A convolution with something in its epilogue."""
    case = geometry.case(direction, algorithm)
    generator = np.random.default_rng(7)
    arrays = make_operands(case, np.float32)
    graph, builder = Graph("chained"), None
    builder = Builder(graph)
    x = graph.add_input("x", TensorType(DType.F32, arrays[0].shape))
    named = {"x": arrays[0]}
    operands = [x]
    for name, array in zip(("w", "b"), arrays[1:], strict=False):
        operands.append(graph.add_parameter(name, TensorType(DType.F32, array.shape)))
        named[name] = array
    y = builder.add(case.op, *operands)
    named["skip"] = generator.standard_normal(y.shape).astype(np.float32)
    skip = graph.add_input("skip", y.type)
    if chain == "relu":
        y = builder.add(Relu(), y)
    elif chain == "add":
        y = builder.add(Relu(), builder.add(Add(), y, skip))
    elif chain == "dropout":
        scalars = [graph.add_input(name, TensorType(DType.I64, ())) for name in ("seed", "step", "seen")]
        named |= {"seed": np.asarray(3), "step": np.asarray(5), "seen": np.asarray(7)}
        y = builder.add(DropoutTraining(rate=0.4, stream=9), builder.add(Relu(), y), *scalars)
    elif chain == "long":
        # The gradient of a ReLU: its mask is computed from another tensor.
        mask = builder.add(Greater(), skip, builder.constant(0.0))
        y = builder.add(Select(), mask, y, builder.constant(0.0))
        for _ in range(6):
            y = builder.add(Add(), y, skip)
    else:
        graph.outputs["before"] = y
        y = builder.add(Add(), builder.add(Relu(), y), skip)
    graph.outputs["logits"] = y
    return graph, named


def check_chain(direction: Direction, algorithm: Algorithm, chain: str, geometry: Geometry = UNEVEN) -> None:
    graph, named = chained(direction, algorithm.name, chain, geometry)
    exact = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in named.items()}
    expected = run_reference(graph.copy(), exact)
    # Dropout scales by less than 2; what is added is exact.
    bound = 2 * algorithm.max_rel_error(problem_of(graph))
    single = run_natively(graph.copy(), named, threads=1)
    again = run_natively(graph.copy(), named, threads=2)
    for name, value in expected.items():
        assert_close(single[name], value, bound, problem_of(graph))
        np.testing.assert_array_equal(single[name], again[name])
