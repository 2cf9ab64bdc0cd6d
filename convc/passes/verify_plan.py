"""Checks that a plan computes its graph: every node once, every value where and when it is read.

The plan is not compared with how it was made: its parts are checked against the graph here, and its kernels are run
on a model of memory (`verify_memory.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.graph import Value
from convc.ir.ops import Flatten, Unflatten
from convc.ir.ops.constant import Constant
from convc.passes.fusion import Kernel, is_boolean, is_immediate, resolve
from convc.passes.layout import ImageLayout, Layout, PlanarLayout, ScalarLayout, VectorLayout, WeightLayout
from convc.passes.plan import Plan
from convc.passes.quantized_layout import QuantizedLayout
from convc.passes.sections import Section, assign_sections
from convc.passes.training import GRADIENT
from convc.passes.transformed_layout import TransformedLayout
from convc.passes.verify_memory import Findings, MemoryChecker, name_of, stored_values

_VIEWS = (Flatten, Unflatten)


def plan_problems(plan: Plan) -> list[Diagnostic]:
    """All violations, in words that name kernels and values."""
    return _Checker(plan).run()


def verify_plan(plan: Plan) -> None:
    """Raise one `CompileError` (`verify-plan`) with all problems of the plan."""
    found = plan_problems(plan)
    if found:
        raise CompileError(found)


class _Checker:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.graph = plan, plan.graph
        self.sections = assign_sections(plan.graph)
        self.findings = Findings(plan)
        self.report = self.findings.add

    def run(self) -> list[Diagnostic]:
        self._coverage()
        for kernel in self.plan.kernels:
            self._kernel(kernel)
        for value in stored_values(self.plan):
            self._layout(value)
        self._views()
        self._families()
        memory = MemoryChecker(self.plan, self.findings)
        for check in (memory.places, memory.runs):
            # Places are for layouts that fit, and only a plan whose parts fit can be run.
            if not self.findings.all():
                check()
        return self.findings.all()

    # The parts

    def _coverage(self) -> None:
        """Every node that a result depends on is in one kernel; booleans and prologues are in each that reads them."""
        counts = Counter(node for kernel in self.plan.kernels for node in kernel.nodes)
        repeated = {node for kernel in self.plan.kernels for node in kernel.prologue}
        for node in self.sections:
            implicit = isinstance(node.op, (Constant, *_VIEWS)) or is_boolean(node) or node in repeated
            if counts[node] != 1 and not implicit:
                self.report(f"{node!r} is in {counts[node]} kernels", node=node)
            if counts[node] and isinstance(node.op, (Constant, *_VIEWS)):
                self.report(f"{node!r} needs no kernel", node=node)
        for node in counts:
            if node not in self.sections:
                self.report(f"{node!r} is in a kernel, but nothing depends on it", node=node)

    def _kernel(self, kernel: Kernel) -> None:
        made: set[Value] = set()
        reads: dict[Value, None] = {}
        inside = {result for node in kernel.nodes for result in node.results}
        for node in kernel.nodes:
            for operand in node.operands:
                if operand in inside and operand not in made:
                    self.report(f"{name_of(operand)} is read by {node!r} before it is computed", kernel, node)
                if operand not in inside and not is_immediate(operand):
                    reads[resolve(operand)] = None
            made.update(node.results)
            if node is kernel.update and kernel.section is Section.GRADIENT:
                continue  # it asks for itself whether its section runs
            repeated = is_boolean(node) or node in kernel.prologue
            if self.sections.get(node) not in (kernel.section, None) and not repeated:
                self.report(f"{node!r} belongs to the section {self.sections[node].name}", kernel, node)
        if set(kernel.reads) != set(reads):
            wrong = sorted(name_of(value) for value in set(kernel.reads) ^ set(reads))
            self.report(f"reads what its nodes do not, or not what they do: {', '.join(wrong)}", kernel)
        for value in kernel.writes:
            producer = value.producer
            if value not in made or (producer is not None and (is_boolean(producer) or producer in kernel.prologue)):
                self.report(f"writes {name_of(value)}, which it does not compute", kernel)
        self._lie_alike(kernel)

    def _lie_alike(self, kernel: Kernel) -> None:
        """An element-wise node reads and writes all tensors of one shape at the same positions."""
        for value in kernel.anchor.results if kernel.anchor not in kernel.chain else ():
            layout = self.plan.layouts.get(value)
            # Only what the caller gives, and what is computed from that alone, lies otherwise.
            if value in self.plan.batched and value.type.rank > 1 and not isinstance(layout, ImageLayout):
                self.report(f"computes {name_of(value)} pixel by pixel, which lies as {layout}", kernel)
        for node in kernel.chain:
            shape = node.results[0].shape
            alike = [v for v in (*node.operands, *node.results) if v.shape == shape and not is_immediate(v)]
            known = [value for value in alike if value in self.plan.layouts]
            for one, other in pairwise(known):
                if not self.plan.lies_like(one, other):
                    layouts = f"{self.plan.layouts[one]} and {self.plan.layouts[other]}"
                    self.report(
                        f"{node!r} meets {name_of(one)} and {name_of(other)}, which lie as {layouts}", kernel, node
                    )

    # Layouts

    def _layout(self, value: Value) -> None:
        layout = self.plan.layouts.get(value)
        if layout is None:
            self.report(f"{name_of(value)} has no layout")
            return
        shape = value.shape[1:] if value in self.plan.batched else value.shape
        if _count(layout) != math.prod(shape):
            self.report(f"{name_of(value)} is {value.type}, but lies as {layout}")

    def _views(self) -> None:
        for node in self.graph.nodes_of(*_VIEWS):
            source, view = node.operands[0], node.result
            if node in self.sections and self.plan.layouts.get(view) != self.plan.layouts.get(source):
                self.report(f"{name_of(view)} is a view of {name_of(source)}, but lies otherwise", node=node)

    def _families(self) -> None:
        """What is read and written under the name of a parameter lies like it."""
        for name, parameter in self.graph.parameters.items():
            for table, key in ((self.graph.outputs, GRADIENT + name), (self.graph.updates, name)):
                other = table.get(key)
                layout = None if other is None else self.plan.layouts.get(resolve(other))
                if layout is not None and layout != self.plan.layouts.get(parameter.value):
                    self.report(f"{key} lies as {layout}, its parameter as {self.plan.layouts.get(parameter.value)}")


def _count(layout: Layout) -> int:
    """How many numbers a layout stores, padding left out."""
    if isinstance(layout, (ImageLayout, PlanarLayout)):
        return layout.channels * layout.height * layout.width
    if isinstance(layout, VectorLayout):
        return layout.channels
    if isinstance(layout, WeightLayout):
        return layout.outputs * layout.rows.channels * layout.rows.pixels
    if isinstance(layout, TransformedLayout):
        return _count(layout.filters)
    if isinstance(layout, QuantizedLayout):
        return _count(layout.weights)
    return 1 if isinstance(layout, ScalarLayout) else int((layout.index_map() >= 0).sum())
