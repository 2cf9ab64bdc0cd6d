"""Patches gathered from images: a row of the matrix for each output, zeros where a tap falls outside."""

from __future__ import annotations

from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.types import Grid
from convc.passes.algorithms.axes import Axis
from convc.passes.algorithms.patches import PatchMatrix
from convc.passes.layout import ImageLayout
from convc.passes.machine import split_lanes

_UNROLL = 4


def gather(
    f: Function, lanes: int, matrix: PatchMatrix, layout: ImageLayout, images: V, target: V, first: Index,
    slots: tuple[Index, Index], filter_rows: tuple[Index, Index] | None = None, group: Index | None = None,
) -> None:  # fmt: skip
    """Rows of the matrix, from row `first` of all images on, of which this thread gathers a range of `slots`.

    `filter_rows` is the range of the taps downwards that are wanted (default: all), `group` the group of the
    convolution (default: one after the other, each into a place of its own).
    """
    low, high = filter_rows or (0, len(matrix.down.taps))
    groups = (0, matrix.groups) if group is None else (group, f.add(group, 1))
    with f.loop(*slots) as slot:
        image, row, column = _output(f, matrix, f.add(first, slot.index))
        line = f.add(f.multiply(row, matrix.down.stride), _first_offset(matrix.down))
        across = f.add(f.multiply(column, matrix.across.stride), _first_offset(matrix.across))
        into = f.address(target, f.multiply(slot.index, matrix.row))
        with f.loop(*groups) as number, f.loop(low, high) as tap:
            here = f.add(line, f.multiply(tap.index, _step(matrix.down)))
            pixel = f.sum(f.multiply(here, layout.width), across)
            channel = f.add(f.multiply(image, layout.size), f.multiply(number.index, matrix.channels))
            source = f.address(images, f.add(f.multiply(pixel, layout.stored), channel))
            patch = f.multiply(f.subtract(tap.index, low), matrix.filter_row)
            if group is None:
                patch = f.add(f.multiply(number.index, matrix.entry), patch)
            _filter_row(f, lanes, matrix, source, f.address(into, patch), here, across)


def _output(f: Function, matrix: PatchMatrix, number: Index) -> tuple[Index, Index, Index]:
    """Image, row and column of the output, within its phase, that a row of the matrix is for."""
    image, place = f.divide(number, matrix.outputs), f.remainder(number, matrix.outputs)
    return image, f.divide(place, matrix.across.count), f.remainder(place, matrix.across.count)


def is_dense(matrix: PatchMatrix) -> bool:
    """Whether the outputs are neighbours in memory: all pixels of the result, one after the other."""
    return matrix.down.step == matrix.across.step == 1


def output_pixel(f: Function, matrix: PatchMatrix, target: ImageLayout, number: Index) -> tuple[Index, Index]:
    """(image, pixel) of the result that a row of the matrix is for."""
    if is_dense(matrix):
        return f.divide(number, matrix.outputs), f.remainder(number, matrix.outputs)
    image, row, column = _output(f, matrix, number)
    line = f.add(f.multiply(row, matrix.down.step), matrix.down.first)
    across = f.add(f.multiply(column, matrix.across.step), matrix.across.first)
    return image, f.add(f.multiply(line, target.width), across)


def _first_offset(axis: Axis) -> int:
    return axis.taps[0][1] if axis.taps else 0


def _step(axis: Axis) -> int:
    """Pixels from one tap to the next: always the same, and forward."""
    return axis.taps[1][1] - axis.taps[0][1] if len(axis.taps) > 1 else 1


def _filter_row(f: Function, lanes: int, matrix: PatchMatrix, source: V, target: V, line: Index, column: Index) -> None:
    """All taps of one filter row: whether the image has its line, and which of its pixels, is known at run time."""
    axis = matrix.across
    span = (len(axis.taps) - 1) * _step(axis)
    in_line = None if matrix.down.always_inside else _inside(f, line, matrix.down.limit)
    with maybe(f, in_line):
        # Both ends inside: so is what lies between them.
        ends = (
            () if axis.always_inside else (_inside(f, column, axis.limit), _inside(f, f.add(column, span), axis.limit))
        )
        whole = f.binary("and", *ends) if ends else None
        with maybe(f, whole):
            _taps(f, lanes, matrix, source, target)
        if whole is not None:
            with f.when(_not(f, whole)):
                _border_taps(f, lanes, matrix, source, target, column)
    if in_line is not None:
        with f.when(_not(f, in_line)):
            _move(f, lanes, None, target, matrix.filter_row)


def _taps(f: Function, lanes: int, matrix: PatchMatrix, source: V, target: V) -> None:
    step, count = _step(matrix.across), len(matrix.across.taps)
    if step == 1 and matrix.channels == matrix.stored:
        _move(f, lanes, source, target, matrix.filter_row)
        return
    width = matrix.channels + matrix.spill
    with f.loop(0, count) as tap:
        pixel = f.address(source, f.multiply(tap.index, step * matrix.stored))
        _move(f, lanes, pixel, f.address(target, f.multiply(tap.index, matrix.channels)), width)


def _border_taps(f: Function, lanes: int, matrix: PatchMatrix, source: V, target: V, column: Index) -> None:
    step, width = _step(matrix.across), matrix.channels + matrix.spill
    with f.loop(0, len(matrix.across.taps)) as tap:
        into = f.address(target, f.multiply(tap.index, matrix.channels))
        inside = _inside(f, f.add(column, f.multiply(tap.index, step)), matrix.across.limit)
        with f.when(inside):
            _move(f, lanes, f.address(source, f.multiply(tap.index, step * matrix.stored)), into, width)
        with f.when(_not(f, inside)):
            _move(f, lanes, None, into, width)


def _inside(f: Function, position: Index, limit: int) -> V:
    """0 <= position < limit: as a number without sign, what is negative is large."""
    return f.emit("i1", f"icmp ult i64 {ref(position)}, {limit}")


def _not(f: Function, condition: V) -> V:
    return f.binary("xor", condition, V("true", "i1"))


def _move(f: Function, lanes: int, source: V | None, target: V, count: int) -> None:
    """Copy `count` numbers, or clear them; where they are narrow before and after, as they are."""
    narrow = target.pointee != "float" and (source is None or source.pointee == target.pointee)
    kind, zero = ("i8", target.pointee.zero) if isinstance(target.pointee, Grid) else ("i16", 0)
    if narrow:
        lanes *= 4 if kind == "i8" else 2

    def vector(place: Index, width: int) -> None:
        if narrow:
            zeros = f.integers([zero] * width, kind)
            value = zeros if source is None else f.load(f.address(source, place), width, kind)
        else:
            value = f.constant(0.0, width) if source is None else f.load(f.address(source, place), width)
        f.store(value, f.address(target, place))

    block = lanes * _UNROLL
    whole = count // block
    if whole:
        with f.loop(0, whole) as part:
            start = f.multiply(part.index, block)
            for step in range(_UNROLL):
                vector(f.add(start, step * lanes), lanes)
    place = whole * block
    for width in split_lanes(count - place, lanes):
        vector(place, width)
        place += width
