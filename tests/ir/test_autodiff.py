"""The reverse walk: sums over several uses, what it leaves out, and whole nets against numeric gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings

from convc.ir.autodiff import differentiate
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import InferError
from convc.ir.ops.activation import Relu, Tanh
from convc.ir.ops.constant import Constant
from convc.ir.ops.elementwise import Add, Multiply, Sign
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss import SoftmaxCrossEntropy
from convc.ir.ops.norm import BatchNorm, BatchNormTraining
from convc.ir.ops.random import Dropout
from convc.ir.types import DType, TensorType, f32
from convc.ir.verify import verify
from tests.strategies import graphs, random_arrays


def gradients(
    graph: Graph, wanted: list[str], arrays: dict[str, np.ndarray], loss: str = "loss"
) -> dict[str, np.ndarray]:
    """d loss / d parameter by name; zero where there is none."""
    values = [graph.parameters[name].value for name in wanted]
    found = differentiate(graph, graph.outputs[loss], values)
    for name, gradient in zip(wanted, found, strict=True):
        if gradient is not None:
            graph.outputs[f"d {name}"] = gradient
    verify(graph)
    results = run_reference(graph, arrays)
    return {name: results.get(f"d {name}", np.zeros_like(arrays[name])) for name in wanted}


def scalar(name: str = "net") -> tuple[Graph, Builder]:
    graph = Graph(name)
    return graph, Builder(graph)


def test_a_value_used_twice_collects_both_gradients() -> None:
    graph, b = scalar()
    w = graph.add_parameter("w", f32())
    square = b.add(Multiply(), w, w)
    graph.outputs["loss"] = b.add(Add(), square, b.add(Multiply(), square, w))  # w² + w³
    gradient = gradients(graph, ["w"], {"w": np.asarray(3.0)})["w"]
    assert gradient == 2 * 3 + 3 * 3**2


def test_a_value_used_many_times() -> None:
    graph, b = scalar()
    w = graph.add_parameter("w", f32())
    total = w
    for _ in range(20):
        total = b.add(Add(), total, w)
    graph.outputs["loss"] = total
    assert gradients(graph, ["w"], {"w": np.asarray(1.0)})["w"] == 21


def test_the_loss_itself_has_gradient_one() -> None:
    graph, _ = scalar()
    w = graph.add_parameter("w", f32())
    graph.outputs["loss"] = w
    assert gradients(graph, ["w"], {"w": np.asarray(5.0)})["w"] == 1


def test_unused_parameters_have_no_gradient() -> None:
    graph, b = scalar()
    w, unused = graph.add_parameter("w", f32()), graph.add_parameter("unused", f32(3))
    graph.outputs["loss"] = b.add(Multiply(), w, w)
    graph.outputs["aside"] = b.add(Tanh(), unused)
    found = differentiate(graph, graph.outputs["loss"], [unused, w])
    assert found[0] is None
    assert found[1] is not None


def test_flat_ops_stop_the_walk() -> None:
    graph, b = scalar()
    w = graph.add_parameter("w", f32())
    graph.outputs["loss"] = b.add(Sign(), w)
    assert differentiate(graph, graph.outputs["loss"], [w]) == [None]


def mlp() -> Graph:
    graph, b = scalar()
    x = graph.add_input("x", f32(2, 3))
    labels = graph.add_input("labels", TensorType(DType.I32, (2,)))
    hidden = b.add(Relu(), b.add(Linear(), x, graph.add_parameter("first", f32(4, 3))))
    logits = b.add(Linear(), hidden, graph.add_parameter("second", f32(5, 4)))
    graph.outputs.update(logits=logits, loss=b.add(SoftmaxCrossEntropy(), logits, labels))
    return graph


def test_frozen_parameters_cost_nothing() -> None:
    both, last = mlp(), mlp()
    before = len(last.nodes)
    differentiate(both, both.outputs["loss"], [both.parameters["first"].value, both.parameters["second"].value])
    differentiate(last, last.outputs["loss"], [last.parameters["second"].value])
    added = {node.op.name for node in last.nodes[before:]}
    assert "select" not in added, "the gradient of relu is not needed for the last layer"
    assert len(last.nodes) < len(both.nodes)


def test_gradients_of_what_is_wanted_do_not_depend_on_the_rest() -> None:
    arrays = random_arrays(mlp(), 1, np.float64)
    alone = gradients(mlp(), ["second"], arrays)
    together = gradients(mlp(), ["first", "second"], arrays)
    np.testing.assert_array_equal(alone["second"], together["second"])


def test_inputs_can_be_wanted() -> None:
    graph = mlp()
    (gradient,) = differentiate(graph, graph.outputs["loss"], [graph.inputs["x"]])
    assert gradient is not None
    assert gradient.type == graph.inputs["x"].type


def test_gradient_nodes_keep_place_and_label_of_their_layer() -> None:
    graph, b = scalar()
    w = graph.add_parameter("w", f32())
    with b.at((), "layer7"):
        graph.outputs["loss"] = b.add(Tanh(), w)
    before = len(graph.nodes)
    differentiate(graph, graph.outputs["loss"], [w])
    assert {node.label for node in graph.nodes[before:] if not isinstance(node.op, Constant)} == {"layer7"}


@pytest.mark.parametrize("op", [BatchNorm(), Dropout()])
def test_layers_that_are_not_specialised_refuse(op: BatchNorm | Dropout) -> None:
    graph, b = scalar()
    x = graph.add_parameter("x", f32(2, 3))
    vectors = [graph.add_parameter(role, f32(3)) for role in ("gamma", "beta", "mean", "var")]
    y = b.add(op, x, *(vectors if isinstance(op, BatchNorm) else []))
    with pytest.raises(InferError, match=f"{op.name} is not differentiable"):
        differentiate(graph, y, [x])


def train_batch_norms(graph: Graph) -> None:
    """batch_norm -> batch_norm_training, as `specialize` does it."""
    for node in graph.nodes_of(BatchNorm):
        assert isinstance(node.op, BatchNorm)
        twin = Builder(graph, before=node).add_node(BatchNormTraining(node.op.eps), *node.operands[:3])
        graph.replace_uses(node.result, twin.results[0])
        graph.remove([node])


@settings(max_examples=40)
@given(graphs(kinks=False, noise=False, max_layers=4))
def test_random_nets_against_differences(graph: Graph) -> None:
    train_batch_norms(graph)
    arrays = random_arrays(graph, 3, np.float64)
    names = [name for name, parameter in graph.parameters.items() if parameter.trainable]
    # Normalising a handful of values is so curved that differences say nothing.
    sizes = [node.operands[0].type.size // node.operands[0].shape[1] for node in graph.nodes_of(BatchNormTraining)]
    assume(min(sizes, default=9) >= 9)
    forward = graph.copy()
    found = gradients(graph, names, arrays)
    generator = np.random.default_rng(5)
    for name in names:
        direction = generator.standard_normal(arrays[name].shape)
        ends = [
            float(run_reference(forward, {**arrays, name: arrays[name] + sign * 1e-5 * direction})["loss"])
            for sign in (1, -1)
        ]
        numeric = (ends[0] - ends[1]) / 2e-5
        analytic = float((found[name] * direction).sum())
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-6 * (1 + np.linalg.norm(found[name]))), name
