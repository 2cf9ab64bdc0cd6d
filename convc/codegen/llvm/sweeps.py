"""Kernels that pass over memory once: element-wise chains, sums over channels, changes of layout."""

from __future__ import annotations

from convc.codegen.llvm.channels import channel_groups, channel_vectors, each_channel, each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.fusion import resolve
from convc.passes.layout import ImageLayout, PlanarLayout, VectorLayout

_PARTS = 16


def lower_elementwise(k: KernelBuilder) -> None:
    """A chain on its own. Dense tensors without positions are one long array; others go pixel by pixel."""
    result = k.kernel.anchor.results[0]
    layout = k.layout(result)
    batched = k.is_batched(result)
    operands = [value for node in k.kernel.chain for value in node.operands]
    spreads = any(value.type.rank == 1 for value in operands) and result.type.rank > 1
    padded = isinstance(layout, (ImageLayout, VectorLayout)) and layout.size != result.type.size // (
        result.shape[0] if batched else 1
    )
    by_pixel = batched and (spreads or k.needs_position or padded)

    def pixels(f: Function) -> None:
        image = k.image(result)

        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            k.finish(f, spot_at(f, image, row, pixel, channel, lanes, real), None)

        each_pixel(k, f, image, visit)

    def flat(f: Function) -> None:
        size = f.multiply(k.rows(f), layout.size) if batched else layout.size
        lanes = k.machine.lanes
        whole = f.divide(size, lanes)
        start, stop = f.share(whole)

        def spot(base: Index, width: int) -> Spot:
            return Spot(0, 0, base, base, 0, width, width)

        if not (isinstance(whole, int) and whole == 0):
            with f.loop(start, stop) as group:
                k.finish(f, spot(f.multiply(group.index, lanes), lanes), None)
        # What does not fill a vector is done by the last thread, one element at a time.
        last = f.equal(f.rank, f.subtract(f.parties, 1))
        if not (isinstance(size, int) and size % lanes == 0):
            with f.when(last):
                first = f.multiply(whole, lanes)
                with f.loop(first, size) as element:
                    k.finish(f, spot(element.index, 1), None)

    def vector(f: Function) -> None:
        """Numbers per channel, few of them; the padding stays zero whatever a chain makes of zeros."""
        assert isinstance(layout, VectorLayout)
        with f.when(f.equal(f.rank, 0)):
            for channel, lanes, real in channel_vectors(f, ImageLayout.of((layout.channels,)), k.machine.lanes):
                base, extra = (0, channel) if isinstance(channel, int) else (channel, 0)
                k.finish(f, Spot(0, 0, channel, base, extra, lanes, real), None)

    body = pixels if by_pixel else vector if isinstance(layout, VectorLayout) and padded else flat
    k.phase("elementwise", body)


def lower_channel_sum(k: KernelBuilder) -> None:
    """Images are added up in a fixed number of parts, so that the order does not depend on the threads."""
    (x,) = k.kernel.anchor.operands
    layout = k.image(resolve(x))
    parts = min(_PARTS, k.plan.batch)

    def partial(f: Function) -> None:
        rows = k.rows(f)
        in_part = f.divide(f.add(rows, parts - 1), parts)
        start, stop = f.share(parts)
        with f.loop(start, stop) as part:
            first = f.minimum(f.multiply(part.index, in_part), rows)
            last = f.minimum(f.add(first, in_part), rows)
            into = f.address(k.scratch_pointer(), f.multiply(part.index, layout.stored))
            for channel, pieces in channel_groups(f, layout, k.machine, 1):
                low, high = f.multiply(first, layout.pixels), f.multiply(last, layout.pixels)
                with f.loop(low, high, carried=[f.constant(0.0, piece.lanes) for piece in pieces]) as pixel:
                    place = f.address(k.pointer(x), f.add(f.multiply(pixel.index, layout.stored), channel))
                    values = [f.load(f.address(place, piece.offset), piece.lanes) for piece in pieces]
                    pixel.carried = [f.binary("fadd", *pair) for pair in zip(pixel.carried, values, strict=True)]
                for piece, total in zip(pieces, pixel.carried, strict=True):
                    f.store(total, f.address(into, f.add(channel, piece.offset)))

    def combine(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)), f.loop(0, layout.stored) as channel:
            source = f.address(k.scratch_pointer(), channel.index)
            total = f.load(source)
            for part in range(1, parts):
                total = f.binary("fadd", total, f.load(f.address(source, part * layout.stored)))
            f.store(total, f.address(k.pointer(k.kernel.anchor.result), channel.index))

    k.phase("channel_sum_parts", partial)
    k.phase("channel_sum", combine)


def scratch_channel_sum(k: KernelBuilder) -> int:
    layout = k.image(resolve(k.kernel.anchor.operands[0]))
    return 4 * min(_PARTS, k.plan.batch) * layout.stored


def lower_sum(k: KernelBuilder) -> None:
    """The sum of all elements by one thread: used for scalars' gradients only, which are rare."""
    (x,) = k.kernel.anchor.operands
    layout = k.layout(resolve(x))

    def body(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)):
            size = f.multiply(k.rows(f), layout.size) if k.is_batched(x) else layout.size
            with f.loop(0, size, carried=[V("0.0", "double")]) as element:
                value = f.convert("fpext", f.load(f.address(k.pointer(x), element.index)), "double")
                element.carried = [f.binary("fadd", element.carried[0], value)]
            f.store(f.convert("fptrunc", element.carried[0], "float"), k.pointer(k.kernel.anchor.result))

    k.phase("sum", body)


def lower_relayout(k: KernelBuilder) -> None:
    """Any layout of a batched value to the natural one, with a chain."""
    (x,) = k.kernel.anchor.operands
    source, target = k.layout(resolve(x)), k.image(k.kernel.anchor.result)

    def body(f: Function) -> None:
        start, stop = f.share(f.multiply(k.rows(f), target.pixels))
        with f.loop(start, stop) as unit:
            row, pixel = f.divide(unit.index, target.pixels), f.remainder(unit.index, target.pixels)
            base = f.address(k.pointer(x), f.multiply(row, source.size))
            first = f.multiply(unit.index, target.stored)
            pixels = [f.address(k.pointer(value), first) for value in k.kernel.writes]

            def move(channel: Index) -> None:
                value = f.load(f.address(base, _place(f, source, target, channel, pixel)))
                k.finish(f, spot_at(f, target, row, pixel, channel, 1, 1), value)

            each_channel(f, target, pixels, move)

    k.phase("relayout", body)


def _place(f: Function, source: object, target: ImageLayout, channel: Index, pixel: Index) -> Index:
    """Where the source keeps (channel, pixel) of the target."""
    feature = f.add(f.multiply(channel, target.pixels), pixel)  # the logical index, the same on both sides
    if isinstance(source, PlanarLayout):
        return feature
    assert isinstance(source, ImageLayout)
    inner, own = f.remainder(feature, source.pixels), f.divide(feature, source.pixels)
    return f.add(f.multiply(inner, source.stored), own)
