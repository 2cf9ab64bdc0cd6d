"""GPUs by name, with NVIDIA's published constants, and how long a kernel takes on one of them: a roofline by waves.

Nothing here is measured. The model ranks plans on machines without a GPU; it promises no times.
"""

from __future__ import annotations

import math

from convc.codegen.cuda.architectures import Architecture, Occupancy, architecture
from convc.ir.diagnostic import fail, similar
from convc.lazy import dataclass

_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Gpu:
    """A product. Rates are peaks at boost clock: 1e12 operations (two for a multiply-add) or 1e9 bytes per second.

    `tensor_tflops` is for fp16 operands, and bf16 where the architecture has it, dense, with sums in float32: GeForce
    does these at half the rate of sums in fp16.
    """

    name: str
    title: str
    architecture: Architecture
    sms: int
    boost_mhz: int
    fp32_tflops: float
    tensor_tflops: float
    bandwidth_gbps: float
    l2_bytes: int
    memory_bytes: int
    source: str


def _gpus() -> dict[str, Gpu]:
    a100 = "A100 Tensor Core GPU Architecture whitepaper, and the A100 data sheet"
    listed = [
        Gpu("t4", "T4", architecture("sm_75"), 40, 1590, 8.1, 65.0, 320, 4 * _MIB, 16 * _GIB,
            "Turing GPU Architecture whitepaper, T4 data sheet"),
        Gpu("a100-40", "A100 SXM 40 GB", architecture("sm_80"), 108, 1410, 19.5, 312.0, 1555, 40 * _MIB, 40 * _GIB,
            a100),
        Gpu("a100-80", "A100 SXM 80 GB", architecture("sm_80"), 108, 1410, 19.5, 312.0, 2039, 40 * _MIB, 80 * _GIB,
            a100),
        Gpu("rtx3090", "GeForce RTX 3090", architecture("sm_86"), 82, 1695, 35.6, 71.0, 936, 6 * _MIB, 24 * _GIB,
            "Ampere GA102 GPU Architecture whitepaper"),
        Gpu("rtx4090", "GeForce RTX 4090", architecture("sm_89"), 128, 2520, 82.6, 165.2, 1008, 72 * _MIB, 24 * _GIB,
            "Ada GPU Architecture whitepaper"),
        # Sums in float32 run at full speed on data-centre Ada.
        Gpu("l4", "L4", architecture("sm_89"), 58, 2040, 30.3, 121.0, 300, 48 * _MIB, 24 * _GIB,
            "L4 data sheet, half of the rates with sparsity; Ada GPU Architecture whitepaper"),
        # The tensor cores' rate is for 1830 MHz.
        Gpu("h100", "H100 SXM5", architecture("sm_90"), 132, 1980, 66.9, 989.4, 3352, 50 * _MIB, 80 * _GIB,
            "H100 Tensor Core GPU Architecture whitepaper"),
        # The data sheet has rates and memory only; SMs, clock and L2 are what CUDA's device properties say.
        Gpu("b200", "B200 (HGX)", architecture("sm_100"), 148, 1965, 75.0, 2250.0, 7700, 126 * _MIB, 180 * _GIB,
            "HGX B200 data sheet, an eighth of the platform, half of the rates with sparsity"),
        Gpu("rtx5090", "GeForce RTX 5090", architecture("sm_120"), 170, 2407, 104.8, 209.5, 1792, 96 * _MIB, 32 * _GIB,
            "RTX Blackwell GPU Architecture whitepaper"),
    ]  # fmt: skip
    return {each.name: each for each in listed}


GPUS: dict[str, Gpu] = _gpus()
_ALIASES = {"a100": "a100-80"}


def gpu(name: str) -> Gpu:
    """The GPU of this name; `a100` is the one with 80 GB. Raises CompileError (`value-gpu`) for an unknown name."""
    found = GPUS.get(_ALIASES.get(name, name))
    if found is None:
        hint = "architectures before sm_75 are not supported" if name == "v100" else similar(name, GPUS)
        fail("value-gpu", f"no GPU `{name}`; there are {', '.join(GPUS)}", hint=hint)
    return found


def typical_gpu(architecture: str) -> Gpu:
    """The GPU that stands for its architecture ("sm_80") where no other is named: the fastest of the table."""
    return max((gpu for gpu in GPUS.values() if gpu.architecture.name == architecture), key=lambda g: g.bandwidth_gbps)


@dataclass(frozen=True)
class Efficiency:
    """What a kernel is assumed to reach, as shares of the peaks, and what it needs for that.

    `arithmetic_warps` and `memory_warps` are the warps per SM from which on latencies are hidden, `launch_us` is the
    time from one kernel of a stream to the next.
    """

    fp32: float
    tensor: float
    bandwidth: float
    launch_us: float
    arithmetic_warps: int
    memory_warps: int


# UNMEASURED. All factors of the model stand in these two tables: published by others or assumed, none measured on a GPU
# with kernels of convc. fp32 and tensor: assumed, somewhat below what hand-written kernels are published to reach (93 %
# of peak, Yan et al. 2020; 95 % of cuBLAS, Bruce-Lee-LY/cuda_hgemm). bandwidth: assumed, what copies usually reach.
# launch_us: assumed. Warps: assumed, two for each of the four schedulers where registers hold a tile's independent
# sums, four where loads of 16 bytes are to cover the latency of DRAM.
EFFICIENCY = Efficiency(fp32=0.85, tensor=0.8, bandwidth=0.85, launch_us=3.0, arithmetic_warps=8, memory_warps=16)
# The share of the published tensor rate that `mma.sync` can reach, where that rate needs other instructions. sm_90:
# 62 % (Luo et al., arXiv:2402.13499). sm_100: assumed, a quarter; that is an m16n8k16 in 8 cycles for each partition of
# an SM, as on earlier architectures.
MMA_SYNC: dict[str, float] = {"sm_90": 0.62, "sm_100": 0.25}


def predict(gpu: Gpu, flops: float, bytes: float, tensor_core: bool, blocks: int, occupancy: Occupancy) -> float:
    """Seconds for one launch of `blocks` blocks that do `flops` operations on `bytes` bytes of DRAM traffic in all.

    Blocks run in waves of as many as fit on the GPU. A wave lasts as long as the slower of its traffic and the work of
    its fullest SM, which does not reach its rate with few warps. A kernel that cannot be launched takes forever:
    infinity. Raises ValueError for less than one block.
    """
    if blocks < 1:
        raise ValueError(f"{blocks} blocks")
    if not occupancy.blocks:
        return math.inf
    peak = gpu.fp32_tflops * EFFICIENCY.fp32
    if tensor_core:
        peak = gpu.tensor_tflops * EFFICIENCY.tensor * MMA_SYNC.get(gpu.architecture.name, 1.0)
    work = flops / blocks / (peak * 1e12 / gpu.sms)
    traffic = bytes / blocks / (gpu.bandwidth_gbps * 1e9 * EFFICIENCY.bandwidth)

    def wave(count: int) -> float:
        """Seconds of `count` blocks that run at the same time."""
        fullest = -(-count // gpu.sms)
        busy = min(1.0, fullest * occupancy.warps_per_block / EFFICIENCY.arithmetic_warps)
        in_flight = min(1.0, count * occupancy.warps_per_block / (gpu.sms * EFFICIENCY.memory_warps))
        return max(fullest * work / busy, count * traffic / in_flight)

    whole, rest = divmod(blocks, gpu.sms * occupancy.blocks)
    seconds = whole * wave(gpu.sms * occupancy.blocks) + (wave(rest) if rest else 0.0)
    return EFFICIENCY.launch_us * 1e-6 + seconds
