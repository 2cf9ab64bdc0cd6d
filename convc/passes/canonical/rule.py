"""What a rule of `canonicalize` is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convc.ir.graph import Node, Value
from convc.ir.op import Op
from convc.ir.ops.constant import Constant
from convc.lazy import dataclass


@dataclass(frozen=True)
class Rewrite:
    """The node is the same as `op` on `operands`."""

    op: Op
    operands: tuple[Value, ...]


@dataclass(frozen=True)
class Missed:
    """The rule would apply, but for this."""

    why: str


# A value: the node is the same as it.
Finding = Rewrite | Value | Missed | None


@dataclass(frozen=True)
class Rule:
    """`find` looks at a node of one of the `ops`; `why` is what makes both sides equal, for the log.

    Both sides have the same bits in float32, and the same gradients; where zeros may change their sign, `why` says so.
    """

    name: str
    ops: tuple[type[Op], ...]
    find: Callable[[Node], Finding]
    why: str


def source(node: Node, kind: type[Op] | tuple[type[Op], ...], index: int = 0) -> Node | None:
    """The node that makes an operand, if its op is of that kind."""
    producer = node.operands[index].producer
    return producer if producer is not None and isinstance(producer.op, kind) else None


def filled_with(value: Value, number: float) -> bool:
    """Whether all elements of the value are known to be this number."""
    if value.producer is None or not isinstance(value.producer.op, Constant):
        return False
    return bool(np.all(np.asarray(value.producer.op.values) == number))
