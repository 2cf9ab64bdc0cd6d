"""A convolution as launches: what the modules that plan its kernels hand over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from convc.lazy import dataclass

Grid = Callable[[int], tuple[int, int, int]]
_SUM_THREADS = 256


@dataclass(frozen=True, eq=False)
class ConvolutionLaunch:
    """One launch: the files that make its source, the last one with the entry point, and what they are given.

    `constants` come beside those of the problem; texts are macros. `grid` maps rows to blocks. `finishes` says that the
    text has `finish`, `shared_bytes` is dynamic shared memory. `write` gives the text, types and codelets, that goes
    between constants and files: codelets take time, and who compares algorithms needs none.
    """

    files: tuple[str, ...]
    constants: Mapping[str, int | str]
    grid: Grid
    threads: int
    finishes: bool = False
    shared_bytes: int = 0
    write: Callable[[], str] = str

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


def sum_image_parts(parts: int, pixels: int, stored: int) -> ConvolutionLaunch:
    """Adds up the parts of images of so many pixels and stored channels, in their order, and finishes them."""
    vectors = pixels * (stored // 4 if stored % 4 == 0 else stored)
    return ConvolutionLaunch(
        ("sum_image_parts.cu",),
        {"PARTS": parts, "RESULT_PIXELS": pixels, "RESULT_STORED": stored},
        lambda rows: (divide_up(rows * vectors, _SUM_THREADS), 1, 1),
        _SUM_THREADS,
        finishes=True,
    )


def sum_filter_parts(parts: int, elements: int) -> ConvolutionLaunch:
    """Adds up the parts of a gradient by filters, in their order."""
    blocks = divide_up(elements // 4 if elements % 4 == 0 else elements, _SUM_THREADS)
    return ConvolutionLaunch(("sum_filter_parts.cu",), {"PARTS": parts}, lambda rows: (blocks, 1, 1), _SUM_THREADS)
