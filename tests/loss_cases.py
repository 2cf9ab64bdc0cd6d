"""Op cases of the losses that compare scores with targets directly."""

from __future__ import annotations

from dataclasses import replace

from convc.ir.ops.distance import Hinge, HingeBackward, MeanSquaredError, MeanSquaredErrorBackward
from tests.op_case import OpCase, Random, Shape, labels, normal

_SHAPES: list[tuple[str, Shape]] = [
    ("mnist", (7, 10)),
    ("one_class", (2, 1)),
    ("three", (1, 3)),
    ("pixels", (2, 3, 4, 5)),
    ("one_pixel", (2, 5, 1, 1)),
    ("wide", (7, 1000)),
    ("wide_rest", (3, 53)),
]


def _losses() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, shape in _SHAPES:
        # Rows of distinct multiples of 1/64, margins between them: no difference lies on the kink.
        scores, truth, wide = Random(shape, "distinct"), labels(shape[1], shape[0], *shape[2:]), name.startswith("wide")
        for margin in (1 + 1 / 128, 1 / 128):
            suffix = f"{name}_{margin}"
            cases += [
                OpCase(f"hinge/{suffix}", Hinge(margin), (scores, truth), (0,), wide),
                OpCase(f"hinge_backward/{suffix}", HingeBackward(margin), (normal(), scores, truth), (), wide),
            ]
        ties = replace(scores, kind="ties")
        cases += [
            OpCase(f"hinge/{name}_ties", Hinge(1.0), (ties, truth), (), wide),
            OpCase(f"hinge_backward/{name}_ties", HingeBackward(1.0), (normal(), ties, truth), (), wide),
        ]
        x, backward = normal(*shape), MeanSquaredErrorBackward()
        cases += [
            OpCase(f"mse/{name}", MeanSquaredError(), (x, normal(*shape)), (0, 1), wide),
            OpCase(f"mse/{name}_labels", MeanSquaredError(), (x, truth), (0,), wide),
            OpCase(f"mse_backward/{name}", backward, (normal(), x, normal(*shape)), (), wide),
            OpCase(f"mse_backward/{name}_labels", backward, (normal(), x, truth), (), wide),
        ]
    return cases


LOSS_CASES: tuple[OpCase, ...] = tuple(_losses())
