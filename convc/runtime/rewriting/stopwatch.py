"""How long layers do take, measured on this machine: each product of a layer as a program of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.op import Op
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear, LinearBackwardData, LinearBackwardWeights
from convc.ir.types import Shape, f32
from convc.passes.algorithms.decision import PLAIN
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.base import Mode
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.timing import Model, problems
from convc.runtime.tuning import LABEL, Tuner, measure_graph

_PRODUCTS: dict[Direction, Op] = {
    "forward": Linear(),
    "backward_data": LinearBackwardData(),
    "backward_weights": LinearBackwardWeights(),
}


class Stopwatch:
    """Begins to measure for `seconds` (infinity: without end); what was not measured by then stays unknown."""

    def __init__(self, model: Model, seconds: float) -> None:
        self.model = model
        self.deadline = time.monotonic() + seconds
        self.known: dict[Problem, float] = {}

    @property
    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def measured(self, layers: Sequence[Layer], batch: int, mode: Mode, *, first: bool = False) -> float | None:
        """Seconds for a batch, by the fastest algorithms that were measured; None where something was not.

        See `problems` for the arguments.
        """
        total = 0.0
        for layer, problem in problems(layers, batch, mode, first=first):
            seconds = self._convolution(problem, layer) if isinstance(layer.op, Conv2d) else self._linear(problem)
            if seconds is None:
                return None
            total += seconds
        return total

    def _convolution(self, problem: Problem, layer: Layer) -> float | None:
        chosen = self.model.decide(problem, layer).chosen
        times = Tuner(max(0.0, self._left), self.model.threads)([(problem, name) for name in {chosen: 0, PLAIN: 0}])
        # On a busy machine a short time may drown in that of a launch.
        return min((seconds for seconds in times.values() if seconds > 0), default=None)

    def _linear(self, problem: Problem) -> float | None:
        if problem not in self.known:
            if self._left <= 0:
                return None
            self.known[problem] = measure_graph(linear_graph(problem), problem.batch, self.model.threads)
        return self.known[problem] or None


def linear_graph(problem: Problem) -> Graph:
    """A graph with one product of a fully connected layer: `problem` has images of one pixel."""
    rows, results = (problem.batch, problem.channels), (problem.batch, problem.filters)
    second: Shape = results if problem.direction == "backward_weights" else (problem.filters, problem.channels)
    graph = Graph("tune")
    builder = Builder(graph)
    with builder.at((), LABEL):
        x = graph.add_input("x", f32(*(results if problem.direction == "backward_data" else rows)))
        add = graph.add_input if problem.direction == "backward_weights" else graph.add_parameter
        graph.outputs["logits"] = builder.add(_PRODUCTS[problem.direction], x, add("other", f32(*second)))
    return graph
