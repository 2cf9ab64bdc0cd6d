"""Optimiser updates. Formulas and defaults are PyTorch's, except that `l2` adds λ‖θ‖² (gradient 2λθ) to the objective.

An instance without operands is also the configuration of an optimiser: the pass `training` applies it per parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

import numpy as np

from convc.ir.op import Array, Cost, require, traffic
from convc.ir.ops.sweep import Sweep
from convc.ir.types import TensorType
from convc.lazy import dataclass

Operand = TypeVar("Operand")


@dataclass(frozen=True)
class Update(Sweep):
    """Base. Operands: parameter, gradient, the tensors of `states`, lr, step (from 1) and, optionally, a scalar that
    the gradient is multiplied with before anything else, and behind it another one: where it is 0 nothing is updated,
    and all stay bit for bit what they are, whatever the gradient is. Results: parameter, states."""

    l2: float = 0.0
    l1: float = 0.0
    lr_scale: float = 1.0

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the tensors, shaped like the parameter, that the optimiser keeps beside it."""
        return ()

    @property
    def tensors(self) -> int:
        return 2 + len(self.states)

    @property
    def result_count(self) -> int:
        return 1 + len(self.states)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        scalars = operands[self.tensors :]
        require(2 <= len(scalars) <= 4, "{} takes {} states", self.name, len(self.states))
        parameter, *tensors = operands[: self.tensors]
        for tensor in tensors:
            require(tensor.shape == parameter.shape, "parameter {} against {}", parameter, tensor)
        lr, step, *others = scalars
        require(lr.rank == 0 and step.rank == 0, "learning rate and step are scalars, not {} and {}", lr, step)
        for other in others:
            require(other.rank == 0, "the gradient's factor and whether to update are scalars, not {}", other)
        return (parameter,) * self.result_count

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(10 * operands[0].size, traffic(*operands, *self.result_types(*operands)))

    def reference(self, *operands: Array) -> tuple[Array, ...]:
        p, g, *states = operands[: self.tensors]
        lr, step, *others = operands[self.tensors :]
        if len(others) == 2 and not others[1]:
            return (p, *states)
        for factor in others[:1]:
            g = g * factor.astype(g.dtype)
        return self.move(p, g, states, float(lr), int(step))

    def guard(self, operands: Sequence[Operand]) -> Operand | None:
        """Of a node's operands the one that says whether to update; None where it always does."""
        return operands[self.tensors + 3] if len(operands) == self.tensors + 4 else None

    def move(self, p: Array, g: Array, states: list[Array], lr: float, step: int) -> tuple[Array, ...]:
        """The parameter and the states after an update with gradient g."""
        raise AssertionError(f"{type(self).__name__} has no rule")

    def regularised(self, p: Array, g: Array) -> Array:
        """The gradient with that of the penalties."""
        return g + self.penalty(p)

    def penalty(self, p: Array) -> Array:
        """2·l2·θ + l1·sign(θ), sign(0) = 0: the gradient of the penalties."""
        return p.dtype.type(2 * self.l2) * p + p.dtype.type(self.l1) * np.sign(p)


@dataclass(frozen=True)
class SgdUpdate(Update):
    """v ← momentum·v + g;  θ ← θ − lr·v  (nesterov: θ − lr·(g + momentum·v))."""

    name: ClassVar[str] = "sgd_update"
    momentum: float = 0.0
    nesterov: bool = False

    @property
    def states(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def move(self, p: Array, g: Array, states: list[Array], lr: float, step: int) -> tuple[Array, ...]:
        g = self.regularised(p, g)
        rate = p.dtype.type(self.lr_scale * lr)
        if not states:
            return (p - rate * g,)
        momentum = p.dtype.type(self.momentum)
        velocity = momentum * states[0] + g
        return p - rate * (g + momentum * velocity if self.nesterov else velocity), velocity


@dataclass(frozen=True)
class AdagradUpdate(Update):
    """s ← s + g²;  θ ← θ − lr·g / (√s + ε)  (Duchi, Hazan & Singer 2011)."""

    name: ClassVar[str] = "adagrad_update"
    eps: float = 1e-10

    @property
    def states(self) -> tuple[str, ...]:
        return ("sum",)

    def move(self, p: Array, g: Array, states: list[Array], lr: float, step: int) -> tuple[Array, ...]:
        kind = p.dtype.type
        g = self.regularised(p, g)
        total = states[0] + g * g
        return p - kind(self.lr_scale * lr) * g / (np.sqrt(total) + kind(self.eps)), total


@dataclass(frozen=True)
class RmspropUpdate(Update):
    """s ← α·s + (1−α)g²;  θ ← θ − lr·g / (√s + ε)  (Tieleman & Hinton 2012); with momentum
    v ← momentum·v + g / (√s + ε);  θ ← θ − lr·v."""

    name: ClassVar[str] = "rmsprop_update"
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0

    @property
    def states(self) -> tuple[str, ...]:
        return ("square", "momentum") if self.momentum else ("square",)

    def move(self, p: Array, g: Array, states: list[Array], lr: float, step: int) -> tuple[Array, ...]:
        kind = p.dtype.type
        g = self.regularised(p, g)
        square = kind(self.alpha) * states[0] + kind(1 - self.alpha) * g * g
        scaled = g / (np.sqrt(square) + kind(self.eps))
        rate = kind(self.lr_scale * lr)
        if not self.momentum:
            return p - rate * scaled, square
        velocity = kind(self.momentum) * states[1] + scaled
        return p - rate * velocity, square, velocity


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

    def move(self, p: Array, g: Array, states: list[Array], lr: float, step: int) -> tuple[Array, ...]:
        return self._adapted(p, self.regularised(p, g), states, lr, step)

    def _adapted(self, p: Array, g: Array, states: list[Array], lr: float, step: int) -> tuple[Array, ...]:
        kind = p.dtype.type
        mean = kind(self.beta1) * states[0] + kind(1 - self.beta1) * g
        square = kind(self.beta2) * states[1] + kind(1 - self.beta2) * g * g
        rate = kind(self.lr_scale * lr / (1 - self.beta1**step))
        correction = kind(1 / np.sqrt(1 - self.beta2**step))
        return p - rate * mean / (np.sqrt(square) * correction + kind(self.eps)), mean, square


@dataclass(frozen=True)
class AdamWUpdate(AdamUpdate):
    """θ ← θ − lr·(2·l2·θ + l1·sign θ), then Adam's update with the gradient alone (Loshchilov & Hutter 2019)."""

    name: ClassVar[str] = "adamw_update"

    def move(self, p: Array, g: Array, states: list[Array], lr: float, step: int) -> tuple[Array, ...]:
        return self._adapted(p - p.dtype.type(self.lr_scale * lr) * self.penalty(p), g, states, lr, step)
