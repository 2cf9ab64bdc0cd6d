"""Optimiser updates. Formulas and defaults are PyTorch's, except that `l2` adds λ‖θ‖² (gradient 2λθ) to the objective.

An instance without operands is also the configuration of an optimiser: the pass `training` applies it per parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Op, require, traffic
from convc.ir.types import TensorType


@dataclass(frozen=True)
class Update(Op):
    """Base. Operands: parameter, gradient, the tensors of `states`, lr, step (from 1). Results: parameter, states."""

    l2: float = 0.0
    l1: float = 0.0
    lr_scale: float = 1.0

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the tensors, shaped like the parameter, that the optimiser keeps beside it."""
        return ()

    @property
    def result_count(self) -> int:
        return 1 + len(self.states)

    def batched(self, operands: tuple[bool, ...]) -> tuple[bool, ...]:
        return (False,) * self.result_count

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        parameter, tensors = operands[0], operands[1:-2]
        require(len(tensors) == 1 + len(self.states), "{} takes {} states", self.name, len(self.states))
        for tensor in tensors:
            require(tensor.shape == parameter.shape, "parameter {} against {}", parameter, tensor)
        lr, step = operands[-2:]
        require(lr.rank == 0 and step.rank == 0, "learning rate and step are scalars, not {} and {}", lr, step)
        return (parameter,) * self.result_count

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(10 * operands[0].size, traffic(*operands, *self.result_types(*operands)))

    def regularised(self, p: Array, g: Array) -> Array:
        """The gradient with that of the penalties: + 2·l2·θ + l1·sign(θ), sign(0) = 0."""
        return g + p.dtype.type(2 * self.l2) * p + p.dtype.type(self.l1) * np.sign(p)


@dataclass(frozen=True)
class SgdUpdate(Update):
    """v ← momentum·v + g;  θ ← θ − lr·v  (nesterov: θ − lr·(g + momentum·v))."""

    name: ClassVar[str] = "sgd_update"
    momentum: float = 0.0
    nesterov: bool = False

    @property
    def states(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def reference(self, *operands: Array) -> tuple[Array, ...]:
        p, g, *states, lr, _ = operands
        g = self.regularised(p, g)
        rate = p.dtype.type(self.lr_scale) * lr.astype(p.dtype)
        if not states:
            return (p - rate * g,)
        momentum = p.dtype.type(self.momentum)
        velocity = momentum * states[0] + g
        return p - rate * (g + momentum * velocity if self.nesterov else velocity), velocity


@dataclass(frozen=True)
class AdamUpdate(Update):
    """m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  θ ← θ − lr·m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε)  (Kingma & Ba 2015)."""

    name: ClassVar[str] = "adam_update"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def states(self) -> tuple[str, ...]:
        return ("mean", "square")

    def reference(self, *operands: Array) -> tuple[Array, ...]:
        p, g, mean, square, lr, step = operands
        kind = p.dtype.type
        g = self.regularised(p, g)
        mean = kind(self.beta1) * mean + kind(1 - self.beta1) * g
        square = kind(self.beta2) * square + kind(1 - self.beta2) * g * g
        rate = kind(self.lr_scale * float(lr) / (1 - self.beta1 ** int(step)))
        correction = kind(1 / np.sqrt(1 - self.beta2 ** int(step)))
        return p - rate * mean / (np.sqrt(square) * correction + kind(self.eps)), mean, square
