"""What a number was measured on: processor, flags, memory, versions. Goes into every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

from convc._version import __version__
from convc.codegen.llvm.target import host_target

# Flags that decide which kernels a library has; the rest of the list is noise.
_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "amx_int8",
)  # fmt: skip


def describe() -> dict[str, object]:
    """A JSON-ready description of the machine and of the libraries that are installed."""
    lines = _read("/proc/cpuinfo").splitlines()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    processor = {key.strip(): value.strip() for key, value in fields.items()}
    memory = next((line.split()[1] for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "0")
    flags = set(processor.get("flags", "").split())
    return {
        "processor": processor.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20, 1),
        "tier": host_target().tier,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "load_average": list(os.getloadavg()),
        "versions": {"convc": __version__} | _versions("numpy", "llvmlite", "torch", "onnxruntime", "openvino"),
    }


def busy_cores(seconds: float) -> float:
    """Wait that long; returns how many cores others kept busy meanwhile, time stolen by the hypervisor included.

    NaN where the system does not tell (it is Linux that does).
    """
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if not before or not after or sum(after) == sum(before):
        return float("nan")
    passed = [late - early for early, late in zip(before, after, strict=True)]
    idle = passed[3] + passed[4]  # idle, waiting for input and output
    return (1 - idle / sum(passed)) * (os.cpu_count() or 1)


def _ticks() -> list[int]:
    """Of all processors together: user, nice, system, idle, iowait, irq, softirq, steal."""
    first = _read("/proc/stat").partition("\n")[0].split()
    return [int(word) for word in first[1:9]]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _versions(*names: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
