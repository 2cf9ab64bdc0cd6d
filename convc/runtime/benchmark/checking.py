"""Whether a contestant computes the net at all: nobody shall be timed, or praised, for another one."""

from __future__ import annotations

import numpy as np

from convc.lazy import dataclass
from convc.runtime.benchmark.task import TRAIN

# Float32 arithmetic in other orders and by other algorithms differs by some 1e-6; another net by far more than this.
TOLERANCE = 1e-3
# With 8 or 11 bits of precision every layer rounds, and libraries do so at other places.
_TOLERANCES = {"fp32": TOLERANCE, "fp16": 0.02, "bf16": 0.1, "int8": 0.3}
# Of the fall of the loss over the steps: what a missing momentum or another learning rate changes by half.
_FALL_TOLERANCE = 0.05
# A fall that is smaller, relative to the loss, is lost in rounding.
_ROUNDING = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}


@dataclass(frozen=True)
class Check:
    """`deviation` is the largest difference, relative to our largest value; `problem` says why it cannot be right.

    Of a training it is that of the first loss, before any update. Updates let rounding grow: after four of them the
    losses of ResNet-50 on eight images differ by 1 % even between our own algorithms (docs/performance-log.md).
    """

    deviation: float | None
    problem: str | None = None


def compare(numbers: np.ndarray, ours: np.ndarray, mode: str, precision: str = "fp32") -> Check:
    """Compare what a peer computed, logits or the losses of some steps, with ours."""
    what = "losses" if mode == TRAIN else "logits"
    if numbers.shape != ours.shape:
        return Check(None, f"wrong net: its {what} have the shape {numbers.shape}, and ours {ours.shape}")
    if not np.isfinite(ours).all():
        return Check(None, f"not comparable: our {what} are not finite")
    if not np.isfinite(numbers).all():
        return Check(None, f"wrong net: its {what} are not finite")
    scale = float(np.abs(ours).max()) or 1.0
    differences = np.abs(numbers.astype(np.float64) - ours)
    deviation = float((differences[0] if mode == TRAIN else differences).max()) / scale
    if deviation > _TOLERANCES[precision]:
        what = "first loss differs" if mode == TRAIN else "logits differ"
        return Check(deviation, f"wrong net: its {what} from ours by {deviation:.1e} of the largest")
    return Check(deviation, _wrong_step(numbers, ours, scale * _ROUNDING[precision]) if mode == TRAIN else None)


def _wrong_step(losses: np.ndarray, ours: np.ndarray, rounding: float) -> str | None:
    """What is wrong with the updates, read off how far the loss has fallen after each of them; not what rounding may
    do."""
    for steps in range(1, len(ours)):
        fall, expected = (float(found[0] - found[steps]) for found in (losses, ours))
        if abs(fall - expected) > _FALL_TOLERANCE * abs(expected) + rounding:
            after = "a step" if steps == 1 else f"{steps} steps"
            return f"wrong step: in {after} its loss falls by {fall:.2e}, ours by {expected:.2e}"
    return None
