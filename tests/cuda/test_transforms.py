"""Convolutions by transforms of tiles: right in all directions and under every schedule, as exact as on the CPU."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from convc.codegen.cuda import fourier, nvrtc, winograd
from convc.codegen.cuda.architectures import architecture as architecture_of
from convc.codegen.cuda.codelet import function, function_of_tile
from convc.codegen.cuda.convolution_plan import ConvolutionLaunch, ConvolutionPlan
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.codegen.cuda.kernel import source_text
from convc.codegen.cuda.resources import parse_resources
from convc.passes.algorithms.fourier import complex_transform, complex_transform_back, real_transform
from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.table import BY_NAME
from convc.passes.algorithms.toom_cook import toom_cook
from convc.passes.algorithms.winograd import WINOGRAD
from tests.cuda.preludes import DIRECTIONS, Case, Convolution, Outcome, source
from tests.cuda_emulator.faults import Fault
from tests.cuda_emulator.launching import In, Module, Out
from tests.cuda_emulator.schedule import EVEN, SCHEDULES, Schedule
from tests.cuda_emulator.snippets import needs_compiler, needs_nvrtc

pytestmark = [needs_compiler, needs_nvrtc]

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120")
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)

# Sizes that tiles, blocks of channels and blocks of tiles do not fill.
CASES = {
    "3x3": Case(13, 37, (11, 9), (3, 3), batch=3, padding=(1, 1, 1, 1)),
    "no padding": Case(8, 20, (7, 8), (3, 3)),
    "asymmetric": Case(9, 6, (6, 9), (3, 3), padding=(2, 0, 1, 3)),
    "much padding": Case(4, 4, (5, 4), (3, 3), padding=(3, 4, 0, 4)),
    "1 channel to 1": Case(1, 1, (8, 7), (3, 3), padding=(1, 1, 1, 1)),
    "1 channel": Case(1, 70, (8, 7), (3, 3), padding=(1, 1, 1, 1)),
    "many": Case(70, 9, (5, 5), (3, 3), padding=(1, 1, 1, 1)),
    "5x5": Case(6, 10, (9, 12), (5, 5), padding=(2, 2, 2, 2)),
    "row": Case(5, 70, (6, 13), (1, 3), padding=(0, 1, 0, 1)),
    "column": Case(12, 6, (13, 5), (5, 1), padding=(0, 0, 3, 0)),
    "7 rows": Case(5, 7, (12, 5), (7, 1), padding=(3, 0, 3, 0)),
    "smaller than a tile": Case(3, 5, (2, 1), (3, 3), padding=(1, 1, 1, 1)),
}
# What only Fourier transforms do.
FOURIER_CASES = {
    "7x7": Case(3, 9, (17, 21), (7, 7), padding=(3, 3, 3, 3)),
    "2x4": Case(5, 3, (9, 10), (2, 4), padding=(0, 1, 1, 2)),
    "dilation 2": Case(6, 6, (12, 13), (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
    "dilations": Case(2, 3, (14, 20), (2, 3), padding=(1, 4, 4, 1), dilation=(5, 3)),
    "1x1": Case(4, 5, (9, 9), (1, 1)),
}
ALL_CASES = {**CASES, **FOURIER_CASES}


def algorithms(problem: ConvolutionProblem) -> tuple[str, ...]:
    return winograd.winograd_algorithms(problem) + fourier.fft_algorithms(problem)


def plan(problem: ConvolutionProblem, direction: str, name: str, architecture: str = "sm_80") -> ConvolutionPlan:
    if name.startswith("fft"):
        if direction == "filters":
            return fourier.fft_gradient(problem, name)
        return fourier.fft(problem, "forward" if direction == "forward" else "backward_data", name)
    if direction == "filters":
        return winograd.winograd_gradient(problem, name, architecture_of(architecture))
    way = "forward" if direction == "forward" else "backward_data"
    return winograd.winograd(problem, way, name, architecture_of(architecture))


def bound(problem: ConvolutionProblem, direction: str, name: str) -> float:
    """The error that the CPU's algorithm has relative to the largest result, as docs/algorithms.md says."""
    outputs = {"forward": problem.c, "data": problem.k}.get(direction, problem.batch * problem.oh * problem.ow)
    if name.startswith("fft"):
        return 2e-7 * math.sqrt(16 + outputs)
    (algorithm,) = (each for each in WINOGRAD if each.name == name)
    return algorithm.errors[problem.r, problem.s] * math.sqrt(16 + outputs)


class Transformed(Convolution):
    """A convolution whose sources have codelets; `change` is applied to each of them."""

    change: Callable[[str], str] = staticmethod(lambda text: text)

    def sources(self, plan: ConvolutionPlan) -> list[str]:
        found: list[str] = []
        for launch in plan.launches:
            bare = ConvolutionLaunch(
                (), launch.constants, launch.grid, launch.threads, launch.finishes, launch.shared_bytes
            )
            prelude = source(self.problem, self.direction, bare, self.kind, plan.scratch_bytes > 0)
            found.append("\n".join([prelude, launch.text, *(self.change(source_text(name)) for name in launch.files)]))
        return found


def run(
    case: Case,
    direction: str,
    name: str,
    architecture: str = "sm_80",
    schedule: Schedule = EVEN,
    *,
    kind: str = "float",
    rows: int | None = None,
    count: bool = False,
) -> Outcome:
    convolution = Transformed(case, direction, kind, rows)
    made = plan(convolution.problem, direction, name, architecture)
    outcome = convolution.run(made, architecture, schedule, count=count)
    outcome.check(bound(convolution.problem, direction, name))
    return outcome


@each_direction
@pytest.mark.parametrize("case", CASES)
def test_winograd_is_what_the_op_says(case: str, direction: str) -> None:
    for name in winograd.winograd_algorithms(CASES[case].problem()):
        run(CASES[case], direction, name)


@each_direction
@pytest.mark.parametrize("case", [*FOURIER_CASES, "asymmetric", "much padding", "1 channel", "smaller than a tile"])
def test_fourier_is_what_the_op_says(case: str, direction: str) -> None:
    run(ALL_CASES[case], direction, fourier.fft_algorithms(ALL_CASES[case].problem())[0])


@each_direction
@pytest.mark.parametrize("name", ["winograd_f2x3", "winograd_f4x3", "fft_8", "fft_16"])
def test_under_every_schedule(name: str, direction: str) -> None:
    """On architectures whose kernels differ: one stage in shared memory or two, 8 channels at once or 4."""
    for architecture in ("sm_80",) if name.startswith("fft") else ("sm_75", "sm_80", "sm_86"):
        for schedule in SCHEDULES:
            run(CASES["3x3"], direction, name, architecture, schedule)


@each_direction
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_operands_of_16_bits(kind: str, direction: str) -> None:
    for name in ("winograd_f2x3", "winograd_f4x3", "fft_8"):
        run(replace(CASES["3x3"], unit=8), direction, name, kind=kind)
    run(replace(CASES["1 channel to 1"], unit=8), direction, "winograd_f4x3", kind=kind)


@each_direction
def test_fewer_rows_than_the_kernels_are_made_for(direction: str) -> None:
    """The same images have the same results, bit by bit."""
    case = replace(CASES["3x3"], batch=9)
    for name in ("winograd_f2x3", "winograd_f4x3", "fft_8"):
        everything = Transformed(case, direction)
        made = plan(everything.problem, direction, name)
        for rows in (1, 4):
            some = Transformed(case, direction, rows=rows)
            some.run(made).check(bound(case.problem(), direction, name))
            if direction != "filters":
                some.operands[:] = [everything.operands[0][:rows].copy(), everything.operands[1]]
                some.bias = everything.bias
                whole = everything.run(made)
                assert np.array_equal(some.run(made).found, whole.found[:rows])


def test_parts_of_gradients() -> None:
    """More tiles than one part has, of which some parts get none where rows are few."""
    case = Case(4, 8, (9, 8), (3, 3), batch=80, padding=(1, 1, 1, 1))
    for name in ("winograd_f2x3", "winograd_f4x3", "fft_8"):
        made = plan(case.problem(), "filters", name)
        assert int(made.launches[-1].constants["PARTS"]) > 1, name
        for rows in (1, 9, 80):
            run(case, "filters", name, rows=rows)


@each_direction
def test_spectra_in_chunks(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where spectra of all images are too large, they are made and used one chunk of tiles after the other."""
    case = replace(CASES["3x3"], batch=20)
    whole = plan(case.problem(), direction, "fft_8")
    monkeypatch.setattr(fourier, "_MOST_SPECTRA_BYTES", whole.scratch_bytes // 3)
    made = plan(case.problem(), direction, "fft_8")
    assert len(made.launches) > len(whole.launches) + 3
    assert made.scratch_bytes < whole.scratch_bytes
    for rows in (1, 8, 20):
        run(case, direction, "fft_8", rows=rows)


# Which apply


def test_which_apply() -> None:
    def names(**fields: object) -> tuple[str, ...]:
        return algorithms(replace(Case(8, 8, (40, 40), (3, 3)), **fields).problem())

    fourier = ("fft_8", "fft_16")
    assert names() == ("winograd_f2x3", "winograd_f4x3", *fourier)
    # F(6x6,3x3) and F(4x4,5x5) have 64 products, for which there are no registers.
    assert names(kernel=(5, 5)) == ("winograd_f2x5", *fourier)
    assert names(kernel=(1, 3)) == ("winograd_f2x3", "winograd_f4x3", "winograd_f6x3", *fourier)
    assert names(kernel=(7, 7)) == fourier
    assert names(kernel=(9, 9)) == ("fft_16",)
    assert names(dilation=(2, 2)) == fourier
    assert names(dilation=(4, 4)) == ("fft_16",)
    assert names(kernel=(17, 17)) == names(stride=(2, 1)) == names(groups=2) == ()
    # Winograd's kernels count with 32 bits.
    assert names(batch=1 << 18) == fourier


def test_every_algorithm_is_one_of_the_compiler() -> None:
    for case in ALL_CASES.values():
        assert set(algorithms(case.problem())) <= set(BY_NAME)


# Codelets


def codelets() -> Iterator[StraightLine]:
    for outputs, taps in ((2, 3), (4, 3), (2, 5), (6, 3)):
        axis = toom_cook(outputs, taps)
        yield from (axis.image, axis.filter, axis.output, axis.cotangent, axis.filter_gradient)
    for size in (8, 16):
        yield real_transform(size, tuple(range(size)), -1)
        yield complex_transform(size, (0, 2, 4), 1)
        yield complex_transform_back(size, tuple(range(size - 4)))


def test_codelets_are_their_programs() -> None:
    for program in codelets():
        inputs, outputs = program.inputs, len(program.outputs)
        text = f"""{function("codelet", program)}
        extern "C" __global__ void run(const float* from, float* to) {{
          float x[{inputs}], y[{outputs}];
          for (int i = 0; i < {inputs}; ++i) x[i] = from[i];
          codelet(x, y);
          for (int i = 0; i < {outputs}; ++i) to[i] = y[i];
        }}"""
        values, found = np.random.default_rng(inputs).standard_normal(inputs), np.empty(outputs, np.float32)
        values = values.astype(np.float32)
        Module(nvrtc.compile(text, "sm_80").ptx).launch("run", 1, 1, [In(values), Out(found)])
        exact = StraightLine(
            inputs,
            tuple(tuple(term._replace(scale=float(term.scale)) for term in step) for step in program.steps),
            program.outputs,
        )
        wanted = exact.evaluate(list(values.astype(np.float64)))
        assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_codelet_of_a_tile_goes_down_then_across() -> None:
    down, across = toom_cook(2, 3).image, toom_cook(2, 5).output
    height, width, rows, columns = down.inputs, across.inputs, len(down.outputs), len(across.outputs)
    text = f"""{function_of_tile("codelet", down, across)}
    extern "C" __global__ void run(const float* from, float* to) {{
      float x[{height}][{width}];
      for (int i = 0; i < {height}; ++i) for (int j = 0; j < {width}; ++j) x[i][j] = from[i * {width} + j];
      codelet(x, [&](int i, const float (&y)[{columns}]) {{
        for (int j = 0; j < {columns}; ++j) to[i * {columns} + j] = y[j];
      }});
    }}"""
    x, found = np.arange(height * width, dtype=np.float32).reshape(height, width) % 7, np.empty((rows, columns), "f4")
    Module(nvrtc.compile(text, "sm_80").ptx).launch("run", 1, 1, [In(x), Out(found)])
    matrix = np.array(toom_cook(2, 3).interpolate, float), np.array(toom_cook(2, 5).evaluate_outputs, float)
    assert np.allclose(found, matrix[0] @ x @ matrix[1], rtol=1e-5, atol=1e-4)


# What memory sees


@each_direction
@pytest.mark.parametrize("name", ["winograd_f2x3", "winograd_f4x3", "fft_8", "fft_16"])
def test_no_banks_conflict(name: str, direction: str) -> None:
    for architecture in ("sm_80",) if name.startswith("fft") else ("sm_75", "sm_80", "sm_86"):
        outcome = run(CASES["3x3"], direction, name, architecture, count=True)
        assert [counters.bank_conflicts for counters in outcome.counters] == [0] * len(outcome.counters)


BARRIERS = [
    (file, number)
    for file in (
        *("winograd.cu", "winograd_gradient.cu"),
        *("fft_spectra.cu", "fft_filters.cu", "fft_product.cu", "fft_results.cu", "fft_filter_gradients.cu"),
    )
    for number in range(source_text(file).count("__syncthreads();"))
]


@pytest.mark.parametrize(("file", "number"), BARRIERS)
def test_a_dropped_barrier_is_caught(file: str, number: int) -> None:
    """Each of them, with one stage in shared memory or with two, and more chunks than stages."""
    text = source_text(file)
    places = [found.span() for found in re.finditer(r"__syncthreads\(\);", text)]
    first, last = places[number]
    mutant = f"{text[:first]};{text[last:]}"
    direction = "filters" if "gradient" in file else "forward"
    case = replace(CASES["3x3"], c=21, batch=5)
    caught: list[str] = []
    for name in ("fft_8",) if file.startswith("fft") else ("winograd_f2x3", "winograd_f4x3"):
        for architecture in ("sm_75", "sm_80"):
            convolution = Transformed(case, direction)
            convolution.change = lambda original: mutant if original == text else original
            try:
                convolution.run(plan(convolution.problem, direction, name, architecture), architecture)
            except Fault as fault:
                caught.append(fault.check)
    assert caught
    assert set(caught) <= {"race", "uninitialised"}


def test_an_unwaited_copy_is_caught() -> None:
    """Without the wait for asynchronous copies of filters."""
    convolution = Transformed(CASES["3x3"], "forward")
    convolution.change = lambda text: text.replace('asm volatile("cp.async.wait_all;" ::: "memory");', "")
    with pytest.raises(Fault) as caught:
        convolution.run(plan(convolution.problem, "forward", "winograd_f4x3"))
    assert caught.value.check in ("pending-copy", "uninitialised")


# What kernels take

LARGE = {
    "3x3": Case(64, 128, (28, 28), (3, 3), batch=32, padding=(1, 1, 1, 1)),
    "odd": Case(13, 37, (11, 9), (3, 3), padding=(1, 1, 1, 1)),
    "5x5": Case(64, 64, (28, 28), (5, 5), batch=32, padding=(2, 2, 2, 2)),
    "7x7": Case(3, 20, (33, 31), (7, 7), padding=(3, 3, 3, 3)),
    "1x3": Case(8, 64, (30, 30), (1, 3), batch=32, padding=(0, 1, 0, 1)),
    "5x1": Case(64, 64, (30, 30), (5, 1), padding=(2, 0, 2, 0)),
}


def launches(case: Case, kind: str, architecture: str) -> Iterator[tuple[str, ConvolutionLaunch, str]]:
    """Algorithm and direction, launch and source of all that there is for a case."""
    for name in algorithms(case.problem()):
        for direction in DIRECTIONS:
            convolution = Transformed(replace(case, unit=4 if kind == "float" else 8), direction, kind, rows=1)
            made = plan(convolution.problem, direction, name, architecture)
            for launch, text in zip(made.launches, convolution.sources(made), strict=True):
                yield f"{name} {direction}", launch, text


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", LARGE)
def test_nothing_is_spilled_and_blocks_fit(name: str, architecture: str) -> None:
    for kind in ("float", "f16"):
        found = list(launches(LARGE[name], kind, architecture))
        compiled = nvrtc.compile_all([text for _, _, text in found], architecture, [nvrtc.RESOURCES], threads=2)
        for (what, launch, _), made in zip(found, compiled, strict=True):
            (used,) = parse_resources(made.log).values()
            where = f"{what} {launch.files[-1]} {kind}: {used}"
            assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0), where
            assert used.shared + launch.shared_bytes <= architecture_of(architecture).shared_opt_in, where
