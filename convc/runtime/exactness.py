"""Measure how exact algorithms are here: each as a program of its own on random data, against float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from convc.ir.interpreter import run_reference
from convc.ir.rounding import rounded
from convc.passes.algorithms.problem import Problem
from convc.passes.sections import EVERYTHING
from convc.runtime.native import NativeExecutor
from convc.runtime.tuning import graph_of

# Results of one image do not depend on the others: so many tell as much as a batch, in all directions but one.
_IMAGES = 2

Errors = dict[tuple[Problem, str], float]


def measure_errors(requests: Iterable[tuple[Problem, str]]) -> Errors:
    """The error of each problem by the algorithm of that name, each problem measured once; see `largest_error`."""
    errors: Errors = {}
    for problem, algorithm in requests:
        if (problem, algorithm) not in errors:
            weights = problem.direction == "backward_weights"
            few = problem if weights else replace(problem, batch=min(problem.batch, _IMAGES))
            errors[problem, algorithm] = largest_error(few, algorithm, draws=1)
    return errors


def largest_error(problem: Problem, algorithm: str, draws: int) -> float:
    """The largest of some draws: of the difference from the float64 definition, by the largest magnitude of that.

    Images and filters are normal random numbers. In 16 bits they are rounded beforehand and results are taken before
    they are rounded: what is measured is the algorithm.
    """
    graph = graph_of(problem, algorithm, rounded=False)
    executor = NativeExecutor(graph.copy(), batch=problem.batch, threads=1)
    worst = 0.0
    for draw in range(draws):
        random = np.random.default_rng(draw)
        values = {**graph.inputs, **{name: parameter.value for name, parameter in graph.parameters.items()}}
        drawn = {name: random.standard_normal(value.shape, np.float32) for name, value in values.items()}
        arrays = {name: rounded(array, problem.dtype) for name, array in drawn.items()}
        for name, array in arrays.items():
            if name != "x":
                (executor.write if name in graph.parameters else executor.write_input)(name, array)
        result = executor.run(EVERYTHING, arrays["x"], None).logits
        exact = run_reference(graph, {name: array.astype(np.float64) for name, array in arrays.items()})["logits"]
        worst = max(worst, float(np.abs(result - exact).max() / np.abs(exact).max()))
    executor.close()
    return worst
