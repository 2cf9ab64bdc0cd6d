"""Runs a graph with the ops' `reference` rules: slow, obvious, and the judge of every back end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Value
from convc.ir.rounding import rounded

Arrays = Mapping[str, np.ndarray]


def run_reference(graph: Graph, arrays: Arrays) -> dict[str, np.ndarray]:
    """Outputs and updates of a graph by name, for inputs and parameters by name.

    Inputs may have fewer rows than their type says, all the same number. Computation is in the precision of the
    arrays given: float64 in, float64 out. A missing or misshapen array is a `CompileError`.
    """
    values: dict[Value, np.ndarray] = {}
    for name, value in graph.inputs.items():
        values[value] = _fetch(arrays, name, value, rows=value.type.rank > 0)
    rows = {name: len(values[value]) for name, value in graph.inputs.items() if value.type.rank > 0}
    if len(set(rows.values())) > 1:
        fail("value-shape", "inputs differ in rows: " + ", ".join(f"{name} has {n}" for name, n in rows.items()))
    for name, parameter in graph.parameters.items():
        values[parameter.value] = _fetch(arrays, name, parameter.value, rows=False)
    double = any(array.dtype == np.float64 for array in values.values())
    remaining = {value: len(value.users) for value in values}
    kept = {*graph.outputs.values(), *graph.updates.values()}
    for node in graph.nodes:
        operands = [values[value] for value in node.operands]
        results = node.op.reference(*operands)
        if not isinstance(results, tuple):
            results = (results,)
        for value, array in zip(node.results, results, strict=True):
            # Dense: numpy adds up products in another order where an operand is a part of a larger array.
            array = np.asarray(array, order="C")
            # Float32 constants must not narrow a float64 run.
            widens = double and array.dtype == np.float32
            values[value] = array.astype(np.float64) if widens else rounded(array, value.type.dtype)
            remaining[value] = len(value.users)
        for value in node.operands:
            remaining[value] -= 1
            if not remaining[value] and value not in kept:
                values.pop(value, None)
    return {name: values[value] for name, value in (*graph.outputs.items(), *graph.updates.items())}


def _fetch(arrays: Arrays, name: str, value: Value, rows: bool) -> np.ndarray:
    if name not in arrays:
        fail("value-missing", f"no array for {name}: {value.type}")
    array = np.asarray(arrays[name])
    expected, actual = (value.shape[1:], array.shape[1:]) if rows else (value.shape, array.shape)
    if expected != actual or array.ndim != len(value.shape):
        fail("value-shape", f"{name} is {list(array.shape)}, but should be {list(value.shape)}")
    return array
