"""A convolution as its kernels for CUDA see it: sizes and how operands lie in memory, by the names of the prelude."""

from __future__ import annotations

from convc.lazy import dataclass
from convc.passes.algorithms.problem import Problem
from convc.passes.layout import padded


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

    @classmethod
    def of(cls, problem: Problem, channels: int) -> ConvolutionProblem:
        """A problem in memory, where channels are padded to a multiple of `channels`."""
        p = problem
        of_group = p.channels // p.groups
        return cls(
            batch=p.batch,
            c=p.channels,
            h=p.size[0],
            w=p.size[1],
            c_stored=padded(p.channels, channels),
            k=p.filters,
            oh=p.output[0],
            ow=p.output[1],
            k_stored=padded(p.filters, channels),
            r=p.kernel[0],
            s=p.kernel[1],
            cg_stored=padded(of_group, channels) if p.groups == 1 else of_group,
            kg_stored=padded(p.filters) if p.groups == 1 else p.filters // p.groups,
            stride_h=p.stride[0],
            stride_w=p.stride[1],
            top=p.padding[0],
            left=p.padding[1],
            dilation_h=p.dilation[0],
            dilation_w=p.dilation[1],
            groups=p.groups,
        )

    @classmethod
    def fully_connected(cls, batch: int, features: int, outputs: int, outputs_stored: int) -> ConvolutionProblem:
        """Images of one pixel whose channels are the features as they are stored, padding and all."""
        pixel = {"h": 1, "w": 1, "oh": 1, "ow": 1, "r": 1, "s": 1}
        sizes = {"c": features, "c_stored": features, "cg_stored": features}
        return cls(batch=batch, k=outputs, k_stored=outputs_stored, kg_stored=padded(outputs), **pixel, **sizes)

    @property
    def flops(self) -> int:
        """Operations by the definition, in any direction: two for each product."""
        return 2 * self.batch * self.oh * self.ow * self.k * self.r * self.s * self.cg

    @property
    def filter_elements(self) -> int:
        """Numbers that stand for all filters in memory."""
        return self.groups * self.kg_stored * self.r * self.s * self.cg_stored

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
