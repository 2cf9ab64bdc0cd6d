"""Op cases of enlarged images."""

from __future__ import annotations

from convc.ir.ops.resample import MODES, Upsample, UpsampleBackward
from tests.op_case import OpCase, Shape, normal

_IMAGES: list[tuple[str, Shape, int]] = [
    ("plain", (2, 3, 3, 4), 2),
    ("one_pixel", (1, 1, 1, 1), 2),
    ("one_pixel_by_5", (2, 3, 1, 1), 5),
    ("by_1", (2, 3, 3, 2), 1),
    ("by_3", (1, 5, 2, 3), 3),
    ("by_4", (1, 2, 3, 2), 4),
    ("row", (2, 3, 1, 5), 2),
    ("column", (2, 1, 5, 1), 3),
    ("wide", (2, 50, 5, 3), 2),
    ("wide_by_3", (1, 20, 7, 5), 3),
]


def _upsamples() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, (n, c, height, width), factor in _IMAGES:
        large = (n, c, height * factor, width * factor)
        for mode in MODES:
            forward, backward, wide = Upsample(factor, mode), UpsampleBackward(factor, mode), name.startswith("wide")
            cases += [
                OpCase(f"upsample/{name}_{mode}", forward, (normal(n, c, height, width),), (0,), wide),
                OpCase(f"upsample_backward/{name}_{mode}", backward, (normal(*large),), (0,), wide),
            ]
    return cases


RESAMPLE_CASES: tuple[OpCase, ...] = tuple(_upsamples())
