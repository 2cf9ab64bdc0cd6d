"""A convolution as its kernels for CUDA see it: sizes and how operands lie in memory, by the names of the prelude."""

from __future__ import annotations

from convc.lazy import dataclass


@dataclass(frozen=True)
class ConvolutionProblem:
    """Sizes of all three directions of one convolution.

    `c` channels of images of `h` x `w` (x), `k` of results of `oh` x `ow` (y); `*_stored` is how many numbers stand for
    them in memory. `cg_stored` is that of a tap of a filter, `kg_stored` the number of filters of a group. `top` and
    `left` are the padding before; that behind follows from the results' size.
    """

    batch: int
    c: int
    h: int
    w: int
    c_stored: int
    k: int
    oh: int
    ow: int
    k_stored: int
    r: int
    s: int
    cg_stored: int
    kg_stored: int
    stride_h: int = 1
    stride_w: int = 1
    top: int = 0
    left: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    groups: int = 1

    @property
    def cg(self) -> int:
        """Channels of images that a filter reads."""
        return self.c // self.groups

    @property
    def kg(self) -> int:
        """Filters of a group."""
        return self.k // self.groups

    def constants(self) -> dict[str, int]:
        """What the prelude declares."""
        names = (
            *("batch", "c", "h", "w", "c_stored", "k", "oh", "ow", "k_stored", "r", "s"),
            *("stride_h", "stride_w", "top", "left", "dilation_h", "dilation_w"),
            *("groups", "cg", "cg_stored", "kg", "kg_stored"),
        )
        return {name.upper(): getattr(self, name) for name in names}
