"""Compute what depends on constants alone.

    %1 = constant() {values=(2.0), …}
    %2 = constant() {values=(0.25), …}
    %3 = mul(%1, %2)                      →      %1 = constant() {values=(0.5), …}
    %4 = add(%x, %3)                             %2 = add(%x, %1)

The reference interpreter's rules do the sums, in the precision of the constants, so the numbers are those that a run
of the reference would see. Parameters are no constants: they change.
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

import numpy as np

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops.constant import Constant
from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.random import Draw, Dropout, Noise
from convc.ir.ops.sweep import Sweep
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog

RULE = "fold"
# Random draws, and forward layers that `specialize` has yet to make random.
_RANDOM = (Draw, DropConnectTraining, Dropout, Noise, DropConnect)


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replaces nodes whose operands are all constants. `most_elements` bounds every tensor that takes part: a large
    one would cost more memory in the program than it saves time."""

    name: ClassVar[str] = "fold"
    most_elements: int = 65_536

    def run(self, graph: Graph, log: PassLog) -> None:
        _Folder(graph, log, self.most_elements).run()


@dataclass
class _Folder:
    """The work of one run: `known` are the numbers of the values that are constant."""

    graph: Graph
    log: PassLog
    most_elements: int
    known: dict[Value, np.ndarray] = field(default_factory=dict[Value, np.ndarray])

    def run(self) -> None:
        candidates = [node for node in self.graph.nodes if self._compute(node)]
        folded = self._worth_it(candidates)
        for node in folded:
            self._replace(node, folded)
        self.graph.remove(folded)
        operands = dict.fromkeys(operand.producer for node in folded for operand in node.operands)
        constants = [node for node in operands if node is not None and isinstance(node.op, Constant)]
        self.graph.remove([node for node in constants if not self.graph.is_live(node.result)])

    def _compute(self, node: Node) -> bool:
        """Whether the node's results are known now."""
        if isinstance(node.op, Constant):
            if node.result.type.size <= self.most_elements:
                self.known[node.result] = node.op.reference()
            return False
        if not node.operands or not all(_is_constant(o) or o in self.known for o in node.operands):
            return False
        why = _reason_against(node.op)
        largest = max(value.type.size for value in (*node.operands, *node.results))
        if largest > self.most_elements:
            why = f"{largest} elements are above the bound of {self.most_elements}"
        elif any(value.type.dtype.is_half for value in node.results):
            why = "constants are stored in full"
        if why:
            self.log.missed(RULE, node, why)
            return False
        with np.errstate(all="ignore"):  # an overflow is the program's affair, here as when it runs
            results = node.op.reference(*(self.known[operand] for operand in node.operands))
        arrays = results if isinstance(results, tuple) else (results,)
        self.known.update(zip(node.results, map(np.asarray, arrays), strict=True))
        return True

    def _worth_it(self, candidates: list[Node]) -> dict[Node, None]:
        """Those whose results can be stored, or are read by such nodes only: booleans never are in memory."""
        folded = dict.fromkeys(candidates)
        for node in reversed(candidates):
            for value in node.results:
                if value.type.dtype is DType.BOOL and not self._inner(value, folded) and node in folded:
                    del folded[node]
                    self.log.missed(RULE, node, "booleans are never stored, and what reads them is not constant")
        return folded

    def _inner(self, value: Value, folded: dict[Node, None]) -> bool:
        """Whether nodes that are folded are all that reads the value."""
        return all(user in folded for user, _ in value.users) and not self.graph.is_result(value)

    def _replace(self, node: Node, folded: dict[Node, None]) -> None:
        made: list[Node] = []
        builder = Builder(self.graph, before=node)
        for value in node.results:
            if self._inner(value, folded):
                continue
            with builder.at(node.location, node.label):
                array = np.ascontiguousarray(self.known[value], value.type.dtype.numpy)
                constant = builder.add_node(Constant.of(array.reshape(value.shape)))
            self.graph.replace_uses(value, constant.result, only=lambda user: user not in folded)
            for table in (self.graph.outputs, self.graph.updates):
                table.update(dict.fromkeys(table.names_of(value), constant.result))
            made.append(constant)
        why = "all operands are constants" if made else "only what is constant reads it"
        self.log.changed(RULE, (node,), tuple(made), why)


def _is_constant(value: Value) -> bool:
    return value.producer is not None and isinstance(value.producer.op, Constant)


def _reason_against(op: Op) -> str:
    if isinstance(op, _RANDOM):
        return "random numbers are drawn anew in every step"
    if isinstance(op, Sweep):
        return "updates belong to the step"
    if isinstance(op, BatchNorm) and not op.frozen:
        return "training normalises by the statistics of the batch"
    return ""
