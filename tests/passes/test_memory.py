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
from convc.passes.memory import Slot, gradient_blocks
from convc.passes.packing import ALIGNMENT
from convc.passes.pipeline import Recipe
from convc.passes.plan import Plan
from convc.passes.planning import make_plan
from convc.passes.training import GRADIENT, LossScaling
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
        values = [value for value, (first, last) in lives.items() if first <= number <= last]
        live = {memory.slots[value] for value in values}
        if len(live) < len(values):
            # Written over an operand that dies here.
            shared = [value for value in values if sum(memory.slots[value] == memory.slots[v] for v in values) > 1]
            written, read = ([v for v in shared if lives[v][end] == number] for end in (0, 1))
            assert len(shared) == 2 * len(written) == 2 * len(read), f"during {kernel.name}"
            assert {*written} <= {*kernel.writes}
            assert {*read} <= {*kernel.reads}
        live |= {memory.scratch[kernel]} if kernel in memory.scratch else set()
        for left, right in combinations(live, 2):
            assert not overlap(left, right), f"during {kernel.name}"
        assert sum(slot.bytes for slot in live) <= memory.live[number] <= memory.bound_bytes
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
    assert plan.memory.bound_bytes <= plan.memory.arena_bytes <= 1.05 * plan.memory.bound_bytes


@pytest.mark.parametrize("net", [lenet, residual])
def test_inference_plans(net: Callable[[], Graph]) -> None:
    plan = plan_of(net(), infer=True)
    assert_sound(plan)
    assert plan.memory.arena_bytes <= 1.05 * plan.memory.bound_bytes
    assert plan.memory.arena_bytes < plan_of(net()).memory.arena_bytes


@given(graphs(max_layers=5), st.integers(1, 19), st.booleans())
def test_plans_of_any_net(graph: Graph, batch: int, infer: bool) -> None:
    plan = plan_of(with_batch(graph, batch), SgdUpdate(momentum=0.5), infer)
    assert_sound(plan)
    assert plan.memory.arena_bytes <= 1.25 * plan.memory.bound_bytes


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
    sweep = plan.kernels[-1]
    names = [name for name, p in graph.parameters.items() if p.trainable and p.value in sweep.reads]
    assert len(names) == 6
    blocks = [
        [slots[resolve(graph.outputs[GRADIENT + name])].offset for name in names],
        *([slots[graph.parameters[name + state].value].offset for name in names] for state in ("", ".mean", ".square")),
    ]
    distances = [[offset - block[0] for offset in block] for block in blocks]
    assert all(distance == distances[0] for distance in distances)
    assert distances[0] == sorted(distances[0])


def test_gradients_on_demand_lie_behind_everything_else() -> None:
    plan = plan_of(lenet(), AdamUpdate())
    memory, outputs = plan.memory, plan.graph.outputs
    on_demand = [memory.slots[outputs[f"{GRADIENT}{name}.weight"]] for name in ("fc1", "fc2")]
    others = [slot for slot in memory.slots.values() if slot.region == "persistent" and slot not in on_demand]
    border = memory.persistent_bytes - memory.on_demand_bytes
    assert all(slot.offset >= border for slot in on_demand)
    assert all(slot.offset + slot.bytes <= border for slot in others)
    assert memory.total_bytes == memory.arena_bytes + border


def wide() -> Graph:
    """Parameters of whole cache lines, as nets of many channels have them."""
    net = Net(3, 12, 12, batch=2)
    for _ in range(4):
        net.conv(32, 3, pad=1).relu()
    return net.fc(16).build()


def test_gradients_of_whole_cache_lines_lie_within_the_arena() -> None:
    """In one piece and in the order of the parameters; until they are computed, others use their places."""
    plan = plan_of(wide(), SgdUpdate(momentum=0.9))
    assert_sound(plan)
    graph, slots = plan.graph, plan.memory.slots
    (block,) = gradient_blocks(plan)
    assert {slots[value].region for value in block} == {"arena"}
    assert plan.memory.lasting_bytes == sum(slots[p.value].bytes for p in graph.parameters.values())
    trained = [name for name, parameter in graph.parameters.items() if parameter.trainable]
    names = [name for name in trained if resolve(graph.outputs[GRADIENT + name]) in block]
    assert len(names) == len(block) == 9  # all but the weights of fc1, which are updated as their gradient is computed
    for name in names:
        distance = slots[resolve(graph.outputs[GRADIENT + name])].offset - slots[block[0]].offset
        assert distance == slots[graph.parameters[name].value].offset - slots[graph.parameters[names[0]].value].offset
    others = [slots[value] for buffer in plan.memory.buffers for value in buffer.values if value not in block]
    assert any(overlap(slots[value], other) for value in block for other in others)
    size = slots[block[-1]].offset + slots[block[-1]].bytes - slots[block[0]].offset
    apart = plan_of(wide()).memory  # without an optimiser gradients outlive a step
    assert plan.memory.arena_bytes < apart.arena_bytes + size


def test_gradients_with_gaps_and_gradients_of_a_scaled_loss_outlive_a_step() -> None:
    assert gradient_blocks(plan_of(lenet(), SgdUpdate(momentum=0.9))) == []
    graph = lowered(wide(), "train", Recipe(SgdUpdate(momentum=0.9), scaling=LossScaling()))
    assert gradient_blocks(make_plan(graph, MACHINE, scratch_bytes)) == []


def test_gradients_and_states_outlive_a_step() -> None:
    plan = plan_of(lenet(), SgdUpdate(momentum=0.9))
    for name, value in plan.graph.outputs.items():
        expected = "persistent" if name.startswith(GRADIENT) else "arena"
        assert plan.memory.slots[resolve(value)].region == expected
    for parameter in plan.graph.parameters.values():
        assert plan.memory.slots[parameter.value].region == "persistent"
