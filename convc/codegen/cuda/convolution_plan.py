"""A convolution as launches: what the modules that plan its kernels hand over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace

from convc.codegen.cuda.kernel import Grid, Work
from convc.lazy import dataclass
from convc.passes.algorithms.problem import Direction

_SUM_THREADS = 256
# The tensors of a convolution: of images x, filters w and results y two are factors, and the third is the result.
TENSORS = ("x", "w", "y")
RESULTS: Mapping[Direction, str] = {"forward": "y", "backward_data": "x", "backward_weights": "w"}


@dataclass(frozen=True, eq=False)
class ConvolutionLaunch:
    """One launch: the files that make its source, the last one with the entry point, and what they are given.

    `constants` come beside those of the problem; texts are macros. `grid` maps rows to blocks. `finishes` says that the
    text has `finish`, `shared_bytes` is dynamic shared memory. `write` gives the text, types and codelets, that goes
    between constants and files: codelets take time, and who compares algorithms needs none.

    With all rows it does `flops` operations, reads or writes these shares of the `tensors`, and so many bytes of the
    scratch space.
    """

    files: tuple[str, ...]
    constants: Mapping[str, int | str]
    grid: Grid
    threads: int
    finishes: bool = False
    shared_bytes: int = 0
    write: Callable[[], str] = str
    flops: int = 0
    tensors: Mapping[str, float] = field(default_factory=dict[str, float])
    scratch_moved: int = 0
    tensor_cores: bool = False

    def work(self, bytes: Mapping[str, int]) -> Work:
        """What it does to tensors of so many bytes."""
        moved = sum(share * bytes[name] for name, share in self.tensors.items())
        return Work(self.flops, int(moved) + self.scratch_moved, self.tensor_cores)

    @property
    def text(self) -> str:
        return self.write()


@dataclass(frozen=True, eq=False)
class ConvolutionPlan:
    """Launches in their order; the scratch space that they share holds floats."""

    launches: tuple[ConvolutionLaunch, ...]
    scratch_bytes: int


def divide_up(size: int, unit: int) -> int:
    return -(-size // unit)


def touched(direction: Direction, split: bool) -> dict[str, float]:
    """What a product reads and writes: both factors, and the result unless parts of it are added up later."""
    return {name: 1.0 for name in TENSORS if not (split and name == RESULTS[direction])}


def plan_of_images(
    main: ConvolutionLaunch, direction: Direction, parts: int, images: int, pixels: int, stored: int
) -> ConvolutionPlan:
    """A launch whose results are images of so many pixels and stored channels; where it leaves them in parts, with
    another one that adds these up in their order, and finishes them."""
    if parts == 1:
        return ConvolutionPlan((main,), 0)
    vectors, numbers = pixels * (stored // 4 if stored % 4 == 0 else stored), images * pixels * stored
    scratch = 4 * parts * numbers
    total = ConvolutionLaunch(
        ("sum_image_parts.cu",),
        {"PARTS": parts, "RESULT_PIXELS": pixels, "RESULT_STORED": stored},
        lambda rows: (divide_up(rows * vectors, _SUM_THREADS), 1, 1),
        _SUM_THREADS,
        finishes=True,
        flops=parts * numbers,
        tensors={RESULTS[direction]: 1.0},
        scratch_moved=scratch,
    )
    return ConvolutionPlan((replace(main, scratch_moved=scratch), total), scratch)


def plan_of_filters(main: ConvolutionLaunch, parts: int, elements: int) -> ConvolutionPlan:
    """A launch whose results are filters of so many elements; where it leaves them in parts, with another one that adds
    these up in their order."""
    if parts == 1:
        return ConvolutionPlan((main,), 0)
    blocks = divide_up(elements // 4 if elements % 4 == 0 else elements, _SUM_THREADS)
    scratch = 4 * parts * elements
    total = ConvolutionLaunch(
        ("sum_filter_parts.cu",),
        {"PARTS": parts},
        lambda rows: (blocks, 1, 1),
        _SUM_THREADS,
        flops=parts * elements,
        tensors={"w": 1.0},
        scratch_moved=scratch,
    )
    return ConvolutionPlan((replace(main, scratch_moved=scratch), total), scratch)
