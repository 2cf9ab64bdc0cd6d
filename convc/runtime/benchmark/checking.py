"""Whether a contestant computes the net at all: nobody shall be timed, or praised, for another one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.runtime.benchmark.task import TRAIN

# Float32 arithmetic in other orders and by other algorithms differs by some 1e-6; another net by far more than this.
TOLERANCE = 1e-3
# Of the fall of the loss over the steps: what a missing momentum or another learning rate changes by half.
_FALL_TOLERANCE = 0.05
# A fall that is smaller, relative to the loss, is lost in rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Check:
    """`deviation` is the largest difference, relative to our largest value; `problem` says why it cannot be right."""

    deviation: float | None
    problem: str | None = None


def compare(numbers: np.ndarray, ours: np.ndarray, mode: str) -> Check:
    """Compare what a peer computed, logits or the losses of some steps, with ours."""
    what = "losses" if mode == TRAIN else "logits"
    if numbers.shape != ours.shape:
        return Check(None, f"wrong net: its {what} have the shape {numbers.shape}, and ours {ours.shape}")
    if not np.isfinite(ours).all():
        return Check(None, f"not comparable: our {what} are not finite")
    if not np.isfinite(numbers).all():
        return Check(None, f"wrong net: its {what} are not finite")
    scale = float(np.abs(ours).max()) or 1.0
    deviation = float(np.abs(numbers.astype(np.float64) - ours).max()) / scale
    if deviation > TOLERANCE:
        return Check(deviation, f"wrong net: its {what} differ from ours by {deviation:.1e} of the largest")
    if mode == TRAIN:
        fall, expected = (float(losses[0] - losses[-1]) for losses in (numbers, ours))
        if abs(fall - expected) > _FALL_TOLERANCE * abs(expected) + _ROUNDING * scale:
            steps = len(ours) - 1
            return Check(
                deviation, f"wrong step: in {steps} steps its loss falls by {fall:.2e}, ours by {expected:.2e}"
            )
    return Check(deviation)
