"""What is done with weights, one by one or unit by unit, however they lie: masks, rounding, bounds, scales, signs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from convc.codegen.cuda.kernel import ELEMENTS, MOST_BLOCKS, THREADS, KernelBuilder, Work, extents
from convc.ir.graph import Value
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.dropconnect import DropConnectTraining
from convc.ir.ops.round_to import DROPPED_BITS, RoundTo
from convc.ir.ops.sweep import MaxNorm
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.ir.types import Shape
from convc.passes.layout import Layout, PlanarLayout, ScalarLayout, VectorLayout, WeightLayout

Constants = Mapping[str, int | float | bool | str]

# Threads that share a unit read neighbouring weights, or units that are neighbours are read together: a warp does.
_WARP = 32
# Weights that a thread of a block adds up before the block has more threads.
_PER_THREAD = 8


def place_constants(layout: Layout) -> dict[str, int]:
    """What `weight_place.cuh` is to know of a layout; everything but filters and matrices is one row of channels."""
    if isinstance(layout, WeightLayout):
        assert layout.block == layout.pairs == 1, f"{layout} is for processors"
        rows = layout.rows
        own = {"OWN": layout.outputs // layout.groups, "OUTPUTS": layout.columns}
        return {**own, "TAPS": rows.pixels, "CHANNELS": rows.channels, "STORED": rows.stored}
    assert isinstance(layout, (VectorLayout, PlanarLayout, ScalarLayout)), f"{layout} has no weights"
    channels = layout.channels if isinstance(layout, VectorLayout) else layout.size
    return {"OWN": 1, "OUTPUTS": 1, "TAPS": 1, "CHANNELS": channels, "STORED": layout.size}


# One by one


def lower_drop_connect(k: KernelBuilder) -> None:
    op = k.op(DropConnectTraining)
    _each_weight(k, "drop_connect.cuh", {"THRESHOLD": f"{op.threshold}u", "KEPT": 1 / (1 - op.rate)}, op.stream)


def lower_round_to(k: KernelBuilder) -> None:
    op = k.op(RoundTo)
    constants = {"DROPPED": DROPPED_BITS[op.target], "NEAREST": op.rounding == "nearest"}
    _each_weight(k, "round_to.cuh", constants, op.stream, {"Half": ELEMENTS[op.target]})


def _each_weight(
    k: KernelBuilder, file: str, constants: Constants, stream: int, types: Mapping[str, str] | None = None
) -> None:
    w, seed, step = k.anchor.operands
    result, layout = k.anchor.results[0], k.layout(w)
    place = place_constants(layout)
    width = next(width for width in (4, 2, 1) if place["STORED"] % width == 0)
    k.launch(
        ["philox.cuh", "weight_place.cuh", file, "each_weight.cu"],
        lambda rows: extents(min(-(-layout.size // (width * THREADS)), MOST_BLOCKS)),
        constants={
            **place,
            **constants,
            "SIZE": layout.size,
            "WIDTH": width,
            "STREAM": f"{stream}u",
            "SEED": k.scalar(seed),
            "STEP": k.scalar(step),
        },
        types=types,
        names={"W": w, "RESULT": result},
        name=k.anchor.op.name,
        work=Work(k.anchor.op.cost(w.type, seed.type, step.type).flops, k.bytes),
    )


# Unit by unit


def unit_constants(layout: Layout, shape: Shape, axis: int, groups: int) -> dict[str, int]:
    """What `weight_units.cuh` is to know of the units (see `convc.ir.ops.units`) of weights of a shape."""
    if not isinstance(layout, WeightLayout):
        return _plain_units(layout, shape, axis, groups)
    place = place_constants(layout)
    outputs, taps, channels, stored = (place[name] for name in ("OUTPUTS", "TAPS", "CHANNELS", "STORED"))
    span = taps * stored
    group = {"UNIT_GROUPS": layout.groups, "GROUP": outputs * span}
    if axis == 0:
        rows = {"GROUP_UNITS": outputs, "ROW_STORED": outputs, "ROW_REAL": place["OWN"], "ROW_TAPS": 1}
        return {**group, **rows, "UNIT": span, **_members(span, span, 0, 1)}
    assert layout.groups == groups, "inputs have as many groups as the layer that reads them"
    rows = {"ROW_STORED": stored, "ROW_REAL": channels, "UNIT": 1}
    # Of a filter all taps of a channel are one unit, of a matrix every feature is.
    if len(shape) == 4:
        return {**group, **rows, "GROUP_UNITS": stored, "ROW_TAPS": 1, **_members(outputs * taps, taps, span, stored)}
    return {**group, **rows, "GROUP_UNITS": span, "ROW_TAPS": taps, **_members(outputs, 1, span, 0)}


def _plain_units(layout: Layout, shape: Shape, axis: int, groups: int) -> dict[str, int]:
    """Weights in logical order, which no layer reads."""
    assert isinstance(layout, PlanarLayout), f"{layout} has no units"
    inner = math.prod(shape[2:])
    span, outputs = shape[1] * inner, shape[0] // groups
    units, unit = (shape[0], span) if axis == 0 else (shape[1], inner)
    members = _members(span, span, 0, 1) if axis == 0 else _members(outputs * inner, inner, span, 1)
    rows = {"GROUP_UNITS": units, "ROW_STORED": units, "ROW_REAL": units, "ROW_TAPS": 1}
    return {**rows, "UNIT_GROUPS": groups, "GROUP": outputs * span, "UNIT": unit, **members}


def _members(count: int, minor_count: int, major: int, minor: int) -> dict[str, int]:
    return {"MEMBERS": count, "MINOR_COUNT": minor_count, "MAJOR": major, "MINOR": minor}


def _each_unit(
    k: KernelBuilder,
    file: str,
    axis: int,
    groups: int,
    constants: Constants,
    names: Mapping[str, Value] | None = None,
    result: str = "RESULT",
) -> None:
    """Launch a kernel that has a few threads for every unit of its first operand."""
    w, y = k.anchor.operands[0], k.anchor.results[0]
    layout = k.layout(w)
    units = unit_constants(layout, w.shape, axis, groups)
    together, threads = _WARP, THREADS
    if axis == 0:
        together = 1
        threads = min(THREADS, max(_WARP, 1 << (units["MEMBERS"] // _PER_THREAD).bit_length()))
    blocks = -(-units["UNIT_GROUPS"] * units["GROUP_UNITS"] // together)
    k.launch(
        ["block_total.cuh", "weight_place.cuh", "weight_units.cuh", file],
        lambda rows: extents(blocks),
        threads=threads,
        constants={**place_constants(layout), **units, "TOGETHER": together, **constants},
        types={"Element": k.element(y)},
        names={"W": w, **(names or {}), result: y},
        work=Work(k.anchor.op.cost(*(operand.type for operand in k.anchor.operands)).flops, k.bytes),
    )


def lower_max_norm(k: KernelBuilder) -> None:
    op = k.op(MaxNorm)
    _each_unit(k, "max_norm.cu", op.axis, op.groups, {"BOUND": float(op.bound)})


def lower_scale_weights(k: KernelBuilder) -> None:
    op = k.op(ScaleWeights)
    _each_unit(k, "scale_weights.cu", op.axis, op.groups, {}, {"SCALE": k.anchor.operands[1]})


def lower_sum_weights(k: KernelBuilder) -> None:
    op, result = k.op(SumWeights), k.anchor.results[0]
    numbers = {"NUMBERS": result.shape[0], "NUMBERS_STORED": k.layout(result).size}
    _each_unit(k, "sum_weights.cu", op.axis, op.groups, numbers)


def lower_binarize(k: KernelBuilder) -> None:
    k.op(Binarize)
    count = math.prod(k.anchor.operands[0].shape[1:])
    _each_unit(k, "binarize.cu", 0, 1, {"COUNT": count})
