"""The scale of the loss, once all gradients of an update are known: three numbers, moved by one thread."""

from __future__ import annotations

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, V
from convc.ir.ops.loss_scaling import LEAST_SCALE, MOST_SCALE, MoveScale


def lower_move_scale(k: KernelBuilder) -> None:
    op = k.op(MoveScale)

    def body(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)):
            scale, good, skipped, ok = (k.scalar(f, value) for value in k.kernel.anchor.operands)
            zero, one = f.constant(0.0), f.constant(1.0)
            least, most = f.constant(LEAST_SCALE), f.constant(MOST_SCALE)
            fine = f.compare("une", ok, zero)
            counted = f.binary("fadd", good, one)
            grows = f.compare("oge", counted, f.constant(float(op.interval)))
            # A scale beyond the bounds stays where it is.
            smaller = _larger(f, _smaller(f, scale, least), f.binary("fmul", scale, f.constant(op.backoff)))
            larger = _smaller(f, _larger(f, scale, most), f.binary("fmul", scale, f.constant(op.growth)))
            results = (
                f.select(fine, f.select(grows, larger, scale), smaller),
                f.select(fine, f.select(grows, zero, counted), zero),
                f.select(fine, skipped, f.binary("fadd", skipped, one)),
            )
            for value, result in zip(k.kernel.anchor.results, results, strict=True):
                if value in k.kernel.writes:
                    f.store(result, k.pointer(value))

    k.phase(op.name, body)


def _larger(f: Function, left: V, right: V) -> V:
    return f.select(f.compare("ogt", left, right), left, right)


def _smaller(f: Function, left: V, right: V) -> V:
    return f.select(f.compare("olt", left, right), left, right)
