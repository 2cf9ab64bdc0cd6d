"""The outputs of a stack of convolutions on images as a function of its weights, with derivatives.

    h_1 = relu(P(x)·W_1ᵀ),   h_2 = relu(P(h_1)·W_2ᵀ),   …,   residual = P(h_{n-1})·W_nᵀ − y

where P lays out patches (`unfolding.py`), padding is zeros as in the net, and biases are columns of the matrices. The
residual is linear in W_n, and piecewise smooth in the others: its derivative is that with every ReLU as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.least_squares import Arrays, Precondition
from convc.passes.rewriting.unfolding import Unfolding

# Eigenvectors of a Gram matrix beyond this size take longer than they save.
_LARGE = 1200


@dataclass(frozen=True, eq=False)
class StackPoint:
    """A stack with some weights: a `Linearization`.

    `patches[i]` is what layer i reads, `masks[i]` where the ReLU behind it is open; None without a ReLU.
    """

    problem: StackProblem
    arrays: Arrays
    patches: list[np.ndarray]
    masks: list[np.ndarray | None]
    residual: np.ndarray

    def forward(self, directions: Arrays) -> np.ndarray:
        moved = self.patches[0] @ directions[0].T
        for index, form in enumerate(self.problem.forms[1:], 1):
            images = self.problem.images(_masked(moved, self.masks[index - 1]), index)
            taps = self.arrays[index][:, : form.columns]
            moved = self.patches[index] @ directions[index].T + form.patches(images, bias=False) @ taps.T
        return moved

    def backward(self, residual: np.ndarray) -> Arrays:
        return [slope.T @ patches for slope, patches in zip(self._slopes(residual), self.patches, strict=True)]

    def precondition(self, damping: float) -> Precondition:
        """JᵀJ layer by layer as the Kronecker product of two Gram matrices, that of what the layer reads and that of
        the derivatives by what it gives; the last layer exactly. (Martens and Grosse, "Optimizing neural networks with
        Kronecker-factored approximate curvature", 2015.)"""
        inner, outer = self._factors

        def apply(arrays: Arrays) -> Arrays:
            result: Arrays = []
            for array, (reads, right), (gives, left) in zip(arrays, inner, outer, strict=True):
                turned = (left.T @ array if left is not None else array) @ (right if right is not None else 1.0)
                turned = turned / (gives[:, None] * reads + damping)
                turned = turned @ right.T if right is not None else turned
                result.append(left @ turned if left is not None else turned)
            return result

        return apply

    def _slopes(self, residual: np.ndarray) -> list[np.ndarray]:
        """The gradients of ⟨residual, outputs⟩ by what each layer gives before its ReLU."""
        result = [residual]
        for index in range(len(self.arrays) - 1, 0, -1):
            form = self.problem.forms[index]
            images = form.images(result[-1] @ self.arrays[index][:, : form.columns])
            result.append(_masked(images.reshape(-1, images.shape[-1]), self.masks[index - 1]))
        return result[::-1]

    @cached_property
    def _factors(self) -> tuple[list[_Eigen], list[_Eigen]]:
        # Random signs at the outputs: the mean of what comes back, times itself, is the Gram matrix.
        draw = np.random.default_rng(0)
        slopes = self._slopes(draw.integers(0, 2, self.residual.shape) * 2.0 - 1)
        inner, outer = [_eigen(patches) for patches in self.patches], [_eigen(slope) for slope in slopes]
        outer = [(values / len(slope), vectors) for slope, (values, vectors) in zip(slopes, outer, strict=True)]
        outer[-1] = np.ones(len(self.arrays[-1])), None
        return inner, outer


_Eigen = tuple[np.ndarray, np.ndarray | None]


def _masked(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return values if mask is None else values * mask


def _eigen(rows: np.ndarray) -> _Eigen:
    """Eigenvalues and vectors of rowsᵀ·rows; of a large one the diagonal, and None."""
    if rows.shape[1] > _LARGE:
        return np.einsum("pc,pc->c", rows, rows), None
    values, vectors = np.linalg.eigh(rows.T @ rows)
    return np.maximum(values, 0), vectors


@dataclass(frozen=True, eq=False)
class StackProblem:
    """‖stack(x) − expected‖ for the matrices of weights of its layers. `reads` are the patches of the first one;
    `expected` has a row for each position and a column for each filter."""

    forms: tuple[Unfolding, ...]
    relu: bool
    reads: np.ndarray
    expected: np.ndarray
    scale: float

    @classmethod
    def of(cls, layers: Sequence[Layer], relu: bool, x: np.ndarray, expected: np.ndarray) -> StackProblem:
        """For images x (N, C, H, W) and outputs (N, K, OH, OW); `layers` are the convolutions."""
        forms = tuple(map(Unfolding, layers))
        outputs = expected.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, expected.shape[1])
        reads = forms[0].patches(x.transpose(0, 2, 3, 1), layers[0].bias)
        return cls(forms, relu, reads, outputs, float(np.linalg.norm(outputs)) or 1.0)

    def at(self, arrays: Arrays) -> StackPoint:
        patches: list[np.ndarray] = [self.reads]
        masks: list[np.ndarray | None] = []
        for index, form in enumerate(self.forms[1:], 1):
            given = patches[-1] @ arrays[index - 1].T
            masks.append(given > 0 if self.relu else None)
            patches.append(form.patches(self.images(_masked(given, masks[-1]), index), form.layer.bias))
        return StackPoint(self, arrays, patches, masks, patches[-1] @ arrays[-1].T - self.expected)

    def images(self, rows: np.ndarray, index: int) -> np.ndarray:
        """What layer `index` reads, as images."""
        channels, height, width = self.forms[index].layer.input
        return rows.reshape(-1, height, width, channels)
