"""Losses: means over rows and pixels of what a team of threads computes of a pixel; and their gradients.

Each block adds up a part of the pixels, one block the parts, in their order. Which pixels form a part depends on the
shapes alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from convc.codegen.cuda.classification import Team, launch_teams
from convc.codegen.cuda.kernel import KernelBuilder, Work
from convc.codegen.cuda.maps import map_kernel
from convc.codegen.cuda.statistics import Parts, launch_sum
from convc.ir import ops
from convc.ir.graph import Value
from convc.ir.types import DType

# Pixels that a team treats one after the other.
_PIXELS_OF_TEAM = 4


def _targets(k: KernelBuilder, targets: Value) -> dict[str, str]:
    return {"BY_LABELS": "1" if targets.type.dtype is DType.I32 else "0"}


def _weight(k: KernelBuilder, weights: Value | None) -> str:
    """The function that gives the weight of a label."""
    given = "1.0f" if weights is None else f"to_float({k.name(weights)}[label])"
    return f"__device__ __forceinline__ float weight(PARAMETERS, int label) {{ return {given}; }}"


def _dloss(k: KernelBuilder, dloss: Value) -> dict[str, str]:
    return {"DLOSS": k.scalar(dloss)}


def _team(k: KernelBuilder, x: Value, targets: Value) -> Team:
    return Team.of(k, x, 1 if targets.type.dtype is DType.I32 else 2)


def _parts(k: KernelBuilder) -> Parts:
    x, targets = k.anchor.operands[:2]
    team = _team(k, x, targets)
    return Parts.of(team.image.pixels, x.shape[0], team.teams * _PIXELS_OF_TEAM)


def scratch_loss(k: KernelBuilder) -> int:
    return _parts(k).scratch_bytes


def _lower_loss(
    k: KernelBuilder,
    files: tuple[str, ...],
    constants: Mapping[str, int | float | bool | str],
    elements: str,
    flops: int,
    text: str = "",
) -> None:
    """The mean over so many elements per row of what the last of `files` makes of a pixel, in so many operations for
    each number of it; `elements` is "" for a sum."""
    x, targets, *_ = k.anchor.operands
    types = {"Image": k.element(x), "Target": k.element(targets)}
    launch_sum(
        k,
        ["team.cuh", *files, "loss.cu"],
        _parts(k),
        constants={**_team(k, x, targets).constants, **constants},
        types=types,
        names={"X": x, "TARGETS": targets, "LABELS": targets},
        text=text,
        divisor=f"(float)((Index)rows * {elements})" if elements else "1.0f",
        flops=flops * x.type.size,
    )


def lower_softmax_cross_entropy(k: KernelBuilder) -> None:
    op, (x, _, *weights) = k.op(ops.SoftmaxCrossEntropy), k.anchor.operands
    text = _weight(k, weights[0] if weights else None)
    pixels = str(k.image(x).pixels)
    _lower_loss(k, ("softmax_cross_entropy.cuh",), {"SMOOTH": op.smooth}, pixels, 4, text)


def lower_softmax_cross_entropy_backward(k: KernelBuilder) -> None:
    op, (dloss, x, labels, *weights) = k.op(ops.SoftmaxCrossEntropyBackward), k.anchor.operands
    constants = {"SMOOTH": op.smooth, **_dloss(k, dloss)}
    text = _weight(k, weights[0] if weights else None)
    names, types = {"X": x, "LABELS": labels}, {"Image": k.element(x)}
    files = ("softmax_cross_entropy_backward.cu",)
    launch_teams(k, files, _team(k, x, labels), constants, types, names, 8, text)


def lower_count_correct(k: KernelBuilder) -> None:
    _lower_loss(k, ("count_correct.cuh",), _targets(k, k.anchor.operands[1]), "", 1)


def lower_hinge(k: KernelBuilder) -> None:
    pixels = str(k.image(k.anchor.operands[0]).pixels)
    _lower_loss(k, ("hinge.cuh", "hinge_loss.cuh"), {"MARGIN": k.op(ops.Hinge).margin}, pixels, 4)


def lower_hinge_backward(k: KernelBuilder) -> None:
    op, (dloss, x, labels) = k.op(ops.HingeBackward), k.anchor.operands
    constants = {"MARGIN": op.margin, **_dloss(k, dloss)}
    names, types = {"X": x, "LABELS": labels}, {"Image": k.element(x)}
    launch_teams(k, ("hinge.cuh", "hinge_backward.cu"), _team(k, x, labels), constants, types, names, 8)


def lower_mean_squared_error(k: KernelBuilder) -> None:
    x, targets = k.anchor.operands
    image = k.image(x)
    _lower_loss(k, ("squared_error.cuh",), _targets(k, targets), str(image.pixels * image.channels), 3)


def lower_mean_squared_error_backward(k: KernelBuilder) -> None:
    dloss, x, targets = k.anchor.operands
    constants = {**_targets(k, targets), **_dloss(k, dloss)}
    work = Work(2 * x.type.size, k.bytes)
    map_kernel(k, "squared_error_backward.cuh", constants, {"X": x, "TARGETS": targets}, work=work)
