"""Soft-max over the channels of each pixel, and how threads share these: losses do it likewise.

A team of threads takes the channels of a pixel: lanes of a warp, or a whole block where there are more channels than a
warp can hold in registers.
"""

from __future__ import annotations

from collections.abc import Mapping

from convc.codegen.cuda.kernel import THREADS, KernelBuilder, Work, extents
from convc.codegen.cuda.statistics import vector_width
from convc.ir import ops
from convc.ir.graph import Value
from convc.lazy import dataclass
from convc.passes.layout import ImageLayout

# Channels that a warp takes, and numbers of them that a thread keeps in registers.
_MOST_OF_WARP = 1024
_KEPT = 64


@dataclass(frozen=True)
class Team:
    """How threads share the channels of a pixel (kernels/team.cuh): `size` threads, `width` channels of each at a time,
    which they keep in registers or read again."""

    image: ImageLayout
    width: int
    size: int
    kept: bool

    @classmethod
    def of(cls, k: KernelBuilder, x: Value, tensors: int = 1) -> Team:
        """For x and others that lie like it, all of which a thread may keep."""
        image = k.image(x)
        width = vector_width(k, image.stored)
        vectors = image.stored // width
        size = min(32, 1 << (vectors - 1).bit_length()) if image.stored <= _MOST_OF_WARP else THREADS
        return cls(image, width, size, -(-vectors // size) * width * tensors <= _KEPT)

    @property
    def teams(self) -> int:
        """Pixels that a block treats at once."""
        return THREADS // self.size

    @property
    def constants(self) -> dict[str, int]:
        return {
            "CHANNELS": self.image.channels,
            "STORED": self.image.stored,
            "PIXELS": self.image.pixels,
            "V": self.width,
            "TEAM": self.size,
            "KEPT": self.kept,
        }

    def grid(self, rows: int) -> tuple[int, int, int]:
        """A team for each pixel."""
        return extents(-(-rows * self.image.pixels // self.teams))


def launch_teams(
    k: KernelBuilder,
    files: tuple[str, ...],
    team: Team,
    constants: Mapping[str, int | float | bool | str],
    types: Mapping[str, str],
    names: Mapping[str, Value],
    flops: int,
    text: str = "",
) -> None:
    """Finish an image, pixel by pixel, with so many operations for each number."""
    k.launch(
        ["team.cuh", *files],
        team.grid,
        constants={**team.constants, **constants},
        types=types,
        names=names,
        text=text,
        finishes=True,
        name=k.anchor.op.name,
        work=Work(flops * k.anchor.results[0].type.size, k.bytes),
    )


def lower_softmax(k: KernelBuilder) -> None:
    x = k.anchor.operands[0]
    constants = {"LOGARITHM": isinstance(k.anchor.op, ops.LogSoftmax)}
    launch_teams(k, ("softmax.cu",), Team.of(k, x), constants, {"Image": k.element(x)}, {"X": x}, 6)


def lower_softmax_backward(k: KernelBuilder) -> None:
    dy, y = k.anchor.operands
    constants = {"LOGARITHM": isinstance(k.anchor.op, ops.LogSoftmaxBackward)}
    types = {"Cotangent": k.element(dy), "Image": k.element(y)}
    launch_teams(k, ("softmax_backward.cu",), Team.of(k, y, 2), constants, types, {"DY": dy, "Y": y}, 4)
