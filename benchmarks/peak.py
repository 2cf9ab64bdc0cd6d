"""What the machine can do at all: fused multiply-adds and memory bandwidth, by loops made with LLVM like our kernels.

    python -m benchmarks.peak --threads 2

The arithmetic loop keeps independent accumulators in registers and touches no memory; the memory loops read, and copy,
arrays far larger than any cache. Results are the best of several rounds: ceilings, not averages.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import llvmlite.ir as ll
import numpy as np

from convc.codegen.llvm.link import Library, link
from convc.codegen.llvm.target import CpuTarget, compile_object, host_target

FMA_STEPS = 20_000_000  # loop passes of one timed call: some tenths of a second
ARRAY_BYTES = 256 << 20
ROUNDS = 5
_CHAINS_PER_LATENCY = 12  # accumulators: more than latency x throughput of any current FMA unit
_VECTORS_PER_PASS = 8


def measure(threads: int) -> dict[str, float]:
    """GFLOP/s of float32 FMA, GB/s of reading, GB/s of copying (bytes read plus bytes written)."""
    target = host_target()
    library = link(compile_object(str(_module(target)), target), ["multiply_add", "read", "copy"])
    flops = 2 * target.lanes * _CHAINS_PER_LATENCY * FMA_STEPS * threads
    sources = [np.ones(ARRAY_BYTES // threads // 4, np.float32) for _ in range(threads)]
    sinks = [np.ones_like(source) for source in sources]  # ones, not empty: pages must be there before timing
    passes = sources[0].nbytes // (target.vector_bytes * _VECTORS_PER_PASS)
    with ThreadPoolExecutor(threads) as pool:

        def best(call: Callable[[int], object]) -> float:
            def once() -> float:
                start = time.perf_counter()
                list(pool.map(call, range(threads)))
                return time.perf_counter() - start

            return min(once() for _ in range(ROUNDS))

        multiply_add = _function(library, "multiply_add")
        read, copy = _function(library, "read"), _function(library, "copy")
        moved = passes * target.vector_bytes * _VECTORS_PER_PASS * threads
        return {
            "fma_gflops": flops / best(lambda _: multiply_add(FMA_STEPS, None, None)) / 1e9,
            "read_gb_s": moved / best(lambda rank: read(passes, sources[rank].ctypes.data, None)) / 1e9,
            "copy_gb_s": 2 * moved / best(lambda r: copy(passes, sources[r].ctypes.data, sinks[r].ctypes.data)) / 1e9,
        }


def _function(library: Library, name: str) -> Callable[..., float]:
    """Called through ctypes, which lets other threads run meanwhile."""
    return ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(library[name])


def _module(target: CpuTarget) -> ll.Module:
    module = ll.Module("peak")
    vector = ll.VectorType(ll.FloatType(), target.lanes)
    _multiply_add(module, vector, fused=target.has_fma)
    _stream(module, vector, "read", store=False)
    _stream(module, vector, "copy", store=True)
    return module


def _loop(module: ll.Module, name: str, carried: list[ll.Constant], body: Callable[..., list[ll.Value]]) -> None:
    """float name(i64 passes, ptr source, ptr sink): runs `body` that often; returns a lane of the sum of `carried`."""
    pointer = carried[0].type.as_pointer()
    function = ll.Function(module, ll.FunctionType(ll.FloatType(), [ll.IntType(64), pointer, pointer]), name)
    entry, loop, done = (function.append_basic_block(label) for label in ("entry", "loop", "done"))
    ll.IRBuilder(entry).branch(loop)
    builder = ll.IRBuilder(loop)
    counter = builder.phi(ll.IntType(64))
    values = [builder.phi(start.type) for start in carried]
    counter.add_incoming(ll.Constant(ll.IntType(64), 0), entry)
    for value, start in zip(values, carried, strict=True):
        value.add_incoming(start, entry)
    following = body(builder, counter, values, *function.args[1:])
    for value, new in zip(values, following, strict=True):
        value.add_incoming(new, loop)
    upcoming = builder.add(counter, ll.Constant(ll.IntType(64), 1))
    counter.add_incoming(upcoming, loop)
    builder.cbranch(builder.icmp_signed("<", upcoming, function.args[0]), loop, done)
    builder = ll.IRBuilder(done)
    total = following[0]
    for value in following[1:]:
        total = builder.fadd(total, value)
    builder.ret(builder.extract_element(total, ll.Constant(ll.IntType(32), 0)))


def _multiply_add(module: ll.Module, vector: ll.VectorType, fused: bool) -> None:
    def filled(value: float) -> ll.Constant:
        return ll.Constant(vector, [value] * vector.count)

    fma = ll.Function(module, ll.FunctionType(vector, [vector] * 3), f"llvm.fma.v{vector.count}f32")

    def body(builder: ll.IRBuilder, counter: ll.Value, values: list[ll.Value], *_: ll.Value) -> list[ll.Value]:
        # x·a + b with |a| < 1 settles at a finite value, whatever the number of passes.
        a, b = filled(0.999), filled(0.001)
        if fused:
            return [builder.call(fma, (value, a, b)) for value in values]
        return [builder.fadd(builder.fmul(value, a), b) for value in values]

    _loop(module, "multiply_add", [filled(0.1 * (i + 1)) for i in range(_CHAINS_PER_LATENCY)], body)


def _stream(module: ll.Module, vector: ll.VectorType, name: str, store: bool) -> None:
    def body(
        builder: ll.IRBuilder, counter: ll.Value, values: list[ll.Value], source: ll.Value, sink: ll.Value
    ) -> list[ll.Value]:
        first = builder.mul(counter, ll.Constant(ll.IntType(64), _VECTORS_PER_PASS))
        following: list[ll.Value] = []
        for index, value in enumerate(values):
            position = builder.add(first, ll.Constant(ll.IntType(64), index))
            loaded = builder.load(builder.gep(source, [position]), align=4)
            if store:
                builder.store(loaded, builder.gep(sink, [position]), align=4)
            following.append(value if store else builder.fadd(value, loaded))
        return following

    zero = ll.Constant(vector, [0.0] * vector.count)
    _loop(module, name, [zero] * _VECTORS_PER_PASS, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps({"threads": arguments.threads, **measure(arguments.threads)}))


if __name__ == "__main__":
    main()
