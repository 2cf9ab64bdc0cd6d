"""Products of whole numbers of 8 bits: making the weights, and what becomes of the sums.

Σ (q − zero)·p  =  Σ q·p  +  (−zero·Σ p)          exact, in 32 bits; the second sum is made with the weights
y               =  bias + step·step[k]·that       in float32, where a chain begins
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.narrow import to_whole
from convc.codegen.llvm.register_tile import Piece, Sums, column_pieces
from convc.codegen.llvm.units import column_blocks
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.quantize import LARGEST, TINY, QuantizeWeights
from convc.lazy import dataclass
from convc.passes.fusion import resolve
from convc.passes.layout import WeightLayout
from convc.passes.quantized_layout import TOGETHER, QuantizedLayout


@dataclass(frozen=True)
class Whole:
    """What a product of whole numbers reads beside them: where the weights lie, and the step of the images."""

    layout: QuantizedLayout
    pointer: V
    step: float

    @classmethod
    def of(cls, k: KernelBuilder, x: Value, w: Value) -> Whole | None:
        """None where a product is not one of whole numbers."""
        layout, grid = k.layout(resolve(w)), x.type.grid
        if not isinstance(layout, QuantizedLayout):
            return None
        assert grid is not None
        return cls(layout, k.pointer(w), grid.step)

    def add_part(self, f: Function, sums: Sums, part: Index, channel: Index, active: Sequence[int]) -> None:
        """What the zero of the images asks for, of one tap; nothing where that zero is 0."""
        if self.layout.parts:
            number = f.add(f.multiply(part, self.layout.weights.columns), channel)
            sums.add_whole(f, f.address(f.address(self.pointer, self.layout.parts_at), number, "i32"), active)

    def begin(self, f: Function, pieces: Sequence[Piece], channel: Index) -> list[V]:
        """What the zero of the images asks for, of all taps: what sums of outputs begin with."""
        sums = Sums.zeros(f, 1, pieces, whole=True)
        if self.layout.parts:
            with f.loop(0, self.layout.parts, carried=sums.flat) as part:
                sums.flat = part.carried
                self.add_part(f, sums, part.index, channel, [0])
                part.carried = sums.flat
            sums.flat = part.carried
        return sums.flat

    def results(self, f: Function, sums: Sums, channel: Index, bias: V | None) -> list[V]:
        """The sums as float, with a bias, row by row; `channel` is the first output of the tile."""
        steps = f.address(self.pointer, self.layout.steps_at)
        factors = [_float(f, steps, f.add(channel, p.offset), p) for p in sums.pieces]
        factors = [f.binary("fmul", v, f.constant(self.step, v.lanes)) for v in factors]
        made: list[V] = []
        for row in range(sums.rows):
            for number, (piece, factor) in enumerate(zip(sums.pieces, factors, strict=True)):
                value = f.convert("sitofp", sums.at(row, number), "float")
                if bias is None:
                    made.append(f.binary("fmul", value, factor))
                else:
                    added = f.load(f.address(bias, f.add(channel, piece.offset)), piece.lanes)
                    made.append(f.fma(value, factor, added))
        return made


def _float(f: Function, pointer: V, number: Index, piece: Piece) -> V:
    return f.load(f.address(pointer, number, "float"), piece.lanes, "float")


def lower_quantize_weights(k: KernelBuilder) -> None:
    """Threads share the vectors of outputs: each looks for the largest weight of its outputs, then makes their whole
    numbers, four rows at a time."""
    op = k.op(QuantizeWeights)
    (w,) = k.kernel.anchor.operands
    source, target = k.layout(resolve(w)), k.layout(k.kernel.anchor.result)
    assert isinstance(source, WeightLayout)
    assert isinstance(target, QuantizedLayout)

    def body(f: Function) -> None:
        for first, count, width in column_blocks(source):
            for piece in column_pieces(width, k.machine.lanes):
                with f.loop(*f.share(count)) as block:
                    column = f.multiply(f.add(block.index, first), source.block)
                    _Outputs(k, f, op, source, target, column, width, piece).emit()

    k.phase("quantize_weights", body)


@dataclass(frozen=True)
class _Outputs:
    """A vector of outputs of the block that begins with output `column` and is so `width`."""

    k: KernelBuilder
    f: Function
    op: QuantizeWeights
    source: WeightLayout
    target: QuantizedLayout
    column: Index
    width: int
    piece: Piece

    def emit(self) -> None:
        f, target, lanes = self.f, self.target, self.piece.lanes
        result = self.k.pointer(self.k.kernel.anchor.result)
        output = f.add(self.column, self.piece.offset)
        step, inverse = self._steps()
        f.store(step, f.address(f.address(result, target.steps_at), output, "float"))
        panel = f.address(result, f.multiply(self.column, target.rows.size))
        # Rows of a tap in fours; of a matrix all rows are one tap, and so are those of a single channel.
        taps = target.parts or (target.rows.pixels if target.rows.stored > 1 else 1)
        of_tap, stored = target.rows.size // taps, self.source.rows.size // taps
        zero = f.integers([0] * lanes)
        with f.loop(0, taps) as tap:
            with f.loop(0, of_tap, TOGETHER, carried=[zero]) as row:
                four, total = zero, row.carried[0]
                for number in range(TOGETHER):
                    whole = self._whole(f.add(row.index, number), tap.index, stored, inverse)
                    total = f.binary("add", total, whole)
                    byte = f.binary("and", whole, f.integers([0xFF] * lanes))
                    four = f.binary("or", four, f.binary("shl", byte, f.integers([8 * number] * lanes)))
                place = f.multiply(f.add(f.multiply(tap.index, of_tap), row.index), self.width)
                f.store(four, f.address(panel, f.add(place, TOGETHER * self.piece.offset)))
                row.carried = [total]
            if target.parts:
                part = f.binary("mul", row.carried[0], f.integers([-self.op.zero] * lanes))
                number = f.add(f.multiply(tap.index, self.source.columns), output)
                f.store(part, f.address(f.address(result, target.parts_at), number, "i32"))

    def _weight(self, row: Index) -> V:
        f, (w,) = self.f, self.k.kernel.anchor.operands
        place = f.add(f.multiply(self.column, self.source.rows.size), f.multiply(row, self.width))
        return f.load(f.address(f.address(self.k.pointer(w), place), self.piece.offset), self.piece.lanes)

    def _steps(self) -> tuple[V, V]:
        """The steps of the outputs, and what weights are multiplied by to count them."""
        f, lanes = self.f, self.piece.lanes
        zero, one, largest = (f.constant(number, lanes) for number in (0.0, 1.0, float(LARGEST)))
        with f.loop(0, self.source.rows.size, carried=[zero]) as row:
            size = f.unary("fabs", self._weight(row.index))
            row.carried = [f.select(f.compare("ogt", size, row.carried[0]), size, row.carried[0])]
        most = row.carried[0]
        known = f.compare("ogt", most, f.constant(TINY, lanes))
        divisor = f.select(known, most, one)
        step, inverse = f.binary("fdiv", most, largest), f.binary("fdiv", largest, divisor)
        return f.select(known, step, zero), f.select(known, inverse, zero)

    def _whole(self, row: Index, tap: Index, stored: int, inverse: V) -> V:
        """The whole numbers of a row of a tap, of which so many are stored; zeros behind them."""
        f, lanes = self.f, self.piece.lanes
        before = f.multiply(tap, stored)
        exists = None if self.target.rows.size == self.source.rows.size else f.less(row, stored)
        value = self._weight(f.add(before, row if exists is None else f.minimum(row, stored - 1)))
        scaled = f.binary("fmul", value, inverse)
        if exists is not None:
            scaled = f.select(exists, scaled, f.constant(0.0, lanes))
        return to_whole(f, scaled)
