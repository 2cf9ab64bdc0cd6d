"""What NVIDIA's compiler makes of the kernels of a program, and what they take on a GPU; no GPU is needed.

A program has a launch for every kernel that it starts; several may share an entry point, when layers are alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.cuda.architectures import Occupancy, architecture, occupancy
from convc.codegen.cuda.gpus import Gpu, gpu, predict, typical_gpu
from convc.codegen.cuda.kernel import Launch
from convc.codegen.cuda.nvrtc import RESOURCES, Compiled, compile_all
from convc.codegen.cuda.program import CudaStep
from convc.codegen.cuda.resources import Resources, parse_resources, sass
from convc.codegen.llvm.object_cache import shared_cache
from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.runtime.cores import compile_processes

# What `--emit` makes of each kernel; of these, texts that can stand in one file.
KINDS = ("cu", "ptx", "cubin", "sass")
TEXTS = ("cu", "ptx", "sass")
UNMEASURED = (
    "predicted by a model of published peak rates, and not measured: no kernel of convc has been timed on a GPU yet"
)


@dataclass(frozen=True)
class KernelRow:
    """One launch of a step, for a whole batch. Sizes are bytes; `occupancy` is a share of the warps of an SM, and
    `limits` what keeps it from being more. `predicted_us` is None for a block that the GPU cannot hold."""

    number: int
    kernel: str
    ops: str
    layer: str
    line: int | None
    section: str
    grid: tuple[int, int, int]
    block: int
    registers: int
    spill_bytes: int
    static_shared: int
    dynamic_shared: int
    occupancy: float
    limits: tuple[str, ...]
    flops: int
    bytes: int
    tensor_cores: bool
    predicted_us: float | None


@dataclass(frozen=True)
class KernelReport:
    """All launches of a step in order, and what they come to; they were compiled for `arch`, predicted for `gpu`."""

    arch: str
    gpu: str
    kernels: tuple[KernelRow, ...]
    predicted_us: float
    note: str = UNMEASURED


def compiled_kernels(step: CudaStep) -> dict[str, Compiled]:
    """What the compiler makes of each source, for the step's architecture. Errors: `missing-nvrtc`,
    `failed-cuda-compile`."""
    made = compile_all(
        step.sources, f"sm_{step.capability}", (RESOURCES,), threads=compile_processes(), cache=shared_cache()
    )
    return dict(zip(step.sources, made, strict=True))


def report_kernels(step: CudaStep, batch: int, gpu_name: str | None = None) -> KernelReport:
    """What the launches of a step for `batch` images take. Errors: those of `compiled_kernels`, `value-gpu`,
    `value-architecture` for a GPU that is older than the architecture."""
    arch = f"sm_{step.capability}"
    product = gpu(gpu_name) if gpu_name is not None else typical_gpu(arch)
    require_runs(product, arch)
    resources = {source: parse_resources(made.log) for source, made in compiled_kernels(step).items()}
    rows = tuple(
        _row(number, launch, resources[launch.source][launch.name], batch, product)
        for number, launch in enumerate(step.launches)
    )
    return KernelReport(arch, product.title, rows, sum(row.predicted_us or 0.0 for row in rows))


def architecture_for(gpu_name: str, arch: str | None) -> str:
    """What to compile for where a GPU is named: `arch`, or its own. Errors: `value-gpu`, those of `require_runs`."""
    product = gpu(gpu_name)
    chosen = product.architecture.name if arch is None else arch
    require_runs(product, chosen)
    return chosen


def require_runs(product: Gpu, arch: str) -> None:
    """Error: `value-architecture` for a GPU that does not run code for an architecture."""
    own = product.architecture.name
    if int(own.removeprefix("sm_")) < int(architecture(arch).name.removeprefix("sm_")):
        fail("value-architecture", f"{product.title} is {own}, and does not run code for {arch}", hint=f"--arch {own}")


def _row(number: int, launch: Launch, taken: Resources, batch: int, product: Gpu) -> KernelRow:
    kernel, work, grid = launch.kernel, launch.work, launch.grid(batch)
    fits: Occupancy = occupancy(
        product.architecture, launch.threads, taken.registers, taken.shared + launch.shared_bytes
    )
    blocks = grid[0] * grid[1] * grid[2]
    seconds = predict(product, work.flops, work.bytes, work.tensor_cores, blocks, fits)
    return KernelRow(
        number=number,
        kernel=launch.name.removeprefix("convc_"),
        ops=kernel.name,
        layer=kernel.label,
        line=kernel.location[0].line if kernel.location else None,
        section=(kernel.section.name or "").lower(),
        grid=grid,
        block=launch.threads,
        registers=taken.registers,
        spill_bytes=taken.spill_stores + taken.spill_loads,
        static_shared=taken.shared,
        dynamic_shared=launch.shared_bytes,
        occupancy=fits.fraction,
        limits=fits.limits,
        flops=work.flops,
        bytes=work.bytes,
        tensor_cores=work.tensor_cores,
        predicted_us=seconds * 1e6 if fits.blocks else None,
    )


def joined(step: CudaStep, kind: str) -> bytes | None:
    """All kernels as one text (`cu`, `ptx` or `sass`), each below a comment that names it; None for any other kind.

    This is to be read: compilers take one kernel at a time. Errors: those of `compiled_kernels`, `missing-nvdisasm`.
    """
    if kind not in TEXTS:
        return None
    lines: list[str] = []
    for source, content in _contents(step, kind):
        users = [launch for launch in step.launches if launch.source == source]
        shown = ", ".join(dict.fromkeys(f"{user.kernel.name} of {user.kernel.label or 'no layer'}" for user in users))
        lines.append(f"// ==== {users[0].name}, sm_{step.capability}: {shown}\n\n{content.decode().strip()}\n")
    return "\n".join(lines).encode()


def separate(step: CudaStep, kind: str) -> dict[str, bytes]:
    """Every kernel by itself, by the name of a file: `03-conv_simt.ptx`. Errors: those of `joined`."""
    names: dict[str, bytes] = {}
    for number, (source, content) in enumerate(_contents(step, kind), start=1):
        user = next(launch for launch in step.launches if launch.source == source)
        names[f"{number:02d}-{user.name.removeprefix('convc_')}.{kind}"] = content
    return names


def _contents(step: CudaStep, kind: str) -> Iterator[tuple[str, bytes]]:
    """Each source, and what it is as `kind`."""
    if kind == "cu":
        yield from ((source, source.encode()) for source in step.sources)
        return
    for source, made in compiled_kernels(step).items():
        if kind == "ptx":
            yield source, made.ptx.encode()
        else:
            yield source, made.cubin if kind == "cubin" else sass(made.cubin).encode()
