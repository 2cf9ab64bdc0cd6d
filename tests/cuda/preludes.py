"""Convolutions for kernels that are compiled alone: preludes written by hand, operands packed as memory has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from convc.codegen.cuda import nvrtc
from convc.codegen.cuda.convolution_plan import ConvolutionLaunch, ConvolutionPlan
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.lazy import dataclass
from tests.cuda_emulator.counters import Counters
from tests.cuda_emulator.launching import Buffer, In, InOut, Module
from tests.cuda_emulator.schedule import EVEN, Schedule

Pair = tuple[int, int]
DIRECTIONS = ("forward", "data", "filters")

# The epilogue of the tests adds a number to each channel, and counts how often it is called for each element.
_FINISH = """
template <int V>
__device__ __forceinline__ void finish(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {
  static_assert(V == 1 || V == 2 || V == 4 || V == 8, "what may be stored at once");
  const i64 at = ((i64)row * FINISHED_PIXELS + pixel) * FINISHED_STORED + channel;
  for (int i = 0; i < V; ++i) {
    v[i] = channel + i < FINISHED_CHANNELS ? v[i] + BIAS[channel + i] : 0.0f;
    CALLS[at + i] += 1;
  }
  store<V>(RESULT + at, v);
}
"""
_COMMON = {
    "forward": "const Image* __restrict__ X, const Filter* __restrict__ FILTERS",
    "data": "const Cotangent* __restrict__ DY, const Filter* __restrict__ FILTERS",
    "filters": "const Image* __restrict__ X, const Cotangent* __restrict__ DY, float* __restrict__ DFILTERS",
}
_FINISHED = "float* __restrict__ RESULT, int* __restrict__ CALLS, const float* __restrict__ BIAS"


@dataclass(frozen=True)
class Case:
    """A convolution: images of `size` with `c` channels, `k` filters of `kernel`.

    `padding` is top, left, bottom, right. Stored channels are multiples of `unit`; a single channel stays alone where
    that is 4.
    """

    c: int
    k: int
    size: Pair
    kernel: Pair
    batch: int = 2
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    unit: int = 4

    def problem(self) -> ConvolutionProblem:
        (h, w), (r, s) = self.size, self.kernel
        op = Conv2d(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)
        oh, ow = op.outputs(self.kernel, self.size)
        cg, kg = self.c // self.groups, self.k // self.groups
        alone = self.groups == 1
        return ConvolutionProblem(
            *(self.batch, self.c, h, w, self._stored(self.c), self.k, oh, ow, self._stored(self.k), r, s),
            *(self._stored(cg) if alone else cg, -(-kg // 4) * 4 if alone else kg),
            *(*self.stride, *self.padding[:2], *self.dilation, self.groups),
        )

    def _stored(self, channels: int) -> int:
        return 1 if channels == 1 and self.unit == 4 else -(-channels // self.unit) * self.unit


@dataclass(frozen=True, eq=False)
class Outcome:
    """What kernels have computed, unpacked, and what it should be in float64; NaN and more where they were wrong.

    `padding` has all that is stored and stands for nothing, `calls` how often `finish` was called for each number.
    """

    found: np.ndarray
    wanted: np.ndarray
    padding: np.ndarray
    calls: np.ndarray
    counters: tuple[Counters, ...]

    def check(self, tolerance: float) -> None:
        assert np.array_equal(self.padding, np.zeros_like(self.padding)), "padding is zeros"
        assert np.array_equal(self.calls, np.ones_like(self.calls)), "finish is called once for each number"
        scale = max(1.0, float(np.abs(self.wanted).max()))
        error = float(np.abs(self.found - self.wanted).max())
        assert error <= tolerance * scale, f"{error} of {scale}"


def encode(x: np.ndarray, kind: str) -> np.ndarray:
    """Numbers as memory has them."""
    if kind == "f16":
        return x.astype(np.float16).view(np.uint16)
    x = x.astype(np.float32)
    return (x.view(np.uint32) >> 16).astype(np.uint16) if kind == "bf16" else x


def decode(x: np.ndarray, kind: str) -> np.ndarray:
    """Numbers in memory, in float64."""
    if kind == "f16":
        return x.view(np.float16).astype(np.float64)
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if kind == "bf16" else x.astype(np.float64)


def pack_images(x: np.ndarray, stored: int) -> np.ndarray:
    n, c, h, w = x.shape
    packed = np.zeros((n, h, w, stored), x.dtype)
    packed[..., :c] = x.transpose(0, 2, 3, 1)
    return packed


def pack_filters(w: np.ndarray, p: ConvolutionProblem) -> np.ndarray:
    packed = np.zeros((p.groups, p.kg_stored, p.r, p.s, p.cg_stored), w.dtype)
    packed[:, : p.kg, :, :, : p.cg] = w.reshape(p.groups, p.kg, p.cg, p.r, p.s).transpose(0, 1, 3, 4, 2)
    return packed


def source(problem: ConvolutionProblem, direction: str, launch: ConvolutionLaunch, kind: str, scratch: bool) -> str:
    """The text of a launch, with its prelude."""
    kernels = files("convc.codegen.cuda") / "kernels"
    p = problem
    declared = [_COMMON[direction]] + ([_FINISHED] if direction != "filters" else [])
    declared += ["float* __restrict__ SCRATCH"] if scratch else []
    parameters = ", ".join([*declared, "int rows"])
    names = [parameter.split()[-1] for parameter in parameters.split(",")]
    lines = [f"typedef {kind} Image, Filter, Cotangent;"]
    lines += [f"#define KERNEL kernel_{direction}", f"#define PARAMETERS {parameters}"]
    lines += [f"#define ARGUMENTS {', '.join(names)}"]
    constants: dict[str, int | str] = {**p.constants(), "THREADS": launch.threads, **launch.constants}
    if direction != "filters":
        pixels, stored, channels = (
            (p.oh * p.ow, p.k_stored, p.k) if direction == "forward" else (p.h * p.w, p.c_stored, p.c)
        )
        constants |= {"FINISHED_PIXELS": pixels, "FINISHED_STORED": stored, "FINISHED_CHANNELS": channels}
    for name, value in constants.items():
        lines.append(
            f"#define {name} {value}" if isinstance(value, str) else f"[[maybe_unused]] constexpr int {name} = {value};"
        )
    if launch.finishes:
        lines.append(_FINISH)
    numbers = (kernels / "numbers.cuh").read_text(encoding="utf-8")
    texts = ((kernels / name).read_text(encoding="utf-8") for name in launch.files)
    return "\n".join([numbers, *lines, launch.text, *texts])


@cache
def _module(text: str, architecture: str, options: tuple[str, ...]) -> Module:
    return Module(nvrtc.compile(text, architecture, [nvrtc.LINES, *options]).ptx)


class Convolution:
    """Random operands of a case, of element type `kind`, and what a direction should make of them.

    Runs have `rows` images, of the `batch` that the kernels are made for. Operands are as large as the rows need.
    """

    def __init__(self, case: Case, direction: str, kind: str = "float", rows: int | None = None) -> None:
        self.direction, self.kind = direction, kind
        self.problem = p = case.problem()
        self.rows = rows or p.batch
        rng = np.random.default_rng(case.c + case.k)
        shapes = {
            "x": (self.rows, p.c, p.h, p.w),
            "y": (self.rows, p.k, p.oh, p.ow),
            "w": (p.k, p.cg, p.r, p.s),
        }
        x, dy, w = (encode(rng.standard_normal(shape), kind) for shape in shapes.values())
        self.bias = rng.standard_normal(p.k if direction == "forward" else p.c).astype(np.float32)
        geometry = {n: getattr(case, n) for n in ("stride", "padding", "dilation", "groups")}
        packed = {"x": pack_images(x, p.c_stored), "y": pack_images(dy, p.k_stored), "w": pack_filters(w, p)}
        wide = {name: decode(array, kind) for name, array in (("x", x), ("y", dy), ("w", w))}
        if direction == "forward":
            self.operands = [packed["x"], packed["w"]]
            self.wanted = Conv2d(**geometry).reference(wide["x"], wide["w"], self.bias.astype(np.float64))
        elif direction == "data":
            self.operands = [packed["y"], packed["w"]]
            made = Conv2dBackwardData(size=case.size, **geometry).reference(wide["y"], wide["w"])
            self.wanted = made + self.bias.astype(np.float64)[:, None, None]
        else:
            self.operands = [packed["x"], packed["y"]]
            self.wanted = Conv2dBackwardWeights(kernel=case.kernel, **geometry).reference(wide["x"], wide["y"])

    def sources(self, plan: ConvolutionPlan) -> list[str]:
        scratch = plan.scratch_bytes > 0
        return [source(self.problem, self.direction, launch, self.kind, scratch) for launch in plan.launches]

    def run(
        self,
        plan: ConvolutionPlan,
        architecture: str = "sm_80",
        schedule: Schedule = EVEN,
        *,
        options: tuple[str, ...] = (),
        count: bool = False,
    ) -> Outcome:
        p = self.problem
        buffers: list[Buffer] = [In(operand) for operand in self.operands]
        shape: Sequence[int]
        if self.direction == "filters":
            shape = (p.groups, p.kg_stored, p.r, p.s, p.cg_stored)
        elif self.direction == "forward":
            shape = (self.rows, p.oh, p.ow, p.k_stored)
        else:
            shape = (self.rows, p.h, p.w, p.c_stored)
        result, calls = np.empty(shape, np.float32), np.zeros(shape, np.int32)
        scratch = np.full(plan.scratch_bytes // 4, np.nan, np.float32)
        # Later launches read what earlier ones have written.
        result[:] = np.nan
        buffers.append(InOut(result))
        if self.direction != "filters":
            buffers += [InOut(calls), In(self.bias)]
        if plan.scratch_bytes:
            buffers.append(InOut(scratch))
        counters: list[Counters] = []
        for launch, text in zip(plan.launches, self.sources(plan), strict=True):
            counters.append(
                _module(text, architecture, options).launch(
                    f"kernel_{self.direction}",
                    launch.grid(self.rows),
                    launch.threads,
                    [*buffers, self.rows],
                    launch.shared_bytes,
                    schedule=schedule,
                    count=count,
                )
            )
        real: tuple[slice, ...]
        if self.direction == "filters":
            real = (slice(None), slice(p.kg), slice(None), slice(None), slice(p.cg))
            found = result[real].transpose(0, 1, 4, 2, 3).reshape(p.k, p.cg, p.r, p.s)
            calls[:] = 1
        else:
            real = (..., slice(p.k if self.direction == "forward" else p.c))
            found = result[real].transpose(0, 3, 1, 2)
        padding = np.ones(shape, bool)
        padding[real] = False
        return Outcome(found.astype(np.float64), self.wanted, result[padding], calls, tuple(counters))
