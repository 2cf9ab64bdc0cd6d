"""Measure what this machine can do: the constants of the cost model (`convc doctor --measure`), and ceilings.

Constants are kept in the cache of compiled code, by processor, so that `--constants measured` finds them. Without that
the committed table is used, and choices are the same on every machine of a tier.
"""

from __future__ import annotations

import ctypes
import json
import time
from dataclasses import asdict, fields

import numpy as np

from convc.codegen.llvm.link import Library, link
from convc.codegen.llvm.object_cache import cache_key, shared_cache
from convc.codegen.llvm.probes import PROBES, TRANSFORM_FLOPS, multiply_add_flops, probe_module, product_flops
from convc.codegen.llvm.spmd import load_runtime
from convc.codegen.llvm.target import CpuTarget, compile_object, host_target
from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.passes.algorithms.prediction import Constants
from convc.runtime.cores import choose_threads
from convc.runtime.threads import ThreadPool, shared_pool

_CACHE_FLOATS = 32 << 10  # 128 KiB a thread: beyond the first level of a cache, within the second
_MEMORY_FLOATS = 16 << 20  # 64 MiB a thread: beyond all levels
_CEILING_BYTES = 256 << 20  # of all threads together
_SAMPLE_SECONDS = 0.02
_SAMPLES = 9


def measure_constants(threads: int | None = None) -> Constants:
    """The constants of one core while all threads work: the best of several samples. Takes about a second."""
    count = choose_threads(threads).threads
    target = host_target()
    probes = _probes(target, count)
    try:
        small = np.full(_CACHE_FLOATS * count + 32, 1e-3, np.float32)
        large = np.full(_MEMORY_FLOATS * count + 32, 1e-3, np.float32)
        cached = probes.seconds("copy", small, _CACHE_FLOATS)
        return Constants(
            product_gflops=product_flops(target) / probes.seconds("product", small, _CACHE_FLOATS) / 1e9,
            transform_gflops=TRANSFORM_FLOPS * _CACHE_FLOATS / probes.seconds("transform", small, _CACHE_FLOATS) / 1e9,
            cache_gbps=4 * _CACHE_FLOATS / cached / 1e9,
            memory_gbps=4 * _MEMORY_FLOATS / probes.seconds("copy", large, _MEMORY_FLOATS) / 1e9,
            stage_us=probes.launch_seconds() * 1e6,
        )
    finally:
        probes.library.close()


@dataclass(frozen=True)
class Ceilings:
    """What all threads together can do at most. Copied bytes are those read plus those written."""

    fma_gflops: float
    read_gbps: float
    copy_gbps: float


def measure_ceilings(threads: int) -> Ceilings:
    """The best of several samples: fused multiply-adds on registers, and memory beyond all caches. Takes a second."""
    target = host_target()
    probes = _probes(target, threads)
    try:
        floats = _CEILING_BYTES // 4 // threads
        # Not zeros: pages have to be there before they are timed.
        memory = np.full(floats * threads + 32, 1e-3, np.float32)
        flops = multiply_add_flops(target) * threads
        moved = 4 * floats * threads
        return Ceilings(
            fma_gflops=flops / probes.seconds("multiply_add", memory, floats) / 1e9,
            read_gbps=moved / probes.seconds("read", memory, floats) / 1e9,
            copy_gbps=moved / probes.seconds("copy", memory, floats) / 1e9,
        )
    finally:
        probes.library.close()


def _probes(target: CpuTarget, threads: int) -> _Probes:
    return _Probes(link(compile_object(probe_module(target), target), PROBES, load_runtime().imports), threads)


class _Probes:
    def __init__(self, library: Library, threads: int) -> None:
        self.library = library
        self._pool: ThreadPool = shared_pool(threads)

    def seconds(self, name: str, memory: np.ndarray, floats: int) -> float:
        """The shortest time of one round; as many rounds are run at a time as a sample needs."""
        rounds = 1
        while (elapsed := self._run(name, memory, floats, rounds)) < _SAMPLE_SECONDS:
            rounds = max(2 * rounds, int(rounds * _SAMPLE_SECONDS / max(elapsed, 1e-6)))
        return min(self._run(name, memory, floats, rounds) for _ in range(_SAMPLES)) / rounds

    def launch_seconds(self) -> float:
        """What it takes to get all threads to work and to meet them again."""
        nothing = np.zeros(64, np.float32)
        return min(self._run("copy", nothing, 0, 0) for _ in range(200))

    def _run(self, name: str, memory: np.ndarray, floats: int, rounds: int) -> float:
        address = -(-memory.ctypes.data // 64) * 64
        context = (ctypes.c_int64 * 4)(rounds, address, floats, floats)
        started = time.perf_counter()
        self._pool.launch(self.library[name], ctypes.addressof(context))
        return time.perf_counter() - started


def _key() -> str:
    return cache_key("constants of the cost model", host_target(), {})


def keep_constants(constants: Constants) -> bool:
    """Remember measured constants for this processor; whether there is a cache to keep them in."""
    shared_cache().put(_key(), json.dumps(asdict(constants)).encode())
    return kept_constants() == constants


def kept_constants() -> Constants | None:
    """What `keep_constants` has kept, by this version of the compiler on this processor."""
    payload = shared_cache().get(_key())
    if payload is None:
        return None
    try:
        content = json.loads(payload)
        return Constants(**{field.name: float(content[field.name]) for field in fields(Constants)})
    except (ValueError, TypeError, KeyError):
        return None


def require_constants() -> Constants:
    """Error: `missing-constants`."""
    kept = kept_constants()
    if kept is None:
        fail(
            "missing-constants",
            "nothing has been measured on this processor by this version",
            hint="`convc doctor --measure` measures and remembers",
        )
    return kept
