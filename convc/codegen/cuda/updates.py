"""What happens to all parameters alike: updates, mean gradients, gradients unscaled; one launch over memory each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from convc.codegen.cuda.kernel import MOST_BLOCKS, THREADS, KernelBuilder, Work, extents
from convc.codegen.cuda.narrow import NarrowBuilder
from convc.ir.graph import Node, Value
from convc.ir.ops.loss_scaling import LEAST_SCALE, MOST_SCALE, MoveScale, Unscale
from convc.ir.ops.sweep import Accumulate, Sweep
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate, Update
from convc.passes.fusion import resolve

Constants = Mapping[str, int | float | bool | str]

# Numbers that a thread takes at once: 16 bytes of each tensor.
_WIDTH = 4


def _lower_sweep(
    k: KernelBuilder, files: Sequence[str], constants: Constants, written: Sequence[int], scalars: Mapping[str, Value]
) -> None:
    """All parameters with equal settings in one pass over memory, all tensors of the sweep lying in the same order.

    The last of `files` has the rule; `written` are the positions of the tensors that it changes, `scalars` the numbers
    among the operands that it reads. Nothing happens where the scalar `GUARD` is 0.
    """
    op = k.op(Sweep)
    nodes = (k.anchor, *k.kernel.riders)
    tensors = [resolve(value) for value in k.anchor.operands[: op.tensors]]
    size = _swept(k, nodes, op.tensors)
    narrow = NarrowBuilder(k, [*tensors, *scalars.values()])
    small = size + _WIDTH * THREADS * MOST_BLOCKS < 1 << 31
    lines: list[str] = []
    for verb, numbers, positions in (("load", "float", range(op.tensors)), ("store", "const float", written)):
        moves = " ".join(f"{verb}<V>(T{t} + place, v[{t}]);" for t in positions)
        declared = f"void {verb}_tensors(PARAMETERS, Place place, {numbers} (&v)[TENSORS][V])"
        lines += ["template <int V>", f"__device__ __forceinline__ {declared} {{ {moves} }}"]
    narrow.launch(
        [*files, "sweep.cu"],
        lambda rows: extents(min(-(-size // (_WIDTH * THREADS)), MOST_BLOCKS)),
        constants={
            "TENSORS": op.tensors,
            "SIZE": size,
            "GUARD": "1.0f",
            **constants,
            **{name: narrow.scalar(value) for name, value in scalars.items()},
        },
        types={"Place": "int" if small else "i64"},
        names={f"T{t}": value for t, value in enumerate(tensors)},
        text="\n".join(lines),
        name=op.name,
        work=Work(
            sum(node.op.cost(*(operand.type for operand in node.operands)).flops for node in nodes),
            4 * size * (op.tensors + len(written)),
        ),
    )


def _swept(k: KernelBuilder, nodes: Sequence[Node], tensors: int) -> int:
    """How many numbers of each tensor a sweep goes over, from the first parameter to the last."""
    slots = k.plan.memory.slots
    lengths: set[int] = set()
    for position in range(tensors):
        places = [slots[resolve(node.operands[position])] for node in nodes]
        assert len({place.region for place in places}) == 1
        lengths.add(places[-1].offset + places[-1].bytes - places[0].offset)
    assert len(lengths) == 1, "the memory plan keeps the tensors of a sweep in the same order"
    return lengths.pop() // 4


# Mean gradients


def lower_accumulate(k: KernelBuilder) -> None:
    k.op(Accumulate)
    _lower_sweep(k, ["accumulate.cuh"], {}, [0], {})


# Gradients of a scaled loss


def lower_unscale(k: KernelBuilder) -> None:
    k.op(Unscale)
    _lower_sweep(k, ["unscale.cuh"], {}, [0], {"SCALE": k.anchor.operands[1]})


def lower_move_scale(k: KernelBuilder) -> None:
    op = k.op(MoveScale)
    # What nobody reads has no place.
    results = zip(("scale", "good", "skipped"), k.anchor.results, strict=True)
    stores = " ".join(f"*{k.name(value)} = {name};" for name, value in results if value in k.kernel.writes)
    declared = "__device__ __forceinline__ void store_results(PARAMETERS, float scale, float good, float skipped)"
    operands = zip(("SCALE", "GOOD", "SKIPPED", "OK"), k.anchor.operands, strict=True)
    k.launch(
        "move_scale.cu",
        lambda rows: (1, 1, 1),
        threads=1,
        constants={
            **{name: k.scalar(value) for name, value in operands},
            "GROWTH": op.growth,
            "BACKOFF": op.backoff,
            "INTERVAL": float(op.interval),
            "LEAST": LEAST_SCALE,
            "MOST": MOST_SCALE,
        },
        text=f"{declared} {{ {stores} }}",
        work=Work(4, k.bytes),
    )


# Updates


def lower_update(k: KernelBuilder) -> None:
    op = k.op(Update)
    operands = k.anchor.operands
    file, settings = _RULES[type(op)]
    common: Constants = {"RATE_SCALE": float(op.lr_scale), "L1": float(op.l1), "TWICE_L2": float(2 * op.l2)}
    constants = {"FACTOR": "1.0f", **common, **settings(op)}
    # Behind the learning rate and the step.
    scalars: dict[str, Value] = {}
    scalars.update(zip(("FACTOR", "GUARD"), operands[op.tensors + 2 :], strict=False))
    _lower_sweep(k, ["update.cuh", file], constants, [0, *range(2, op.tensors)], scalars)


def _sgd(op: SgdUpdate) -> Constants:
    return {"MOMENTUM": float(op.momentum), "NESTEROV": op.nesterov}


def _adagrad(op: AdagradUpdate) -> Constants:
    return {"EPS": float(op.eps)}


def _rmsprop(op: RmspropUpdate) -> Constants:
    # What is left of 1 is computed before it is rounded to single precision.
    own = {"ALPHA": float(op.alpha), "ONE_MINUS_ALPHA": float(1 - op.alpha)}
    return {**own, "EPS": float(op.eps), "MOMENTUM": float(op.momentum)}


def _adam(op: AdamUpdate) -> Constants:
    constants: dict[str, int | float | bool | str] = {"EPS": float(op.eps), "DECOUPLED": isinstance(op, AdamWUpdate)}
    for number, beta in ((1, op.beta1), (2, op.beta2)):
        constants |= {
            f"BETA{number}": float(beta),
            f"ONE_MINUS_BETA{number}": float(1 - beta),
            # 0 to any power is 0, as a very small number is.
            f"LOG_BETA{number}": math.log(beta) if beta > 0 else -1000.0,
        }
    return constants


# The rule of each optimiser, and its settings.
_RULES: dict[type[Update], tuple[str, Callable[..., Constants]]] = {
    SgdUpdate: ("update_sgd.cuh", _sgd),
    AdagradUpdate: ("update_adagrad.cuh", _adagrad),
    RmspropUpdate: ("update_rmsprop.cuh", _rmsprop),
    AdamUpdate: ("update_adam.cuh", _adam),
    AdamWUpdate: ("update_adam.cuh", _adam),
}
