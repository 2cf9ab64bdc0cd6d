"""The weights of a stack fitted to the outputs of the old layer on images, with its ReLUs and its padding.

Two starts, both made of the composition that was fitted to the kernel:

* as it is, with the ReLUs cutting off what is negative between;
* open: every hidden bias is raised by the lowest value of its channel on the images, so that no ReLU cuts anything off,
  and the biases of the next layer take that away again. The stack is linear then, and as good as its kernel, but for
  padding between: zeros there are no longer what the next layer takes away.

What is kept is refined by Levenberg–Marquardt on all weights and biases together (`least_squares.py`,
`stack_problem.py`), each step of which solves the last layer exactly and linearises the others. Work is bounded, by the
number of images first. Everything is compared on images that no fit has seen, and the best is taken: on those it is
never worse than the kernel alone. It is a local minimum, or not even that where the work ran out.

A net whose ReLUs are kept open is right at once, but may be hard to train: on the one net where it was measured (LeNet,
conv2, see docs/rewriting.md) an epoch more cost it 1 % of accuracy, and gained a little from the other start. So open
ReLUs are taken only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer, Weights
from convc.passes.rewriting.least_squares import Arrays, Effort, minimize
from convc.passes.rewriting.stack_problem import StackProblem

# Multiply-adds of a refinement, the iterations of conjugate gradients that it should have at least, and may have.
_WORK = 8e10
_ENOUGH, _MOST = 80, 300
# Numbers in the patches of all layers together.
_ELEMENTS = 1 << 25
KERNEL, OPEN = "the kernel", "ReLUs kept open"


@dataclass(frozen=True, eq=False)
class DataFit:
    """The weights of each convolution, and how they were found. `tried` are the relative output errors of all starts
    and refinements by their names, on the images that were `held` back; `images` were fitted to."""

    weights: list[Weights]
    chosen: str
    tried: dict[str, float]
    images: int
    held: np.ndarray


def fit_to_data(
    layers: Sequence[Layer],
    start: Sequence[Weights],
    relu: bool,
    x: np.ndarray,
    old: Callable[[np.ndarray], np.ndarray],
    error: Callable[[Sequence[Weights], np.ndarray], float],
    keep_open: bool = False,
    seed: int = 0,
) -> DataFit:
    """Fit convolutions `layers`, with ReLUs between if `relu`, to the function `old` on images x (N, C, H, W).

    With `keep_open` ReLUs kept open may be taken; without, their error is reported all the same. A quarter of the
    images is held back, to be compared by `error`; a single one serves for both.
    """
    order = np.random.default_rng(seed).permutation(len(x))
    held = np.sort(order[: max(1, len(x) // 4)])
    seen = order[len(held) :] if len(x) > 1 else order
    seen = np.sort(seen[: _affordable(layers)])
    shown = x[seen].astype(np.float64)
    problem = StackProblem.of(layers, relu, shown, old(shown))
    arrays = [form.matrix(own) for form, own in zip(problem.forms, start, strict=True)]
    work = int(np.clip(_WORK / (_multiply_adds(layers) * len(seen)), _ENOUGH / 4, _MOST))
    effort = Effort(steps=40, inner=30, work=work, stalled=1e-3, enough=1e-7)
    found: dict[str, list[Weights]] = {}
    starts = {KERNEL: arrays, OPEN: opened(problem, arrays)} if relu else {KERNEL: arrays}
    for name, begin in starts.items():
        found[name] = _weights(problem, begin)
        if name == KERNEL or keep_open:
            found[f"{name}, refined"] = _weights(problem, minimize(problem, begin, effort).arrays)
    tried = {name: error(weights, x[held]) for name, weights in found.items()}
    allowed = [name for name in found if keep_open or not name.startswith(OPEN)]
    chosen = min(allowed, key=lambda name: tried[name])
    return DataFit(found[chosen], chosen, tried, len(seen), held)


def opened(problem: StackProblem, arrays: Arrays) -> Arrays:
    """Biases between at which no ReLU cuts anything off on the images of the problem, made up for by the next layer."""
    arrays = [array.copy() for array in arrays]
    for index, form in enumerate(problem.forms[1:], 1):
        given = problem.at(arrays).patches[index - 1] @ arrays[index - 1].T
        raised = np.maximum(0, -given.min(axis=0))
        arrays[index - 1][:, -1] += raised
        taps = arrays[index][:, : form.columns].reshape(len(arrays[index]), -1, len(raised))
        arrays[index][:, -1] -= (taps @ raised).sum(axis=1)
    return arrays


def _weights(problem: StackProblem, arrays: Arrays) -> list[Weights]:
    return [form.weights(array) for form, array in zip(problem.forms, arrays, strict=True)]


def _multiply_adds(layers: Sequence[Layer]) -> float:
    """Of one iteration of conjugate gradients for one image: two products for J·d, two for its adjoint."""
    return 4.0 * sum(layer.macs for layer in layers)


def _affordable(layers: Sequence[Layer]) -> int:
    """How many images leave time for enough iterations, and fit into memory."""
    patches = sum(layer.macs // layer.output[0] for layer in layers)
    return int(max(1, min(_WORK / (_ENOUGH * _multiply_adds(layers)), _ELEMENTS / patches)))
