"""Op cases of what moves or weighs whole channels, and of what looks at neighbouring ones."""

from __future__ import annotations

from typing import Any

from convc.ir.ops.join import Concat, InsertChannels, SliceChannels
from convc.ir.ops.local_response import LocalResponseNorm, LocalResponseNormBackward
from convc.ir.ops.maps import ScaleMaps, SpatialSum, SpreadMaps
from tests.op_case import OpCase, Shape, normal

# Parts that begin at every lane of a vector, and rows without pixels.
_JOINS: list[tuple[str, Shape, tuple[int, ...]]] = [
    ("two", (2, 3, 5), (3, 2)),
    ("rows", (7,), (5, 6, 7)),
    ("single_channels", (2, 3, 3), (1, 1, 1)),
    ("one_and_many", (1, 2, 2), (1, 9, 1, 4)),
    ("aligned", (2, 3, 3), (4, 8, 16)),
    ("wide", (2, 5, 3), (17, 3, 30, 50, 1)),
    ("wide_rows", (7,), (33, 100)),
]
_SLICES: list[tuple[str, Shape, int, int]] = [
    ("middle", (2, 5, 3, 3), 1, 3),
    ("last_of_rows", (7, 9), 8, 1),
    ("from_the_end", (2, 6, 2, 3), 3, 3),
    ("all", (1, 3, 2, 2), 0, 3),
    ("one", (2, 1, 3, 3), 0, 1),
    ("wide", (2, 50, 3, 3), 13, 37),
    ("wide_middle", (2, 70, 3, 3), 3, 41),
]


def _joins() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, (n, *size), channels in _JOINS:
        parts = tuple(normal(n, c, *size) for c in channels)
        cases.append(OpCase(f"concat/{name}", Concat(), parts, tuple(range(len(parts))), name.startswith("wide")))
    for name, x, start, count in _SLICES:
        wide, (n, c, *size) = name.startswith("wide"), x
        insert = InsertChannels(start, c)
        cases += [
            OpCase(f"slice_channels/{name}", SliceChannels(start, count), (normal(*x),), (0,), wide),
            OpCase(f"insert_channels/{name}", insert, (normal(n, count, *size),), (0,), wide),
        ]
    return cases


def _maps() -> list[OpCase]:
    cases: list[OpCase] = []
    shapes = [("plain", (2, 3, 4, 5)), ("one_pixel", (1, 1, 1, 1)), ("row", (3, 5, 1, 7)), ("single", (2, 1, 5, 1))]
    for name, x in [*shapes, ("wide", (2, 50, 7, 3)), ("many_pixels", (1, 2, 40, 33))]:
        wide, small = name in ("wide", "many_pixels"), (*x[:2], 1, 1)
        cases += [
            OpCase(f"scale_maps/{name}", ScaleMaps(), (normal(*x), normal(*small)), (0, 1), wide),
            OpCase(f"spatial_sum/{name}", SpatialSum(), (normal(*x),), (0,), wide),
            OpCase(f"spread_maps/{name}", SpreadMaps((x[2], x[3])), (normal(*small),), (0,), wide),
        ]
    return cases


def _responses() -> list[OpCase]:
    cases: list[OpCase] = []
    strong = {"alpha": 0.75, "beta": 0.75, "k": 1.0}
    variants: list[tuple[str, Shape, dict[str, Any]]] = [
        ("odd", (2, 7, 3, 2), {"size": 3, **strong}),
        ("even", (2, 7, 3, 2), {"size": 4, **strong}),
        ("own_channel", (1, 5, 2, 2), {"size": 1, "alpha": 0.5, "beta": 0.5, "k": 2.0}),
        ("beyond_the_channels", (2, 3, 2, 3), {"size": 9, **strong}),
        ("one_channel", (2, 1, 3, 3), {"size": 5, **strong}),
        ("rows", (7, 10), {"size": 5, **strong}),
        ("weak", (2, 6, 3, 3), {}),
        ("fourth_root", (2, 6, 2, 2), {"size": 3, "alpha": 0.5, "beta": 0.25, "k": 2.0}),
        ("quotient", (2, 6, 2, 2), {"size": 3, "alpha": 0.5, "beta": 1.0, "k": 2.0}),
        ("any_exponent", (2, 6, 2, 2), {"size": 3, "alpha": 0.5, "beta": 0.6, "k": 2.0}),
        ("long_window", (2, 40, 2, 2), {"size": 31, **strong}),
        ("large_exponent", (1, 6, 2, 2), {"size": 2, "alpha": 1.0, "beta": 3.0, "k": 0.5}),
        ("wide", (2, 50, 9, 5), {"size": 5, **strong}),
        ("alexnet", (1, 96, 9, 9), {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}),
    ]
    for name, x, attributes in variants:
        wide = name in ("wide", "alexnet")
        backward = LocalResponseNormBackward(**attributes)
        cases += [
            OpCase(f"lrn/{name}", LocalResponseNorm(**attributes), (normal(*x),), (0,), wide),
            OpCase(f"lrn_backward/{name}", backward, (normal(*x), normal(*x)), (), wide),
        ]
    return cases


CHANNEL_CASES: tuple[OpCase, ...] = (*_joins(), *_maps(), *_responses())
