"""What convolutions by transforms of tiles share, Winograd's (`winograd.py`) and Fourier's (`fourier.py`).

Everything here is a function of a problem and of an architecture: no graph, no plan. Forward and backward by the data
are one algorithm. Backward, the images are the cotangents, the filters are turned by 180 degrees, and the padding is
what the other side of the filter reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from convc.codegen.cuda.convolution_plan import divide_up
from convc.ir.window import Pair
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.codegen.cuda.convolution_problem import ConvolutionProblem

Direction = Literal["forward", "backward_data", "backward_weights"]
Constants = dict[str, int | str]

# A gradient by filters is summed in parts until there are so many blocks: two for each SM of a large GPU. All parts
# together take so many bytes at most.
BLOCKS = 256
MOST_PART_BYTES = 64 << 20
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Sides:
    """What is read and what is made, in whichever direction: channels and size of images, results and padding."""

    channels: int
    stored: int
    image: Pair
    results: int
    results_stored: int
    result: Pair
    before: Pair

    @classmethod
    def of(cls, p: ConvolutionProblem, direction: Direction) -> Sides:
        if direction == "backward_data":
            before = ((p.r - 1) * p.dilation_h - p.top, (p.s - 1) * p.dilation_w - p.left)
            return cls(p.k, p.k_stored, (p.oh, p.ow), p.c, p.c_stored, (p.h, p.w), before)
        return cls(p.c, p.c_stored, (p.h, p.w), p.k, p.k_stored, (p.oh, p.ow), (p.top, p.left))

    def tiles(self, outputs: Pair) -> int:
        """Of one image."""
        return divide_up(self.result[0], outputs[0]) * divide_up(self.result[1], outputs[1])


def round_up(size: int, unit: int) -> int:
    return divide_up(size, unit) * unit


def in_a_row(blocks: int) -> tuple[int, int, int]:
    return max(1, blocks), 1, 1


def source_of(direction: Direction) -> str:
    """The images that are read, and their elements."""
    if direction == "backward_data":
        return "typedef Cotangent Pixel;\n#define IMAGES DY"
    return "typedef Image Pixel;\n#define IMAGES X"
