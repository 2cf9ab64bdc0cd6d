"""What LLVM makes of inner loops: the sums of a product stay in registers, at every tier of x86-64."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from convc.codegen.llvm.program import generate, plan_step
from convc.codegen.llvm.target import CpuTarget, choose_target, emit_assembly, tier_targets
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops import Add, Conv2d, Negate
from convc.ir.types import DType, TensorType
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.machine import Tier
from convc.runtime.tuning import graph_of
from tests.codegen.algorithms.convolutions import DIRECTIONS

PROBLEMS: dict[str, tuple[int, int, int, int, int]] = {  # batch, channels, filters, size, kernel
    "pointwise": (8, 256, 1024, 14, 1),
    "pointwise of 7": (8, 512, 96, 7, 1),
    "3x3": (8, 64, 64, 28, 3),
    "3x3 of 7": (8, 512, 512, 7, 3),
    "5x5": (8, 32, 96, 28, 5),
}
TARGETS = tier_targets()
# Code can be made for it on every processor.
WITH_DOT = choose_target(
    "x86_64-unknown-linux-gnu", dict.fromkeys((*next(iter(TARGETS.values())).flags, "avx512bf16"), True)
)
_PRODUCT, _LOAD = re.compile("fmadd|vdpbf16ps"), re.compile("vmovups|broadcast|fmadd|vdpbf16ps")
# Loops with fewer products are tails of others, or transforms, which hold more values than there are registers.
_PRODUCTS = 48


@dataclass(frozen=True)
class Loop:
    """An innermost loop: its multiply-adds, how often it moves a vector between registers and the stack, and how many
    vectors or scalars it widens."""

    products: int
    spills: int
    loads: int
    conversions: int


def loops(assembly: str) -> Iterator[Loop]:
    lines = assembly.splitlines()
    labels = {line[: line.index(":")]: number for number, line in enumerate(lines) if re.match(r"\.LBB\w+:", line)}
    for number, line in enumerate(lines):
        jump = re.match(r"\s+j\w+\s+(\.LBB\w+)", line)
        if jump is None or labels.get(jump[1], number) >= number:
            continue
        body = lines[labels[jump[1]] + 1 : number]
        if not any(line.startswith(".LBB") for line in body):
            own = [line for line in body if "(%rsp" not in line]
            yield Loop(
                sum(_PRODUCT.search(line) is not None for line in body),
                sum("vmov" in line and "(%rsp" in line for line in body),
                sum("(" in line and _LOAD.search(line) is not None for line in own),
                sum("vcvtph2ps" in line for line in body),
            )


@pytest.mark.skipif("avx512" not in TARGETS, reason="the tiers are those of x86-64")
@pytest.mark.parametrize("tier", ["avx512", "avx2"])
@pytest.mark.parametrize("algorithm", ["direct", "im2col", "winograd_f2x3"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sums_stay_in_registers(direction: Direction, algorithm: str, tier: Tier) -> None:
    check(direction, algorithm, TARGETS[tier], DType.F32)


@pytest.mark.skipif("avx512" not in TARGETS, reason="the tiers are those of x86-64")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sums_of_pairs_stay_in_registers(direction: Direction) -> None:
    assert "vdpbf16ps" in check(direction, "direct", WITH_DOT, DType.BF16)


@pytest.mark.skipif("avx512" not in TARGETS, reason="the tiers are those of x86-64")
@pytest.mark.parametrize("tier", ["avx512", "avx2"])
@pytest.mark.parametrize("direction", ["forward", "backward_data"])
def test_scalars_of_16_bits_are_widened_outside_of_the_inner_loops(direction: Direction, tier: Tier) -> None:
    """What is left there are the vectors of a step, at most one conversion for every fourth product."""
    assembly = check(direction, "direct", TARGETS[tier], DType.F16)
    inner = [loop for loop in loops(assembly) if loop.products >= _PRODUCTS]
    assert inner
    assert all(4 * loop.conversions <= loop.products for loop in inner)
    assert "vcvtph2ps" in assembly


@pytest.mark.skipif("avx512" not in TARGETS, reason="the tiers are those of x86-64")
@pytest.mark.parametrize(("tier", "vectors_of_line"), [("avx512", 1), ("avx2", 2)])
def test_what_a_tile_is_added_to_is_asked_for_line_by_line(tier: Tier, vectors_of_line: int) -> None:
    """Each cache line once, before the products; a convolution that meets nothing asks for nothing."""
    target = TARGETS[tier]

    def text(residual: bool) -> str:
        graph = Graph("net")
        builder, images = Builder(graph), TensorType(DType.F32, (8, 64, 28, 28))
        x, other = (builder.add(Negate(), graph.add_input(name, images)) for name in ("x", "other"))
        w = graph.add_parameter("w", TensorType(DType.F32, (64, 64, 1, 1)))
        y = builder.add(Conv2d(), x, w)
        graph.outputs["logits"] = builder.add(Add(), y, other) if residual else y
        return generate(plan_step(graph, target), "fma").text

    asking = text(residual=True)
    (convolution,) = (part for part in asking.split("define ") if "@llvm.prefetch" in part and " fadd " in part)
    vectors = convolution.count(f"store <{target.lanes} x float>")
    assert convolution.count("call void @llvm.prefetch") * vectors_of_line == vectors > 0
    assert convolution.index("@llvm.prefetch") < convolution.index("@llvm.fma")
    assert "@llvm.prefetch" not in text(residual=False)


def check(direction: Direction, algorithm: str, target: CpuTarget, dtype: DType) -> str:
    """Returns the assembly of the last problem."""
    seen, assembly = 0, ""
    for name, (batch, channels, filters, size, kernel) in PROBLEMS.items():
        if algorithm.startswith("winograd") and kernel != 3:
            continue
        pad = kernel // 2
        sizes = (size, size), (size, size), (kernel, kernel)
        problem = Problem(direction, batch, channels, filters, *sizes, padding=(pad, pad, pad, pad), dtype=dtype)
        plan = plan_step(graph_of(problem, algorithm), target)
        assembly = emit_assembly(generate(plan, "fma").text, target)
        for loop in loops(assembly):
            if loop.products >= _PRODUCTS and loop.loads < loop.products:
                seen += 1
                assert 8 * loop.spills <= loop.products, (name, loop)
    assert seen
    return assembly
