"""What is frozen has no gradient, nothing is computed on the way to one, and the report says what that saves."""

from __future__ import annotations

import pytest

from convc.frontend import loads
from convc.ir.graph import Graph, total_cost
from convc.ir.ops import Conv2dBackwardData, Conv2dBackwardWeights, LinearBackwardData, LinearBackwardWeights
from convc.ir.ops.update import AdamUpdate, Update
from convc.passes.dead_code import DeadCode
from convc.passes.manager import PassManager, PassReport
from convc.passes.specialize import Specialize
from convc.passes.training import Training

# Before the step is differentiated; clean-ups would remove more of one step than of another.
STEP = (Specialize("train"),)
NET = """
net n {
  input 2x10x10
  conv 3 k=3 FIRST -> relu
  conv 4 k=3 SECOND -> relu -> pool max 2
  conv 5 k=3 -> relu
  fc 6 -> relu -> fc 4 LAST
  loss softmax
}
"""


def step(
    first: bool = False, second: bool = False, last: bool = False, optimizer: Update | None = None
) -> tuple[Graph, dict[str, PassReport]]:
    """The training step with some layers frozen, and what the passes said."""
    text = NET
    for word, frozen in (("FIRST", first), ("SECOND", second), ("LAST", last)):
        text = text.replace(word, "freeze=yes" if frozen else "")
    graph = loads(text).graph(4)
    reports = PassManager([*STEP, Training(optimizer), DeadCode()]).run(graph)
    return graph, {report.name: report for report in reports}


def labels(graph: Graph, *kinds: type) -> set[str]:
    return {node.label for node in graph.nodes_of(*kinds)}


def test_no_backward_data_behind_the_last_gradient() -> None:
    graph, _ = step()
    assert labels(graph, Conv2dBackwardData) == {"conv2", "conv3"}
    assert labels(graph, Conv2dBackwardWeights) == {"conv1", "conv2", "conv3"}
    graph, _ = step(first=True)
    assert labels(graph, Conv2dBackwardData) == {"conv3"}
    assert labels(graph, Conv2dBackwardWeights) == {"conv2", "conv3"}
    graph, _ = step(first=True, second=True)
    assert labels(graph, Conv2dBackwardData) == set()
    assert labels(graph, Conv2dBackwardWeights) == {"conv3"}
    # Nothing of the frozen layers is left in the backward pass: no mask of a ReLU, no pooling, no sum for a bias.
    forward = {"input1", "conv1", "relu1", "conv2", "relu2", "pool1"}
    backward = graph.nodes[next(i for i, node in enumerate(graph.nodes) if "backward" in node.op.name) :]
    assert not forward & {node.label for node in backward}


def test_the_last_layer_frozen_saves_its_weights_alone() -> None:
    graph, _ = step(last=True)
    assert labels(graph, LinearBackwardWeights) == {"fc1"}
    assert labels(graph, LinearBackwardData) == {"fc1", "fc2"}


@pytest.mark.parametrize("optimizer", [None, AdamUpdate()], ids=str)
@pytest.mark.parametrize("frozen", [(True, False, False), (True, True, False), (False, False, True)])
def test_what_is_saved_is_the_difference_of_the_steps(
    frozen: tuple[bool, bool, bool], optimizer: Update | None
) -> None:
    whole, usual = step(optimizer=optimizer)
    graph, reports = step(*frozen, optimizer=optimizer)
    metrics = reports["training"].log.metrics
    more, less = total_cost(whole.nodes), total_cost(graph.nodes)
    assert metrics["saved_nodes"] == len(whole.nodes) - len(graph.nodes) > 0
    assert metrics["saved_flops"] == more.flops - less.flops > 0
    assert metrics["saved_bytes"] == more.bytes - less.bytes > 0
    assert metrics["frozen"] == 2 * sum(frozen)
    assert metrics["gradients"] == 10 - 2 * sum(frozen)
    assert "saved_nodes" not in usual["training"].log.metrics


def test_the_log_says_which_and_why() -> None:
    _, reports = step(first=True)
    log = reports["training"].log
    (change,) = log.of("changed")
    saved = [f"{log.metrics[f'saved_{name}']:,}" for name in ("nodes", "flops", "bytes")]
    saving = "which saves {} operations, {} flops, {} bytes".format(*saved)
    assert change.why == f"8 parameters are trained; 2 parameters are frozen, {saving}"
    missed = [(entry.before, entry.why, entry.location[0].line) for entry in log.of("missed")]
    assert missed == [
        ("conv2d(conv1)", "conv1.weight is frozen", 4),
        ("conv2d(conv1)", "conv1.bias is frozen", 4),
    ]


def test_nothing_to_train() -> None:
    graph = loads("net n { input 3x1x1 -> fc 2 freeze=yes \n loss softmax }").graph(2)
    before = len(graph.nodes)
    (report,) = PassManager([Training()]).run(graph)
    assert report.log.of("changed") == []
    assert [entry.why for entry in report.log.of("missed")] == ["no parameter is trained"]
    assert len(graph.nodes) == before


def test_dead_code_says_what_it_saves() -> None:
    """The gradient of the images: one convolution by the data of the first layer."""
    graph = loads(NET.replace("FIRST", "").replace("SECOND", "").replace("LAST", "")).graph(4)
    PassManager([*STEP, Training()]).run(graph)
    live = graph.ancestors((*graph.outputs.values(), *graph.updates.values()))
    dead = total_cost([node for node in graph.nodes if node not in live])
    (report,) = PassManager([DeadCode()]).run(graph)
    assert [entry.before for entry in report.log.of("changed")] == ["conv2d_backward_data(conv1)"]
    assert report.log.metrics == {"saved_nodes": 1, "saved_flops": dead.flops, "saved_bytes": dead.bytes}
