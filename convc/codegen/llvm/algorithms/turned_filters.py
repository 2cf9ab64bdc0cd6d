"""The filters that gradients by the data are multiplied with: turned, and cut by the phases of the stride."""

from __future__ import annotations

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.transposition import transpose_filters
from convc.codegen.llvm.vocabulary import Function, V
from convc.ir.graph import Value
from convc.lazy import dataclass
from convc.passes.algorithms.patches import PatchMatrix, patch_matrices, turned_block
from convc.passes.algorithms.problem import Problem
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.quantized_layout import QuantizedLayout


@dataclass(frozen=True)
class TurnedFilters:
    """Those that patches of the cotangents are multiplied with: outputs are the input channels, rows (r, s, output
    channel) in the order of the patches. They begin `place` elements into scratch space: float32, or bfloat16 in
    pairs."""

    matrix: PatchMatrix
    layout: WeightLayout
    place: int

    @property
    def end(self) -> int:
        return self.place + self.layout.size


def in_tiles(k: KernelBuilder) -> bool:
    """Whether a product that patches take part in goes through tile registers: its filters are then in pairs, or
    whole numbers."""
    layout = k.layout(k.kernel.anchor.operands[1])
    return isinstance(layout, QuantizedLayout) or (isinstance(layout, WeightLayout) and layout.pairs == 2)


def scratch_of(k: KernelBuilder) -> V:
    """Scratch space, as elements of filters and patches."""
    place = k.scratch_pointer()
    return V(place.ref, place.type, k.pointer(k.kernel.anchor.operands[0]).pointee) if in_tiles(k) else place


def turned_filters(k: KernelBuilder) -> tuple[TurnedFilters, ...]:
    """One for each phase, one behind the other from the beginning of the scratch space on."""
    problem, tiled = Problem.of(k.kernel.anchor), in_tiles(k)
    own, block = problem.filters // problem.groups, turned_block(problem, k.machine)
    found: list[TurnedFilters] = []
    for matrix in patch_matrices(problem, tiled):
        layout = WeightLayout(problem.channels, ImageLayout(own, *matrix.taps, own), block, problem.groups)
        layout = layout.in_pairs() if tiled else layout
        found.append(TurnedFilters(matrix, layout, found[-1].end if found else 0))
    return tuple(found)


def turn_filters(k: KernelBuilder) -> None:
    """The phase that fills them all."""
    w = k.kernel.anchor.operands[1]

    def turn(f: Function) -> None:
        for filters in turned_filters(k):
            if filters.layout.size:  # a phase that no tap meets has none
                into = f.address(scratch_of(k), filters.place)
                axes = filters.matrix.down, filters.matrix.across
                rows, columns = (tuple(tap for tap, _ in axis.taps) for axis in axes)
                lanes, packed = k.machine.lanes, weights_of(k, w)
                transpose_filters(f, k.pointer(w), packed, into, filters.layout, lanes, (rows, columns))

    k.phase("turn_filters", turn)


def weights_of(k: KernelBuilder, value: Value) -> WeightLayout:
    """The layout of filters, or of their gradient."""
    layout = k.layout(value)
    if isinstance(layout, QuantizedLayout):
        return layout.panels
    assert isinstance(layout, WeightLayout)
    return layout
