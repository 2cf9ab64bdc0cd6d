"""The verifier of plans: what the passes make is sound, and each kind of damage is seen and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from convc.codegen.llvm.lowering import scratch_bytes
from convc.ir.builder import Builder
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops import (
    BatchNormTraining,
    Conv2d,
    Conv2dBackwardWeights,
    Flatten,
    Linear,
    MaxPool,
)
from convc.ir.ops.activation import Relu
from convc.ir.ops.constant import Constant
from convc.ir.ops.elementwise import Add
from convc.ir.ops.units import ScaleWeights
from convc.ir.ops.update import SgdUpdate
from convc.passes.fusion import Kernel, is_boolean, resolve
from convc.passes.half_precision import HalfPrecision
from convc.passes.layout import ImageLayout, Layout, PlanarLayout
from convc.passes.machine import Machine
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.plan import Plan
from convc.passes.planning import make_plan
from convc.passes.sections import Section
from convc.passes.training import GRADIENT
from convc.passes.verify_plan import plan_problems, verify_plan
from tests.codegen.whole_net import lowered
from tests.passes.nets import Net

MACHINE = Machine("test", lanes=16, registers=32)


def net() -> Graph:
    net = Net(2, 8, 8, batch=3).conv(4, 3, pad=1).bn().relu()
    skip = net.value
    net.conv(4, 3, pad=1).bn().relu().dropout()
    net.value = Builder(net.graph).add(Add(), net.value, skip)
    return net.pool(2).fc(6).relu().fc(5).build()


def training() -> Plan:
    return make_plan(lowered(net(), "train", SgdUpdate(momentum=0.9)), MACHINE, scratch_bytes)


def inference() -> Plan:
    return make_plan(lowered(net(), "infer"), MACHINE, scratch_bytes)


def in_16_bits() -> Plan:
    graph, types = net(), HalfPrecision("bf16")
    PassManager(pipeline("train", recipe=Recipe(SgdUpdate(momentum=0.9)), types=types)).run(graph)
    return make_plan(graph, MACHINE, scratch_bytes)


# Finding things in a plan


def kernel(plan: Plan, *kinds: type[Op], which: int = 0) -> Kernel:
    """The `which`-th kernel that holds an op of each of the kinds."""
    held = [k for k in plan.kernels if all(any(isinstance(node.op, kind) for node in k.nodes) for kind in kinds)]
    return held[which]


def place(plan: Plan, old: Kernel, **changes: object) -> Kernel:
    """Another kernel in the place of one."""
    new = replace(old, **changes)  # type: ignore[arg-type]
    plan.kernels[plan.kernels.index(old)] = new
    if old in plan.memory.scratch:
        plan.memory.scratch[new] = plan.memory.scratch.pop(old)
    return new


def move(plan: Plan, value: Value, **changes: object) -> None:
    value = resolve(value)
    plan.memory.slots[value] = replace(plan.memory.slots[value], **changes)  # type: ignore[arg-type]


def arena(plan: Plan) -> list[tuple[Kernel, Value]]:
    """What kernels write to the arena, in order."""
    slots = plan.memory.slots
    return [(k, v) for k in plan.kernels for v in k.writes if slots[v].region == "arena"]


# Damage


def drop_chain_node(plan: Plan) -> None:
    old = kernel(plan, BatchNormTraining)
    place(plan, old, chain=old.chain[:-1])


def move_chain_node(plan: Plan) -> None:
    old, other = kernel(plan, BatchNormTraining), kernel(plan, MaxPool)
    place(plan, old, chain=old.chain[:-1])
    place(plan, other, riders=(*other.riders, old.chain[-1]))


def reverse_chain(plan: Plan) -> None:
    old = next(k for k in plan.kernels if len(k.chain) > 1 and k.anchor not in k.chain)
    place(plan, old, chain=old.chain[::-1])


def dead_node(plan: Plan) -> None:
    old = kernel(plan, MaxPool)
    x = old.reads[0]
    place(plan, old, riders=(Node(Relu(), (x,), (), "ghost"),))


def constant_in_kernel(plan: Plan) -> None:
    constant = next(plan.graph.nodes_of(Constant))
    old = kernel(plan, MaxPool)
    place(plan, old, riders=(constant,))


def forget_write(plan: Plan) -> None:
    old = kernel(plan, Conv2d)
    place(plan, old, writes=old.writes[1:])


def write_boolean(plan: Plan) -> None:
    old = next(k for k in plan.kernels if any(is_boolean(node) for node in k.nodes))
    mask = next(node for node in old.nodes if is_boolean(node))
    place(plan, old, writes=(*old.writes, mask.result))


def write_prologue(plan: Plan) -> None:
    old = next(k for k in plan.kernels if k.prologue)
    place(plan, old, writes=(*old.writes, old.prologue[0].result))


def forget_prologue(plan: Plan) -> None:
    place(plan, next(k for k in plan.kernels if k.prologue), prologue=())


def swap(plan: Plan) -> None:
    kernels = plan.kernels
    first = kernels.index(kernel(plan, MaxPool))
    kernels[first], kernels[first + 1] = kernels[first + 1], kernels[first]


def onto_a_living_value(plan: Plan) -> None:
    """Into the place of what is still read by a later kernel."""
    (_, early), *later = arena(plan)
    last = max(n for n, k in enumerate(plan.kernels) if early in k.reads)
    first = plan.kernels.index(kernel(plan, *[type(n.op) for n in [early.producer] if n]))
    between = next(
        v for k, v in later if first < plan.kernels.index(k) < last and early not in k.reads and v is not early
    )
    move(plan, between, offset=plan.memory.slots[early].offset)


def conv_over_its_image(plan: Plan) -> None:
    old = kernel(plan, Conv2d, which=1)
    move(plan, old.writes[0], offset=plan.memory.slots[old.reads[0]].offset)


def half_over_an_operand(plan: Plan) -> None:
    old = kernel(plan, Add)
    operand = next(v for v in old.reads if plan.memory.slots[v].region == "arena")
    move(plan, old.writes[0], offset=plan.memory.slots[operand].offset + 64)
    plan.memory.arena_bytes += 4096


def scratch_on_operand(plan: Plan) -> None:
    old = next(k for k in plan.kernels if k in plan.memory.scratch)
    value = next(v for v in (*old.reads, *old.writes) if plan.memory.slots[v].region == "arena")
    scratch = plan.memory.scratch[old]
    plan.memory.scratch[old] = replace(scratch, offset=plan.memory.slots[value].offset)
    plan.memory.arena_bytes += scratch.bytes


def writes_meet(plan: Plan) -> None:
    old = next(k for k in plan.kernels if len([v for v in k.writes if plan.memory.slots[v].region == "arena"]) > 1)
    one, other = [v for v in old.writes if plan.memory.slots[v].region == "arena"][:2]
    move(plan, other, offset=plan.memory.slots[one].offset)
    plan.memory.arena_bytes += 1 << 16


def update_elsewhere(plan: Plan) -> None:
    place_of_update = plan.graph.updates["fc1.weight"]
    plan.memory.slots[place_of_update] = replace(
        plan.memory.slots[place_of_update], offset=plan.memory.persistent_bytes
    )
    plan.memory.persistent_bytes += 1 << 16


def parameters_meet(plan: Plan) -> None:
    one, other = (plan.graph.parameters[name].value for name in ("conv1.bias", "conv2.bias"))
    for value in (other, plan.graph.updates["conv2.bias"]):
        move(plan, value, offset=plan.memory.slots[one].offset)


def gradient_in_arena(plan: Plan) -> None:
    """Where the arena begins again with every run, and other things lie."""
    value = plan.graph.outputs[GRADIENT + "conv2.weight"]
    move(plan, value, region="arena", offset=0)


def stale_image(plan: Plan) -> None:
    value = kernel(plan, Conv2d).writes[0]
    plan.layouts[value] = ImageLayout.of((4, 8, 7))


def lay(plan: Plan, value: Value, layout: Layout) -> None:
    plan.layouts[value] = layout


def other_order_in_chain(plan: Plan) -> None:
    old = kernel(plan, Add)
    operand = next(v for v in old.reads if v.producer is not None and isinstance(v.producer.op, Relu))
    lay(plan, operand, PlanarLayout(4, 8, 8))


def view_lies_otherwise(plan: Plan) -> None:
    flatten = next(plan.graph.nodes_of(Flatten))
    lay(plan, flatten.result, PlanarLayout(64))


def gradient_lies_otherwise(plan: Plan) -> None:
    lay(plan, plan.graph.outputs[GRADIENT + "fc1.weight"], PlanarLayout(6 * 64))


def other_section(plan: Plan, section: Section, *kinds: type[Op]) -> None:
    place(plan, kernel(plan, *kinds), section=section)


def graph_changed_afterwards(plan: Plan) -> None:
    """A node that the kernels know nothing of."""
    node = next(n for n in plan.graph.nodes if isinstance(n.op, MaxPool))
    x = node.operands[0]
    made = Builder(plan.graph, before=node).add(Relu(), x)
    plan.graph.set_operand(node, 0, made)


def prepared_in_arena(plan: Plan) -> None:
    """Where nothing else lies, but what one run leaves is not there in the next."""
    move(plan, kernel(plan, ScaleWeights).writes[0], region="arena", offset=plan.memory.arena_bytes)
    plan.memory.arena_bytes += 1 << 12


CORRUPTIONS: dict[str, tuple[Callable[[Plan], object], str]] = {
    "kernel missing": (lambda p: p.kernels.remove(kernel(p, MaxPool)), "max_pool pool1> is in 0 kernels"),
    "kernel twice": (lambda p: p.kernels.append(kernel(p, MaxPool)), "max_pool pool1> is in 2 kernels"),
    "kernels in another order": (lambda p: p.kernels.reverse(), "nobody has written"),
    "two kernels swapped": (swap, "reads max_pool(pool1), whose place"),
    "node of a chain missing": (drop_chain_node, "is in 0 kernels"),
    "node in another kernel": (move_chain_node, "reads what its nodes do not, or not what they do"),
    "chain reversed": (reverse_chain, "before it is computed"),
    "dead node": (dead_node, "<relu ghost> is in a kernel, but nothing depends on it"),
    "constant": (constant_in_kernel, "needs no kernel"),
    "graph changed afterwards": (graph_changed_afterwards, "<relu > is in 0 kernels"),
    "read forgotten": (
        lambda p: place(p, kernel(p, Linear), reads=kernel(p, Linear).reads[1:]),
        "reads what its nodes do not, or not what they do: max_pool(pool1)",
    ),
    "read too much": (
        lambda p: place(p, kernel(p, Linear), reads=(*kernel(p, Linear).reads, p.graph.inputs["x"])),
        "not what they do: %x",
    ),
    "write forgotten": (forget_write, "whose place"),
    "write of another kernel": (
        lambda p: place(p, kernel(p, Linear), writes=kernel(p, Linear, which=1).writes),
        "which it does not compute",
    ),
    "boolean written": (write_boolean, "which it does not compute"),
    "wrong section": (lambda p: other_section(p, Section.UPDATE, MaxPool), "belongs to the section FORWARD"),
    "prepared, though it changes": (
        lambda p: other_section(p, Section.PREPARE, Conv2dBackwardWeights),
        "belongs to the section GRADIENT",
    ),
    "no place": (lambda p: p.memory.slots.pop(kernel(p, Linear).writes[0]), "relu(relu3) has no place"),
    "parameter without place": (
        lambda p: p.memory.slots.pop(p.graph.parameters["bn1.mean"].value),
        "%bn1.mean has no place",
    ),
    "too small": (lambda p: move(p, kernel(p, Linear).writes[0], bytes=4), "has 4 bytes, but takes 96"),
    "too large": (lambda p: move(p, p.graph.inputs["x"], bytes=1 << 20), "%x has 1048576 bytes, but takes"),
    "not aligned": (lambda p: move(p, kernel(p, Linear).writes[0], offset=4), "is not aligned to 64 bytes"),
    "before the beginning": (lambda p: move(p, kernel(p, Linear).writes[0], offset=-64), "is not aligned"),
    "beyond the arena": (
        lambda p: move(p, kernel(p, Linear).writes[0], offset=p.memory.arena_bytes),
        "bytes of its region",
    ),
    "arena too small": (lambda p: setattr(p.memory, "arena_bytes", 64), "of its region"),
    "more alive than there is room for": (
        lambda p: setattr(p.memory, "live", (*p.memory.live, 1 << 30)),
        "bytes live at once in",
    ),
    "over a living value": (onto_a_living_value, "whose place holds"),
    "over an image that is still read": (conv_over_its_image, "which it still reads"),
    "over a part of an operand": (half_over_an_operand, "over a part of"),
    "two results in one place": (writes_meet, "to one place"),
    "scratch space over an operand": (scratch_on_operand, "has its scratch space where"),
    "scratch space forgotten": (lambda p: p.memory.scratch.clear(), "has 0 bytes of scratch space, but takes"),
    "update elsewhere": (update_elsewhere, "fc1.weight is updated by sgd_update(fc1.weight), whose place holds %fc1"),
    "two parameters in one place": (parameters_meet, "and sgd_update(conv2.bias) to one place"),
    "gradient in the arena": (gradient_in_arena, "whose place"),
    "no layout": (lambda p: p.layouts.pop(kernel(p, Linear).writes[0]), "relu(relu3) has no layout"),
    "image that lies as it is given": (
        lambda p: lay(p, kernel(p, MaxPool).writes[0], PlanarLayout(4, 4, 4)),
        "computes max_pool(pool1) pixel by pixel, which lies as nchw(4,4,4)",
    ),
    "stale layout": (stale_image, "is f32[3,4,8,8], but lies as nhwc(8,7,4/4)"),
    "another order in a chain": (other_order_in_chain, "which lie as"),
    "view that lies otherwise": (view_lies_otherwise, "is a view of max_pool(pool1), but lies otherwise"),
    "gradient that lies otherwise": (gradient_lies_otherwise, "grad.fc1.weight lies as nchw(384,1,1)"),
    "batch forgotten": (lambda p: p.batched.remove(kernel(p, Linear).writes[0]), "is f32[3,6], but lies as"),
}
# Damage that the plan of a training step has no place for.
PREPARED: dict[str, tuple[Callable[[Plan], object], str]] = {
    "prepared values in the arena": (
        prepared_in_arena,
        "reads scale_weights(bn1), whose place nobody has written (asked for FORWARD)",
    ),
    "prepared from what is given": (
        lambda p: p.graph.updates.update({"conv1.weight": p.graph.parameters["conv1.weight"].value}),
        "belongs to the section FORWARD",
    ),
    "prepared too late": (lambda p: p.kernels.append(p.kernels.pop(0)), "nobody has written"),
}


IN_16_BITS: dict[str, tuple[Callable[[Plan], object], str]] = {
    "prologue stored": (write_prologue, "which it does not compute"),
    "prologue forgotten": (forget_prologue, "reads what its nodes do not, or not what they do"),
}


def damaged(plan: Plan, damage: Callable[[Plan], object]) -> str:
    damage(plan)
    with pytest.raises(CompileError) as caught:
        verify_plan(plan)
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {"verify-plan"}
    return str(caught.value)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_is_seen(name: str) -> None:
    damage, words = CORRUPTIONS[name]
    assert words in damaged(training(), damage)


@pytest.mark.parametrize("name", PREPARED)
def test_damage_to_what_is_prepared_is_seen(name: str) -> None:
    damage, words = PREPARED[name]
    assert words in damaged(inference(), damage)


@pytest.mark.parametrize("name", IN_16_BITS)
def test_damage_to_what_is_cast_on_the_way_is_seen(name: str) -> None:
    damage, words = IN_16_BITS[name]
    assert words in damaged(in_16_bits(), damage)


def test_sound_plans() -> None:
    for plan in (training(), inference(), in_16_bits()):
        assert plan_problems(plan) == []
        assert any(slot.region == "arena" for slot in plan.memory.slots.values())
