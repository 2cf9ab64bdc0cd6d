"""Op cases of what happens to parameters: updates, mean gradients, norms and bounds, masks, weights made of weights."""

from __future__ import annotations

import numpy as np

from convc.ir.ops.binarize import Binarize
from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.loss_scaling import AllFinite, MoveScale, ScaleLoss, Unscale
from convc.ir.ops.round_to import RoundTo
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
                done = (*scaled, np.asarray(1.0))
                cases.append(OpCase(f"{op.name}/{name}_{shape_name}_guarded", op, done, (), wide))
                broken = np.full(shape, np.nan)
                skipped = (parameter, broken, *states, rate, count, np.asarray(np.inf), np.asarray(0.0))
                cases.append(OpCase(f"{op.name}/{name}_{shape_name}_skipped", op, skipped, (), wide))
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


def _with(value: float, shape: Shape, *place: int) -> Array:
    """Small and large numbers, and `value` at a place."""
    array = np.resize([1e-40, -3e38, 0.0, 1.5], shape).astype(np.float64)
    array[place] = value
    return array


def _loss_scaling() -> list[OpCase]:
    """Gradients in parts and in whole chunks, a number that is none anywhere; every turn that a scale takes."""
    cases = [
        OpCase(f"scale_loss/{loss:g}_{scale:g}", ScaleLoss(), (np.asarray(loss), np.asarray(scale)), (0,))
        for loss, scale in [(0.75, 1024.0), (-2.5, 3.0), (0.0, 2.0), (1e-3, 0.125)]
    ]
    for name, shape in _SHAPES:
        for scale in (65536.0, 3.0):
            operands = (normal(*shape), np.asarray(scale))
            cases.append(OpCase(f"unscale/{name}_{scale:g}", Unscale(), operands, (), name == "matrix"))
    for name, *gradients in [
        ("fine", _with(3e38, (5, 3), 4, 2), _with(0.0, (17,), 3)),
        ("chunks", _with(1.0, (131, 129), 0, 0), _with(2.0, (3,), 1), _with(-1.0, (100, 171), 99, 170)),
        ("infinite", _with(np.inf, (5, 3), 0, 0), _with(0.0, (17,), 3)),
        ("negative", _with(0.0, (5, 3), 0, 0), _with(-np.inf, (17,), 16)),
        ("nan_in_rest", _with(np.nan, (1,), 0), _with(0.0, (17,), 3)),
        ("nan_in_chunk", _with(0.0, (3,), 0), _with(np.nan, (131, 129), 77, 3)),
        ("nan_at_end", _with(0.0, (3,), 0), _with(np.nan, (131, 129), 130, 128)),
        ("both", _with(np.inf, (64,), 5), _with(-np.inf, (64,), 5)),
    ]:
        cases.append(OpCase(f"all_finite/{name}", AllFinite(), tuple(gradients)))
    dynamic, static = MoveScale(interval=5), MoveScale(growth=1.0, backoff=1.0, interval=5)
    for name, op, *state in [
        ("good", dynamic, 1024.0, 3.0, 2.0, 1.0),
        ("grows", dynamic, 1024.0, 4.0, 2.0, 1.0),
        ("at_its_largest", dynamic, 2.0**24, 4.0, 0.0, 1.0),
        ("beyond", dynamic, 2.0**30, 4.0, 0.0, 1.0),
        ("shrinks", dynamic, 1024.0, 4.0, 2.0, 0.0),
        ("near_its_smallest", dynamic, 1.5, 0.0, 9.0, 0.0),
        ("at_its_smallest", dynamic, 1.0, 0.0, 99.0, 0.0),
        ("below", dynamic, 0.25, 0.0, 0.0, 0.0),
        ("factors", MoveScale(4.0, 0.25, 1), 64.0, 0.0, 0.0, 1.0),
        ("static_good", static, 0.75, 4.0, 0.0, 1.0),
        ("static_skipped", static, 2.0**40, 4.0, 7.0, 0.0),
    ]:
        cases.append(OpCase(f"move_scale/{name}", op, tuple(map(np.asarray, state))))
    return cases


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
        # Numbers that both types have: nothing is left to chance. What is rounded: tests/codegen/test_round_to.py.
        for kind in ("f16", "bf16"):
            there = np.round(4 * np.random.default_rng(1).standard_normal(shape)) / 4
            cases.append(OpCase(f"round_to/{kind}/{name}", RoundTo(kind, "stochastic", 7), (there, *key), (), wide))
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


def _one_bit() -> list[OpCase]:
    cases = [
        OpCase(f"binarize/{name}", Binarize(), (normal(*shape),), (), name == "wide")
        for name, shape in [
            ("filters", (5, 3, 3, 3)),
            ("depthwise", (7, 1, 3, 5)),
            ("matrix", (7, 17)),
            ("one", (1, 1)),
            ("wide", (50, 33)),
            ("deep", (19, 65, 3, 3)),
        ]
    ]
    # Zeros of either sign count as above zero; the second output is nothing but zeros.
    signs = np.array([[0.0, -0.0, -2.0, 1e-30], [0.0, -0.0, 0.0, 0.0], [-1.0, -1e-30, 1e-30, 3e38]])
    return [*cases, OpCase("binarize/zeros", Binarize(), (signs,))]


UPDATE_CASES: tuple[OpCase, ...] = (
    *_updates(),
    *_means(),
    *_norms(),
    *_loss_scaling(),
    *_masks(),
    *_units(),
    *_one_bit(),
)
