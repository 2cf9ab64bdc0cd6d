"""One number per feature map against whole maps: scaling, sums over positions, spreading."""

from __future__ import annotations

from convc.codegen.llvm.channels import channel_vectors, each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index
from convc.ir.ops.maps import ScaleMaps


def lower_spread_maps(k: KernelBuilder) -> None:
    """scale_maps and spread_maps with a chain: a vector of the small image meets every pixel of the large one."""
    operands, result = k.kernel.anchor.operands, k.kernel.anchor.results[0]
    target, small = k.image(result), k.image(operands[-1])
    scales = isinstance(k.kernel.anchor.op, ScaleMaps)

    def body(f: Function) -> None:
        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            spot = spot_at(f, target, row, pixel, channel, lanes, real)
            place = f.add(f.multiply(row, small.size), channel)
            value = f.load(f.address(k.pointer(operands[-1]), place), lanes)
            if scales:
                x = f.load(f.address(f.address(k.pointer(operands[0]), spot.base), spot.extra), lanes)
                value = f.binary("fmul", x, value)
            k.finish(f, spot, value)

        each_pixel(k, f, target, visit)

    k.phase(k.kernel.anchor.op.name, body)


def lower_spatial_sum(k: KernelBuilder) -> None:
    """Each thread takes whole images. Rows are added up first, then their sums: errors grow with H + W, not H·W."""
    x, result = k.kernel.anchor.operands[0], k.kernel.anchor.results[0]
    source, target = k.image(x), k.image(result)

    def body(f: Function) -> None:
        start, stop = f.share(k.rows(f))
        with f.loop(start, stop) as image:
            for channel, lanes, real in channel_vectors(f, source, k.machine.lanes):
                base = f.address(k.pointer(x), f.add(f.multiply(image.index, source.size), channel))
                zero = f.constant(0.0, lanes)
                with f.loop(0, source.height, carried=[zero]) as line:
                    first = f.multiply(line.index, source.width)
                    with f.loop(0, source.width, carried=[zero]) as column:
                        place = f.multiply(f.add(first, column.index), source.stored)
                        value = f.load(f.address(base, place), lanes)
                        column.carried = [f.binary("fadd", column.carried[0], value)]
                    line.carried = [f.binary("fadd", line.carried[0], column.carried[0])]
                k.finish(f, spot_at(f, target, image.index, 0, channel, lanes, real), line.carried[0])

    k.phase("spatial_sum", body)
