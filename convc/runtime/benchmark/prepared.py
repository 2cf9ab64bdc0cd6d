"""What a contestant hands over when it is ready: the step that is timed, and how to read its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convc.lazy import dataclass


@dataclass(frozen=True)
class Prepared:
    """`step` does one step and leaves nothing to wait for; `numbers` makes an array of what it returned.

    At inference these are the logits (N, classes, …), in training the loss before the update, a scalar.
    """

    version: str
    step: Callable[[], Any]
    numbers: Callable[[Any], np.ndarray]
