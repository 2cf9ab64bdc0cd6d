"""DropConnect: every weight kept and scaled, or left out, by random bits that depend on its logical place."""

from __future__ import annotations

from convc.codegen.llvm.kernel import SEED, STEP, KernelBuilder, context_word
from convc.codegen.llvm.mathematics import numbered_words
from convc.codegen.llvm.units import each_weight
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.dropconnect import DropConnectTraining
from convc.passes.fusion import resolve


def lower_drop_connect(k: KernelBuilder) -> None:
    op = k.op(DropConnectTraining)
    w, result = resolve(k.kernel.anchor.operands[0]), k.kernel.anchor.result

    def body(f: Function) -> None:
        """Padding is zero, and stays so whatever is drawn for it."""

        def move(place: Index, element: Index, distance: int, lanes: int) -> None:
            seed, step = context_word(f, SEED), context_word(f, STEP)
            bits = numbered_words(f, element, distance, lanes, seed, step, op.stream)
            value = f.load(f.address(k.pointer(w), place), lanes)
            scaled = f.binary("fmul", value, f.constant(1 / (1 - op.rate), lanes))
            kept = f.compare("uge", bits, f.splat(V(str(op.threshold), "i64"), lanes))
            f.store(f.select(kept, scaled, f.constant(0.0, lanes)), f.address(k.pointer(result), place))

        each_weight(f, k.layout(w), k.machine.lanes, move)

    k.phase("drop_connect", body)
