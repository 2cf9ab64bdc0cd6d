"""A random point to compare graphs at: values for everything that they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.ir.graph import Graph, Parameter
from convc.passes.sections import ACCUMULATOR


def random_point(graph: Graph, seed: int | Sequence[int]) -> dict[str, np.ndarray]:
    """Values for all inputs and parameters of a training graph, float64 numbers that float32 can hold.

    Nothing is zero or equal by design (biases start at zero in training): at a generic point kinks are rare. The draws
    of dropout and its like depend on the first number of a seed.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, parameter in graph.parameters.items():
        arrays[name] = as_float32(_random_parameter(parameter, random))
    x = graph.inputs["x"]
    arrays["x"] = as_float32(random.random(x.shape))
    if "labels" in graph.inputs:
        labels, classes = graph.inputs["labels"], graph.outputs["logits"].shape[1]
        if labels.type.dtype.is_float:
            arrays["labels"] = as_float32(random.standard_normal(labels.shape))
        else:
            arrays["labels"] = random.integers(0, classes, labels.shape).astype(np.int32)
    draws = seed if isinstance(seed, int) else seed[0]
    arrays["step"], arrays["seed"] = np.asarray(1, np.int64), np.asarray(draws, np.int64)
    arrays["rows"], arrays["seen"] = np.asarray(len(arrays["x"]), np.int64), np.asarray(0, np.int64)
    arrays["lr"] = np.asarray(0.0)
    return arrays


def _random_parameter(parameter: Parameter, random: np.random.Generator) -> np.ndarray:
    shape = parameter.value.shape
    if parameter.role in ("state", ACCUMULATOR):
        return np.full(shape, parameter.initial.value if parameter.initial.kind == "const" else 0.0)
    noise = random.standard_normal(shape)
    if parameter.role == "weight":
        fan_in = max(1, int(np.prod(shape[1:])))
        return noise * np.sqrt(2 / fan_in)
    center = {"gamma": 1.0, "var": 1.0, "slope": 0.25}.get(parameter.role, 0.0)
    return center + 0.1 * (np.abs(noise) if parameter.role == "var" else noise)


def as_float32(array: np.ndarray) -> np.ndarray:
    """The nearest numbers that float32 can hold, in float64."""
    return array.astype(np.float32).astype(np.float64)
