"""Give layers that behave differently in training and inference the form that the mode needs.

    infer:  %1 = batch_norm(%x, %γ, %β, %μ, %σ²) {eps=1e-5}    →    %1 = %x · s + (β − μ·s)  with  s = γ / √(σ² + ε)
            %2 = dropout(%1) {rate=0.5}                              (dropout is gone)
    train:  %1 = batch_norm(%x, %γ, %β, %μ, %σ²)               →    %1, %m, %v, %u = batch_norm_training(%x, %γ, %β)
            %2 = dropout(%1) {rate=0.5}                              update %μ, %σ² = running_average(…)
                                                                     %2 = dropout_training(%1, %seed, %step) {rate=0.5}

In inference the loss and the labels go, too: the output is what the loss would read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.elementwise import Add, Divide, Multiply, RunningAverage, Sqrt, Subtract
from convc.ir.ops.norm import BatchNorm, BatchNormTraining
from convc.ir.ops.random import Dropout, DropoutTraining
from convc.ir.types import DType, TensorType
from convc.passes.base import Mode, Pass, PassLog


def scalar_input(graph: Graph, name: str, dtype: DType) -> Value:
    """The scalar input of that name, declared at its first use."""
    return graph.inputs.get(name) or graph.add_input(name, TensorType(dtype, ()))


@dataclass(frozen=True)
class Specialize(Pass):
    """Resolve `batch_norm`, `dropout` and the loss for a mode."""

    name: ClassVar[str] = "specialize"
    mode: Mode = "infer"

    def run(self, graph: Graph, log: PassLog) -> None:
        for node in graph.nodes_of(BatchNorm):
            self._batch_norm(graph, node, log)
        for node in graph.nodes_of(Dropout):
            self._dropout(graph, node, log)
        if self.mode == "infer":
            self._drop_loss(graph, log)

    def _batch_norm(self, graph: Graph, node: Node, log: PassLog) -> None:
        op = node.op
        assert isinstance(op, BatchNorm)
        x, gamma, beta, mean, var = node.operands
        b = Builder(graph, before=node)
        with b.at(node.location, node.label):
            if self.mode == "train" and not op.frozen:
                form = b.add_node(BatchNormTraining(op.eps), x, gamma, beta)
                y = form.results[0]
                average = RunningAverage(op.momentum)
                for buffer, statistic in ((mean, form.results[1]), (var, form.results[3])):
                    assert buffer.name is not None
                    # A shared layer updates its statistics once per use, in order.
                    old = graph.updates.get(buffer.name, buffer)
                    graph.updates[buffer.name] = b.add(average, old, statistic)
                why = "training normalises by the statistics of the batch and averages them for inference"
            else:
                deviation = b.add(Sqrt(), b.add(Add(), var, b.constant(op.eps)))
                scale = b.add(Divide(), gamma, deviation)
                shift = b.add(Subtract(), beta, b.add(Multiply(), mean, scale))
                y = b.add(Add(), b.add(Multiply(), x, scale), shift)
                why = "the layer is frozen" if op.frozen else "inference uses the running statistics"
        self._replace(graph, node, y, log, why)

    def _dropout(self, graph: Graph, node: Node, log: PassLog) -> None:
        op = node.op
        assert isinstance(op, Dropout)
        if self.mode == "infer" or op.rate == 0:
            why = "nothing is dropped at inference" if self.mode == "infer" else "the rate is 0"
            self._replace(graph, node, node.operands[0], log, why)
            return
        seed, step = scalar_input(graph, "seed", DType.I64), scalar_input(graph, "step", DType.I64)
        b = Builder(graph, before=node)
        with b.at(node.location, node.label):
            y = b.add(DropoutTraining(op.rate, op.stream), node.operands[0], seed, step)
        self._replace(graph, node, y, log, "training draws a mask from (seed, layer, update, element)")

    @staticmethod
    def _replace(graph: Graph, node: Node, value: Value, log: PassLog, why: str) -> None:
        graph.replace_uses(node.result, value)
        graph.remove([node])
        after = (value.producer,) if value.producer and value.producer.label == node.label else ()
        log.changed(node.op.name, (node,), after, why)

    @staticmethod
    def _drop_loss(graph: Graph, log: PassLog) -> None:
        for name in [name for name in graph.outputs if name != "logits"]:
            producer = graph.outputs.pop(name).producer
            assert producer is not None
            log.changed("loss", (producer,), (), why="inference needs no loss")
            graph.version += 1
        dead = set(graph.nodes) - graph.ancestors(graph.outputs.values())
        graph.remove([node for node in graph.nodes if node in dead])
        if "labels" in graph.inputs and not graph.inputs["labels"].users:
            del graph.inputs["labels"]
