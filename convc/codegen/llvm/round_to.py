"""Rounding of weights to numbers of 16 bits, at random by bits that depend on a weight's logical place."""

from __future__ import annotations

import math

from convc.codegen.llvm.kernel import SEED, STEP, KernelBuilder, context_word
from convc.codegen.llvm.mathematics import numbered_words
from convc.codegen.llvm.narrow import rounded, widened
from convc.codegen.llvm.units import each_weight
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.round_to import DROPPED_BITS, SMALLEST_NORMAL, SMALLEST_STEP, TOO_LARGE, RoundTo
from convc.ir.types import DType
from convc.passes.fusion import resolve

_KINDS = {DType.F16: "half", DType.BF16: "bfloat"}


def lower_round_to(k: KernelBuilder) -> None:
    op = k.op(RoundTo)
    w, result = resolve(k.kernel.anchor.operands[0]), k.kernel.anchor.result

    def body(f: Function) -> None:
        def move(place: Index, element: Index, distance: int, lanes: int) -> None:
            """Weights at `place`, the logical numbers of which start with `element` and are `distance` apart."""
            value = f.load(f.address(k.pointer(w), place), lanes)
            if op.rounding == "nearest":
                kind = _KINDS[op.target]
                value = widened(f, rounded(f, value, kind), kind)
            else:
                seed, step = context_word(f, SEED), context_word(f, STEP)
                words = numbered_words(f, element, distance, lanes, seed, step, op.stream)
                value = round_at_random(f, value, op.target, f.convert("trunc", words, "i32"))
            f.store(value, f.address(k.pointer(result), place))

        each_weight(f, k.layout(w), k.machine.lanes, move)

    k.phase("round_to", body)


def round_at_random(f: Function, x: V, dtype: DType, words: V) -> V:
    """Floats rounded by 32 random bits each: the arithmetic of `convc.ir.ops.round_to`."""
    lanes, dropped = x.lanes, DROPPED_BITS[dtype]
    mask = (1 << dropped) - 1
    bits = f.convert("bitcast", x, "i32")
    chance = f.binary("and", words, _i32(f, mask, lanes))
    moved = f.binary("and", f.binary("add", bits, chance), _i32(f, ~mask, lanes))
    kept = f.convert("bitcast", moved, "float")
    size = f.unary("fabs", x)
    if dtype is DType.F16:
        share = f.binary("fmul", f.convert("sitofp", chance, "float"), f.constant(2.0**-dropped, lanes))
        # A product by a power of two is exact, so that it does not matter whether it is fused with the sum.
        steps = f.binary("fadd", f.binary("fmul", size, f.constant(1 / SMALLEST_STEP, lanes)), share)
        small = f.binary("fmul", f.unary("floor", steps), f.constant(SMALLEST_STEP, lanes))
        kept = f.select(f.compare("olt", size, f.constant(SMALLEST_NORMAL, lanes)), _signed(f, small, x), kept)
        large = f.compare("oge", f.unary("fabs", kept), f.constant(TOO_LARGE, lanes))
        kept = f.select(large, _signed(f, f.constant(math.inf, lanes), x), kept)
    finite = f.compare("olt", size, f.constant(math.inf, lanes))
    return f.select(finite, kept, x)


def _signed(f: Function, size: V, sign: V) -> V:
    suffix = "f32" if size.lanes == 1 else f"v{size.lanes}f32"
    return f.intrinsic(f"llvm.copysign.{suffix}", size.type, size, sign)


def _i32(f: Function, value: int, lanes: int) -> V:
    return f.splat(V(str(value), "i32"), lanes)
