"""`convc gradcheck` after passes: the graph and the kernels that a training program is made of, in any order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from convc.cli import main
from convc.frontend import loads
from convc.frontend.net import Net
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.activation import Relu, Tanh
from convc.ir.ops.cast import Cast, cast
from convc.ir.ops.elementwise import Add, Multiply
from convc.passes import registry
from convc.passes.base import Pass, PassLog
from convc.passes.pipeline import pipeline
from convc.passes.planning import PLANNING
from convc.passes.training import GRADIENT
from convc.runtime.algorithms import AlgorithmOptions
from convc.runtime.gradcheck import GradientReport, gradcheck

TEXT = """
net n {
  input 2x8x8
  conv 4 k=3 pad=1 -> bn -> relu -> dropout 0.25
  conv 4 k=3 pad=1 freeze=FROZEN -> relu -> pool max 2
  fc 5
  loss softmax
}
train {
  batch 8 accumulate=2
  optim sgd lr=0.1 momentum=0.9
  clip 1.0
  class_weights [1, 2, 0.5, 1, 3]
}
"""
REWRITES = tuple(step.name for step in pipeline("train"))
USUAL = (*REWRITES, "choose-algorithms", "separate-moments", "recompute", *(step.name for step in PLANNING))
TRAINED = [
    "conv1.weight",
    "conv1.bias",
    "bn1.gamma",
    "bn1.beta",
    "conv2.weight",
    "conv2.bias",
    "fc1.weight",
    "fc1.bias",
]


def net(frozen: str = "no") -> Net:
    return loads(TEXT.replace("FROZEN", frozen))


def names(report: GradientReport) -> list[str]:
    return [check.name for check in report.parameters]


def wrong(report: GradientReport) -> list[str]:
    return [check.name for check in report.parameters if check.verdict == "wrong"]


@pytest.mark.slow
def test_the_whole_program() -> None:
    report = gradcheck(net(), samples=3, after_passes=True)
    assert report.passed
    assert set(USUAL) <= set(report.passes)
    assert names(report) == TRAINED
    for check in report.parameters:
        assert check.verdict == "ok"
        assert check.compiled_relative_error is not None
        assert check.compiled_allowed is not None
        assert 0 < check.compiled_relative_error <= check.compiled_allowed
    assert gradcheck(net(), samples=1, target="reference").passes == ()


def test_frozen_parameters_are_left_out() -> None:
    report = gradcheck(net("yes"), samples=2, target="reference", after_passes=True)
    assert report.passed
    assert names(report) == [name for name in TRAINED if not name.startswith("conv2")]


@pytest.mark.parametrize(
    ("order", "target"),
    [
        (["canonicalize", "cse", "specialize", "fold", "training", "canonicalize", "cse", "dead-code"], "reference"),
        (["dead-code", "specialize", "training"], "reference"),
        pytest.param(["specialize", "training", "fold", "fuse:depth=1"], "cpu", marks=pytest.mark.slow),
    ],
)
def test_any_order(order: list[str], target: str) -> None:
    report = gradcheck(net(), samples=2, passes=order, target=target)
    assert report.passed
    assert list(report.passes[:3]) == order[:3]


@pytest.mark.slow
def test_an_algorithm() -> None:
    algorithms = AlgorithmOptions(algo="conv*=winograd_f2x3")
    report = gradcheck(net(), samples=1, algorithms=algorithms)
    assert report.passed
    assert report.passes == USUAL


@dataclass(frozen=True)
class Halved(Pass):
    """Spoils one gradient."""

    name: ClassVar[str] = "halved"

    def run(self, graph: Graph, log: PassLog) -> None:
        builder, name = Builder(graph), GRADIENT + "bn1.beta"
        half = builder.add_node(Multiply(), graph.outputs[name], builder.constant(0.5))
        graph.outputs[name] = half.result
        log.changed("halved", (), (half,), "a test")


@dataclass(frozen=True)
class Swapped(Pass):
    """Another activation, before anything is differentiated: the gradients fit the graph, but not the net."""

    name: ClassVar[str] = "swapped"

    def run(self, graph: Graph, log: PassLog) -> None:
        node = next(graph.nodes_of(Relu))
        node.op = Tanh()
        log.changed("swapped", (node,), (node,), "a test")


def test_a_pass_that_spoils_a_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Halved, Swapped):
        monkeypatch.setitem(registry.PASSES, kind.name, kind)
        monkeypatch.setitem(registry.ALL_PASSES, kind.name, kind)
    spoiled = gradcheck(net(), samples=4, target="reference", passes=["specialize", "training", "halved"])
    assert wrong(spoiled) == ["bn1.beta"]
    assert "numeric gradient" in next(check.why for check in spoiled.parameters if check.why)
    swapped = gradcheck(net(), samples=4, target="reference", passes=["specialize", "swapped", "training"])
    assert {"conv1.weight", "fc1.weight"} <= set(wrong(swapped))


@pytest.mark.parametrize("after_passes", [False, True])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(precision: str, after_passes: bool) -> None:
    report = gradcheck(net(), samples=4, precision=precision, after_passes=after_passes)
    assert report.passed, report
    assert {check.verdict for check in report.parameters} == {"ok"}
    errors = [check.compiled_relative_error for check in report.parameters if check.compiled_relative_error is not None]
    assert max(errors) > 1e-4  # it has rounded
    exact = gradcheck(net(), samples=4, precision=precision, fp32=["*"], after_passes=after_passes)
    assert max(check.compiled_relative_error or 0 for check in exact.parameters) < 1e-4


def test_a_mistake_shows_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(self: Cast, b: Builder, node: Node, cotangents: tuple[Value, ...]) -> tuple[Value, ...]:
        return (cast(b, b.add(Add(), cotangents[0], cotangents[0]), node.operands[0].type.dtype),)

    monkeypatch.setattr(Cast, "vjp", doubled)
    assert not gradcheck(net(), samples=4, precision="bf16", target="reference").passed


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("n.cnn").write_text(TEXT.replace("FROZEN", "no"))
    words = ["gradcheck", "n.cnn", "--samples", "1", "--target", "reference"]
    assert main([*words, "--after-passes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passes"] == list(REWRITES)
    assert main([*words, "--passes", "specialize,training,cse"]) == 0
    assert "after specialize, training, cse\n" in capsys.readouterr().out
    assert main([*words, "-p", "cse"]) == 1
    assert "a training step needs the pass `specialize`" in capsys.readouterr().err
    assert main([*words[:-2], "--algo", "conv9=direct"]) == 1
    assert "error[name-algorithm]" in capsys.readouterr().err
