"""The gradient check finds what is wrong, passes what is right, and keeps off kinks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.activation import Elu, LeakyRelu, Maxout, MaxoutBackward, Prelu, Relu, Relu6, Sigmoid, Step, Tanh
from convc.ir.ops.distance import HingeBackward
from convc.ir.ops.elementwise import Greater, Multiply, Sign
from convc.ir.ops.linear import Linear
from convc.ir.ops.pool import MaxPool, MaxPoolBackward
from convc.passes.sections import Section
from convc.passes.training import GRADIENT
from convc.runtime.executor import ReferenceExecutor, Result
from convc.runtime.finite_differences import KINKS, LossProbe
from convc.runtime.gradcheck import as_json, check_gradients, training_graph
from convc.runtime.random_point import random_point
from tests.op_cases import CASES, operand_types
from tests.passes.nets import Net


def small_net() -> Graph:
    net = Net(2, 8, 8, batch=4, name="small").conv(3, 3).bn().relu().pool(2).dropout(0.25)
    return training_graph(net.fc(5).relu().fc(4).build())


def scaled(graph: Graph, name: str, factor: float) -> Graph:
    """The graph with a gradient that is wrong by a factor."""
    builder = Builder(graph)
    gradient = graph.outputs[GRADIENT + name]
    graph.outputs[GRADIENT + name] = builder.add(Multiply(), gradient, builder.constant(factor))
    return graph


def test_right_gradients_pass() -> None:
    report = check_gradients(small_net(), samples=6)
    assert report.passed
    assert [check.name for check in report.parameters] == [
        "conv1.weight", "conv1.bias", "bn1.gamma", "bn1.beta", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias",
    ]  # fmt: skip
    for check in report.parameters:
        assert check.verdict == "ok"
        assert 0 < check.checked <= 6
        assert check.max_relative_error is not None
        assert check.max_relative_error < 1e-6


@pytest.mark.parametrize("factor", [1.001, -1.0, 0.0, float("nan")])
def test_a_wrong_gradient_is_found(factor: float) -> None:
    report = check_gradients(scaled(small_net(), "fc1.weight", factor), samples=6)
    assert not report.passed
    wrong = [check for check in report.parameters if check.verdict == "wrong"]
    assert [check.name for check in wrong] == ["fc1.weight"]
    assert "numeric gradient" in wrong[0].why
    assert wrong[0].worst is not None
    assert len(wrong[0].worst) == 2


@pytest.mark.parametrize(
    "op", [Tanh(), Sigmoid(), LeakyRelu(0.1), Elu(1.0), Elu(0.5), Relu6(), Maxout(2)], ids=lambda op: op.name
)
def test_activations(op: object) -> None:
    net = Net(1, 5, 5, batch=3).conv(4, 2).apply("activation", op)  # type: ignore[arg-type]
    assert check_gradients(training_graph(net.fc(3).build()), samples=10).passed


def test_prelu_learns_its_slope() -> None:
    net = Net(1, 5, 5, batch=3).conv(4, 2).apply("prelu", Prelu(), ("slope", (4,), "slope"))
    report = check_gradients(training_graph(net.fc(3).build()), samples=10)
    assert report.passed
    assert "prelu1.slope" in [check.name for check in report.parameters]


def test_step_is_not_judged_by_differences() -> None:
    """Its gradient is an estimate by design; layers after it are checked."""
    net = Net(1, 5, 5, batch=3).conv(2, 2).apply("step", Step())
    report = check_gradients(training_graph(net.fc(3).build()))
    verdicts = {check.name: check.verdict for check in report.parameters}
    assert verdicts == {
        "conv1.weight": "untested", "conv1.bias": "untested", "fc1.weight": "ok", "fc1.bias": "ok",
    }  # fmt: skip
    assert report.passed


def test_elements_on_a_kink_are_given_up() -> None:
    graph = training_graph(Net(1, 1, 1, batch=1).conv(1, 1).relu().fc(2).build())
    arrays = random_point(graph, seed=0)
    arrays["conv1.weight"][:] = 0
    arrays["conv1.bias"][:] = 0  # relu sits exactly at its kink
    arrays["fc1.weight"][:] = [[1.0], [-1.0]]
    probe = LossProbe(graph, arrays)
    assert [difference.slope for difference in probe.slopes("conv1.bias", [0])] == [None]
    (moved,) = probe.slopes("fc1.bias", [0])
    assert moved.slope is not None


def test_ties_of_a_maximum_are_given_up() -> None:
    """Two pixels of a window are the largest, each made by another weight: the maximum has two slopes."""
    graph = training_graph(Net(2, 1, 2, batch=1).conv(1, 1).apply("pool", MaxPool((1, 2))).fc(2).build())
    arrays = random_point(graph, seed=0)
    arrays["x"][:] = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    arrays["conv1.weight"][:] = 1.0
    probe = LossProbe(graph, arrays)
    assert [difference.slope for difference in probe.slopes("conv1.weight", [0, 1])] == [None, None]
    # Both move alike with the bias: that is smooth, and as the analytic gradient has it.
    (moved,) = probe.slopes("conv1.bias", [0])
    exact = run_reference(graph, {name: arrays[name] for name in (*graph.inputs, *graph.parameters)})
    assert moved.slope == pytest.approx(float(exact["grad.conv1.bias"][0]), rel=1e-6)


def test_close_kinks_shrink_the_step() -> None:
    """1e-6 from the kink: the first ε would cross it, a smaller one does not."""
    graph = training_graph(Net(1, 1, 1, batch=1).conv(1, 1).relu().fc(2).build())
    arrays = random_point(graph, seed=0)
    arrays["x"][:], arrays["conv1.weight"][:], arrays["conv1.bias"][:] = 1.0, 1.0, -1.0 + 2e-6
    arrays["fc1.weight"][:] = [[1.0], [-1.0]]
    arrays["fc1.bias"][:] = 0
    arrays["labels"][:] = 0
    (difference,) = LossProbe(graph, arrays).slopes("conv1.bias", [0])
    # d/db of log(1 + e^(−2h)) at h ≈ 0 is −1.
    assert difference.slope == pytest.approx(-1.0, rel=1e-5)


def test_probing_leaves_the_point_alone() -> None:
    graph = small_net()
    arrays = random_point(graph, seed=0)
    before = {name: array.copy() for name, array in arrays.items()}
    list(LossProbe(graph, arrays).slopes("fc1.weight", [0, 1]))
    assert all(np.array_equal(arrays[name], before[name]) for name in arrays)


def test_float32_gradients_are_compared() -> None:
    graph = small_net()
    report = check_gradients(graph, samples=2, executor=ReferenceExecutor(graph, batch=4), target="reference")
    assert report.passed
    errors = [check.compiled_relative_error for check in report.parameters]
    assert all(error is not None and error < 1e-5 for error in errors)


class _Faulty(ReferenceExecutor):
    def gradient(self, name: str) -> np.ndarray:
        gradient = super().gradient(name)
        return gradient * 1.01 if name == "bn1.gamma" else gradient


def test_wrong_compiled_gradients_are_found() -> None:
    graph = small_net()
    report = check_gradients(graph, samples=2, executor=_Faulty(graph, batch=4), target="cpu")
    assert [check.name for check in report.parameters if check.verdict == "wrong"] == ["bn1.gamma"]
    (wrong,) = (check for check in report.parameters if check.verdict == "wrong")
    assert "compiled" in wrong.why


def test_the_executor_sees_the_same_dropout_mask() -> None:
    seen: dict[str, int] = {}

    class Watching(ReferenceExecutor):
        def run(
            self, sections: Section, x: np.ndarray, labels: np.ndarray | None, *, lr: float, step: int, seed: int
        ) -> Result:
            seen.update(step=step, seed=seed)
            return super().run(sections, x, labels, lr=lr, step=step, seed=seed)

    graph = small_net()
    check_gradients(graph, samples=1, seed=9, executor=Watching(graph, batch=4))
    point = random_point(graph, 9)
    assert seen == {"step": int(point["step"]), "seed": int(point["seed"])}


def test_the_report_is_json_and_depends_on_the_seed_alone() -> None:
    graph = small_net()
    first, second = (as_json(check_gradients(graph, samples=2, seed=4)) for _ in range(2))
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(second))
    assert first["schema"] == 1
    other = as_json(check_gradients(graph, samples=2, seed=5))
    assert other["parameters"] != first["parameters"]


def test_frozen_parameters_are_left_out() -> None:
    graph = Graph("g")
    from convc.ir.ops.loss import SoftmaxCrossEntropy, label_type
    from convc.ir.types import f32

    builder, x = Builder(graph), graph.add_input("x", f32(3, 4))
    frozen = graph.add_parameter("fc1.weight", f32(5, 4), frozen=True)
    trained = graph.add_parameter("fc2.weight", f32(3, 5))
    logits = builder.add(Linear(), builder.add(Linear(), x, frozen), trained)
    graph.outputs["logits"] = logits
    graph.outputs["loss"] = builder.add(
        SoftmaxCrossEntropy(), logits, graph.add_input("labels", label_type(logits.type))
    )
    report = check_gradients(training_graph(graph))
    assert [check.name for check in report.parameters] == ["fc2.weight"]


def test_every_kink_is_watched() -> None:
    """An op whose gradient asks which side something is on has a kink there."""
    jumping = (Greater, Sign, MaxPoolBackward, MaxoutBackward, HingeBackward)
    kinked: set[type] = set()
    for case in CASES:
        if case.differentiable:
            graph = Graph("g")
            values = [graph.add_parameter(f"p{i}", type) for i, type in enumerate(operand_types(case))]
            builder = Builder(graph)
            node = builder.add_node(case.op, *values)
            cotangents = [graph.add_parameter(f"d{i}", value.type) for i, value in enumerate(node.results)]
            case.op.vjp(builder, node, (cotangents[0], *[None] * (len(cotangents) - 1)))
            if any(graph.nodes_of(*jumping)):
                kinked.add(type(case.op))
    assert {Relu, MaxPool} <= kinked
    assert kinked <= set(KINKS)
