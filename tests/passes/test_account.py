"""Passes are held to their logs: whoever changes something and is silent, or the reverse, is named."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest

from convc.ir.builder import Builder
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.graph import Graph
from convc.ir.ops.activation import Relu, Relu6
from convc.ir.types import f32
from convc.passes.base import Pass, PassLog, PlanPass
from convc.passes.machine import Machine
from convc.passes.manager import PassManager
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING, make_plan


def net() -> Graph:
    graph = Graph("net")
    b = Builder(graph)
    graph.outputs["logits"] = b.add(Relu(), b.add(Relu(), graph.add_input("x", f32(2, 3))))
    return graph


def other_op(graph: Graph) -> None:
    graph.nodes[0].op = Relu6()


def nothing(graph: Graph) -> None:
    pass


def and_back(graph: Graph) -> None:
    graph.nodes[0].op = Relu6()
    graph.nodes[0].op = Relu()


def lost_use(graph: Graph) -> None:
    graph.nodes[0].result.users.clear()


@dataclass(frozen=True)
class Says(Pass):
    """Does one thing and says whether it did."""

    name: ClassVar[str] = "liar"
    edit: Callable[[Graph], None] = nothing
    says: bool = False

    def run(self, graph: Graph, log: PassLog) -> None:
        self.edit(graph)
        if self.says:
            log.changed("rule", (graph.nodes[0],), (), "a test")
        else:
            log.missed("rule", graph.nodes[0], "a test")


@dataclass(frozen=True)
class Decides(PlanPass):
    """The same for a pass over the plan."""

    name: ClassVar[str] = "liar"
    edit: Callable[[Graph], None] = nothing
    says: bool = False

    def run(self, plan: Plan, log: PassLog) -> None:
        Says(self.edit, self.says).run(plan.graph, log)


class Rewrites(Decides):
    rewrites: ClassVar[bool] = True


def judged(step: Pass | PlanPass) -> list[Diagnostic]:
    graph = net()
    try:
        if isinstance(step, Pass):
            PassManager([step]).run(graph)
        else:
            make_plan(graph, Machine("test", 16, 32), lambda kernel, plan: 0, [step, *PLANNING])
    except CompileError as error:
        return list(error.diagnostics)
    return []


SILENT, BOASTING = "changed the graph and did not log it", "logged changes that it did not make"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Says(other_op), SILENT),
        (Says(nothing, says=True), BOASTING),
        (Says(and_back, says=True), BOASTING),
        (Rewrites(other_op), SILENT),
        (Decides(other_op, says=True), "which it has no business with"),
        (Decides(other_op), "which it has no business with"),
    ],
)
def test_liars_are_named(step: Pass | PlanPass, words: str) -> None:
    (found,) = judged(step)
    assert found.code == "verify-pass"
    assert found.message.startswith("the pass `liar` ")
    assert words in found.message
    assert found.hint is not None
    assert "report it" in found.hint


@pytest.mark.parametrize(
    "step",
    [
        Says(nothing),
        Says(and_back),
        Says(other_op, says=True),
        Rewrites(other_op, says=True),
        Rewrites(nothing, says=True),
        Decides(nothing, says=True),
        Decides(nothing),
    ],
)
def test_the_honest_pass(step: Pass | PlanPass) -> None:
    assert judged(step) == []


@pytest.mark.parametrize("step", [Says(lost_use), Rewrites(lost_use)])
def test_who_breaks_the_graph_is_named(step: Pass | PlanPass) -> None:
    (found,) = judged(step)
    assert found.code == "verify-graph"
    assert [note.message for note in found.notes] == ["the pass `liar` has left it so"]


def test_every_pass_answers_for_itself() -> None:
    """What the one before has done is not held against the next."""
    graph = net()
    PassManager([Says(other_op, says=True), Says(nothing)]).run(graph)
    with pytest.raises(CompileError, match="`liar` logged changes"):
        PassManager([Says(other_op, says=True), Says(other_op, says=True)]).run(net())


def test_unchecked_passes_may_do_what_they_want() -> None:
    graph = net()
    PassManager([Says(other_op)], check=False).run(graph)
    assert isinstance(graph.nodes[0].op, Relu6)


def test_the_check_is_no_assertion() -> None:
    program = (
        "from tests.passes.test_account import Says, judged, other_op\nprint(judged(Says(other_op))[0].code, __debug__)"
    )
    run = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["verify-pass", "False"]


def test_collection_is_as_it_was() -> None:
    """Python collects again when the passes are done, also when one fails, unless nobody wanted it to."""
    assert gc.isenabled()
    judged(Says(other_op))
    assert gc.isenabled()
    gc.disable()
    try:
        judged(Says(nothing))
        assert not gc.isenabled()
    finally:
        gc.enable()
