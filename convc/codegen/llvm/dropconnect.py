"""DropConnect: every weight kept and scaled, or left out, by random bits that depend on its logical place."""

from __future__ import annotations

from convc.codegen.llvm.kernel import SEED, STEP, KernelBuilder, context_word
from convc.codegen.llvm.mathematics import philox_words
from convc.codegen.llvm.units import each_row
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
        """Padding is zero, and stays so whatever is drawn for it."""
        assert isinstance(layout, WeightLayout)
        rows, features = layout.rows, layout.rows.channels * layout.rows.pixels

        def visit(output: Index, row: Index, place: Index, lanes: int) -> None:
            pixel, channel = f.divide(row, rows.stored), f.remainder(row, rows.stored)
            feature = f.add(f.multiply(channel, rows.pixels), pixel)
            move(f, place, f.add(f.multiply(output, features), feature), features, lanes)

        each_row(f, layout, k.machine.lanes, visit)

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
