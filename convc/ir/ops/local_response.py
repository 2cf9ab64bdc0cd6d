"""Local response normalisation across channels (Krizhevsky, Sutskever & Hinton 2012, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class _LocalResponse(Op):
    """Both directions. The window of channel c is c − ⌊size/2⌋ … c + ⌊(size − 1)/2⌋, cut off at the ends.

    For even sizes this is PyTorch's window; ONNX has the odd channel on the other side.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    @property
    def before(self) -> int:
        """How many channels below c the window of c holds."""
        return self.size // 2

    @property
    def after(self) -> int:
        """How many channels above c the window of c holds."""
        return (self.size - 1) // 2

    def check(self, x: TensorType) -> None:
        require(x.rank >= 2, "there are no channels in {}", x)
        require(self.size >= 1, "a window holds at least 1 channel, not {}", self.size)
        positive = self.alpha >= 0 and self.k > 0
        require(positive, "alpha must not be negative and k must be positive, not {} and {}", self.alpha, self.k)

    def denominators(self, x: Array) -> Array:
        """d = k + alpha/size · Σ x² over each channel's window."""
        share = np.asarray(self.alpha / self.size, x.dtype)
        return np.asarray(self.k, x.dtype) + share * _windows(x * x, self.before, self.after)

    def cost(self, *operands: TensorType) -> Cost:
        results = self.result_types(*operands)
        return Cost((self.size + 40) * results[0].size, traffic(*operands, *results))


def _windows(x: Array, before: int, after: int) -> Array:
    """Σ over the channels c − before … c + after, for every c."""
    channels = x.shape[1]
    padded = np.pad(x, ((0, 0), (before, after), *((0, 0),) * (x.ndim - 2)))
    return np.stack([padded[:, c : c + before + 1 + after].sum(1) for c in range(channels)], 1)


@dataclass(frozen=True)
class LocalResponseNorm(_LocalResponse):
    """x / (k + alpha/size · Σ x²)^beta, the sum over `size` neighbouring channels of the same position."""

    name: ClassVar[str] = "lrn"

    def infer(self, x: TensorType) -> TensorType:
        self.check(x)
        return x.with_shape(x.shape)

    def reference(self, x: Array) -> Array:
        return x * self.denominators(x) ** np.asarray(-self.beta, x.dtype)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # With d_c = k + α/size · Σ_{j∈W(c)} x_j² and y_c = x_c·d_c^−β:
        #   ∂y_c/∂x_i = [c = i]·d_c^−β − [i ∈ W(c)] · 2αβ/size · x_c·x_i·d_c^(−β−1)
        #   dx_i = dy_i·d_i^−β − 2αβ/size · x_i · Σ_{c: i∈W(c)} dy_c·x_c·d_c^(−β−1)
        # i ∈ W(c) where c lies in the window of i turned around.
        (dy,) = cotangents
        return (b.add(LocalResponseNormBackward(**self.attributes), dy, node.operands[0]),)


@dataclass(frozen=True)
class LocalResponseNormBackward(_LocalResponse):
    """dy, x -> dx of `lrn`."""

    name: ClassVar[str] = "lrn_backward"

    def infer(self, dy: TensorType, x: TensorType) -> TensorType:
        self.check(x)
        require(dy.shape == x.shape, "the cotangent is {}, the value {}", dy, x)
        return x.with_shape(x.shape)

    def reference(self, dy: Array, x: Array) -> Array:
        d = self.denominators(x)
        power = d ** np.asarray(-self.beta, x.dtype)
        factor = np.asarray(2 * self.alpha * self.beta / self.size, x.dtype)
        return dy * power - factor * x * _windows(dy * x * power / d, self.after, self.before)
