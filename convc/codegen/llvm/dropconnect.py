"""DropConnect: every weight kept and scaled, or left out, by random bits that depend on its logical place."""

from __future__ import annotations

from convc.codegen.llvm.kernel import SEED, STEP, KernelBuilder, context_word
from convc.codegen.llvm.mathematics import philox_words
from convc.codegen.llvm.register_tile import column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.ops.dropconnect import DropConnectTraining
from convc.passes.fusion import resolve
from convc.passes.layout import WeightLayout
from convc.passes.machine import split_lanes


def lower_drop_connect(k: KernelBuilder) -> None:
    op = k.op(DropConnectTraining)
    w, result = resolve(k.kernel.anchor.operands[0]), k.kernel.anchor.result
    layout = k.layout(w)

    def move(f: Function, place: Index, element: Index, distance: int, lanes: int) -> None:
        """Weights at `place`, the logical numbers of which start with `element` and are `distance` apart."""
        numbers = f.splat(V(ref(element), "i64"), lanes)
        if lanes > 1:
            numbers = f.binary("add", numbers, f.integers([lane * distance for lane in range(lanes)], "i64"))
        bits, _ = philox_words(f, numbers, context_word(f, SEED), context_word(f, STEP), op.stream)
        value = f.load(f.address(k.pointer(w), place), lanes)
        scaled = f.binary("fmul", value, f.constant(1 / (1 - op.rate), lanes))
        kept = f.compare("uge", bits, f.splat(V(str(op.threshold), "i64"), lanes))
        f.store(f.select(kept, scaled, f.constant(0.0, lanes)), f.address(k.pointer(result), place))

    def packed(f: Function) -> None:
        """Blocks of outputs, in a block one row per feature. Padding is zero, and stays so whatever is drawn for it."""
        assert isinstance(layout, WeightLayout)
        assert layout.groups == 1, "fully connected layers have no groups"
        rows, features = layout.rows, layout.rows.channels * layout.rows.pixels
        full, rest = divmod(layout.columns, layout.block)
        for first, count, width in ((0, full, layout.block), (full, 1 if rest else 0, rest)):
            if not count:
                continue
            start, stop = f.share(count * rows.size)
            with f.loop(start, stop) as unit:
                block, row = f.add(first, f.divide(unit.index, rows.size)), f.remainder(unit.index, rows.size)
                pixel, channel = f.divide(row, rows.stored), f.remainder(row, rows.stored)
                feature = f.add(f.multiply(channel, rows.pixels), pixel)
                output = f.multiply(block, layout.block)
                panel = f.add(f.multiply(output, rows.size), f.multiply(row, width))
                for piece in column_pieces(width, k.machine.lanes):
                    element = f.add(f.multiply(f.add(output, piece.offset), features), feature)
                    move(f, f.add(panel, piece.offset), element, features, piece.lanes)

    def plain(f: Function) -> None:
        """Weights in logical order."""
        lanes, size = k.machine.lanes, layout.size
        groups = size // lanes
        start, stop = f.share(groups)
        if groups:
            with f.loop(start, stop) as group:
                place = f.multiply(group.index, lanes)
                move(f, place, place, 1, lanes)
        with f.when(f.equal(f.rank, 0)):
            first = groups * lanes
            for piece in split_lanes(size - first, lanes // 2 if lanes > 4 else 1):
                move(f, first, first, 1, piece)
                first += piece

    k.phase("drop_connect", packed if isinstance(layout, WeightLayout) else plain)
