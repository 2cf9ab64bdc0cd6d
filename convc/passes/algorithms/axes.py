"""Convolutions one dimension at a time: which inputs an output reads, forward and backward by the data."""

from __future__ import annotations

from collections.abc import Iterator

from convc.lazy import dataclass


@dataclass(frozen=True)
class Axis:
    """One dimension of a phase: `count` outputs at first, first + step, …; output number a reads input
    a·stride + offset for each (tap, offset) of `taps`, where that lies in [0, limit)."""

    count: int
    first: int
    step: int
    stride: int
    limit: int
    taps: tuple[tuple[int, int], ...]

    def reached(self, output: int, offset: int) -> bool:
        return 0 <= output * self.stride + offset < self.limit

    @property
    def distances(self) -> tuple[int, int]:
        """From one of the taps to the next, by number and by offset: they lie evenly."""
        if len(self.taps) < 2:
            return 1, 1
        (tap, offset), (next_tap, next_offset) = self.taps[:2]
        return next_tap - tap, next_offset - offset

    @property
    def always_inside(self) -> bool:
        return all(self.reached(a, offset) for _, offset in self.taps for a in (0, self.count - 1))


def forward_axis(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    return Axis(outputs, 0, 1, stride, size, tuple((r, r * dilation - padding) for r in range(kernel)))


def backward_axes(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Iterator[Axis]:
    """The phases of one dimension; `size` is that of the images, `outputs` that of the cotangent."""
    for phase in range(min(stride, size)):
        offsets = [(r, phase + padding - r * dilation) for r in range(kernel)]
        taps = tuple((r, offset // stride) for r, offset in offsets if offset % stride == 0)
        yield Axis(-(-(size - phase) // stride), phase, stride, 1, outputs, taps)
