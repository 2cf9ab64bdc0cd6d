"""Fully connected layers and their gradients, all three on the weights as they lie packed; no copy is ever made.

    y  = x·wᵀ    a tile of rows of x by a block of outputs:   scalars x[n, d], vectors w[block][d]
    dw = dyᵀ·x   a tile of rows d of the gradient by a block:  scalars x[n, d], vectors dy[n, block]
    dx = dy·w    a tile of features d by a vector of images:   scalars w[block][d][o], vectors dyᵀ[o, n]

The last one works on transposed cotangents, because activations are far smaller than weights. Where the kernel casts
the weights, the first and the last one round them as they read them (`rounded_weights.py`).

Where the processor adds up products of bfloat16 numbers in pairs (`Machine.dot_bf16`) all three do so. In the first a
pair are neighbouring features, whose two rows of weights are interleaved in registers; in the second two images
(`position_pairs.py`); in the third neighbouring outputs, whose lines of transposed cotangents are interleaved in
memory. So one copy of the weights serves them all.
"""

from __future__ import annotations

from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.kernel import SECTIONS, KernelBuilder, Spot, context_word
from convc.codegen.llvm.position_pairs import add_positions
from convc.codegen.llvm.register_tile import Sums, column_pieces, unroll_factor
from convc.codegen.llvm.rounded_weights import RoundedWeights
from convc.codegen.llvm.updates import Formula, update_formula, updated_tensors
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.codegen.llvm.whole_numbers import Whole
from convc.codegen.llvm.wide_scalars import Stretch, is_widened_ahead, scalars_ahead
from convc.ir.graph import Value
from convc.ir.types import DType
from convc.passes.layout import ImageLayout, WeightLayout, padded
from convc.passes.quantized_layout import TOGETHER, QuantizedLayout
from convc.passes.sections import Section
from convc.passes.tiling import even_split, most_rows

_MOST_ROWS = 14


def _weights(k: KernelBuilder, value: Value) -> WeightLayout:
    layout = k.layout(value)
    if isinstance(layout, QuantizedLayout):
        return layout.panels
    assert isinstance(layout, WeightLayout)
    return layout


def _vectors(k: KernelBuilder, weights: WeightLayout) -> int:
    return len(column_pieces(min(weights.block, weights.columns), k.machine.lanes))


def _multiplies_pairs(k: KernelBuilder, depth: int, vectors: int) -> bool:
    """Whether a product of so many steps, with so many columns as vectors, takes two steps at a time."""
    halves = all(operand.type.dtype is DType.BF16 for operand in k.kernel.anchor.operands[:2])
    return k.machine.dot_bf16 and halves and depth % 2 == 0 and vectors > 1


def _blocks(weights: WeightLayout) -> tuple[int, int]:
    """Full column blocks, and the width of the last one if it needs code of its own (a rest, or padding lanes)."""
    full, rest = divmod(weights.columns, weights.block)
    if full and not rest and weights.columns != weights.outputs:
        return full - 1, weights.block
    return full, rest


def lower_linear(k: KernelBuilder) -> None:
    """linear with bias and a chain. Threads split (block of outputs, tile of rows)."""
    anchor = k.kernel.anchor
    x, w = anchor.operands[:2]
    bias = anchor.operands[2] if len(anchor.operands) == 3 else None
    weights = _weights(k, w)
    tile_rows = even_split(k.plan.batch, min(most_rows(k.machine, _vectors(k, weights)), _MOST_ROWS))[0]

    def body(f: Function) -> None:
        rows = k.rows(f)
        full, rest = _blocks(weights)
        blocks = full + (1 if rest else 0)
        tiles = f.divide(f.add(rows, tile_rows - 1), tile_rows)
        start, stop = f.share(f.multiply(tiles, blocks))
        with f.loop(start, stop) as unit:
            block, tile = f.divide(unit.index, tiles), f.remainder(unit.index, tiles)
            first = f.multiply(tile, tile_rows)
            for width, is_rest in ((weights.block, False), (rest, True)):
                if (not is_rest and not full) or (is_rest and not rest):
                    continue
                condition = None if blocks == 1 or not (full and rest) else (
                    f.equal(block, full) if is_rest else f.less(block, full)
                )  # fmt: skip
                with maybe(f, condition):
                    here: Index = full if is_rest else block
                    whole = f.less(f.add(first, tile_rows - 1), rows)
                    with f.when(whole):
                        _forward_tile(k, f, x, w, bias, weights, first, tile_rows, here, width)
                    with f.when(f.invert(whole)), f.loop(first, rows) as row:
                        _forward_tile(k, f, x, w, bias, weights, row.index, 1, here, width)

    k.phase("linear", body)


def _forward_tile(
    k: KernelBuilder, f: Function, x: Value, w: Value, bias: Value | None, weights: WeightLayout,
    first: Index, rows: int, block: Index, width: int,
) -> None:  # fmt: skip
    pieces = column_pieces(width, k.machine.lanes)
    channel = f.multiply(block, weights.block)
    whole = Whole.of(k, x, w)
    sums = Sums.zeros(f, rows, pieces, whole=whole is not None)
    if whole is not None:
        whole.add_part(f, sums, 0, channel, range(rows))
    elif bias is not None:
        sums.flat = [f.load(f.address(k.pointer(bias), f.add(channel, p.offset)), p.lanes) for p in pieces] * rows
    depth = weights.rows.size
    given, kind = k.weights(w)
    panel = f.address(given, f.multiply(channel, depth))
    source = f.address(k.pointer(x), f.multiply(first, depth))
    together = TOGETHER if whole is not None else 2 if _multiplies_pairs(k, depth, weights.columns) else 1

    def steps(scalars: V, distance: int, columns: V, count: int) -> None:
        """So many features; those of neighbouring images lie so far apart."""
        unroll = together * unroll_factor(count // together)
        with f.loop(0, count, unroll, carried=sums.flat) as loop:
            sums.flat = loop.carried
            here, panel_rows = f.address(scalars, loop.index), f.address(columns, f.multiply(loop.index, width))
            for step in range(0, unroll, together):

                def scalar(m: int, step: int = step) -> tuple[V, int]:
                    return here, m * distance + step

                if whole is not None:
                    sums.add_quads(f, panel_rows, step * width, scalar, range(rows))
                elif together == 2:
                    sums.add_pairs(f, panel_rows, step * width, scalar, range(rows), apart=width)
                else:
                    sums.multiply_add(f, panel_rows, step * width, scalar, range(rows))
            loop.carried = sums.flat
        sums.flat = loop.carried

    widens = together == 1 and is_widened_ahead(source, 1, depth)
    if widens or kind is not None:
        stretch = Stretch(f, k.machine.lanes, range(rows))
        for start, stop, length in stretch.cuts(depth):
            with f.loop(start, stop, length, carried=sums.flat) as part:
                sums.flat = part.carried
                scalars, distance = f.address(source, part.index), depth
                columns = f.address(panel, f.multiply(part.index, width))
                if widens:
                    stretch.widen(scalars, depth, length)
                    scalars, distance = stretch.place, stretch.apart
                if kind is not None:
                    columns = _rounded(k, f, kind, length * width).take(columns, length * width)
                steps(scalars, distance, columns, length)
                part.carried = sums.flat
            sums.flat = part.carried
    else:
        steps(source, depth, panel, depth)
    if whole is not None:
        sums.flat = whole.results(f, sums, channel, None if bias is None else k.pointer(bias))
    target = k.image(k.kernel.anchor.result)
    base = f.add(f.multiply(first, target.size), channel)
    for m in range(rows):
        for number, piece in enumerate(pieces):
            real = piece.lanes
            if isinstance(block, int):
                real = max(0, min(piece.lanes, weights.outputs - block * weights.block - piece.offset))
            spot = Spot(
                f.add(first, m) if k.needs_position else 0, 0, f.add(channel, piece.offset),
                base, m * target.size + piece.offset, piece.lanes, real,
            )  # fmt: skip
            k.finish(f, spot, sums.at(m, number))


def _rounded(k: KernelBuilder, f: Function, kind: str, most: int) -> RoundedWeights:
    return RoundedWeights(f, k.machine.lanes, kind, most, k.machine.dot_bf16)


def lower_linear_backward_weights(k: KernelBuilder) -> None:
    """Gradient of the weights, packed like them; the bias gradient is the row whose scalars are 1.

    An update that rides along is done with the sums in registers, in runs that update.
    """
    anchor, update = k.kernel.anchor, k.kernel.update
    x, dy = anchor.operands
    weights = _weights(k, anchor.result)
    bias = k.kernel.bias_gradient
    spare = 1 if bias is not None else 0
    depth = weights.rows.size
    runs = even_split(depth, min(most_rows(k.machine, _vectors(k, weights)) - spare, _MOST_ROWS))
    larger = sum(run == runs[0] for run in runs)
    # A single vector of columns has few sums for as much to interleave.
    pairs = weights.columns > k.machine.lanes and _multiplies_pairs(k, 2, weights.columns)

    def tile(
        f: Function, block: Index, width: int, first: Index, count: int, with_bias: V | None, formula: Formula | None
    ) -> None:
        pieces = column_pieces(width, k.machine.lanes)
        channel = f.multiply(block, weights.block)
        total = count + (1 if with_bias is not None else 0)
        sums = Sums.zeros(f, total, pieces)
        source, vectors = f.address(k.pointer(x), first), f.address(k.pointer(dy), channel)
        stored = k.image(dy).size
        images = k.rows(f)
        whole: Index = 0
        if pairs:
            rows = range(total)
            whole = f.multiply(f.divide(images, 2), 2)
            with f.loop(0, whole, 2, carried=sums.flat) as image:
                sums.flat = image.carried
                scalars = f.address(source, f.multiply(image.index, depth))
                columns = f.address(vectors, f.multiply(image.index, stored))
                add_positions(f, sums, (scalars, f.address(scalars, depth)), columns, stored, count, rows, 0)
                image.carried = sums.flat
            sums.flat = image.carried
        with f.loop(whole, images, carried=sums.flat) as image:
            sums.flat = image.carried
            scalars = f.address(source, f.multiply(image.index, depth))
            columns = f.address(vectors, f.multiply(image.index, stored))
            places = scalars_ahead(f, k.machine.lanes, scalars, {m: m for m in range(count)})
            sums.multiply_add(f, columns, 0, places, range(count))
            if with_bias is not None:
                for number, p in enumerate(pieces):
                    place = count * len(pieces) + number
                    value = f.load(f.address(columns, p.offset), p.lanes)
                    sums.flat[place] = f.binary("fadd", sums.flat[place], value)
            image.carried = sums.flat
        sums.flat = image.carried
        place = f.add(f.multiply(channel, depth), f.multiply(first, width))
        updating = None
        if update is not None and formula is not None:
            updating = f.less(0, f.binary("and", context_word(f, SECTIONS), V(str(int(Section.UPDATE)), "i64")))
            with f.when(updating):
                tensors = [f.address(k.pointer(value), place) for value in updated_tensors(update)]
                for m in range(count):
                    for number, p in enumerate(pieces):
                        places = [f.address(tensor, m * width + p.offset) for tensor in tensors]
                        parameter, *states = (f.load(spot, p.lanes) for spot in places)
                        for spot, moved in zip(places, formula(parameter, sums.at(m, number), states), strict=True):
                            f.store(moved, spot)
        with maybe(f, None if updating is None else f.invert(updating)):
            panel = f.address(k.pointer(anchor.result), place)
            for m in range(count):
                for number, p in enumerate(pieces):
                    f.store(sums.at(m, number), f.address(panel, m * width + p.offset))
        if with_bias is not None and bias is not None:
            with f.when(with_bias):
                for number, p in enumerate(pieces):
                    f.store(sums.at(count, number), f.address(k.pointer(bias), f.add(channel, p.offset)))

    def body(f: Function) -> None:
        formula = None if update is None else update_formula(k, f, update)
        full, rest = divmod(weights.columns, weights.block)
        blocks = full + (1 if rest else 0)
        start, stop = f.share(blocks * len(runs))
        with f.loop(start, stop) as unit:
            block, run = f.divide(unit.index, len(runs)), f.remainder(unit.index, len(runs))
            for width, is_rest in ((weights.block, False), (rest, True)):
                if (not is_rest and not full) or (is_rest and not rest):
                    continue
                condition = None if not (full and rest) else (f.equal(block, full) if is_rest else f.less(block, full))
                with maybe(f, condition):
                    first_tile = f.equal(run, 0) if bias is not None else None
                    with maybe(f, None if larger == len(runs) else f.less(run, larger)):
                        tile(f, block, width, f.multiply(run, runs[0]), runs[0], first_tile, formula)
                    if larger < len(runs):
                        with f.when(f.less(larger - 1, run)):
                            shift = larger * (runs[0] - runs[-1])
                            tile(f, block, width, f.add(shift, f.multiply(run, runs[-1])), runs[-1], None, formula)

    k.phase("linear_backward_weights", body)


def scratch_linear_backward_data(k: KernelBuilder) -> int:
    weights = _weights(k, k.kernel.anchor.operands[1])
    images = padded(k.plan.batch)
    pairs = 2 if _multiplies_pairs(k, weights.columns, images) else 1
    return 4 * images * (weights.columns // pairs + weights.rows.size)


def lower_linear_backward_data(k: KernelBuilder) -> None:
    """dxᵀ = wᵀ·dyᵀ: transposes the cotangents, multiplies with images as vectors, transposes back under the chain."""
    dy, w = k.kernel.anchor.operands
    weights, target = _weights(k, w), k.image(k.kernel.anchor.result)
    images = padded(k.plan.batch)
    depth, outputs = weights.rows.size, weights.columns
    pairs = 2 if _multiplies_pairs(k, outputs, images) else 1
    # Floats of the transposed cotangents: line after line, or pairs of lines of bfloat16 numbers, [pair][image][2].
    size = outputs * images // pairs

    def lines_of_cotangents() -> V:
        place = k.scratch_pointer()
        return place if pairs == 1 else V(place.ref, place.type, "bfloat")

    def transpose(f: Function) -> None:
        # Images beyond those of this run count as zero: they fill up the last vector.
        rows = k.rows(f)
        start, stop = f.share(outputs)
        with f.loop(start, stop) as o:
            second = f.remainder(o.index, pairs)
            before = f.add(f.multiply(f.subtract(o.index, second), images), second)
            line = f.address(lines_of_cotangents(), before)
            with f.loop(0, rows) as n:
                place = f.add(f.multiply(n.index, k.image(dy).size), o.index)
                f.store(f.load(f.address(k.pointer(dy), place)), f.address(line, f.multiply(n.index, pairs)))
            with f.loop(rows, images) as n:
                f.store(f.constant(0.0), f.address(line, f.multiply(n.index, pairs)))

    vectors = min(2, len(column_pieces(images, k.machine.lanes)))
    block = vectors * k.machine.lanes
    runs = even_split(depth, min(most_rows(k.machine, vectors), _MOST_ROWS))
    larger = sum(run == runs[0] for run in runs)

    def tile(f: Function, first: Index, count: int, image: Index, width: int) -> None:
        pieces = column_pieces(width, k.machine.lanes)
        sums = Sums.zeros(f, count, pieces)
        cotangents = f.address(lines_of_cotangents(), f.multiply(image, pairs))
        given, kind = k.weights(w)
        add = sums.add_pairs if pairs == 2 else sums.multiply_add
        full, rest = divmod(outputs, weights.block)
        for start, blocks, wide in ((0, full, weights.block), (full, 1 if rest else 0, rest)):
            if not blocks:
                continue
            with f.loop(start, start + blocks, carried=sums.flat) as out:
                sums.flat = out.carried
                panel = f.address(given, f.add(f.multiply(out.index, weights.block * depth), f.multiply(first, wide)))
                if kind is not None:
                    panel = _rounded(k, f, kind, count * wide).take(panel, count * wide)
                lines = f.address(cotangents, f.multiply(out.index, weights.block * images))
                distance = wide
                stretch = Stretch(f, k.machine.lanes, range(count))
                if pairs == 1 and is_widened_ahead(panel, 1, wide) and wide <= stretch.apart:
                    stretch.widen(panel, wide, wide)
                    panel, distance = stretch.place, stretch.apart
                unroll = pairs * unroll_factor(wide // pairs)
                with f.loop(0, wide, unroll, carried=sums.flat) as lane:
                    sums.flat = lane.carried
                    scalars, columns = f.address(panel, lane.index), f.address(lines, f.multiply(lane.index, images))
                    for step in range(0, unroll, pairs):

                        def scalar(
                            m: int, scalars: V = scalars, distance: int = distance, step: int = step
                        ) -> tuple[V, int]:
                            return scalars, m * distance + step

                        add(f, columns, step * images, scalar, range(count))
                    lane.carried = sums.flat
                sums.flat = lane.carried
                out.carried = sums.flat
            sums.flat = out.carried
        result = f.address(k.scratch_pointer(), f.add(size, f.add(f.multiply(first, images), image)))
        for m in range(count):
            for number, p in enumerate(pieces):
                f.store(sums.at(m, number), f.address(result, m * images + p.offset))

    def multiply(f: Function) -> None:
        full, rest = divmod(images, block)
        columns = full + (1 if rest else 0)
        start, stop = f.share(len(runs) * columns)
        with f.loop(start, stop) as unit:
            run, column = f.divide(unit.index, columns), f.remainder(unit.index, columns)
            for width, is_rest in ((block, False), (rest, True)):
                if (not is_rest and not full) or (is_rest and not rest):
                    continue
                here = None if not (full and rest) else (f.equal(column, full) if is_rest else f.less(column, full))
                with maybe(f, here):
                    image = f.multiply(column, block)
                    with maybe(f, None if larger == len(runs) else f.less(run, larger)):
                        tile(f, f.multiply(run, runs[0]), runs[0], image, width)
                    if larger < len(runs):
                        with f.when(f.less(larger - 1, run)):
                            shift = larger * (runs[0] - runs[-1])
                            tile(f, f.add(shift, f.multiply(run, runs[-1])), runs[-1], image, width)

    def finish(f: Function) -> None:
        # Image by image, so that stores are contiguous; the strided reads come from the cache that was just written.
        start, stop = f.share(f.multiply(k.rows(f), target.pixels))
        with f.loop(start, stop) as unit:
            image, pixel = f.divide(unit.index, target.pixels), f.remainder(unit.index, target.pixels)
            line = f.multiply(pixel, target.stored)
            source = f.address(k.scratch_pointer(), f.sum(size, f.multiply(line, images), image))
            base = f.add(f.multiply(image, target.size), line)
            _transposed_row(k, f, source, images, target, image, pixel, base)

    k.phase("transpose_cotangents", transpose)
    k.phase("linear_backward_data", multiply)
    k.phase("transpose_result", finish)


def _transposed_row(
    k: KernelBuilder, f: Function, source: V, stride: int, target: ImageLayout, image: Index, pixel: Index, base: Index
) -> None:
    """All channels of one pixel: gather four (or one) at a time, apply the chain, store."""
    lanes = 4 if target.stored % 4 == 0 else 1
    full, rest = divmod(target.channels, lanes)

    def vector(channel: Index, real: int) -> None:
        place = f.address(source, f.multiply(channel, stride))
        value = f.load(place)
        if lanes > 1:
            type = f"<{lanes} x float>"
            gathered = V("poison", type)
            for lane in range(lanes):
                element = f.load(f.address(place, lane * stride))
                gathered = f.emit(type, f"insertelement {type} {gathered.ref}, float {element.ref}, i32 {lane}")
            value = gathered
        extra = channel if isinstance(channel, int) else 0
        here = base if isinstance(channel, int) else f.add(base, channel)
        k.finish(f, Spot(image, pixel, channel, here, extra, lanes, real), value)

    if full:
        with f.loop(0, full) as group:
            vector(f.multiply(group.index, lanes), lanes)
    if rest:
        vector(full * lanes, rest)
