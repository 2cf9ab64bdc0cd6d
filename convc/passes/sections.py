"""Parts of a training step that can be run alone.

`prog(x)` runs the forward part; `value_and_grad` adds loss, gradients and running statistics; `step` adds the update.
Each node belongs to the earliest section that needs it.
"""

from __future__ import annotations

from enum import IntFlag

from convc.ir.graph import Graph, Node


class Section(IntFlag):
    """Bits of the mask that a compiled step takes."""

    FORWARD = 1  # what the output `logits` needs
    GRADIENT = 2  # loss, correct, gradients
    STATISTICS = 4  # updates of buffers (running mean and variance)
    UPDATE = 8  # updates of parameters and optimiser states


EVERYTHING = Section.FORWARD | Section.GRADIENT | Section.STATISTICS | Section.UPDATE


def assign_sections(graph: Graph) -> dict[Node, Section]:
    """The section of every node that an output or an update depends on."""
    buffers = [value for name, value in graph.updates.items() if graph.parameters[name].role in ("mean", "var")]
    targets = {
        Section.FORWARD: [graph.outputs["logits"]],
        Section.GRADIENT: list(graph.outputs.values()),
        Section.STATISTICS: buffers,
        Section.UPDATE: list(graph.updates.values()),
    }
    sections: dict[Node, Section] = {}
    for section, values in targets.items():
        for node in graph.ancestors(values):
            sections.setdefault(node, section)
    return sections
