"""What this installation can do: versions, processor, threads, cache, CUDA, and whether compiled code runs at all.

A setting that is wrong (such as `CONVC_CPU=avx9`) is part of the diagnosis, not an end to it: its section then holds
one key, `error`.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

from convc._version import __version__
from convc.codegen.llvm.object_cache import cache_folder, shared_cache
from convc.codegen.llvm.spmd import default_waits
from convc.codegen.llvm.target import amx_state, host_target, llvm_versions
from convc.ir.diagnostic import CompileError
from convc.ir.sizes import format_bytes
from convc.runtime import cuda_driver
from convc.runtime.cores import choose_threads

SCHEMA = 1

_REQUIRED = ("lark", "networkx", "matplotlib", "pillow", "platformdirs", "filelock", "rich", "safetensors")
_OPTIONAL = ("onnx", "onnxruntime", "scikit-learn", "torch", "openvino")
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")

# A net that goes through every room: parsed, elaborated, differentiated, lowered, compiled, linked, run on two threads.
_SELF_TEST = """net self_test {
  input 1x9x9
  conv 5 k=3 pad=1 -> relu -> pool max 3
  fc 4
  loss softmax
}
train {
  batch 8
  optim sgd lr=0.1 momentum=0.9
}
"""
_TOLERANCE = 1e-5


def doctor(measure: bool = False) -> dict[str, Any]:
    """A description of the installation, made of JSON's types; `schema` is 1. `measure` adds the section `constants`.

    Sections: `versions`, `platform`, `cpu`, `threads`, `cache`, `cuda`, `packages`, `self_test`. A package that is not
    installed has the version None. `ok` tells whether compiled code runs here.
    """
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "versions": _section(_versions),
        "platform": _section(_platform),
        "cpu": _section(_cpu),
        "threads": _section(_threads),
        "cache": _section(_cache),
        "cuda": _section(_cuda),
        "packages": {name: _installed(name) for name in _REQUIRED + _OPTIONAL},
        "self_test": _section(_self_test),
    }
    if measure:
        report["constants"] = _section(_constants)
    report["ok"] = bool(report["self_test"].get("passed", False))
    return report


def print_doctor(report: Mapping[str, Any]) -> None:
    """Print what `doctor` found, one line for each fact."""
    print(render_doctor(report))


def render_doctor(report: Mapping[str, Any]) -> str:
    """What `doctor` found as plain text."""
    lines: list[str] = []
    for title, section in report.items():
        if not isinstance(section, Mapping):
            continue
        lines.append(title.replace("_", " "))
        width = max(len(str(name)) for name in section)
        lines += [f"  {str(name).replace('_', ' '):<{width}}  {_shown(value)}" for name, value in section.items()]
    lines.append("compiled code runs here" if report["ok"] else "compiled code does NOT run here, see self test")
    return "\n".join(lines)


def _section(describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return describe()
    except CompileError as error:
        return {"error": str(error)}
    except (ImportError, OSError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _versions() -> dict[str, Any]:
    llvmlite, llvm = llvm_versions()
    return {
        "convc": __version__,
        "python": platform.python_version(),
        "llvmlite": llvmlite,
        "llvm": llvm,
        "numpy": _installed("numpy"),
    }


def _platform() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "implementation": sys.implementation.name,
        "libc": " ".join(platform.libc_ver()).strip() or None,
    }


def _cpu() -> dict[str, Any]:
    target = host_target()
    return {
        "tier": target.tier,
        "why": target.why,
        "vector_bits": target.vector_bytes * 8,
        "vector_registers": target.registers,
        "fused_multiply_add": target.has_fma,
        "amx": amx_state(),
        "llvm_cpu": target.cpu,
        "triple": target.triple,
        "features": sorted(target.flags),
    }


def _threads() -> dict[str, Any]:
    choice = choose_threads()
    return {"threads": choice.threads, "why": choice.why, "waits": default_waits()}


def _cache() -> dict[str, Any]:
    folder = cache_folder()
    if folder is None:
        return {"folder": None, "state": "switched off", "entries": 0, "bytes": 0}
    cache = shared_cache()
    problem = cache.problem()
    entries = cache.entries()
    return {
        "folder": str(folder),
        "state": problem or "in use",
        "entries": len(entries),
        "bytes": sum(entry.size for entry in entries),
    }


def _constants() -> dict[str, Any]:
    """What the cost model of algorithms is made of, per core, beside the committed table."""
    from convc.passes.algorithms.prediction import CONSTANTS
    from convc.runtime.machine_probe import keep_constants, measure_constants

    measured, table = measure_constants(), CONSTANTS[host_target().tier]
    shown: dict[str, Any] = {name: float(f"{value:.4g}") for name, value in asdict(measured).items()}
    shown |= {f"{name}_of_table": value for name, value in asdict(table).items()}
    return {**shown, "kept": keep_constants(measured)}


def _cuda() -> dict[str, Any]:
    """CuPy, the driver, the GPU, NVRTC, and whether programs for GPUs run here, or why not."""
    from convc.codegen.cuda.nvrtc import nvrtc, version

    found = [(name, installed) for name in _CUPY if (installed := _installed(name)) is not None]
    library, gpu = cuda_driver.load(), None
    cuda = None if library is None else cuda_driver.driver_version(library)
    runs = "yes"
    try:
        gpu = cuda_driver.find_gpu()
        cuda_driver.usable_gpu()
    except CompileError as error:
        runs = f"no: {error.diagnostics[0].message}"
    return {
        "cupy": " ".join(found[0]) if found else None,
        "driver": None if cuda is None else f"{cuda[0]}.{cuda[1]}",
        "gpu": None if gpu is None else f"{gpu.name} ({gpu.architecture}, {format_bytes(gpu.memory_bytes)})",
        "nvrtc": None if nvrtc() is None else ".".join(str(part) for part in version()),
        "compiles": "yes" if nvrtc() is not None else "no: NVRTC is not installed (pip install nvidia-cuda-nvrtc)",
        "runs": runs,
    }


def _self_test() -> dict[str, Any]:
    """Train a small net for two steps, natively on two threads and on the interpreter, and compare the losses."""
    import numpy as np

    from convc.frontend import loads
    from convc.runtime.build import build_net

    threads = 2
    net = loads(_SELF_TEST, file="<self test>")
    images = np.random.default_rng(0).random((8, 1, 9, 9), dtype=np.float32)
    labels = np.arange(8) % 4
    start = time.perf_counter()
    with build_net(net, mode="train", threads=threads) as program:
        compiled = time.perf_counter()
        losses = [program.step(images, labels) for _ in range(2)]
        ran = time.perf_counter()
    with build_net(net, mode="train", target="reference") as program:
        expected = [program.step(images, labels) for _ in range(2)]
    error = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
    return {
        "passed": bool(error <= _TOLERANCE),
        "threads": threads,
        "relative_error": float(f"{error:.1e}"),
        "compile_milliseconds": round((compiled - start) * 1e3, 1),
        "run_milliseconds": round((ran - compiled) * 1e3, 1),
    }


def _installed(name: str) -> str | None:
    # From the metadata: importing some of these packages takes seconds.
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    return str(value)
