"""Which results a kernel may write over its operands.

    %3 = add(%1, %2)            %3 @arena+0, %1 @arena+0: %1 is not read again, and each of its elements is read before
    %4 = relu(%3)         →     the sum is stored in its place

A chain reads all that it needs of an element before it stores anything of it (`KernelBuilder.finish`), and no element
is finished twice. So what only the chain reads may be overwritten where it lies like the result. Of the anchor's own
operands only those may be that its kernel reads element by element, when it stores the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from convc.ir.graph import Node, Value
from convc.ir.op import Op
from convc.ir.ops import (
    BatchNorm,
    BatchNormBackward,
    BatchNormTraining,
    LocalResponseNorm,
    LocalResponseNormBackward,
    MaxPoolBackward,
    ScaleMaps,
)
from convc.passes.base import PassLog, describe
from convc.passes.fusion import Kernel, resolve
from convc.passes.machine import Machine

if TYPE_CHECKING:
    from convc.passes.plan import Plan

# Positions of the operands of which a kernel, storing an element, reads that element for the last time. (The last
# phase of batch norm; the pixel, image or window of the others has been read by then.)
LAST_READ_IN_PLACE: Mapping[type[Op], tuple[int, ...]] = {
    BatchNorm: (0,),
    BatchNormTraining: (0,),
    BatchNormBackward: (0, 1),
    MaxPoolBackward: (1,),
    LocalResponseNorm: (0,),
    LocalResponseNormBackward: (0, 1),
    ScaleMaps: (0,),
}
# On a GPU pixels, images and windows are read by blocks that know nothing of each other's progress.
_NEIGHBOURS = (LocalResponseNorm, LocalResponseNormBackward, MaxPoolBackward)
LAST_READ_ON_GPU = {op: free for op, free in LAST_READ_IN_PLACE.items() if op not in _NEIGHBOURS}


def in_place_pairs(kernel: Kernel, plan: Plan) -> tuple[tuple[Value, Value], ...]:
    """(written, read): what a kernel of a plan that has layouts writes, and an operand in whose place it may."""
    made = {kernel.anchor.results[0], *(node.results[0] for node in kernel.chain)}
    written = [value for value in kernel.writes if value in made]
    read = elementwise_operands(kernel, plan.machine)
    return tuple(
        (value, operand)
        for value in written
        for operand in kernel.reads
        if operand in read and plan.lies_like(value, operand) and value.type.dtype is operand.type.dtype
    )


def elementwise_operands(kernel: Kernel, machine: Machine) -> set[Value]:
    """The stored values that a machine's kernel reads for the last time where, and before, it writes an element."""
    chain = {resolve(operand) for node in kernel.chain for operand in node.operands}
    if kernel.anchor in kernel.chain:
        return chain
    free = (LAST_READ_ON_GPU if machine.cuda else LAST_READ_IN_PLACE).get(type(kernel.anchor.op), ())
    own = [resolve(operand) for operand in kernel.anchor.operands]
    spread = {value for position, value in enumerate(own) if position not in free}
    riding = {resolve(operand) for node in kernel.riders for operand in node.operands}
    return (chain | {own[position] for position in free}) - spread - riding


def report_in_place(plan: Plan, log: PassLog) -> None:
    """Log which results lie in the place of an operand, and why others do not whose operands lie like them."""
    kernels, buffers = plan.kernels, plan.memory.buffers
    overwritten = {after: before for buffer in buffers for before, after in pairwise(buffer.values)}
    inside = {value for buffer in buffers for value in buffer.values}
    last_reader = {value: kernel for kernel in kernels for value in kernel.reads}
    kept = {buffer.values[-1] for buffer in buffers if buffer.last == len(kernels)}
    for kernel in kernels:
        elementwise = elementwise_operands(kernel, plan.machine)

        def obstacle(operand: Value, kernel: Kernel = kernel, elementwise: set[Value] = elementwise) -> str:
            name = describe(_producer(operand))
            if operand in kept:
                return f"{name} is an output"
            if last_reader[operand] is not kernel:
                return f"{name} is read again by {describe(last_reader[operand].anchor)}"
            if operand not in elementwise:
                return f"{kernel.anchor.op.name} reads other elements of {name}, too"
            return f"another result takes the place of {name}"

        for value in kernel.writes:
            if value in overwritten:
                place = (_producer(overwritten[value]),)
                log.changed("in-place", (_producer(value),), place, "it is read here for the last time, then written")
            elif value in inside:
                alike = [operand for operand in kernel.reads if operand in inside and plan.lies_like(value, operand)]
                if alike:
                    log.missed("in-place", _producer(value), "; ".join(obstacle(operand) for operand in alike))
    log.metrics["in_place_bytes"] = sum(buffer.bytes * (len(buffer.values) - 1) for buffer in buffers)


def _producer(value: Value) -> Node:
    assert value.producer is not None, "what lives in the arena is made by a kernel"
    return value.producer
