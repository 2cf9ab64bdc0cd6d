"""The order of kernels: nobody runs before what he waits for, and it pays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convc.codegen.llvm.lowering import scratch_bytes
from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.ops import Conv2dBackwardWeights
from convc.ir.ops.update import SgdUpdate, Update
from convc.passes.machine import Machine
from convc.passes.memory import arena_needs, kept_values
from convc.passes.pipeline import Recipe
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING, make_plan
from convc.passes.schedule import dependencies
from convc.passes.sections import Section
from tests.codegen.whole_net import lowered, with_batch
from tests.passes.nets import lenet
from tests.strategies import graphs

MACHINE = Machine("test", lanes=16, registers=32)
UNORDERED = tuple(step for step in PLANNING if step.name != "schedule")


def plan_of(graph: Graph, *, ordered: bool = True) -> Plan:
    return make_plan(graph, MACHINE, scratch_bytes, PLANNING if ordered else UNORDERED)


def net(body: str, batch: int = 8) -> Graph:
    return loads(f"net n {{\n  {body}\n  loss softmax\n}}\n", file="n.cnn").graph(batch)


# The last layers decide the peak: there the first weight gradient gives an activation back.
WIDE_END = """input 3x16x16 -> conv 8 k=3 pad=1 -> relu -> conv 32 k=3 pad=1 -> relu -> conv 32 k=3 pad=1 -> relu
  pool avg global -> fc 10"""


def test_a_weight_gradient_runs_before_the_next_cotangent() -> None:
    plan, old = (plan_of(lowered(net(WIDE_END), "train", SgdUpdate()), ordered=order) for order in (True, False))
    assert plan.memory.bound_bytes < old.memory.bound_bytes
    (report,) = (report for report in plan.reports if report.name == "schedule")
    moved = report.log.of("changed")
    why = "it reads something for the last time, and conv2d_backward_data(conv3) needs room"
    weights = "conv2d_backward_weights(conv3)"
    assert [str(entry) for entry in moved] == [f"changed earlier  {weights} -> {weights}  why: {why}  n.cnn:2"]
    assert report.log.metrics["bytes"] == plan.memory.bound_bytes
    assert report.log.metrics["bytes_before"] == old.memory.bound_bytes
    assert report.log.metrics["moved"] == len(moved) == 1
    # Everything else is where it was.
    names = [[kernel.label + kernel.name for kernel in p.kernels if not moves(kernel.anchor.op)] for p in (plan, old)]
    assert names[0] == names[1]


def moves(op: object) -> bool:
    return isinstance(op, Conv2dBackwardWeights)


def test_the_order_stays_where_nothing_is_gained() -> None:
    for mode in ("infer", "train"):
        graph = lowered(lenet(batch=4), mode, SgdUpdate())
        plan, old = plan_of(graph.copy()), plan_of(graph, ordered=False)
        assert [kernel.name for kernel in plan.kernels] == [kernel.name for kernel in old.kernels]


def test_updates_stay_one_loop_and_say_so() -> None:
    plan = plan_of(lowered(net(WIDE_END), "train", SgdUpdate(momentum=0.9)))
    assert isinstance(plan.kernels[-1].anchor.op, Update)
    (report,) = (report for report in plan.reports if report.name == "schedule")
    (missed,) = report.log.of("missed")
    assert missed.rule == "early-update"
    assert missed.why == "one loop updates 7 parameters, and their gradients outlive the step anyway"


RECIPES = st.sampled_from(
    [Recipe(SgdUpdate(momentum=0.5)), Recipe(SgdUpdate(), clip=1.0, accumulate=2, max_norm=1.0), Recipe()]
)


@given(graphs(max_layers=7), st.integers(1, 9), st.booleans(), RECIPES)
def test_any_net(graph: Graph, batch: int, infer: bool, recipe: Recipe) -> None:
    twin = lowered(with_batch(graph, batch), "infer" if infer else "train", recipe)
    old, plan = plan_of(twin, ordered=False), plan_of(twin.copy())
    assert plan.memory.bound_bytes <= old.memory.bound_bytes
    assert sorted(kernel.name for kernel in plan.kernels) == sorted(kernel.name for kernel in old.kernels)
    assert_nobody_runs_early(plan)


def assert_nobody_runs_early(plan: Plan) -> None:
    """Every value is read after it is written, and every parameter before it is updated."""
    written: set[object] = set()
    made = {value for kernel in plan.kernels for value in kernel.writes}
    slots = plan.memory.slots
    updated = {slots[value] for value in plan.graph.updates.values()}
    gone: set[object] = set()
    for kernel in plan.kernels:
        for value in kernel.reads:
            assert value in written or value not in made
            assert value in made or slots.get(value) not in gone
        written |= {*kernel.writes}
        gone |= {slots[value] for value in kernel.writes} & updated


def test_what_a_kernel_waits_for() -> None:
    plan = plan_of(lowered(net("input 3x4x4 -> conv 4 k=1 -> bn -> relu -> fc 3"), "train", SgdUpdate(momentum=0.9)))
    waits = dependencies(plan)
    for last, kernel in enumerate(plan.kernels):
        moved = {node.operands[0] for node in kernel.nodes if isinstance(node.op, Update)}
        readers = {n for n, other in enumerate(plan.kernels) if n != last and moved.intersection(other.reads)}
        assert readers <= waits[last]
    assert sum(any(isinstance(node.op, Update) for node in kernel.nodes) for kernel in plan.kernels) == 2
    assert all(max(earlier, default=-1) < index for index, earlier in enumerate(waits))


def test_what_prepares_comes_before_everything_else() -> None:
    plan = plan_of(lowered(net("input 3x4x4 -> conv 4 k=1 -> bn -> relu -> conv 5 k=3 -> bn -> fc 3"), "infer"))
    waits = dependencies(plan)
    first = [index for index, kernel in enumerate(plan.kernels) if kernel.section is Section.PREPARE]
    assert len(first) > 2
    for index in range(len(plan.kernels)):
        behind, pending = set[int](), [index]
        while pending:
            for other in waits[pending.pop()] - behind:
                behind.add(other)
                pending.append(other)
        assert behind >= {other for other in first if other < index}


def parameters(plan: Plan) -> set[object]:
    return {parameter.value for parameter in plan.graph.parameters.values() if parameter.trainable}


def test_needs_tell_what_lies_in_the_arena() -> None:
    plan = plan_of(lowered(net(WIDE_END), "train", SgdUpdate()))
    needs, kept = arena_needs(plan), kept_values(plan.graph)
    assert {value for kernel in needs for value in (*kernel.reads, *kernel.writes)} == {
        value for value, slot in plan.memory.slots.items() if slot.region == "arena"
    }
    assert plan.graph.outputs["logits"] in kept
    assert all(read in kernel.reads and written in kernel.writes for kernel in needs for written, read in kernel.over)
