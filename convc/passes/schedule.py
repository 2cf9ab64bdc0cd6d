"""Run chains of kernels image by image, not kernel by kernel: what one writes, the next finds in the cache.

    conv1 on all images;  pool1 on all images;  conv2 on all images      (every tensor goes to memory and comes back)
      →  for each block of images:  conv1, pool1, conv2                  (a thread's block stays in its cache)

Kernels that look at each image alone form a chain when one reads what another one wrote and their weights and the
tensors of at least one image fit in the second-level cache. Kernels that need the whole batch (weight gradients, fully
connected layers, batch statistics) end a chain, unless they may as well run after it. Threads split the images of a
chain and need no barrier inside it. Results are the same bits: no kernel computes anything else than before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convc.ir.graph import Value
from convc.ir.op import Op
from convc.ir.ops import (
    AvgPool,
    AvgPoolBackward,
    Conv2d,
    Conv2dBackwardData,
    DropoutTraining,
    MaxPool,
    MaxPoolBackward,
    Relayout,
)
from convc.passes.base import PassLog
from convc.passes.fusion import Kernel, is_elementwise
from convc.passes.machine import Machine

_IMAGE_LOCAL: tuple[type[Op], ...] = (
    Conv2d,
    Conv2dBackwardData,
    MaxPool,
    MaxPoolBackward,
    AvgPool,
    AvgPoolBackward,
    Relayout,
)


@dataclass(frozen=True)
class Group:
    """Kernels `first` to `last` (exclusive) of the schedule; `images` at a time where they form a chain, else 0."""

    first: int
    last: int
    images: int = 0


def schedule(
    kernels: list[Kernel], batched: set[Value], row_bytes: Callable[[Value], int], machine: Machine, log: PassLog
) -> tuple[list[Kernel], list[Group]]:
    """Reorder kernels so that chains are contiguous, and cut the order into groups.

    `row_bytes` gives the bytes of one image of a batched value, or of all of any other.
    """
    remaining = list(kernels)
    order: list[Kernel] = []
    groups: list[Group] = []
    while remaining:
        chain = _chain(remaining, batched, row_bytes, machine)
        images = 0
        if len(chain) > 1:
            weights, image = _working_set(chain, batched, row_bytes)
            images = max(1, (machine.l2_bytes - weights) // image)
            nodes = tuple(node for kernel in chain for node in kernel.nodes)
            log.changed(
                "chain", nodes, nodes, f"{image >> 10} KiB an image and {weights >> 10} KiB of weights fit the cache"
            )
        groups.append(Group(len(order), len(order) + len(chain), images))
        order += chain
        members = set(chain)
        remaining = [kernel for kernel in remaining if kernel not in members]
    return order, groups


def is_image_local(kernel: Kernel, batched: set[Value]) -> bool:
    """Whether the kernel computes each image from that image alone, with nothing left over per batch."""
    if any(isinstance(node.op, DropoutTraining) for node in kernel.nodes):
        return False  # numbers its elements through the batch
    kind = isinstance(kernel.anchor.op, _IMAGE_LOCAL) or is_elementwise(kernel.anchor)
    return kind and all(value in batched for value in kernel.writes)


def _chain(
    remaining: list[Kernel], batched: set[Value], row_bytes: Callable[[Value], int], machine: Machine
) -> list[Kernel]:
    """The first kernel that remains, and those that can follow it image by image."""
    chain = [remaining[0]]
    if not is_image_local(remaining[0], batched):
        return chain
    touched = {*remaining[0].reads, *remaining[0].writes}
    pending: set[Value] = set()  # results of kernels that were passed over
    for kernel in remaining[1:]:
        joins = (
            is_image_local(kernel, batched)
            and kernel.section == chain[0].section
            and not pending.intersection(kernel.reads)
            and any(value in touched and value in batched for value in kernel.reads)
        )
        if joins:
            weights, image = _working_set([*chain, kernel], batched, row_bytes)
            joins = weights + image <= machine.l2_bytes
        if joins:
            chain.append(kernel)
            touched.update((*kernel.reads, *kernel.writes))
        else:
            pending.update(kernel.writes)
    return chain


def _working_set(chain: list[Kernel], batched: set[Value], row_bytes: Callable[[Value], int]) -> tuple[int, int]:
    """Bytes of the weights, and of one image of all tensors, that a chain touches."""
    touched = dict.fromkeys(value for kernel in chain for value in (*kernel.reads, *kernel.writes))
    image = sum(row_bytes(value) for value in touched if value in batched)
    weights = sum(row_bytes(value) for value in touched if value not in batched)
    return weights, max(1, image)
