"""Give layers that behave differently in training and inference the form that the mode needs.

    infer:  %1 = batch_norm(%x, %γ, %β, %μ, %σ²) {eps=1e-5}    →    %1 = %x · s + (β − μ·s)  with  s = γ / √(σ² + ε)
            %2 = dropout(%1) {rate=0.5}                              (dropout is gone)
    train:  %1 = batch_norm(%x, %γ, %β, %μ, %σ²)               →    %1, %m, %v, %u = batch_norm_training(%x, %γ, %β)
            %2 = dropout(%1) {rate=0.5}                              update %μ, %σ² = running_average(…)
                                                                     %2 = dropout_training(%1, %seed, %step) {rate=0.5}

Where several batches make one update, draws also read how many rows of it came before: `dropout_training(…, %seen)`.
In inference the loss and the labels go, too: the output is what the loss would read.
"""

from __future__ import annotations

from typing import ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.elementwise import Add, Divide, Multiply, RunningAverage, Sqrt, Subtract
from convc.ir.ops.norm import BatchNorm, BatchNormTraining
from convc.ir.ops.random import Draw, Dropout, DropoutTraining, Noise, NoiseTraining
from convc.ir.types import DType, TensorType
from convc.lazy import dataclass
from convc.passes.base import Mode, Pass, PassLog
from convc.passes.targets import compare_numbers, weigh_classes


def scalar_input(graph: Graph, name: str, dtype: DType) -> Value:
    """The scalar input of that name, declared at its first use."""
    return graph.inputs.get(name) or graph.add_input(name, TensorType(dtype, ()))


@dataclass(frozen=True)
class Specialize(Pass):
    """Resolve `batch_norm`, `dropout`, `noise`, `drop_connect` and the loss for a mode; with `accumulate` for updates
    that take several batches, with `class_weights` (one per class) for a loss that weighs them."""

    name: ClassVar[str] = "specialize"
    mode: Mode = "infer"
    accumulate: bool = False
    class_weights: tuple[float, ...] = ()

    def alters(self, graph: Graph) -> str | None:
        if self.mode == "infer":
            return None
        if any(graph.nodes_of(Dropout, Noise, DropConnect)):
            return "training draws masks and noise"
        if any(isinstance(node.op, BatchNorm) and not node.op.frozen for node in graph.nodes):
            return "training normalises by the statistics of the batch"
        return "training weighs the classes" if self.class_weights else None

    def run(self, graph: Graph, log: PassLog) -> None:
        for node in graph.nodes_of(BatchNorm):
            self._batch_norm(graph, node, log)
        for node in graph.nodes_of(Dropout):
            op = node.op
            assert isinstance(op, Dropout)
            self._draw(graph, node, DropoutTraining(op.rate, op.stream) if op.rate else None, log)
        for node in graph.nodes_of(Noise):
            op = node.op
            assert isinstance(op, Noise)
            self._draw(graph, node, NoiseTraining(op.std, op.stream) if op.std else None, log)
        for node in graph.nodes_of(DropConnect):
            op = node.op
            assert isinstance(op, DropConnect)
            self._draw(graph, node, DropConnectTraining(op.rate, op.stream) if op.rate else None, log)
        if self.mode == "infer":
            self._drop_loss(graph, log)
            return
        if self.class_weights:
            weigh_classes(graph, self.class_weights, log)
        compare_numbers(graph, log)

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
                scale, shift = self._affine(graph, node, op)
                y = b.add(Add(), b.add(Multiply(), x, scale), shift)
                why = "the layer is frozen" if op.frozen else "inference uses the running statistics"
        self._replace(graph, node, y, log, why)

    @staticmethod
    def _affine(graph: Graph, node: Node, op: BatchNorm) -> tuple[Value, Value]:
        """Scale and shift per channel, computed before x is, so that they can ride in the epilogue of x's kernel."""
        x = node.operands[0]
        v = Builder(graph, before=x.producer or node)
        with v.at(node.location, node.label):
            # Constants (a layer without gamma and beta) stand beside the layer: they are made again up here.
            gamma, beta, mean, var = (
                value if value.producer is None else v.add(value.producer.op) for value in node.operands[1:]
            )
            deviation = v.add(Sqrt(), v.add(Add(), var, v.constant(op.eps)))
            scale = v.add(Divide(), gamma, deviation)
            return scale, v.add(Subtract(), beta, v.add(Multiply(), mean, scale))

    def _draw(self, graph: Graph, node: Node, form: Draw | DropConnectTraining | None, log: PassLog) -> None:
        """Replace by the form for training, which is None where the layer changes nothing."""
        drops = not isinstance(node.op, Noise)
        if self.mode == "infer" or form is None:
            what = "nothing is dropped" if drops else "nothing is added"
            size = "the rate" if drops else "the deviation"
            why = f"{what} at inference" if self.mode == "infer" else f"{size} is 0"
            self._replace(graph, node, node.operands[0], log, why)
            return
        seed, step = scalar_input(graph, "seed", DType.I64), scalar_input(graph, "step", DType.I64)
        # The mask of weights is the same for all rows of an update, whichever batch they come with.
        several = self.accumulate and isinstance(form, Draw)
        seen = scalar_input(graph, "seen", DType.I64) if several else None
        b = Builder(graph, before=node)
        with b.at(node.location, node.label):
            y = b.add(form, node.operands[0], seed, step, seen)
        drawn = "a mask" if drops else "noise"
        self._replace(graph, node, y, log, f"training draws {drawn} from (seed, layer, update, element)")

    @staticmethod
    def _replace(graph: Graph, node: Node, value: Value, log: PassLog, why: str) -> None:
        graph.replace_uses(node.result, value)
        graph.remove([node])
        after = (value.producer,) if value.producer and value.producer.label == node.label else ()
        log.changed(node.op.name, (node,), after, why)

    @staticmethod
    def _drop_loss(graph: Graph, log: PassLog) -> None:
        # What nobody read before is not this pass's business.
        kept = set(graph.nodes) - _live(graph)
        for name in [name for name in graph.outputs if name != "logits"]:
            producer = graph.outputs.pop(name).producer
            assert producer is not None
            log.changed("loss", (producer,), (), why="inference needs no loss")
        dead = set(graph.nodes) - _live(graph) - kept
        graph.remove([node for node in graph.nodes if node in dead])
        if "labels" in graph.inputs and not graph.inputs["labels"].users:
            del graph.inputs["labels"]


def _live(graph: Graph) -> set[Node]:
    return graph.ancestors((*graph.outputs.values(), *graph.updates.values()))
