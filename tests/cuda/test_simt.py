"""Convolutions on CUDA cores: right in all directions and under every schedule, and well-formed in memory."""

from __future__ import annotations

import numpy as np
import pytest

from convc.codegen.cuda import nvrtc, simt
from convc.codegen.cuda.convolution_plan import ConvolutionPlan
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.codegen.cuda.resources import parse_resources
from convc.codegen.cuda.simt import PARTS, TILES, Tile
from tests.cuda.preludes import DIRECTIONS, Case, Convolution
from tests.cuda_emulator.faults import Fault
from tests.cuda_emulator.schedule import EVEN, SCHEDULES
from tests.cuda_emulator.snippets import needs_compiler, needs_nvrtc

pytestmark = [needs_compiler, needs_nvrtc]

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120")
NAMES = ("c", "k", "size", "kernel", "batch", "stride", "padding", "dilation", "groups", "unit")
Choice = tuple[Tile, int]
# Of sums of at most some hundred products of normal numbers, next to the largest result.
TOLERANCE = 2e-6

CASES = {
    "1x1": Case(16, 24, (5, 6), (1, 1)),
    "1x1 stride 2": Case(8, 12, (5, 6), (1, 1), stride=(2, 2)),
    "3x3": Case(8, 12, (7, 6), (3, 3), padding=(1, 1, 1, 1)),
    "3x3 stride 2": Case(8, 12, (7, 6), (3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
    "5x5": Case(4, 8, (7, 9), (5, 5), padding=(2, 2, 2, 2)),
    "asymmetric": Case(4, 8, (6, 9), (2, 3), stride=(1, 2), padding=(1, 0, 0, 2)),
    "dilation 2": Case(8, 8, (8, 9), (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
    "stride 3, dilation 2": Case(4, 8, (9, 10), (3, 3), stride=(3, 3), padding=(1, 2, 1, 2), dilation=(2, 2)),
    "stride 4, dilation 2": Case(4, 8, (11, 10), (3, 2), stride=(4, 4), padding=(2, 1, 2, 1), dilation=(2, 2)),
    "stride beyond taps": Case(4, 8, (9, 8), (2, 2), stride=(3, 4)),
    "groups 2": Case(16, 24, (5, 6), (3, 3), padding=(1, 1, 1, 1), groups=2),
    "odd groups": Case(10, 14, (5, 6), (3, 3), padding=(1, 1, 1, 1), groups=2),
    "5 channels of a group, 1 filter": Case(15, 3, (4, 5), (2, 2), groups=3),
    "depthwise": Case(12, 12, (7, 9), (3, 3), padding=(1, 1, 1, 1), groups=12),
    "depthwise of 5": Case(5, 5, (4, 9), (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), groups=5),
    "depthwise, stride 2, dilation 3": Case(
        8, 8, (9, 11), (3, 4), stride=(1, 2), padding=(3, 2, 1, 3), dilation=(2, 3), groups=8
    ),
    "depthwise multiplier 2": Case(6, 12, (7, 5), (3, 3), padding=(1, 1, 1, 1), groups=6),
    "depthwise multiplier 3": Case(4, 12, (5, 5), (3, 3), stride=(2, 2), groups=4),
    "depthwise multiplier 8": Case(4, 32, (5, 4), (3, 3), padding=(1, 1, 1, 1), groups=4),
    "2 channels of a group": Case(8, 12, (5, 6), (3, 3), stride=(1, 2), padding=(1, 1, 1, 1), groups=4),
    "3 channels of a group": Case(9, 6, (5, 6), (3, 3), padding=(1, 1, 1, 1), groups=3),
    "4 channels of a group": Case(8, 8, (5, 6), (3, 3), padding=(1, 1, 1, 1), groups=2),
    "depthwise of many": Case(132, 132, (3, 5), (3, 3), padding=(1, 1, 1, 1), groups=132),
    "1 channel": Case(1, 8, (8, 7), (3, 3), padding=(1, 1, 1, 1)),
    "1 channel to 1": Case(1, 1, (8, 7), (3, 3), padding=(1, 1, 1, 1)),
    "2 channels": Case(2, 5, (8, 7), (3, 3)),
    "3 channels": Case(3, 8, (9, 8), (3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
    "to 1 channel": Case(8, 1, (5, 6), (3, 3), padding=(1, 1, 1, 1)),
    "to 3 channels": Case(8, 3, (5, 6), (3, 3), stride=(2, 2)),
    "10 filters": Case(6, 10, (5, 6), (3, 3)),
    "linear": Case(130, 10, (1, 1), (1, 1), batch=7),
    "tiles": Case(20, 72, (9, 10), (3, 3), padding=(1, 1, 1, 1)),
}
# Stored channels are multiples of 8 there.
SMALL_CASES = {
    "3x3": Case(16, 24, (5, 6), (3, 3), padding=(1, 1, 1, 1), unit=8),
    "1 channel": Case(1, 10, (6, 5), (3, 3), stride=(2, 2), unit=8),
    "3 channels": Case(3, 3, (6, 5), (3, 3), padding=(1, 1, 1, 1), unit=8),
    "11 channels": Case(11, 13, (4, 5), (2, 2), unit=8),
    "odd groups": Case(10, 14, (5, 4), (3, 3), groups=2, unit=8),
    "depthwise": Case(12, 12, (6, 5), (3, 3), padding=(1, 1, 1, 1), groups=12, unit=8),
    "depthwise multiplier 2": Case(3, 6, (6, 5), (3, 3), padding=(1, 1, 1, 1), groups=3, unit=8),
    "linear": Case(130, 10, (1, 1), (1, 1), batch=7, unit=8),
}


def plan(problem: ConvolutionProblem, direction: str, choice: Choice | None = None) -> ConvolutionPlan:
    make = {"forward": simt.plan_forward, "data": simt.plan_data, "filters": simt.plan_filters}[direction]
    return make(problem, choice)


each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


@each_direction
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_the_op_says(name: str, direction: str) -> None:
    convolution = Convolution(CASES[name], direction)
    made = plan(convolution.problem, direction)
    # Even, step by step, everything drawn, one lane at a time.
    for schedule in (EVEN, SCHEDULES[3], SCHEDULES[4], SCHEDULES[6]):
        convolution.run(made, schedule=schedule).check(TOLERANCE)


@each_direction
@pytest.mark.parametrize("name", ["3x3", "odd groups", "depthwise multiplier 2", "linear"])
def test_under_every_schedule_on_every_architecture(name: str, direction: str) -> None:
    convolution = Convolution(CASES[name], direction)
    made = plan(convolution.problem, direction)
    for architecture in ARCHITECTURES:
        # On one of them in every order.
        for schedule in SCHEDULES if architecture == "sm_80" else SCHEDULES[:1]:
            convolution.run(made, architecture, schedule).check(TOLERANCE)


@each_direction
@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", SMALL_CASES)
def test_operands_of_16_bits(name: str, kind: str, direction: str) -> None:
    convolution = Convolution(SMALL_CASES[name], direction, kind)
    made = plan(convolution.problem, direction)
    for architecture in ("sm_75", "sm_80"):
        convolution.run(made, architecture).check(TOLERANCE)


@each_direction
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.m}x{tile.n}")
def test_every_tile(tile: Tile, parts: int, direction: str) -> None:
    """Also where terms do not fill the parts, or lines the tile."""
    for name in ("tiles", "odd groups", "3 channels", "1 channel"):
        convolution = Convolution(CASES[name], direction)
        outcome = convolution.run(plan(convolution.problem, direction, choice=(tile, parts)), count=True)
        outcome.check(TOLERANCE)
        # Neither storing tiles nor reading them.
        assert [counters.bank_conflicts for counters in outcome.counters] == [0] * len(outcome.counters)


@each_direction
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_every_tile_of_16_bits(kind: str, direction: str) -> None:
    for tile in TILES:
        convolution = Convolution(SMALL_CASES["3x3"], direction, kind)
        outcome = convolution.run(plan(convolution.problem, direction, (tile, 2)), count=True)
        outcome.check(TOLERANCE)
        assert outcome.counters[0].bank_conflicts == 0


@each_direction
@pytest.mark.parametrize("parts", [1, 4])
def test_groups_that_are_no_depthwise_kernel_also_are_products(parts: int, direction: str) -> None:
    """A choice of a tile keeps the matrix product where few channels would have a kernel of their own."""
    for name in ("depthwise", "depthwise multiplier 2", "3 channels of a group", "4 channels of a group"):
        convolution = Convolution(CASES[name], direction)
        convolution.run(plan(convolution.problem, direction, choice=(TILES[-1], parts))).check(TOLERANCE)


@each_direction
@pytest.mark.parametrize("name", ["3x3 stride 2", "depthwise", "linear"])
def test_fewer_rows_than_the_kernels_are_made_for(name: str, direction: str) -> None:
    """They are added in the same order, so that the same images have the same results, bit by bit."""
    case = changed(CASES[name], batch=5)
    everything = Convolution(case, direction)
    choices: tuple[Choice | None, ...] = (None,) if name == "depthwise" else (None, (TILES[-1], 2))
    for choice in choices:
        made = plan(everything.problem, direction, choice=choice)
        for rows in (1, 3):
            some = Convolution(case, direction, rows=rows)
            if direction != "filters":
                some.operands[:] = [everything.operands[0][:rows].copy(), everything.operands[1]]
                some.bias, some.wanted = everything.bias, everything.wanted[:rows]
                whole = everything.run(made)
                assert np.array_equal(some.run(made).found, whole.found[:rows])
            some.run(made).check(TOLERANCE)


def changed(case: Case, **fields: int) -> Case:
    return Case(**{name: getattr(case, name) for name in NAMES} | fields)


@each_direction
def test_parts_of_few_channels(direction: str) -> None:
    """The gradient by filters that several blocks share, with more rows than one has."""
    case = Case(8, 16, (9, 8), (3, 3), batch=15, padding=(1, 1, 1, 1), groups=8)
    convolution = Convolution(case, direction)
    made = plan(convolution.problem, direction)
    if direction == "filters":
        assert made.launches[0].constants["PARTS"] != 1
        assert made.scratch_bytes
    for schedule in SCHEDULES:
        convolution.run(made, schedule=schedule).check(TOLERANCE)


# What memory sees


@each_direction
def test_the_main_loop_reads_whole_sectors(direction: str) -> None:
    case = Case(16, 64, (8, 8), (1, 1))
    convolution = Convolution(case, direction)
    outcome = convolution.run(plan(convolution.problem, direction, choice=(TILES[3], 1)), count=True)
    outcome.check(TOLERANCE)
    loads = [e for e in outcome.counters[0].instructions if e.opcode.startswith("ld.global.nc") and e.transactions]
    assert loads
    assert all("v4" in e.opcode or "128" in e.opcode for e in loads if "f32" not in e.opcode), loads
    assert all(executed.transactions == executed.fewest for executed in loads), loads


@each_direction
@pytest.mark.parametrize("dropped", ["BARRIER_FILLED", "BARRIER_STEP"])
def test_a_dropped_barrier_is_caught(dropped: str, direction: str) -> None:
    convolution = Convolution(CASES["tiles"], direction)
    made = plan(convolution.problem, direction, choice=(TILES[3], 1))
    with pytest.raises(Fault) as caught:
        convolution.run(made, options=(f"-D{dropped}=",))
    assert caught.value.check in ("race", "uninitialised")


# What kernels take

LARGE = {
    "3x3": Case(128, 192, (27, 29), (3, 3), batch=32, padding=(1, 1, 1, 1)),
    "stride 2": Case(192, 200, (27, 29), (3, 3), batch=32, stride=(2, 2), padding=(1, 1, 1, 1)),
    "stem": Case(3, 64, (64, 64), (7, 7), batch=8, stride=(2, 2), padding=(3, 3, 3, 3)),
    "one channel": Case(1, 32, (28, 28), (5, 5), batch=64),
    "odd groups": Case(90, 126, (14, 14), (3, 3), batch=8, padding=(1, 1, 1, 1), groups=6),
    "linear": Case(400, 120, (1, 1), (1, 1), batch=64),
    "depthwise": Case(96, 96, (28, 28), (3, 3), batch=8, padding=(1, 1, 1, 1), groups=96),
    "depthwise 7x7": Case(96, 96, (28, 28), (7, 7), batch=8, padding=(3, 3, 3, 3), groups=96),
    "4 channels of a group": Case(128, 128, (28, 28), (3, 3), batch=8, stride=(2, 2), groups=32),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", LARGE)
def test_nothing_is_spilled(name: str, architecture: str) -> None:
    for kind in ("float", "f16"):
        sources: list[str] = []
        for direction in DIRECTIONS:
            convolution = Convolution(changed(LARGE[name], unit=4 if kind == "float" else 8), direction, kind, rows=1)
            choices: list[Choice | None] = [None]
            if name == "3x3":
                choices += [(TILES[0], 1), (TILES[0], 2), (TILES[1], 1), (TILES[3], 1), (TILES[-1], 1)]
            for choice in choices:
                sources += convolution.sources(plan(convolution.problem, direction, choice))
        for made in nvrtc.compile_all(sources, architecture, [nvrtc.RESOURCES], threads=2):
            (used,) = parse_resources(made.log).values()
            assert used.spill_stores == used.spill_loads == used.stack == 0, made.log
            assert used.registers <= 128
            assert used.shared <= 48 * 1024


@pytest.mark.parametrize("direction", ["forward", "filters"])
@pytest.mark.parametrize("groups", [1, 8])
def test_places_beyond_32_bits(groups: int, direction: str) -> None:
    """Results from the corners of an image of 4 GiB, of which nothing else is touched."""
    edge = 16_390
    case = Case(8, 8, (edge, edge), (1, 1), batch=1, stride=(edge - 1, edge - 1), groups=groups, unit=8)
    problem = case.problem()
    assert problem.h * problem.w * problem.c_stored > 1 << 31
    corners = Case(8, 8, (2, 2), (1, 1), batch=1, groups=groups, unit=8)
    convolution = Convolution(corners, direction, "f16")
    image = np.zeros((1, edge, edge, 8), np.uint16)
    image[:, :: edge - 1, :: edge - 1] = convolution.operands[0]
    convolution.operands[0] = image
    convolution.problem = problem
    convolution.run(plan(problem, direction)).check(TOLERANCE)


# What is chosen

problems = pytest.mark.parametrize(
    "case", [*CASES.values(), *LARGE.values()], ids=[*CASES, *(f"large {n}" for n in LARGE)]
)


@each_direction
@problems
def test_a_plan_is_one_that_a_gpu_runs(case: Case, direction: str) -> None:
    problem = case.problem()
    made = plan(problem, direction)
    assert 1 <= len(made.launches) <= 2
    assert (len(made.launches) == 2) == (made.scratch_bytes > 0)
    for launch in made.launches:
        assert 0 < launch.threads <= 1024
        for rows in (1, problem.batch):
            x, y, z = launch.grid(rows)
            assert 0 < x < 1 << 31
            assert 0 < y < 1 << 16
            assert 0 < z < 1 << 16


def chosen(case: Case, direction: str = "forward") -> tuple[int, int, int]:
    constants = plan(case.problem(), direction).launches[0].constants
    m, n, parts = (constants[name] for name in ("TILE_M", "TILE_N", "PARTS"))
    assert isinstance(m, int)
    assert isinstance(n, int)
    assert isinstance(parts, int)
    return m, n, parts


def test_large_problems_get_large_tiles_and_few_rows_parts() -> None:
    assert chosen(Case(256, 256, (28, 28), (3, 3), batch=64, padding=(1, 1, 1, 1))) == (128, 128, 1)
    for batch in (1, 16, 64):
        m, _, parts = chosen(Case(4096, 1000, (1, 1), (1, 1), batch=batch))
        assert m <= 64
        assert parts >= 4
    assert chosen(Case(64, 64, (56, 56), (3, 3), batch=32, padding=(1, 1, 1, 1)), "filters")[2] >= 8


def test_parts_do_not_depend_on_rows() -> None:
    assert PARTS[0] == 1
    made = plan(Case(4096, 1000, (1, 1), (1, 1), batch=16).problem(), "forward")
    assert made.launches[0].grid(1)[2] == made.launches[0].grid(16)[2] == made.launches[0].constants["PARTS"]


def test_few_channels_in_a_group_have_their_own_kernels() -> None:
    for direction, file in zip(DIRECTIONS, ("", "_data", "_filters"), strict=True):
        made = plan(CASES["depthwise"].problem(), direction)
        assert made.launches[0].files[-1] == f"conv_depthwise{file}.cu"
        # Not where filters of one vector of channels are too large for shared memory, or for a thread's registers.
        made = plan(Case(4, 4, (40, 40), (17, 17), groups=4).problem(), direction)
        assert made.launches[0].files[-1] == f"conv_simt{file}.cu"
