"""Convolution on tensor cores: every direction, executed by the emulator, against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from convc.codegen.cuda.convolution_plan import ConvolutionLaunch
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.codegen.cuda.kernel import source_text
from convc.codegen.cuda.nvrtc import RESOURCES, compile
from convc.codegen.cuda.resources import parse_resources
from convc.codegen.cuda.tensor_core import (
    TILES,
    Choice,
    MmaPlan,
    MmaTile,
    plan_data,
    plan_filters,
    plan_forward,
)
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from tests.cuda_emulator.counters import Counters
from tests.cuda_emulator.faults import Fault
from tests.cuda_emulator.launching import Argument, In, InOut, Module
from tests.cuda_emulator.nvrtc import compile_cuda
from tests.cuda_emulator.schedule import EVEN, SCHEDULES, Schedule
from tests.cuda_emulator.snippets import needs_compiler, needs_nvrtc

pytestmark = [needs_compiler, needs_nvrtc, pytest.mark.slow]

PLANS: dict[str, Callable[..., MmaPlan]] = {"forward": plan_forward, "data": plan_data, "filters": plan_filters}
DIRECTIONS = tuple(PLANS)


def stored(channels: int, unit: int = 8) -> int:
    return -(-channels // unit) * unit


def problem(
    c: int,
    k: int,
    kernel: int | tuple[int, int],
    size: int | tuple[int, int] = 7,
    *,
    batch: int = 3,
    stride: int | tuple[int, int] = 1,
    pad: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> ConvolutionProblem:
    (r, s), (h, w), (sh, sw), (ph, pw), (dh, dw) = (
        x if isinstance(x, tuple) else (x, x) for x in (kernel, size, stride, pad, dilation)
    )
    oh, ow = (h + 2 * ph - dh * (r - 1) - 1) // sh + 1, (w + 2 * pw - dw * (s - 1) - 1) // sw + 1
    cg, kg = c // groups, k // groups
    return ConvolutionProblem(
        batch, c, h, w, stored(c), k, oh, ow, stored(k), r, s,
        cg_stored=stored(c) if groups == 1 else cg, kg_stored=stored(k, 4) if groups == 1 else kg,
        stride_h=sh, stride_w=sw, top=ph, left=pw, dilation_h=dh, dilation_w=dw, groups=groups,
    )  # fmt: skip


CASES = {
    "1x1": problem(16, 24, 1),
    "3x3 pad 1": problem(16, 16, 3, pad=1),
    "3x3 stride 2": problem(8, 16, 3, 8, stride=2, pad=1),
    "5x5": problem(8, 8, 5, 9),
    "dilation 2": problem(8, 16, 3, 9, pad=2, dilation=2),
    "groups of 8": problem(16, 16, 3, pad=1, groups=2),
    "groups of 4": problem(8, 8, 3, pad=1, groups=2),
    "groups of 3 and 5": problem(6, 10, 3, pad=1, groups=2),
    "3 channels": problem(3, 16, 3, 8, pad=1),
    "10 filters": problem(40, 10, 1, 1, batch=20),
    "uneven": problem(16, 8, (3, 2), (9, 6), stride=(3, 2), pad=(1, 0), dilation=(2, 1)),
    "stride beyond the filter": problem(8, 8, 1, 7, stride=3),
    "stride and dilation 2": problem(8, 8, 3, 9, pad=2, stride=2, dilation=2),
}


# Operands in memory


def bits_of(x: np.ndarray, element: str) -> np.ndarray:
    """16-bit numbers as they lie in memory; of bf16 the upper halves."""
    if element == "f16":
        return x.astype(np.float16).view(np.uint16)
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def rounded(x: np.ndarray, element: str) -> np.ndarray:
    bits = bits_of(x, element)
    if element == "f16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def packed_images(x: np.ndarray, channels: int, rows: int, element: str) -> np.ndarray:
    """NCHW to NHWC with zeros in padding channels, and NaN in rows that are not there."""
    packed = np.zeros((*x.shape[:1], *x.shape[2:], channels), np.float32)
    packed[..., : x.shape[1]] = x.transpose(0, 2, 3, 1)
    packed[rows:] = np.nan
    return bits_of(packed, element)


def packed_filters(p: ConvolutionProblem, w: np.ndarray) -> np.ndarray:
    packed = np.zeros((p.groups, p.kg_stored, p.r, p.s, p.cg_stored), np.float32)
    packed[:, : p.kg, ..., : p.cg] = w.reshape(p.groups, p.kg, p.cg, p.r, p.s).transpose(0, 1, 3, 4, 2)
    return packed


# What the generated epilogue is to these kernels: adds a bias, counts its calls.
FINISH = """
template <int V>
__device__ __forceinline__ void finish(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  const int at = (row * RESULT_PIXELS + pixel) * RESULT_STORED + channel;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    v[i] = channel + i < RESULT_CHANNELS ? v[i] + BIAS[channel + i] : 0.0f;
    CALLS[at + i] += 1;
  }
  store<V>(RESULT + at, v);
}
"""


def source(p: ConvolutionProblem, direction: str, launch: ConvolutionLaunch, element: str) -> str:
    names = {
        "forward": ("X", "FILTERS", p.oh * p.ow, p.k_stored, p.k),
        "data": ("DY", "FILTERS", p.h * p.w, p.c_stored, p.c),
        "filters": ("X", "DY", 1, 1, 1),
    }[direction]
    results = ["DFILTERS"] if direction == "filters" else ["RESULT"]
    constants = {**p.constants(), **launch.constants, "THREADS": launch.threads}
    constants.update(zip(("RESULT_PIXELS", "RESULT_STORED", "RESULT_CHANNELS"), names[2:], strict=True))
    inputs = "".join(f"const {element}* __restrict__ {name}, " for name in names[:2])
    outputs = f"float* __restrict__ {results[0]}, int* __restrict__ CALLS, float* __restrict__ SCRATCH"
    lines = [f"typedef {element} {name};" for name in ("Image", "Filter", "Cotangent")]
    lines += [f"enum : int {{ {name} = {value} }};" for name, value in constants.items()]
    lines += [
        "#define KERNEL kernel",
        f"#define PARAMETERS {inputs}const float* __restrict__ BIAS, {outputs}, int rows",
        f"#define ARGUMENTS {', '.join((*names[:2], 'BIAS', *results, 'CALLS', 'SCRATCH', 'rows'))}",
    ]
    parts = [source_text("numbers.cuh"), "\n".join(lines), FINISH if launch.finishes else ""]
    return "\n".join((*parts, *(source_text(file) for file in launch.files)))


@cache
def module(text: str, arch: str) -> Module:
    return Module(compile_cuda(text, arch, ["-lineinfo"]))


@dataclass(frozen=True)
class Found:
    """The largest error, and the counters of the launches."""

    error: float
    counters: tuple[Counters, ...]


def run(
    p: ConvolutionProblem,
    direction: str,
    element: str = "f16",
    *,
    capability: int = 80,
    schedule: Schedule = EVEN,
    rows: int | None = None,
    choice: Choice | None = None,
    count: bool = False,
    defect: tuple[str, str] = ("", ""),
) -> Found:
    """Runs a direction; asserts that everything is written once, padding with zeros, and nothing else.

    `defect` is a text of the first kernel, and what takes its place.
    """
    rows = p.batch if rows is None else rows
    rng = np.random.default_rng(p.c + p.k + p.r)
    x = rounded(rng.standard_normal((p.batch, p.c, p.h, p.w)), element)
    w = rounded(rng.standard_normal((p.k, p.cg, p.r, p.s)), element)
    dy = rounded(rng.standard_normal((p.batch, p.k, p.oh, p.ow)), element)
    bias = rng.standard_normal(p.c + p.k).astype(np.float32)
    geometry = {
        "stride": (p.stride_h, p.stride_w), "dilation": (p.dilation_h, p.dilation_w), "groups": p.groups,
        "padding": (
            p.top, p.left,
            max(0, (p.oh - 1) * p.stride_h + (p.r - 1) * p.dilation_h + 1 - p.h - p.top),
            max(0, (p.ow - 1) * p.stride_w + (p.s - 1) * p.dilation_w + 1 - p.w - p.left),
        ),
    }  # fmt: skip
    images, cotangents = packed_images(x, p.c_stored, rows, element), packed_images(dy, p.k_stored, rows, element)
    filters = bits_of(packed_filters(p, w), element)
    if direction == "forward":
        operands, wanted, channels = (images, filters), Conv2d(**geometry).reference(x, w), p.k_stored
    elif direction == "data":
        backward = Conv2dBackwardData(size=(p.h, p.w), **geometry)
        operands, wanted, channels = (cotangents, filters), backward.reference(dy, w), p.c_stored
    else:
        backward = Conv2dBackwardWeights(kernel=(p.r, p.s), **geometry)
        operands, wanted, channels = (images, cotangents), backward.reference(x[:rows], dy[:rows]), 0
    if channels:
        wanted = wanted + bias[: wanted.shape[1], None, None]
        expected = np.zeros((p.batch, *wanted.shape[2:], channels))
        expected[..., : wanted.shape[1]] = wanted.transpose(0, 2, 3, 1)
        expected[rows:] = np.nan
    else:
        expected = packed_filters(p, wanted)

    result = np.full(expected.shape, np.nan, np.float32)
    calls = np.zeros(expected.shape, np.int32)
    plan = PLANS[direction](p, capability, choice)
    scratch = np.full(max(4, plan.scratch_bytes) // 4, np.nan, np.float32)
    counters: list[Counters] = []
    for launch in plan.launches:
        text = source(p, direction, launch, element)
        if launch is plan.launches[0]:
            assert defect[0] in text
            text = text.replace(*defect) if defect[0] else text
        made = module(text, f"sm_{capability}")
        arguments: list[Argument] = [*(In(x) for x in operands), In(bias)]
        arguments += [InOut(x) for x in (result, calls, scratch)] + [rows]
        counters.append(
            made.launch(
                "kernel",
                launch.grid(rows),
                launch.threads,
                arguments,
                launch.shared_bytes,
                schedule=schedule,
                count=count,
            )
        )
    if channels:
        assert (calls[:rows] == 1).all()
        assert (calls[rows:] == 0).all()
        assert np.isnan(result[rows:]).all()
        result, expected = result[:rows], expected[:rows]
    assert (result[expected == 0] == 0).all()
    return Found(float(np.abs(result - expected).max()), tuple(counters))


def tolerance(p: ConvolutionProblem, direction: str) -> float:
    terms = {"forward": p.r * p.s * p.cg, "data": p.r * p.s * p.kg, "filters": p.batch * p.oh * p.ow}[direction]
    return 2e-6 * (2 + terms**0.5)


@pytest.mark.parametrize("element", ["f16", "bf16"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_cases(case: str, direction: str, element: str) -> None:
    p = CASES[case]
    for capability in (80, 75) if element == "f16" else (80,):
        for schedule in (EVEN, SCHEDULES[-2]):
            assert run(p, direction, element, capability=capability, schedule=schedule).error < tolerance(p, direction)


# Large and small tiles, deep and shallow pipelines, whole tiles and ragged ones.
CHOICES: dict[str, Choice] = {
    "large": (MmaTile(128, 128, 64, 64, stages=3), 1),
    "largest": (MmaTile(256, 128, 64, 64, stages=2), 1),
    "deep": (MmaTile(64, 64, 32, 32, tile_k=64, stages=4), 1),
    "narrow": (MmaTile(128, 16, 32, 16, stages=4), 2),
    "flat": (MmaTile(16, 128, 16, 32, stages=3), 3),
    "parts": (MmaTile(32, 32, 16, 16, stages=2), 5),
    "more parts than steps": (MmaTile(64, 128, 32, 64, stages=3), 40),
}
RAGGED = problem(24, 40, 3, (9, 8), stride=(1, 2), pad=1, batch=3)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", CHOICES)
def test_tiles_under_every_schedule(name: str, direction: str) -> None:
    """With fewer rows than there could be, too; what lies behind them is NaN."""
    for schedule in SCHEDULES:
        found = run(RAGGED, direction, schedule=schedule, rows=2, choice=CHOICES[name])
        assert found.error < tolerance(RAGGED, direction), schedule


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", ["groups of 4", "3x3 stride 2"])
def test_without_asynchronous_copies_under_every_schedule(case: str, direction: str) -> None:
    p = CASES[case]
    for schedule in SCHEDULES:
        choice = MmaTile(32, 32, 16, 16, stages=2), 2
        assert run(p, direction, capability=75, schedule=schedule, choice=choice).error < tolerance(p, direction)


@pytest.mark.parametrize("capability", [86, 90, 120])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_later_architectures(direction: str, capability: int) -> None:
    p = CASES["uneven"]
    assert run(p, direction, "bf16", capability=capability).error < tolerance(p, direction)


# How well it does it

WIDE = problem(32, 136, 3, 8, batch=1, pad=1)


@pytest.mark.parametrize("capability", [80, 75])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_bank_is_asked_twice(direction: str, capability: int) -> None:
    for tile in TILES:
        choice = MmaTile(tile.tile_m, tile.tile_n, tile.warp_m, tile.warp_n, tile.tile_k, stages=2), 1
        found = run(WIDE, direction, capability=capability, choice=choice, count=True)
        assert found.error < tolerance(WIDE, direction)
        assert found.counters[0].bank_conflicts == 0, found.counters[0].worst()
        if direction == "filters":
            stores = [e for e in found.counters[0].instructions if e.opcode.startswith("st.global")]
            assert {e.opcode.split(".")[2] for e in stores} == {"v4"}


def test_without_the_turned_chunks_banks_are_asked_more_often() -> None:
    found = run(WIDE, "forward", count=True, defect=("% TURNS", "% TURNS * 0"))
    assert found.counters[0].bank_conflicts > found.counters[0].shared_wavefronts // 4


def test_the_mix_of_a_kernel() -> None:
    """Nothing is multiplied that need not be, for the stride either; tiles are filled by asynchronous copies."""
    p = problem(32, 32, 3, 8, batch=2, stride=2, pad=1)
    choice = MmaTile(32, 32, 16, 16, stages=3), 1
    for direction, products in {
        # 32 pixels of results, 32 filters, 288 terms.
        "forward": 2 * 4 * 18,
        # Four phases of 32 pixels, 32 channels, and 1, 2, 2 and 4 taps of 32 filters.
        "data": 2 * 4 * 2 * (1 + 2 + 2 + 4),
        # 32 filters, 288 columns, 32 pixels.
        "filters": 2 * 36 * 2,
    }.items():
        mix = run(p, direction, choice=choice).counters[0].mix()
        assert mix["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] == products
        assert sum(count for opcode, count in mix.items() if opcode.startswith("ldmatrix")) == products
        assert not any(opcode.startswith("ld.global.nc.v4") for opcode in mix)
        old = run(p, direction, choice=choice, capability=75).counters[0].mix()
        assert old["mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"] == 2 * products


# Layers of ResNet-50, and an odd one.
LAYERS = (
    problem(3, 64, 7, 224, batch=32, stride=2, pad=3),
    problem(64, 64, 3, 56, batch=32, pad=1),
    problem(256, 256, 3, 28, batch=32, stride=2, pad=1),
    problem(2048, 1000, 1, 1, batch=256),
    problem(40, 36, (3, 5), 20, batch=16, stride=(2, 1), dilation=2, groups=2),
)


@pytest.mark.parametrize("capability", [75, 80, 86, 90, 120])
def test_no_registers_are_spilled(capability: int) -> None:
    for direction in DIRECTIONS:
        tiles: set[MmaTile] = set()
        for p in LAYERS:
            plan = PLANS[direction](p, capability)
            tiles.add(plan.tile)
            for launch in plan.launches:
                log = compile(source(p, direction, launch, "f16"), f"sm_{capability}", [RESOURCES]).log
                found = parse_resources(log)["kernel"]
                assert (found.spill_stores, found.spill_loads, found.stack) == (0, 0, 0), (direction, p, plan.tile)
                assert found.registers * launch.threads <= 65536
        assert len(tiles) > 1


@pytest.mark.full
def test_the_largest_tile_of_each_architecture_does_not_spill() -> None:
    for capability in (75, 80, 86, 90, 120):
        stages = 2 if capability == 75 else 3
        sizes = (128, 64, 64, 32) if capability == 75 else (256, 128, 64, 64)
        for direction in DIRECTIONS:
            p = problem(256, 256, (3, 5), (56, 40), batch=32, stride=(2, 3), pad=2, dilation=2)
            launch = PLANS[direction](p, capability, (MmaTile(*sizes, stages=stages), 1)).launches[0]
            log = compile(source(p, direction, launch, "f16"), f"sm_{capability}", [RESOURCES]).log
            assert parse_resources(log)["kernel"].spill_stores == 0, (capability, direction)


# Planted defects

WAIT, BARRIER = "await_copies<STAGES - 2>();", "__syncthreads();"
STORE = "b_chunks.store(next + A::SIZE);"
DEFECTS = {
    "a weakened wait": (80, (WAIT, WAIT.replace("2", "1"))),
    "no barrier around copies": (80, (f"{WAIT}\n          {BARRIER}", WAIT)),
    "no barrier around stores": (75, (f"{STORE}\n        {BARRIER}", STORE)),
    "no barrier before results": (80, (f"{BARRIER}  // until", "// until")),
    "lanes of a warp that do not wait": (80, ("__syncwarp();", "")),
    "a stage that is fetched too early": (80, ("writing = STAGES - 1;", "writing = 0;")),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_missing_synchronisation_is_caught(name: str) -> None:
    capability, defect = DEFECTS[name]
    choice = MmaTile(64, 64, 32, 32, stages=3 if capability >= 80 else 2), 1
    for schedule in SCHEDULES[:3]:
        with pytest.raises(Fault) as caught:
            run(RAGGED, "forward", capability=capability, schedule=schedule, choice=choice, defect=defect)
        assert caught.value.check in ("race", "pending-copy", "uninitialised")


@pytest.mark.parametrize(
    ("direction", "defect"),
    [
        ("forward", ("(u32)y < (u32)HEIGHT", "y >= -(1 << 20)")),
        ("forward", ("(u32)x < (u32)WIDTH", "x < 1 << 20")),
        ("forward", ("k < TERMS", "true")),
        ("forward", ("filter < KG_STORED && ", "")),
        ("data", ("k.channel < KG_STORED && ", "")),
        ("data", ("c < CG_STORED && ", "")),
        ("filters", ("m < KG_STORED && pixel < pixels", "m < KG_STORED")),
        ("filters", ("n + e >= COLUMNS", "false")),
        ("filters", ("(u32)y < (u32)H", "true")),
    ],
)
def test_what_lies_outside_is_not_read(direction: str, defect: tuple[str, str]) -> None:
    """Without a bound, a read leaves its buffer, or the result is wrong."""
    p = problem(8, 12, 3, 7, batch=3, pad=1)
    assert run(p, direction, rows=2).error < tolerance(p, direction)
    with pytest.raises((Fault, AssertionError)):
        assert run(p, direction, rows=2, defect=defect).error < tolerance(p, direction)


# Plans


def test_plans_fit_their_architecture() -> None:
    limits = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 120: 99}
    for capability, kib in limits.items():
        for p in (*LAYERS, *CASES.values()):
            for direction, plan_of in PLANS.items():
                plan = plan_of(p, capability)
                first = plan.launches[0]
                assert first.shared_bytes <= kib << 10
                assert first.threads == plan.tile.threads <= 256
                assert len(plan.launches) == 1 + (plan.parts > 1)
                assert (plan.scratch_bytes > 0) == (plan.parts > 1)
                assert plan.scratch_bytes <= 64 << 20
                assert all(extent >= 1 for launch in plan.launches for extent in launch.grid(1))
                if direction != "filters":
                    assert first.grid(p.batch)[0] >= first.grid(1)[0]


def test_what_is_chosen() -> None:
    large = plan_forward(problem(256, 256, 3, 56, batch=64, pad=1), 80)
    assert (large.tile.warp_m, large.tile.warp_n, large.parts) == (64, 64, 1)
    # Few filters, few pixels, few of both and long sums.
    assert plan_forward(problem(256, 8, 3, 56, batch=64, pad=1), 80).tile.tile_n == 16
    assert plan_forward(problem(4096, 4096, 1, 1, batch=8), 80).tile.tile_m <= 32
    assert plan_forward(problem(512, 512, 3, 7, batch=1, pad=1), 80).parts > 1
    assert plan_filters(problem(64, 64, 3, 56, batch=64, pad=1), 80).parts > 8
    # Where chunks pass through registers, there are two stages and no tiles that need all of the registers.
    for plan in (plan_forward(LAYERS[1], 75), plan_forward(problem(20, 20, 3, groups=5), 80)):
        assert plan.tile.stages == 2
        assert plan.tile.warp_m * plan.tile.warp_n <= 64 * 32
