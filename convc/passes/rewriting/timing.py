"""How long layers will take, by the cost model of the algorithms that compute them.

A fully connected layer counts as a convolution with 1x1 kernels of images of one pixel. An activation takes no time of
its own: it rides in the epilogue of the kernel before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from convc.ir.ops.conv import Conv2d
from convc.lazy import dataclass
from convc.passes.algorithms.decision import PLAIN, Decision, Measured, decide
from convc.passes.algorithms.prediction import CONSTANTS, Constants
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.base import Mode
from convc.passes.machine import MACHINES, Tier
from convc.passes.rewriting.layer import Layer

_DIRECTIONS: dict[Mode, tuple[Direction, ...]] = {"infer": ("forward",), "train": get_args(Direction)}


@dataclass(frozen=True)
class Model:
    """The processor that times are predicted for; predictions for one core are divided by `threads`."""

    tier: Tier
    threads: int = 1
    constants: Constants | None = None

    def decide(self, problem: Problem, layer: Layer, measured: Measured | None = None) -> Decision:
        """The algorithm that computes a layer in one direction, as `choose-algorithms` chooses it."""
        wanted = "auto" if isinstance(layer.op, Conv2d) else PLAIN
        constants = self.constants or CONSTANTS[self.tier]
        return decide(problem, MACHINES[self.tier], constants, measured=measured, wanted=wanted)

    def predicted(self, layers: Sequence[Layer], batch: int, mode: Mode, *, first: bool = False) -> float:
        """Seconds for a batch, in training with both gradients; see `problems`."""
        total = 0.0
        for layer, problem in problems(layers, batch, mode, first=first):
            decision = self.decide(problem, layer)
            total += decision.candidate(decision.chosen).predicted or 0.0
        return total / self.threads


def problems(
    layers: Sequence[Layer], batch: int, mode: Mode, *, first: bool = False
) -> Iterator[tuple[Layer, Problem]]:
    """What has to be computed for layers that stand one behind the other: outputs and, in training, gradients.

    Where they are the `first` of a net, nobody needs the gradient of what they read. Activations compute nothing.
    """
    weighted = [layer for layer in layers if layer.weight is not None]
    for number, layer in enumerate(weighted):
        for direction in _DIRECTIONS[mode]:
            if not (first and number == 0 and direction == "backward_data"):
                yield layer, _problem(layer, batch, direction)


def _problem(layer: Layer, batch: int, direction: Direction) -> Problem:
    assert layer.weight is not None
    filters, channels, *kernel = layer.weight
    op = layer.op
    if not isinstance(op, Conv2d):
        return Problem(direction, batch, channels, filters, (1, 1), (1, 1), (1, 1))
    return Problem(
        direction=direction,
        batch=batch,
        channels=channels * op.groups,
        filters=filters,
        size=(layer.input[1], layer.input[2]),
        output=(layer.output[1], layer.output[2]),
        kernel=(kernel[0], kernel[1]),
        stride=op.stride,
        padding=op.padding,
        dilation=op.dilation,
        groups=op.groups,
    )
