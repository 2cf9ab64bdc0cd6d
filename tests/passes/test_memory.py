"""The memory plan: what is live at once lies apart, slots are aligned, and little space is lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.codegen.llvm.lowering import scratch_bytes
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.ops.elementwise import Add
from convc.ir.ops.update import AdamUpdate, SgdUpdate, Update
from convc.passes.fusion import resolve
from convc.passes.machine import Machine
from convc.passes.memory import ALIGNMENT, Interval, Slot, aligned, pack_intervals
from convc.passes.plan import Plan
from convc.passes.planning import make_plan
from convc.passes.training import GRADIENT
from tests.codegen.whole_net import lowered, with_batch
from tests.passes.nets import Net, lenet
from tests.strategies import graphs

MACHINE = Machine("test", lanes=16, registers=32)


def plan_of(graph: Graph, optimizer: Update | None = None, infer: bool = False) -> Plan:
    return make_plan(lowered(graph, "infer" if infer else "train", optimizer), MACHINE, scratch_bytes)


def residual(batch: int = 4) -> Graph:
    net = Net(3, 8, 8, batch=batch).conv(8, 3, pad=1).bn().relu()
    for _ in range(3):
        skip = net.value
        net.conv(8, 3, pad=1).bn().relu().dropout().conv(8, 3, pad=1)
        net.value = Builder(net.graph).add(Add(), net.value, skip)
        net.relu()
    return net.pool(2).fc(10).build()


def overlap(left: Slot, right: Slot) -> bool:
    same = left.region == right.region
    return same and left.offset < right.offset + right.bytes and right.offset < left.offset + left.bytes


def lifetimes(plan: Plan) -> dict[Value, tuple[int, int]]:
    """Of every value in the arena: the first kernel that touches it, and the last one."""
    kept = {resolve(value) for value in plan.graph.outputs.values()}
    uses: dict[Value, list[int]] = {}
    for number, kernel in enumerate(plan.kernels):
        for value in (*kernel.reads, *kernel.writes):
            if value in plan.memory.slots and plan.memory.slots[value].region == "arena":
                uses.setdefault(value, []).append(number)
    end = len(plan.kernels)
    return {value: (numbers[0], end if value in kept else numbers[-1]) for value, numbers in uses.items()}


def assert_sound(plan: Plan) -> None:
    memory = plan.memory
    lives = lifetimes(plan)
    for number, kernel in enumerate(plan.kernels):
        live = [memory.slots[value] for value, (first, last) in lives.items() if first <= number <= last]
        live += [memory.scratch[kernel]] if kernel in memory.scratch else []
        for left, right in combinations(live, 2):
            assert not overlap(left, right), f"during {kernel.name}"
        assert sum(slot.bytes for slot in live) <= memory.bound_bytes
    for slot in (*memory.slots.values(), *memory.scratch.values()):
        assert slot.offset % ALIGNMENT == 0
        if slot.region in ("arena", "persistent"):
            most = memory.arena_bytes if slot.region == "arena" else memory.persistent_bytes
            assert 0 <= slot.offset <= slot.offset + slot.bytes <= most
    # A parameter is updated where it lies; apart from that nothing that outlives a step shares memory.
    updated = {resolve(value) for value in plan.graph.updates.values()}
    lasting = [slot for value, slot in memory.slots.items() if slot.region == "persistent" and value not in updated]
    for left, right in combinations(lasting, 2):
        assert not overlap(left, right)


@pytest.mark.parametrize("net", [lenet, residual])
@pytest.mark.parametrize("optimizer", [None, SgdUpdate(momentum=0.9), AdamUpdate()], ids=str)
def test_training_plans(net: Callable[[], Graph], optimizer: Update | None) -> None:
    plan = plan_of(net(), optimizer)
    assert_sound(plan)
    assert plan.memory.bound_bytes <= plan.memory.arena_bytes <= 1.1 * plan.memory.bound_bytes


@pytest.mark.parametrize("net", [lenet, residual])
def test_inference_plans(net: Callable[[], Graph]) -> None:
    plan = plan_of(net(), infer=True)
    assert_sound(plan)
    assert plan.memory.arena_bytes <= 1.1 * plan.memory.bound_bytes
    assert plan.memory.arena_bytes < plan_of(net()).memory.arena_bytes / 2


@given(graphs(max_layers=5), st.integers(1, 19), st.booleans())
def test_plans_of_any_net(graph: Graph, batch: int, infer: bool) -> None:
    plan = plan_of(with_batch(graph, batch), SgdUpdate(momentum=0.5), infer)
    assert_sound(plan)
    assert plan.memory.arena_bytes <= 1.5 * plan.memory.bound_bytes


def test_a_parameter_is_updated_where_it_lies() -> None:
    plan = plan_of(residual(), AdamUpdate())
    slots = plan.memory.slots
    assert plan.graph.updates
    for name, value in plan.graph.updates.items():
        assert slots[value] == slots[plan.graph.parameters[name].value]


def test_tensors_of_a_sweep_lie_in_the_same_order_in_each_block() -> None:
    """So that an update of all parameters is one loop over memory."""
    plan = plan_of(lenet(), AdamUpdate())
    slots, graph = plan.memory.slots, plan.graph
    names = [name for name, parameter in graph.parameters.items() if parameter.trainable]
    blocks = [
        [slots[resolve(graph.outputs[GRADIENT + name])].offset for name in names],
        *([slots[graph.parameters[name + state].value].offset for name in names] for state in ("", ".mean", ".square")),
    ]
    distances = [[offset - block[0] for offset in block] for block in blocks]
    assert all(distance == distances[0] for distance in distances)
    assert distances[0] == sorted(distances[0])


def test_gradients_and_states_outlive_a_step() -> None:
    plan = plan_of(lenet(), SgdUpdate(momentum=0.9))
    for name, value in plan.graph.outputs.items():
        expected = "persistent" if name.startswith(GRADIENT) else "arena"
        assert plan.memory.slots[resolve(value)].region == expected
    for parameter in plan.graph.parameters.values():
        assert plan.memory.slots[parameter.value].region == "persistent"


# Packing


def interval_lists() -> st.SearchStrategy[list[Interval]]:
    spans = st.tuples(st.integers(1, 2000), st.integers(0, 12), st.integers(0, 6))
    return st.lists(spans, max_size=14).map(
        lambda drawn: [Interval(key, size, first, first + rest) for key, (size, first, rest) in enumerate(drawn)]
    )


def live_bytes(intervals: list[Interval], moment: int) -> int:
    return sum(aligned(i.bytes) for i in intervals if i.first <= moment <= i.last)


@given(interval_lists())
def test_intervals_that_meet_in_time_do_not_meet_in_space(intervals: list[Interval]) -> None:
    offsets, total = pack_intervals(intervals)
    assert offsets.keys() == {interval.key for interval in intervals}
    for left, right in combinations(intervals, 2):
        if left.first <= right.last and right.first <= left.last:
            low, high = sorted((left, right), key=lambda interval: offsets[interval.key])
            assert offsets[low.key] + low.bytes <= offsets[high.key]
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    assert total == max((offsets[i.key] + aligned(i.bytes) for i in intervals), default=0)


@given(interval_lists())
def test_packing_is_close_to_what_lives_at_once(intervals: list[Interval]) -> None:
    _, total = pack_intervals(intervals)
    bound = max((live_bytes(intervals, moment) for moment in range(20)), default=0)
    assert bound <= total <= 2 * bound


def test_intervals_that_follow_each_other_share_space() -> None:
    intervals = [Interval(number, 100 - number, number, number) for number in range(5)]
    assert pack_intervals(intervals) == (dict.fromkeys(range(5), 0), 128)


def test_a_small_one_goes_into_the_tightest_gap() -> None:
    intervals = [
        Interval("low", 1024, 0, 9),
        Interval("wide gap", 640, 0, 4),
        Interval("middle", 576, 0, 9),
        Interval("narrow gap", 512, 0, 4),
        Interval("top", 448, 0, 9),
        Interval("late", 320, 5, 9),
    ]
    offsets, total = pack_intervals(intervals)
    assert offsets["late"] == offsets["narrow gap"]
    assert total == 1024 + 640 + 576 + 512 + 448


def test_the_order_given_does_not_matter() -> None:
    intervals = [Interval(number, 64 * (number + 1), number, number + 2) for number in range(8)]
    assert pack_intervals(intervals) == pack_intervals(intervals[::-1])
