"""Small programs that show what a processor can do: the loops behind the constants of the cost model.

    void probe(ptr context, i64 rank, i64 parties)

`context` points to four words: rounds, the address of each thread's memory, floats of it, the distance of two threads'
memories in floats. Every thread works on memory of its own.
"""

from __future__ import annotations

from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.register_tile import Sums, column_pieces
from convc.codegen.llvm.target import CpuTarget
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.tiling import most_rows

_VECTORS = 2
_STEPS = 64  # of the reduction: scalars and columns stay in the first-level cache
PROBES = ("product", "transform", "copy", "multiply_add", "read")


def probe_module(target: CpuTarget) -> str:
    """LLVM IR that exports `PROBES`."""
    functions = [_product(target), _transform(target), _copy(target), _multiply_add(target), _read(target)]
    declarations = dict(item for function in functions for item in function.declarations.items())
    return "\n".join([*declarations.values(), *(function.text() for function in functions)])


def product_flops(target: CpuTarget) -> int:
    """Floating-point operations of one round of `product`, per thread."""
    return 2 * _rows(target) * _VECTORS * target.lanes * _STEPS


def multiply_add_flops(target: CpuTarget) -> int:
    """Floating-point operations of one round of `multiply_add`, per thread."""
    return 2 * target.lanes * _CHAINS


TRANSFORM_FLOPS = 8  # per float of memory and round
# Independent sums: more than latency times throughput of any current FMA unit, and few enough for 16 registers.
_CHAINS = 12


def _rows(target: CpuTarget) -> int:
    return min(most_rows(machine_of(target), _VECTORS), 14)


def _function(name: str, target: CpuTarget) -> Function:
    f = Function(name, 0, "probe")
    f.fma_name = "fma" if target.has_fma else "fmuladd"
    return f


def _memory(f: Function) -> V:
    base = f.load(f.address(f.context, 1, "i64"), 1, "ptr")
    return f.address(base, f.multiply(f.load(f.address(f.context, 3, "i64"), 1, "i64"), f.rank))


def _word(f: Function, number: int) -> V:
    return f.load(f.address(f.context, number, "i64"), 1, "i64")


def _product(target: CpuTarget) -> Function:
    """The register tile that all products are made of, on operands in the cache."""
    f = _function("product", target)
    memory, rounds, rows = _memory(f), _word(f, 0), _rows(target)
    pieces = column_pieces(_VECTORS * target.lanes, target.lanes)
    width = _VECTORS * target.lanes
    sums = Sums.zeros(f, rows, pieces)
    with f.loop(0, rounds, carried=sums.flat) as again:
        sums.flat = again.carried
        with f.loop(0, _STEPS, carried=sums.flat) as step:
            sums.flat = step.carried
            columns = f.address(memory, f.multiply(step.index, width))
            scalars = f.address(memory, f.add(_STEPS * width, step.index))
            sums.multiply_add(f, columns, 0, lambda m: (scalars, m * _STEPS), range(rows))
            step.carried = sums.flat
        sums.flat = step.carried
        again.carried = sums.flat
    for number, value in enumerate(again.carried):
        f.store(value, f.address(memory, number * target.lanes))
    return f


def _over_memory(f: Function, target: CpuTarget, vectors: int) -> tuple[V, Index]:
    return _memory(f), f.divide(_word(f, 2), vectors * target.lanes)


def _transform(target: CpuTarget) -> Function:
    """Straight-line arithmetic between loads and stores, as transforms of tiles do it: 8 operations per float."""
    f = _function("transform", target)
    memory, groups = _over_memory(f, target, 4)
    half = f.constant(0.5, target.lanes)
    with f.loop(0, _word(f, 0)), f.loop(0, groups) as group:
        place = f.address(memory, f.multiply(group.index, 4 * target.lanes))
        values = [f.load(f.address(place, number * target.lanes), target.lanes) for number in range(4)]
        for distance in (1, 2, 1, 2):  # one multiply-add each: two operations
            values = [f.fma(values[number], half, values[(number + distance) % 4]) for number in range(4)]
        for number, value in enumerate(values):
            f.store(value, f.address(place, number * target.lanes))
    return f


def _copy(target: CpuTarget) -> Function:
    """The first half of a thread's memory to the second one."""
    f = _function("copy", target)
    memory, groups = _over_memory(f, target, 8)
    half = f.multiply(groups, 4 * target.lanes)
    with f.loop(0, _word(f, 0)), f.loop(0, groups) as group:
        offset = f.multiply(group.index, 4 * target.lanes)
        source, to = f.address(memory, offset), f.address(memory, f.add(half, offset))
        for number in range(4):
            value = f.load(f.address(source, number * target.lanes), target.lanes)
            f.store(value, f.address(to, number * target.lanes))
    return f


def _multiply_add(target: CpuTarget) -> Function:
    """Fused multiply-adds on registers alone, none of which waits for another: the peak of the arithmetic."""
    f = _function("multiply_add", target)
    memory = _memory(f)
    # x·a + b with |a| < 1 settles at a finite value, whatever the number of rounds.
    a, b = f.constant(0.999, target.lanes), f.constant(0.001, target.lanes)
    sums = [f.constant(0.1 * (number + 1), target.lanes) for number in range(_CHAINS)]
    with f.loop(0, _word(f, 0), carried=sums) as again:
        again.carried = [f.fma(value, a, b) for value in again.carried]
    for number, value in enumerate(again.carried):
        f.store(value, f.address(memory, number * target.lanes))
    return f


def _read(target: CpuTarget) -> Function:
    """All of a thread's memory, summed up."""
    f = _function("read", target)
    memory, groups = _over_memory(f, target, 8)
    sums = [f.constant(0.0, target.lanes) for _ in range(8)]
    with f.loop(0, _word(f, 0), carried=sums) as again:
        with f.loop(0, groups, carried=again.carried) as group:
            place = f.address(memory, f.multiply(group.index, 8 * target.lanes))
            values = [f.load(f.address(place, number * target.lanes), target.lanes) for number in range(8)]
            group.carried = [f.binary("fadd", one, other) for one, other in zip(group.carried, values, strict=True)]
        again.carried = group.carried
    for number, value in enumerate(again.carried):
        f.store(value, f.address(memory, number * target.lanes))
    return f
