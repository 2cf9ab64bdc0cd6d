"""Graphs of a single op, run natively: what the tests of kernels need around an `OpCase`."""

from __future__ import annotations

import numpy as np

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.op import Op
from convc.ir.ops import (
    AllFinite,
    AvgPoolBackward,
    BatchNorm,
    BatchNormBackward,
    BatchNormTraining,
    Binarize,
    Cast,
    Conv2d,
    Conv2dBackwardData,
    DropConnectTraining,
    DropoutTraining,
    GradientNorm,
    Greater,
    HingeBackward,
    Linear,
    LinearBackwardData,
    MaxNorm,
    MeanSquaredErrorBackward,
    NoiseTraining,
    Relu,
    ScaleWeights,
    Select,
    SoftmaxCrossEntropyBackward,
    SumWeights,
)
from convc.ir.ops.random import Draw
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.sweep import Accumulate, Sweep
from convc.ir.ops.update import Update
from convc.ir.types import DType, TensorType
from convc.passes.sections import EVERYTHING
from tests.codegen.guarded import GuardedExecutor, Side
from tests.op_cases import OpCase, make_operands

# Operands that have rows. Elementwise ops are told apart by shape; all other ops not named here read rows only.
_BATCHED: dict[type[Op], tuple[int, ...]] = {
    Conv2d: (0,),
    Conv2dBackwardData: (0,),
    Linear: (0,),
    LinearBackwardData: (0,),
    BatchNorm: (0,),
    BatchNormTraining: (0,),
    BatchNormBackward: (0, 1),
    DropoutTraining: (0,),
    NoiseTraining: (0,),
    AvgPoolBackward: (0,),
    SoftmaxCrossEntropyBackward: (1, 2),
    HingeBackward: (1, 2),
    MeanSquaredErrorBackward: (1, 2),
    DropConnectTraining: (),
    RoundTo: (),
    GradientNorm: (),
    AllFinite: (),
    MaxNorm: (),
    ScaleWeights: (),
    SumWeights: (),
    Binarize: (),
}
_SCALARS = ("lr", "step", "seed", "rows", "seen")


def _context(op: Op) -> tuple[int, tuple[str, ...]]:
    """The operands that a program takes from its context: the index of the first, and their names."""
    if isinstance(op, Update):
        return op.tensors, ("lr", "step")
    if isinstance(op, Accumulate):
        return op.tensors, ("rows", "seen")
    return 1, ("seed", "step", "seen") if isinstance(op, (Draw, DropConnectTraining, RoundTo)) else ()


def _batched(op: Op, count: int) -> tuple[int, ...]:
    return () if isinstance(op, Sweep) else _BATCHED.get(type(op), tuple(range(count)))


def single_op_graph(case: OpCase, arrays: tuple[np.ndarray, ...]) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph that applies the case's op, and the arrays by name: rows as inputs, everything else as parameters."""
    graph = Graph("case")
    builder = Builder(graph)
    rank = max(array.ndim for array in arrays)
    batched, (first, names) = _batched(case.op, len(arrays)), _context(case.op)
    named: dict[str, np.ndarray] = {}
    operands: list[Value] = []
    for index, array in enumerate(arrays):
        word = names[index - first] if first <= index < first + len(names) else None
        has_rows = (index in batched and array.ndim == rank and rank > 1) or array.dtype == np.int32
        operands.append(_declare(graph, builder, named, index, array, word, has_rows))
    if "x" not in graph.inputs:
        # A program always has rows: here they are not used.
        named["x"] = np.zeros((2, 1), np.float32)
        graph.add_input("x", TensorType(DType.F32, (2, 1)))
    node = builder.add_node(case.op, *operands)
    if isinstance(case.op, Sweep):
        graph.outputs["logits"] = builder.add(Relu(), graph.inputs["x"])
        changed = (operands[0], *operands[2 : case.op.tensors])
        graph.updates = {value.name: result for value, result in zip(changed, node.results, strict=True) if value.name}
        return graph, named
    for index, result in enumerate(node.results):
        if result.type.dtype.is_whole:
            result = builder.add(Cast("f32"), result)
        if result.type.dtype is DType.BOOL:
            result = builder.add(Select(), result, builder.constant(1.0), builder.constant(0.0))
        graph.outputs["logits" if index == 0 else f"result{index}"] = result
    return graph, named


def _declare(
    graph: Graph, builder: Builder, named: dict[str, np.ndarray], index: int, array: np.ndarray,
    context: str | None, has_rows: bool,
) -> Value:  # fmt: skip
    if context is not None:
        named[context] = array
        return graph.add_input(context, TensorType(DType.F32 if context == "lr" else DType.I64, ()))
    if array.dtype == np.int32:
        named["labels"] = array
        return graph.add_input("labels", TensorType(DType.I32, array.shape))
    boolean = array.dtype == np.bool_
    name = "x" if has_rows and "x" not in graph.inputs else f"operand{index}"
    named[name] = array.astype(np.float32)
    type = TensorType(DType.F32, array.shape)
    value = graph.add_input(name, type) if has_rows else graph.add_parameter(name, type)
    # Booleans have no form in memory: they are made where they are used.
    return builder.add(Greater(), value, builder.constant(0.5)) if boolean else value


def run_natively(
    graph: Graph,
    named: dict[str, np.ndarray],
    threads: int = 1,
    batch: int | None = None,
    side: Side = "after",
    forked: bool = False,
) -> dict[str, np.ndarray]:
    """The outputs of a graph on arrays by name, every buffer against an inaccessible page and all memory NaN before."""
    rows = len(named["x"])
    executor = GuardedExecutor(graph, batch=batch or rows, threads=threads, side=side, forked=forked)
    for name, array in named.items():
        if name in graph.parameters:
            executor.write(name, array)
        elif name not in ("x", "labels", *_SCALARS):
            executor.write_input(name, array)
    executor.run(
        EVERYTHING,
        np.ascontiguousarray(named["x"]),
        named.get("labels"),
        lr=float(named.get("lr", 0.0)),
        step=int(named.get("step", 1)),
        seed=int(named.get("seed", 0)),
        seen=int(named.get("seen", 0)),
    )
    results = {name: executor.output(name, rows) for name in graph.outputs}
    results |= {name: executor.read(name) for name in graph.updates}
    executor.close()
    return results


def case_arrays(case: OpCase) -> tuple[np.ndarray, ...]:
    return make_operands(case, np.float32)
