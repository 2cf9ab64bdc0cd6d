"""Parts of a training step that can be run alone.

`prog(x)` runs the forward part; `value_and_grad` adds loss, gradients and running statistics; `step` adds the update,
and where several batches make one update, their mean gradient. Each node belongs to the earliest section that needs it.

What depends on constants, and on parameters that no run updates, is computed once, before the first run after one of
these was set. Weights into which batch norm has been folded are such values.
"""

from __future__ import annotations

from enum import IntFlag

from convc.ir.graph import Graph, Node, Parameter, Value
from convc.ir.ops.constant import Constant


class Section(IntFlag):
    """Bits of the mask that a compiled step takes."""

    FORWARD = 1  # what the output `logits` needs
    GRADIENT = 2  # loss, correct, gradients
    STATISTICS = 4  # updates of buffers (running mean and variance)
    UPDATE = 8  # updates of parameters and optimiser states
    ACCUMULATE = 16  # the mean gradient over the batches of an update
    PREPARE = 32  # what changes only when somebody sets a parameter; back ends add it when that has happened


# What every batch needs, and what the last batch of an update does besides.
BATCH = Section.FORWARD | Section.GRADIENT | Section.STATISTICS | Section.ACCUMULATE
EVERYTHING = BATCH | Section.UPDATE

# The role of the parameters that hold mean gradients.
ACCUMULATOR = "accumulator"
_UPDATES = {"mean": Section.STATISTICS, "var": Section.STATISTICS, ACCUMULATOR: Section.ACCUMULATE}


def section_of(parameter: Parameter) -> Section:
    """The section that updates a parameter, buffer or state."""
    return _UPDATES.get(parameter.role, Section.UPDATE)


def assign_sections(graph: Graph) -> dict[Node, Section]:
    """The section of every node that an output or an update depends on."""
    targets = {
        Section.FORWARD: [graph.outputs["logits"]],
        Section.GRADIENT: list(graph.outputs.values()),
    }
    for section in (Section.STATISTICS, Section.ACCUMULATE, Section.UPDATE):
        targets[section] = [v for name, v in graph.updates.items() if section_of(graph.parameters[name]) is section]
    sections: dict[Node, Section] = {}
    for section, values in targets.items():
        for node in graph.ancestors(values):
            sections.setdefault(node, section)
    return sections | {node: Section.PREPARE for node in prepared(graph) if node in sections}


def prepared(graph: Graph) -> set[Node]:
    """The nodes that depend on constants and on parameters that no run updates, constants themselves left out."""
    given = {parameter.value for name, parameter in graph.parameters.items() if name not in graph.updates}
    written = set(graph.updates.values())
    found: set[Node] = set()
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            given.add(node.result)
        elif given.issuperset(node.operands) and written.isdisjoint(node.results):
            found.add(node)
            given.update(node.results)
    return found


def fixed_values(graph: Graph) -> set[Value]:
    """Constants, the parameters that no run updates, and all that is made of these alone."""
    given = {parameter.value for name, parameter in graph.parameters.items() if name not in graph.updates}
    made = {result for node in prepared(graph) for result in node.results}
    return given | made | {node.result for node in graph.nodes_of(Constant)}


def backward_start(graph: Graph) -> int:
    """The position of the first node of the backward pass: behind all that the loss and the logits depend on. In an
    inference graph the number of nodes."""
    if "loss" not in graph.outputs:
        return len(graph.nodes)
    ahead = graph.ancestors(graph.outputs[name] for name in ("logits", "loss", "correct") if name in graph.outputs)
    return 1 + max((number for number, node in enumerate(graph.nodes) if node in ahead), default=-1)
