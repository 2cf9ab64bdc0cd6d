"""Op cases of what happens to parameters: updates, mean gradients, norms and bounds, masks, weights made of weights."""

from __future__ import annotations

import numpy as np

from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.sweep import Accumulate, GradientNorm, MaxNorm
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate, Update
from tests.op_case import Array, OpCase, Random, Shape, normal

_SHAPES: list[tuple[str, Shape]] = [("filter", (5, 3, 3, 3)), ("bias", (17,)), ("one", (1,)), ("matrix", (50, 33))]
_POSITIVE = ("square", "sum")


def _whole(value: int) -> Array:
    return np.asarray(value, np.int32)


def _updates() -> list[OpCase]:
    rate, step = np.asarray(0.125), _whole(3)
    variants: list[tuple[str, Update, Array]] = [
        ("plain", SgdUpdate(), step),
        ("l2", SgdUpdate(l2=0.25), step),
        ("l1", SgdUpdate(l1=0.25), step),
        ("elastic_net", SgdUpdate(l1=0.125, l2=0.25), step),
        ("momentum", SgdUpdate(momentum=0.9), step),
        ("nesterov", SgdUpdate(momentum=0.9, nesterov=True, l2=1e-3), step),
        ("slow_layer", SgdUpdate(momentum=0.5, lr_scale=0.1), step),
        ("plain", AdagradUpdate(), step),
        ("elastic_net", AdagradUpdate(l1=0.125, l2=0.25, lr_scale=0.5, eps=1e-3), step),
        ("plain", RmspropUpdate(), step),
        ("momentum", RmspropUpdate(momentum=0.9, alpha=0.5), step),
        ("elastic_net", RmspropUpdate(l1=0.125, l2=0.25, lr_scale=2.0, eps=1e-3), step),
        ("plain", AdamUpdate(), step),
        ("first_step", AdamUpdate(), _whole(1)),
        ("late", AdamUpdate(eps=1e-4), _whole(100_000)),
        ("betas", AdamUpdate(beta1=0.5, beta2=0.75), step),
        ("elastic_net", AdamUpdate(l1=0.125, l2=0.25, lr_scale=2.0), step),
        ("plain", AdamWUpdate(), step),
        ("l1", AdamWUpdate(l1=0.25), _whole(1)),
        ("elastic_net", AdamWUpdate(l1=0.125, l2=0.25, lr_scale=2.0, beta1=0.5), step),
    ]
    cases: list[OpCase] = []
    for name, op, count in variants:
        for shape_name, shape in _SHAPES:
            # Second moments are not negative.
            states = [Random(shape, "positive" if state in _POSITIVE else "normal") for state in op.states]
            parameter = Random(shape, "nonzero" if name != "l1" else "ties")
            operands = (parameter, normal(*shape), *states, rate, count)
            wide = shape_name == "matrix"
            cases.append(OpCase(f"{op.name}/{name}_{shape_name}", op, operands, (), wide))
            if name in ("plain", "elastic_net"):
                scaled = (*operands, np.asarray(0.375))
                cases.append(OpCase(f"{op.name}/{name}_{shape_name}_scaled", op, scaled, (), wide))
    return cases


def _means() -> list[OpCase]:
    return [
        OpCase(
            f"accumulate/{name}_{rows}_after_{seen}", Accumulate(),
            (normal(*shape), normal(*shape), _whole(rows), _whole(seen)), (), name == "matrix",
        )
        for name, shape in _SHAPES
        for rows, seen in [(2, 0), (2, 6), (2, 5)]
    ]  # fmt: skip


def _norms() -> list[OpCase]:
    several = [normal(*shape) for _, shape in _SHAPES]
    cases = [OpCase(f"gradient_norm/{name}", GradientNorm(), (normal(*shape),)) for name, shape in _SHAPES]
    cases += [
        OpCase("gradient_norm/several", GradientNorm(), tuple(several)),
        OpCase("gradient_norm/chunks", GradientNorm(), (normal(100, 171), normal(3), normal(131, 129))),
        OpCase("gradient_norm/huge", GradientNorm(), (np.full((3, 7), 1e30), np.full(5, -1e30))),
        OpCase("gradient_norm/zero", GradientNorm(), (np.zeros((2, 3)), np.zeros(1))),
    ]
    for name, shape, op in [
        ("fc", (50, 33), MaxNorm(5.5)),
        ("filters", (5, 3, 3, 3), MaxNorm(5.0)),
        ("one", (1, 1), MaxNorm(0.01)),
        ("loose", (5, 3, 2, 2), MaxNorm(100.0)),
        ("transposed", (6, 5, 2, 3), MaxNorm(5.0, 1)),
        ("transposed_groups", (6, 5, 2, 3), MaxNorm(3.5, 1, 2)),
    ]:
        cases.append(OpCase(f"max_norm/{name}", op, (normal(*shape),)))
    return [*cases, OpCase("max_norm/zero", MaxNorm(), (np.zeros((3, 2)),))]


def _masks() -> list[OpCase]:
    key = (_whole(7), _whole(3))
    cases: list[OpCase] = []
    for name, shape in [("small", (5, 3)), ("one", (1, 1)), ("odd", (10, 17)), ("wide", (50, 33))]:
        wide = name == "wide"
        op = DropConnectTraining(0.5, 12345)
        cases += [
            OpCase(f"drop_connect/{name}", DropConnect(0.5, 1), (normal(*shape),)),
            OpCase(f"drop_connect_training/{name}", op, (normal(*shape), *key), (0,), wide),
        ]
    few = DropConnectTraining(0.1, 2**32 - 1)
    return [*cases, OpCase("drop_connect_training/few", few, (normal(20, 7), *key), (0,))]


def _units() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, shape, axis, groups in [
        ("outputs", (5, 3, 3, 3), 0, 1),
        ("inputs", (5, 3, 3, 3), 1, 1),
        ("inputs_of_groups", (6, 5, 2, 3), 1, 3),
        ("matrix", (7, 17), 0, 1),
        ("features", (7, 17), 1, 1),
        ("one", (1, 1), 0, 1),
        ("wide", (50, 33), 0, 1),
    ]:
        units, wide = groups * shape[axis], name == "wide"
        scaled = OpCase(
            f"scale_weights/{name}", ScaleWeights(axis, groups), (normal(*shape), normal(units)), (0, 1), wide
        )
        cases += [scaled, OpCase(f"sum_weights/{name}", SumWeights(axis, groups), (normal(*shape),), (0,), wide)]
    return cases


UPDATE_CASES: tuple[OpCase, ...] = (*_updates(), *_means(), *_norms(), *_masks(), *_units())
