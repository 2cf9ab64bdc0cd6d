"""What a run was made with: versions, processor or GPU, command. Stays in the run folder; nothing is sent anywhere."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone

import numpy as np

from convc._version import __version__


def versions(target: str) -> dict[str, str]:
    """Versions that results may depend on. Errors: for target cuda those of `convc.runtime.cupy_device.versions`."""
    found = {"convc": __version__, "python": platform.python_version(), "numpy": np.__version__}
    if target == "cuda":
        from convc.runtime import cupy_device

        return found | cupy_device.versions()
    if target != "reference":
        from convc.codegen.llvm.target import llvm_versions

        found["llvmlite"], found["llvm"] = llvm_versions()
    return found


def cpu_tier(target: str, precision: str = "fp32") -> str:
    """The kind of processor on which the bits of a result depend; the reference interpreter's are numpy's. For target
    cuda that is the architecture of the GPU here. Error: `missing-driver`."""
    if target == "reference":
        return "numpy"
    if target == "cuda":
        from convc.runtime.cuda_driver import find_gpu

        return find_gpu().architecture
    from convc.codegen.llvm.target import AMX_BF16, DOT_BF16, host_target

    host = host_target()
    # Sums are rounded otherwise where an instruction adds up products in pairs, or in tiles.
    features = [DOT_BF16] if host.has(DOT_BF16) else []
    features += [AMX_BF16[-1]] if host.has(*AMX_BF16) else []
    return "+".join([host.tier, *(features if precision == "bf16" else ())])


def describe(target: str, threads: int | None) -> dict[str, object]:
    """Content of environment.json."""
    found: dict[str, object] = {
        "schema": 1,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(target),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "target": target,
        "cpu_tier": cpu_tier(target),
        "command": sys.argv,
    }
    if target == "cuda":
        from convc.runtime.cuda_driver import find_gpu

        gpu = find_gpu()
        found["gpu"] = {
            "name": gpu.name,
            "compute_capability": f"{gpu.compute // 10}.{gpu.compute % 10}",
            "architecture": gpu.architecture,
            "memory_bytes": gpu.memory_bytes,
            "driver_cuda": f"{gpu.cuda[0]}.{gpu.cuda[1]}",
        }
    elif target != "reference":
        from convc.codegen.llvm.target import host_target

        found["cpu_flags"] = sorted(host_target().flags)
    return found
