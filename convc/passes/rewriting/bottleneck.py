"""A convolution between two pointwise ones, from its trained weights.

    conv K k=(R, S)    →    conv a k=1 bias=no  ->  conv b k=(R, S) bias=no  ->  conv K k=1

The composition is w[k,c] = Σ_{j<b} Σ_{i<a} last[k,j]·core[j,i]·first[i,c], a Tucker decomposition of the kernel along
its two axes of channels. The singular vectors of the two unfoldings give a start (HOSVD), and alternating between them
the rest (higher-order orthogonal iteration), which never makes it worse: a local optimum, not always the best one.
Exact at a = min(C, K·R·S), b = min(K, C·R·S). (De Lathauwer, De Moor, Vandewalle: "On the best rank-1 and
rank-(R1,…,RN) approximation of higher-order tensors", 2000; Kim et al.: "Compression of deep convolutional neural
networks for fast and low power mobile applications", 2016, Tucker-2.)

The middle layer has the stride, padding and dilation of the old one. `rank` is the width of both inner places, as far
as the layer is that wide; `energy` takes the fewest weights for which the HOSVD alone keeps enough. Without a rank it
is half the channels on each side, as in the lectures: 3.25C² weights in place of 9C².
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from convc.ir.ops.conv import Conv2d
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.ranked import Decision, Factors, RankedRule, Ranks

# The iteration ends when the part of the squared norm that is kept grows by less than this; most take a few rounds.
_STALLED = 1e-9
_ROUNDS = 100


@dataclass(frozen=True)
class Bottleneck(RankedRule):
    """k x k → 1 x 1, k x k, 1 x 1."""

    name: ClassVar[str] = "bottleneck"

    def unfit(self, old: Layer) -> str | None:
        if not isinstance(old.op, Conv2d):
            return "it is not a convolution"
        if old.op.groups > 1:
            return f"its {old.op.groups} groups do not mix channels, as the pointwise ones would"
        return "its kernel 1x1 has nothing to put between" if old.weight and old.weight[2:] == (1, 1) else None

    def full_ranks(self, old: Layer) -> Ranks:
        assert old.weight is not None
        filters, channels, rows, columns = old.weight
        return min(channels, filters * rows * columns), min(filters, channels * rows * columns)

    def usual(self, old: Layer) -> Decision:
        assert old.weight is not None
        filters, channels = old.weight[:2]
        most = self.full_ranks(old)
        halves = tuple(min(max(1, width // 2), full) for width, full in zip((channels, filters), most, strict=True))
        return Decision(halves, "half the channels on each side, as nothing was asked for")

    def layers(self, old: Layer, ranks: Ranks) -> tuple[Layer, ...]:
        assert isinstance(old.op, Conv2d)
        assert old.weight is not None
        filters, channels, *kernel = old.weight
        a, b = ranks
        first = Layer(Conv2d(), old.input, (a, channels, 1, 1))
        window = Conv2d(old.op.stride, old.op.padding, old.op.dilation)
        middle = Layer(window, first.output, (b, a, *kernel))
        return first, middle, Layer(Conv2d(), middle.output, (filters, b, 1, 1), old.bias)

    def take_apart(self, old: Layer, weight: np.ndarray) -> Factors:
        found: dict[Ranks, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

        def tucker(ranks: Ranks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            if ranks not in found:
                found[ranks] = decompose(weight, ranks)
            return found[ranks]

        def ranks_for(energy: float) -> Ranks:
            most = self.full_ranks(old)
            filters, channels, *kernel = weight.shape
            inner, outer = _leading(_unfold(weight, 1), most[0]), _leading(_unfold(weight, 0), most[1])
            squares = np.sum(_core(weight, inner, outer) ** 2, axis=(2, 3)).T
            kept = squares.cumsum(0).cumsum(1)  # by a and b
            a, b = (np.arange(1, full + 1) for full in most)
            weights = a[:, None] * channels + np.multiply.outer(a, b) * math.prod(kernel) + b * filters
            enough = kept >= energy * kept[-1, -1]
            best = np.unravel_index(np.argmin(np.where(enough, weights, weights.max() + 1)), weights.shape)
            return int(best[0]) + 1, int(best[1]) + 1

        def energy(ranks: Ranks) -> float:
            total = np.sum(weight**2)
            return min(1.0, float(np.sum(tucker(ranks)[1] ** 2) / total)) if total else 1.0

        def cut(ranks: Ranks) -> tuple[np.ndarray, ...]:
            inner, core, outer = tucker(ranks)
            return inner.T[:, :, None, None], core, outer[:, :, None, None]

        return Factors(ranks_for, energy, cut)

    def method(self, old: Layer) -> str:
        return "Tucker decomposition along the channels (HOSVD, refined by orthogonal iteration)"


def decompose(weight: np.ndarray, ranks: Ranks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthonormal bases of the input (C, a) and output channels (K, b), and the core (b, a, R, S) of weights
    (K, C, R, S), with `ranks` (a, b)."""
    a, b = ranks
    inner, outer = _leading(_unfold(weight, 1), a), _leading(_unfold(weight, 0), b)
    core = _core(weight, inner, outer)
    for _ in range(_ROUNDS):
        before = np.sum(core**2)
        inner = _leading(_unfold(np.einsum("kcrs,kb->bcrs", weight, outer), 1), a)
        outer = _leading(_unfold(np.einsum("kcrs,ca->kars", weight, inner), 0), b)
        core = _core(weight, inner, outer)
        if np.sum(core**2) - before <= _STALLED * before:
            break
    return inner, core, outer


def _core(weight: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    return np.einsum("kcrs,ca,kb->bars", weight, inner, outer, optimize=True)


def _unfold(tensor: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)


def _leading(matrix: np.ndarray, count: int) -> np.ndarray:
    """The first left singular vectors."""
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :count]
