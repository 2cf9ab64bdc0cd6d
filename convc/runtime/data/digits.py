"""The 1797 handwritten digits of 8x8 pixels that scikit-learn ships: a real set small enough for a test.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convc.ir.diagnostic import fail
from convc.runtime.data.arrays import make_split
from convc.runtime.data.dataset import Split
from convc.runtime.data.options import DataOptions
from convc.runtime.data.partition import choose_parts

CLASSES = tuple("0123456789")

_TEST_IMAGES = 360
_DARKEST = 16


def read_digits() -> dict[str, Split]:
    """1437 training and 360 test images (1, 8, 8), float32 in 0...1; the division is the same for every seed.

    Error: `data-missing` without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        fail(
            "data-missing", "`data digits` needs scikit-learn, which ships the images", hint="pip install scikit-learn"
        )
    bunch: Any = load_digits()
    # Sixteenths are exact in float32, but not in steps of 1/255.
    images = np.asarray(bunch.images, dtype=np.float32) / np.float32(_DARKEST)
    whole = make_split(images, np.asarray(bunch.target), "digits", (1, 8, 8))
    chosen = choose_parts({"train": whole.labels}, DataOptions(test=_TEST_IMAGES), "digits")
    return {part: whole.take(indices) for part, (_, indices) in chosen.items()}
