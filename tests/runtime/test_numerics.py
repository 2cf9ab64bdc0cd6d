"""Passes that change what a graph computes are caught, and those that do not are let through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

import convc
from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.ops.activation import Relu, Relu6
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.pool import AvgPool
from convc.passes.base import Mode, Pass, PassLog, PlanPass
from convc.passes.dead_code import DeadCode
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING
from convc.passes.specialize import Specialize
from convc.passes.training import GRADIENT, Training
from convc.runtime import numerics
from convc.runtime.kernel_numerics import KernelCheck, check_kernels
from convc.runtime.numerics import NumericsCheck, guilty_change, verify_passes

NET = "net n {\n input 2x7x7\n conv 4 k=3 pad=1 -> BODY -> pool avg 2 s=1\n fc 3\n loss softmax\n}"


def graph_of(body: str) -> Graph:
    return loads(NET.replace("BODY", body)).graph(4)


def run(graph: Graph, *passes: Pass) -> NumericsCheck:
    check = NumericsCheck()
    PassManager(passes, watch=check).run(graph)
    return check


def test_the_usual_passes_agree() -> None:
    check = run(graph_of("relu"), *pipeline("train"))
    assert [found.name for found in check.comparisons] == [step.name for step in pipeline("train")]
    for found in check.comparisons:
        assert found.error is not None
        assert found.error <= 1e-12
        assert {"logits", "loss", GRADIENT + "conv1.weight"} <= set(found.outputs)
    check = run(graph_of("bn -> relu"), *pipeline("infer"))
    assert all(found.right and found.error is not None for found in check.comparisons)
    assert "GRADIENT" not in check.lines()[0]


@pytest.mark.parametrize(("body", "why"), [("dropout 0.5", "draws masks"), ("bn", "statistics of the batch")])
def test_what_is_meant_to_change_is_not_compared(body: str, why: str) -> None:
    first, *rest = run(graph_of(body), Specialize("train"), Training(), DeadCode()).comparisons
    assert first.error is None
    assert why in first.why
    assert all(found.error is not None for found in rest)


def test_lines_for_people() -> None:
    lines = verify_passes(loads(NET.replace("BODY", "noise 0.1")), "train")
    assert "specialize: not compared: training draws masks and noise" in lines
    assert any(line.startswith("training: 3 outputs and 4 gradients agree, error ") for line in lines)
    assert verify_passes(loads(NET.replace("BODY", "relu")), "infer", ["specialize"])[0].startswith(
        "specialize: 1 output"
    )


@dataclass(frozen=True)
class Planted(Pass):
    """A pass with a defect: `edit` spoils the first node that it finds."""

    name: ClassVar[str] = "planted"
    edit: Callable[[Graph], None] = lambda graph: None

    def run(self, graph: Graph, log: PassLog) -> None:
        self.edit(graph)
        log.changed("planted", (graph.nodes[0],), (), "a test")


def _padding(graph: Graph) -> None:
    node = next(graph.nodes_of(Conv2d))
    assert isinstance(node.op, Conv2d)
    node.op = replace(node.op, padding=(0, 1, 2, 1))


def _dropped_bias(graph: Graph) -> None:
    node = next(graph.nodes_of(Conv2d))
    bias = node.operands[2]
    bias.users.remove((node, 2))
    node.operands = node.operands[:2]


def _other_activation(graph: Graph) -> None:
    node = next(graph.nodes_of(Relu))
    node.op = Relu6()


def _bypassed(graph: Graph) -> None:
    node = next(graph.nodes_of(Relu))
    graph.replace_uses(node.result, node.operands[0])
    graph.remove([node])


def _divisor(graph: Graph) -> None:
    node = next(graph.nodes_of(AvgPool))
    assert isinstance(node.op, AvgPool)
    node.op = replace(node.op, padding=(1, 0, 0, 0), kernel=(3, 2))


def _swapped_gradients(graph: Graph) -> None:
    names = [GRADIENT + "conv1.bias", GRADIENT + "conv1.bias"]
    graph.outputs[names[0]] = graph.outputs["loss"]


@pytest.mark.parametrize("edit", [_padding, _dropped_bias, _bypassed, _divisor])
def test_the_guilty_pass_is_named(edit: Callable[[Graph], None]) -> None:
    with pytest.raises(convc.CompileError, match="the pass `planted` changes") as error:
        run(graph_of("relu"), DeadCode(), Planted(edit), DeadCode())
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "value-numerics"
    assert [note.message.split(":")[0] for note in diagnostic.notes] == ["dead-code"]


def test_a_wrong_gradient_is_found_where_outputs_agree() -> None:
    with pytest.raises(convc.CompileError, match="changes grad\\.conv1\\.bias"):
        run(graph_of("relu"), Specialize("train"), Training(), Planted(_swapped_gradients))


@dataclass(frozen=True)
class PlantedInPlan(PlanPass):
    """A pass over the plan that spoils the graph behind it."""

    name: ClassVar[str] = "planted-in-plan"
    rewrites: ClassVar[bool] = True
    edit: Callable[[Graph], None] = lambda graph: None

    def run(self, plan: Plan, log: PassLog) -> None:
        self.edit(plan.graph)
        log.changed("planted", (plan.graph.nodes[0],), (), "a test")

    def show(self, plan: Plan) -> str:
        return ""


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("edit", [None, _other_activation, _divisor])
def test_kernels_that_compute_something_else(mode: Mode, edit: Callable[[Graph], None] | None) -> None:
    graph = loads(NET.replace("BODY", "relu").replace("input 2x7x7", "input 2x7x7 std=0.02")).graph(2)
    PassManager(pipeline(mode)).run(graph)
    passes = PLANNING if edit is None else (PlantedInPlan(edit), *PLANNING)
    found = check_kernels(graph, passes)
    assert found.right == (edit is None), found
    assert found.compared == (4 if mode == "train" else 1)


@pytest.mark.parametrize(("mode", "what"), [("infer", "the logits agree"), ("train", "4 gradients agree")])
def test_kernels_have_the_last_line(mode: Mode, what: str) -> None:
    net = loads(NET.replace("BODY", "relu"))
    line = verify_passes(net, mode)[-1]
    assert line.startswith(f"arrange, fuse, schedule, memory and their kernels: {what}, error ")
    assert not verify_passes(net, mode, target="reference")[-1].startswith("arrange")


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_passes_are_those_of_the_precision(mode: Mode, precision: str) -> None:
    """What comes behind the casts agrees with them, a scaled loss among it; kernels round to 16 bits."""
    net = loads(NET.replace("BODY", "relu"))
    lines = verify_passes(net, mode, precision=precision)
    (cast,) = (line for line in lines if line.startswith("half-precision: "))
    assert cast == f"half-precision: not compared: {precision} round to fewer digits"
    assert any(line.startswith("choose-algorithms: ") and " agree" in line for line in lines)
    assert lines[-1].endswith(f"in float32 and {precision}")
    plain = verify_passes(net, mode, precision="fp32")
    assert not any(line.startswith("half-precision") for line in plain)
    assert plain[-1].endswith("in float32")


def test_wrong_kernels_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = KernelCheck(1, "logits", 0.5, 1e-4)
    monkeypatch.setattr(numerics, "check_kernels", lambda *_, **__: wrong)
    with pytest.raises(convc.CompileError, match=r"the kernels change logits by 0\.5 .* arrange, fuse"):
        verify_passes(loads(NET.replace("BODY", "relu")), "infer")


@dataclass(frozen=True)
class Several(Pass):
    """Replaces every ReLU by one that is the same below 6, the `wrong`-th by nothing."""

    name: ClassVar[str] = "several"
    wrong: int = 0

    def run(self, graph: Graph, log: PassLog) -> None:
        for number, node in enumerate(graph.nodes_of(Relu)):
            if number == self.wrong:
                graph.replace_uses(node.result, node.operands[0])
                graph.remove([node])
            else:
                node.op = Relu6()
            log.changed("several", (node,), (), "a test")


@pytest.mark.parametrize("wrong", range(5))
def test_the_guilty_change_is_found(wrong: int) -> None:
    graph = graph_of(" -> ".join(["relu", "conv 3 k=1"] * 5))
    number, entry = guilty_change(Several(wrong), graph)
    assert (number, entry.before) == (wrong + 1, f"relu(relu{wrong + 1})")
    check = NumericsCheck(bisect=True)
    with pytest.raises(convc.CompileError) as error:
        PassManager([Several(wrong)], watch=check).run(graph)
    assert f"number {wrong + 1}: changed several  relu(relu{wrong + 1})" in str(error.value)


def test_a_difference_that_the_probe_cannot_see_is_let_through() -> None:
    """relu6 is relu below 6: what is compared is a point, not a proof."""
    assert run(graph_of("relu"), Planted(_other_activation)).comparisons[0].right
