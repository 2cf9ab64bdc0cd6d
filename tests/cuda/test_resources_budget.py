"""Every kernel that the examples need compiles for every architecture, and takes no more of a GPU than it may."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Literal

import pytest

from convc.codegen.cuda.architectures import architecture, occupancy
from convc.codegen.cuda.kernel import Launch
from convc.codegen.cuda.nvrtc import RESOURCES, compile_all
from convc.codegen.cuda.program import make_step
from convc.codegen.cuda.resources import Resources, find_tool, instruction_counts, parse_resources, sass
from convc.frontend import loads
from convc.frontend.load import load
from convc.ir.graph import Graph
from convc.ir.ops import AdamUpdate
from convc.lazy import dataclass
from convc.passes.base import Mode
from convc.passes.half_precision import HalfPrecision
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from tests.conftest import REPOSITORY
from tests.cuda.test_ops import needs_nvrtc

pytestmark = needs_nvrtc

Number = Literal["fp32", "fp16"]
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120")
BATCH = 32

# What comes together in nets of today, small.
TEXTS = {
    "lenet": """net n { input 1x28x28 -> conv 20 k=5 -> relu -> pool max 2 -> conv 50 k=5 -> relu -> pool max 2
        flatten -> fc 500 -> relu -> fc 10 -> loss softmax }""",
    "residual": """
      net n {
        input 3x32x32 -> conv 16 k=3 pad=1 bias=no -> bn -> relu
        residual {
          conv 32 k=3 s=2 pad=1 bias=no -> bn -> relu
          conv 32 k=3 pad=1 bias=no -> bn
        } skip auto
        relu -> conv 32 k=3 pad=1 groups=32 -> relu -> dropout 0.2 -> conv 24 k=3 pad=1 algo=winograd_f2x3 -> relu
        conv 16 k=5 pad=2 algo=fft_8 -> relu -> pool avg global -> flatten -> fc 10 -> loss softmax
      }""",
}
EXAMPLES = sorted(path.stem for path in (REPOSITORY / "examples").glob("*.cnn"))
MODES: tuple[Mode, ...] = ("train", "infer")


@cache
def graph_of(net: str, mode: Mode, numbers: Number) -> Graph:
    text = TEXTS.get(net)
    graph = (loads(text) if text else load(REPOSITORY / "examples" / f"{net}.cnn")).graph(BATCH)
    types = HalfPrecision("fp16") if numbers == "fp16" else None
    PassManager(pipeline(mode, recipe=Recipe(AdamUpdate()), types=types)).run(graph)
    return graph


def launches_of(net: str, mode: Mode, numbers: Number, name: str) -> tuple[Launch, ...]:
    return make_step(graph_of(net, mode, numbers).copy(), int(name.removeprefix("sm_"))).launches


@dataclass(frozen=True)
class Budget:
    """The most that any kernel of a file may take: registers of a thread, bytes of shared memory of a block.

    `occupancy` is the least share of an SM's warps, `has` the instructions that all its kernels have in machine code of
    an architecture with asynchronous copies, for operands of 16 bits. `spills` are bytes that may go to memory and
    back.
    """

    registers: int
    shared: int = 0
    occupancy: float = 0.5
    has: tuple[str, ...] = ()
    spills: int = 0


_TENSOR_CORES = ("HMMA", "LDSM")
# Warps with 64 x 64 sums take all registers that a thread may have: a few kernels of the examples keep up to
# three numbers in memory.
_FEW_NUMBERS = 16
# A third of an SM's warps or fewer is the price of many sums in registers: those are independent work, too.
BUDGETS: dict[str, Budget] = {
    "binarize.cu": Budget(40, 1024),
    "channel_moments.cu": Budget(80, 17 * 1024, 0.25),
    "channel_sums.cu": Budget(64, 16 * 1024, 0.375),
    "conv_depthwise.cu": Budget(128, 16 * 1024, 0.25),
    "conv_depthwise_data.cu": Budget(128, 16 * 1024, 0.25),
    "conv_depthwise_filters.cu": Budget(128, 8 * 1024, 0.25),
    "conv_mma.cu": Budget(255, 99 * 1024, 0.12, _TENSOR_CORES, _FEW_NUMBERS),
    "conv_mma_data.cu": Budget(255, 99 * 1024, 0.12, _TENSOR_CORES, _FEW_NUMBERS),
    "conv_mma_filters.cu": Budget(255, 99 * 1024, 0.12, _TENSOR_CORES, _FEW_NUMBERS),
    "conv_simt.cu": Budget(128, 34 * 1024, 0.25),
    "conv_simt_data.cu": Budget(128, 34 * 1024, 0.25),
    "conv_simt_filters.cu": Budget(128, 34 * 1024, 0.25),
    "each_weight.cu": Budget(48),
    "fft_filter_gradients.cu": Budget(96, 48 * 1024, 0.12),
    "fft_filters.cu": Budget(96, 48 * 1024, 0.12),
    "fft_product.cu": Budget(128, 34 * 1024, 0.25),
    "fft_results.cu": Budget(96, 48 * 1024, 0.12),
    "fft_spectra.cu": Budget(96, 48 * 1024, 0.12),
    "hinge_backward.cu": Budget(40),
    "local_response.cu": Budget(80, 16 * 1024, 0.375),
    "local_response_backward.cu": Budget(96, 16 * 1024, 0.25),
    # A warp keeps the logits of an image: 32 of 1000 in each thread.
    "loss.cu": Budget(80, 1024, 0.375),
    "map.cu": Budget(80, 0, 0.375),
    "max_norm.cu": Budget(40, 4 * 1024),
    "move_scale.cu": Budget(32, 0, 0.25),
    "norm.cu": Budget(40, 4 * 1024),
    "norm_parts.cu": Budget(48, 4 * 1024),
    "scale_weights.cu": Budget(40, 4 * 1024, 0.25),
    "softmax.cu": Budget(64, 1024),
    "softmax_backward.cu": Budget(64, 1024),
    "softmax_cross_entropy_backward.cu": Budget(64, 1024),
    "sum.cu": Budget(40, 1024),
    "sum_filter_parts.cu": Budget(40, 0, 0.75),
    "sum_image_parts.cu": Budget(64),
    "sum_of_parts.cu": Budget(32, 1024),
    "sum_weights.cu": Budget(40, 4 * 1024),
    "sweep.cu": Budget(56),
    "winograd.cu": Budget(255, 100 * 1024, 0.12),
    "winograd_filters.cu": Budget(72, 0, 0.375),
    "winograd_gradient.cu": Budget(255, 100 * 1024, 0.12),
}


@dataclass(frozen=True)
class Used:
    """What a kernel takes on an architecture; `shared` is memory of fixed and of dynamic size."""

    launch: Launch
    resources: Resources
    shared: int
    occupancy: float
    instructions: Counter[str]


def measured(launches: Iterable[Launch], name: str) -> Iterator[Used]:
    """Each different kernel, compiled without a warning."""
    distinct = {launch.source: launch for launch in launches}
    made = compile_all(list(distinct), name, [RESOURCES], threads=os.cpu_count() or 1)
    for launch, compiled in zip(distinct.values(), made, strict=True):
        (resources,) = parse_resources(compiled.log).values()
        shared = resources.shared + launch.shared_bytes
        found = occupancy(architecture(name), launch.threads, resources.registers, shared)
        disassembled = launch.work.tensor_cores and find_tool("nvdisasm") is not None
        counts = instruction_counts(sass(compiled.cubin)) if disassembled else Counter[str]()
        yield Used(launch, resources, shared, found.fraction, counts)


def excess(used: Used, name: str) -> Iterator[str]:
    """In what a kernel exceeds its budget."""
    budget, r = BUDGETS.get(used.launch.file), used.resources
    if budget is None:
        yield "has no budget"
        return
    if max(r.spill_stores, r.spill_loads, r.stack) > budget.spills:
        yield f"spills {r.spill_stores} + {r.spill_loads} bytes, stack of {r.stack}"
    if r.registers > budget.registers:
        yield f"{r.registers} registers instead of {budget.registers}"
    if used.shared > budget.shared:
        yield f"{used.shared} bytes of shared memory instead of {budget.shared}"
    if used.occupancy < budget.occupancy:
        yield f"occupancy {used.occupancy:.3f} instead of {budget.occupancy}"
    if used.instructions:
        for instruction in budget.has:
            if not used.instructions[instruction]:
                yield f"no {instruction}"
        copies = "cp.async.cg" in used.launch.source and architecture(name).cp_async
        # Where chunks of operands are not aligned they are gathered instead.
        if copies and used.shared and not used.instructions["LDGSTS"] and is_whole(used.launch):
            yield "no LDGSTS"


def is_whole(launch: Launch) -> bool:
    """Whether both operands of a product come in chunks of 16 bytes: all channels are multiples of 8."""
    stored = re.findall(r"enum : int \{ (?:C|K|CG)_STORED = (\d+); \};", launch.source)
    groups = re.search(r"enum : int \{ GROUPS = (\d+); \};", launch.source)
    return groups is not None and groups[1] == "1" and len(stored) == 3 and all(int(size) % 8 == 0 for size in stored)


def check(launches: Iterable[Launch], name: str) -> None:
    wrong = [
        f"{used.launch.file} of {used.launch.kernel.name}: {what}"
        for used in measured(launches, name)
        for what in excess(used, name)
    ]
    assert not wrong, "\n".join(wrong)


def one_of_each(launches: Iterable[Launch]) -> list[Launch]:
    """Of each file the launch that does most."""
    return list({launch.file: launch for launch in sorted(launches, key=lambda one: one.work.flops)}.values())


@pytest.mark.parametrize("numbers", ["fp32", "fp16"])
@pytest.mark.parametrize("net", TEXTS)
def test_kernels_of_small_nets(net: str, numbers: Number) -> None:
    """Of each file one, of a training step and of inference."""
    check((one for mode in MODES for one in one_of_each(launches_of(net, mode, numbers, "sm_80"))), "sm_80")


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("numbers", ["fp32", "fp16"])
@pytest.mark.parametrize("net", [*TEXTS, *EXAMPLES])
def test_kernels_of_all_examples(net: str, numbers: Number, name: str) -> None:
    new = [one for mode in MODES for one in launches_of(net, mode, numbers, name) if (name, one.source) not in _SEEN]
    _SEEN.update((name, one.source) for one in new)
    check(new, name)


# What nets have in common is compiled once.
_SEEN: set[tuple[str, str]] = set()


def test_every_kernel_has_a_budget() -> None:
    texts = files("convc.codegen.cuda") / "kernels"
    entries = {file.name for file in texts.iterdir() if "KERNEL(PARAMETERS)" in file.read_text(encoding="utf-8")}
    assert {*BUDGETS} == entries
    assert all(budget.has == _TENSOR_CORES for file, budget in BUDGETS.items() if file.startswith("conv_mma"))


def test_what_exceeds_a_budget_is_told() -> None:
    (launch, *_) = (one for one in launches_of("lenet", "infer", "fp32", "sm_80") if one.file == "map.cu")
    fine = Resources(40, 0, 0, 0, 0, 0, 0)
    assert list(excess(Used(launch, fine, 0, 0.5, Counter()), "sm_80")) == []
    greedy = Resources(200, 8, 4, 8, 0, 0, 0)
    assert list(excess(Used(launch, greedy, 16, 0.1, Counter()), "sm_80")) == [
        "spills 4 + 8 bytes, stack of 8",
        "200 registers instead of 80",
        "16 bytes of shared memory instead of 0",
        "occupancy 0.100 instead of 0.375",
    ]
    (product, *_) = (one for one in launches_of("lenet", "infer", "fp16", "sm_80") if one.work.tensor_cores)
    assert "no LDSM" in excess(Used(product, fine, 8192, 0.5, Counter({"HMMA": 8})), "sm_80")
