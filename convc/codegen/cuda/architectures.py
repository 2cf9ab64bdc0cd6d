"""What one streaming multiprocessor (SM) of each compute capability holds, and how many blocks fit on it at once.

Sources: CUDA C++ Programming Guide 13, "Compute Capabilities", for the technical specifications and the throughput of
arithmetic; PTX ISA 9.0 for `mma` and `cp.async`; NVIDIA's occupancy calculator (`cuda_occupancy.h`) for granularities
and the rules of `occupancy`.
"""

from __future__ import annotations

from typing import Literal

from convc.ir.diagnostic import fail, similar
from convc.lazy import dataclass

WARP = 32
# These are the same for all architectures of the table.
THREADS_PER_BLOCK = 1024
REGISTERS_PER_SM = 64 * 1024  # a single block may have them all
REGISTERS_PER_THREAD = 255
SHARED_PER_BLOCK = 48 * 1024  # without asking for more: what `__shared__` arrays of fixed size may take
PARTITIONS = 4  # an SM consists of four, each with a quarter of the registers and a scheduler of its own
REGISTER_GRANULARITY = 256  # registers, allocated for each warp

Limit = Literal["registers", "shared memory", "threads", "blocks"]


@dataclass(frozen=True)
class Architecture:
    """The numbers of a compute capability. Sizes of shared memory are bytes.

    `shared_opt_in` is the most that a block may have after `cudaFuncSetAttribute`, `shared_reserved` what the driver
    takes beside that for each block. `fp32_lanes` is the number of fused multiply-adds in single precision per cycle
    and SM. `mma_shapes` are those of `mma.sync` with 16-bit operands and sums in float32.
    """

    name: str
    threads_per_sm: int
    blocks_per_sm: int
    shared_per_sm: int
    shared_opt_in: int
    shared_reserved: int
    shared_granularity: int
    fp32_lanes: int
    cp_async: bool
    bf16_mma: bool
    mma_shapes: tuple[str, ...]

    @property
    def warps_per_sm(self) -> int:
        return self.threads_per_sm // WARP


def _turing() -> Architecture:
    return Architecture(
        "sm_75",
        threads_per_sm=1024,
        blocks_per_sm=16,
        shared_per_sm=64 * 1024,
        shared_opt_in=64 * 1024,
        shared_reserved=0,
        shared_granularity=256,
        fp32_lanes=64,
        cp_async=False,
        bf16_mma=False,
        mma_shapes=("m16n8k8",),
    )


def _since_ampere(name: str, threads: int, blocks: int, shared_kib: int, fp32_lanes: int = 128) -> Architecture:
    return Architecture(
        name,
        threads_per_sm=threads,
        blocks_per_sm=blocks,
        shared_per_sm=shared_kib * 1024,
        # A single block gets all but what is reserved for it.
        shared_opt_in=(shared_kib - 1) * 1024,
        shared_reserved=1024,
        shared_granularity=128,
        fp32_lanes=fp32_lanes,
        cp_async=True,
        bf16_mma=True,
        mma_shapes=("m16n8k8", "m16n8k16"),
    )


ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (
        _turing(),  # T4, GeForce 20
        _since_ampere("sm_80", 2048, 32, 164, fp32_lanes=64),  # A100
        _since_ampere("sm_86", 1536, 16, 100),  # A10, GeForce 30
        _since_ampere("sm_89", 1536, 24, 100),  # L4, GeForce 40
        _since_ampere("sm_90", 2048, 32, 228),  # H100
        _since_ampere("sm_100", 2048, 32, 228),  # B200
        _since_ampere("sm_120", 1536, 24, 100),  # GeForce 50
    )
}


def architecture(name: str) -> Architecture:
    """The architecture of this name, such as "sm_90".

    Raises CompileError (`value-architecture`) for any other word. `sm_90a` and the like are refused, too: they name
    instructions of one architecture that no kernel here uses, and what is compiled for them runs nowhere else.
    """
    found = ARCHITECTURES.get(name)
    if found is not None:
        return found
    name = str(name)  # whatever somebody has passed
    known = ", ".join(ARCHITECTURES)
    plain = name[:-1] if name.endswith(("a", "f")) else name
    if plain in ARCHITECTURES:
        hint = f"`{plain}`: instructions that only {name} has are not used"
    else:
        hint = similar(name, ARCHITECTURES)
    fail("value-architecture", f"no architecture `{name}`; there are {known}", hint=hint)


@dataclass(frozen=True)
class Occupancy:
    """How many blocks and warps of a kernel are on an SM at once.

    `fraction` is the share of the warps that the SM could hold. `limits` names every bound that one block more
    would exceed. A kernel that cannot be launched at all has 0 blocks.
    """

    blocks: int
    warps: int
    fraction: float
    limits: tuple[Limit, ...]

    @property
    def warps_per_block(self) -> int:
        return self.warps // self.blocks if self.blocks else 0


def occupancy(architecture: Architecture, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Theoretical occupancy of blocks of `threads` threads with `registers` registers each.

    `shared_bytes` is all shared memory of a block, of fixed and of dynamic size; the SM is taken to be set up for as
    much shared memory as it has. Raises ValueError for a block without threads, or a negative size.
    """
    if threads < 1 or registers < 0 or shared_bytes < 0:
        raise ValueError(f"a block of {threads} threads, {registers} registers, {shared_bytes} bytes")
    warps = -(-threads // WARP)
    fitting: dict[Limit, int] = {"blocks": architecture.blocks_per_sm}
    fitting["threads"] = architecture.warps_per_sm // warps if threads <= THREADS_PER_BLOCK else 0
    fitting["registers"] = _blocks_by_registers(warps, registers, architecture.blocks_per_sm)
    allocated = _round_up(shared_bytes + architecture.shared_reserved, architecture.shared_granularity)
    if allocated > architecture.shared_opt_in + architecture.shared_reserved:
        fitting["shared memory"] = 0
    elif allocated:
        fitting["shared memory"] = architecture.shared_per_sm // allocated
    blocks = min(fitting.values())
    limits = tuple[Limit, ...](name for name, count in fitting.items() if count == blocks)
    return Occupancy(blocks, blocks * warps, blocks * warps / architecture.warps_per_sm, limits)


def _blocks_by_registers(warps: int, registers: int, most: int) -> int:
    if not registers:
        return most + 1
    if registers > REGISTERS_PER_THREAD:
        return 0
    per_warp = _round_up(registers * WARP, REGISTER_GRANULARITY)
    # A warp's registers lie in one partition: what is left over in two of them does not make another warp.
    return REGISTERS_PER_SM // PARTITIONS // per_warp * PARTITIONS // warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
