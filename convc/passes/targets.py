"""What the losses of a training step compare with: a part of `specialize`.

    %labels: i32[8]                              →    %labels: f32[8,10]           (integers are given as one-hot rows)
    %2 = mse(%1, %labels)                             %2 = mse(%1, %labels)
    %2 = softmax_cross_entropy(%1, %labels)      →    %2 = softmax_cross_entropy(%1, %labels, %weights)

Labels become numbers only where all losses are squared errors of one shape; the count of correct rows reads them, too.
"""

from __future__ import annotations

import numpy as np

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.distance import MeanSquaredError
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy
from convc.ir.types import DType
from convc.passes.base import PassLog


def weigh_classes(graph: Graph, weights: tuple[float, ...], log: PassLog) -> None:
    """Give the soft-max losses the weights of their classes."""
    for node in graph.nodes_of(SoftmaxCrossEntropy):
        _weigh(graph, node, weights, log)


def _weigh(graph: Graph, node: Node, weights: tuple[float, ...], log: PassLog) -> None:
    logits, labels = node.operands[:2]
    builder = Builder(graph, before=node)
    with builder.at(node.location, node.label):
        table = builder.constant(np.asarray(weights, np.float32))
        loss = builder.add_node(node.op, logits, labels, table)
    graph.replace_uses(node.result, loss.result)
    graph.remove([node])
    log.changed("class_weights", (node,), (loss,), "the train item weighs the classes")


def compare_numbers(graph: Graph, log: PassLog) -> None:
    """Make the labels numbers of the outputs' shape, if squared errors are all that reads them."""
    labels = graph.inputs.get("labels")
    if labels is None or labels.type.dtype is not DType.I32:
        return
    losses = [user for user, _ in labels.users if isinstance(user.op, MeanSquaredError)]
    others = [user for user, _ in labels.users if not isinstance(user.op, (MeanSquaredError, CountCorrect))]
    types = {user.operands[0].type for user, _ in labels.users}
    if not losses:
        return
    if others or len(types) > 1:
        why = f"{others[0].op.name} reads labels, too" if others else "the losses read outputs of several shapes"
        log.missed("mse", losses[0], why)
        return
    (type,) = types
    targets = Value(type, "labels")
    graph.inputs["labels"] = targets
    for user, index in list(labels.users):
        graph.set_operand(user, index, targets)
    log.changed(
        "mse", tuple(losses), tuple(losses), "it compares with numbers; integer labels are given as one-hot rows"
    )
