"""Have a convolution compute the statistics of the batch norm after it (training).

    %1 = conv2d(%x, %w)                          %1 = conv2d(%x, %w)
    %2, %m, %v, %u = batch_norm_training(%1,  →  %m, %v, %u = batch_moments(%1)      in the kernel of conv2d
        %gamma, %beta)                           %2 = batch_norm(%1, %gamma, %beta, %m, %v)

Saves a pass over memory: the kernel sums up its results row by row, while they are in a cache. Done only where the
kernel computes whole pixels one after the other, which `direct` does; others keep `batch_norm_training` whole. The
statistics are combined by the same formulas, from rows instead of images: equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.norm import BatchMoments, BatchNorm, BatchNormTraining
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog, describe
from convc.passes.training import GRADIENT

RULE = "moments"


def computes_moments(node: Node) -> bool:
    """Whether the kernel of a node can compute `batch_moments` of its result as well."""
    op = node.op
    return isinstance(op, Conv2d) and op.algorithm in ("auto", "direct") and op.groups == 1


@dataclass(frozen=True)
class SeparateMoments(Pass):
    """Splits `batch_norm_training` behind convolutions that are computed directly."""

    name: ClassVar[str] = "separate-moments"
    refused: ClassVar[Mapping[str, str]] = {"infer": "inference has its statistics already"}

    def run(self, graph: Graph, log: PassLog) -> None:
        ahead = "loss" in graph.outputs and not any(name.startswith(GRADIENT) for name in graph.outputs)
        for node in list(graph.nodes_of(BatchNormTraining)):
            producer = node.operands[0].producer
            if ahead:
                log.missed(RULE, node, "its gradient is that of the whole: only behind `training`")
            elif producer is None or not isinstance(producer.op, Conv2d):
                log.missed(RULE, node, "no convolution makes what it normalises")
            elif not computes_moments(producer):
                how = "in groups" if producer.op.groups > 1 else f"by {producer.op.algorithm}"
                log.missed(RULE, node, f"{describe(producer)} is computed {how}, not pixel by pixel")
            else:
                self._separate(graph, producer, node, log)

    def _separate(self, graph: Graph, producer: Node, node: Node, log: PassLog) -> None:
        assert isinstance(node.op, BatchNormTraining)
        x, gamma, beta = node.operands
        b = Builder(graph, before=node)
        with b.at(node.location, node.label):
            moments = b.add_node(BatchMoments(), x)
            mean, var, unbiased = moments.results
            y = b.add(BatchNorm(node.op.eps), x, gamma, beta, mean, var)
        for old, new in zip(node.results, (y, mean, var, unbiased), strict=True):
            graph.replace_uses(old, new)
        graph.remove([node])
        assert y.producer is not None
        log.changed(RULE, (node,), (moments, y.producer), f"{describe(producer)} has its results in a cache")
