"""Op cases of elements carried to other places: rearranged axes, and borders added or cut off."""

from __future__ import annotations

from convc.ir.ops.pad import Pad
from convc.ir.ops.rearrange import Rearrange
from tests.op_case import OpCase, Shape, normal

# Images or rows, the view of a row, the order of its axes, the shape of a row of the result.
_ORDERS: list[tuple[str, Shape, Shape, tuple[int, ...], Shape]] = [
    ("nothing", (2, 3, 4, 5), (60,), (0,), (3, 4, 5)),
    ("nhwc_to_nchw", (2, 4, 5, 3), (20, 3), (1, 0), (3, 4, 5)),
    ("nchw_to_nhwc", (1, 6, 4, 5), (6, 20), (1, 0), (4, 5, 6)),
    ("transposed_images", (2, 3, 4, 5), (3, 4, 5), (0, 2, 1), (3, 5, 4)),
    ("all_axes", (2, 3, 4, 5), (3, 4, 5), (2, 0, 1), (5, 3, 4)),
    ("channel_shuffle", (2, 6, 3, 2), (2, 3, 6), (1, 0, 2), (6, 3, 2)),
    ("depth_to_space", (2, 8, 2, 3), (2, 2, 2, 2, 3), (2, 3, 0, 4, 1), (2, 4, 6)),
    ("space_to_depth", (1, 2, 4, 6), (2, 2, 2, 3, 2), (2, 4, 0, 1, 3), (8, 2, 3)),
    ("rows", (7, 12), (3, 4), (1, 0), (12,)),
    ("rows_to_images", (2, 24), (2, 3, 4), (2, 0, 1), (4, 2, 3)),
    ("images_to_rows", (2, 3, 4, 2), (3, 8), (1, 0), (24,)),
    # Axes that lie across the borders of both shapes, so that nothing but division finds the place.
    ("across", (2, 6, 1, 1), (2, 3), (1, 0), (2, 3, 1)),
    ("across_maps", (1, 4, 3, 3), (2, 9, 2), (2, 0, 1), (3, 6, 2)),
    ("single", (2, 1, 5, 4), (5, 4), (1, 0), (1, 4, 5)),
    ("wide_shuffle", (2, 58, 5, 5), (2, 29, 25), (1, 0, 2), (58, 5, 5)),
    ("wide_nhwc", (1, 7, 5, 50), (35, 50), (1, 0), (50, 7, 5)),
]

_BORDERS: list[tuple[str, Shape, tuple[int, int, int, int], float]] = [
    ("zeros", (2, 3, 4, 5), (1, 1, 1, 1), 0.0),
    ("value", (1, 5, 3, 3), (0, 2, 1, 0), -1.5),
    ("crop", (2, 3, 6, 5), (-1, -2, -2, 0), 0.0),
    ("crop_and_pad", (2, 2, 5, 5), (-1, 2, 3, -2), 0.25),
    ("nothing", (1, 3, 2, 2), (0, 0, 0, 0), 1.0),
    ("one_pixel", (2, 1, 1, 1), (2, 0, 0, 3), 2.0),
    ("wide", (2, 50, 5, 3), (1, 2, 0, 1), 0.5),
    ("wide_crop", (1, 20, 7, 5), (-2, -1, -1, -1), 0.0),
]


def _cases() -> list[OpCase]:
    orders = [
        OpCase(f"rearrange/{name}", Rearrange(view, order, shape), (normal(*x),), (0,), name.startswith("wide"))
        for name, x, view, order, shape in _ORDERS
    ]
    borders = [
        OpCase(f"pad/{name}", Pad(sides, value), (normal(*x),), (0,), name.startswith("wide"))
        for name, x, sides, value in _BORDERS
    ]
    return [*orders, *borders]


REARRANGE_CASES: tuple[OpCase, ...] = tuple(_cases())
