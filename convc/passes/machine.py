"""What plans need to know about a processor."""

from __future__ import annotations

from typing import Literal, get_args

from convc.lazy import dataclass

Tier = Literal["avx512", "avx2", "baseline"]
TIERS: tuple[Tier, ...] = get_args(Tier)


# What a library has code for: a tier, or those of its processors that have an instruction for sums of products, too.
Variant = Tier | Literal["avx512vnni", "avx512bf16"]
VARIANTS: tuple[Variant, ...] = ("avx512vnni", "avx512bf16")


@dataclass(frozen=True)
class Machine:
    """`lanes` float32 values per vector, `registers` vector registers, caches in bytes.

    `broadcast_operand`: a multiply-add can take a scalar from memory and spread it, which frees a register.
    `converts_half`: it has instructions between float16 and float32. `dot_bf16`: it has one that multiplies pairs of
    bfloat16 numbers and adds both products to a float32 sum, so that products of these take half the time. `dot_int8`:
    it has one that does so with four products of 8 bits and a sum of 32, in a quarter of it. `dot_i16`: how many sums
    of 32 bits a vector has at most to which it adds two products of 16; 0 without instructions for it. `amx_bf16`: it
    has tile registers that multiply matrices of bfloat16 numbers, `amx_int8`: of whole numbers of 8 bits; with
    `emulates_amx` kernels do in memory what these would. `capability`: it is a GPU of this compute capability (80:
    sm_80), whose kernels read filters one after the other and leave sums over images to kernels of their own. Channels
    are padded to a multiple of `channels`.
    """

    name: str
    lanes: int
    registers: int
    broadcast_operand: bool = False
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    converts_half: bool = False
    dot_bf16: bool = False
    dot_int8: bool = False
    dot_i16: int = 0
    amx_bf16: bool = False
    amx_int8: bool = False
    emulates_amx: bool = False
    capability: int = 0
    channels: int = 4

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.capability > 0


# The tiers on x86-64; what another architecture's baseline has is known where code is generated.
MACHINES: dict[Tier, Machine] = {
    "avx512": Machine("avx512", 16, 32, broadcast_operand=True, l2_bytes=1 << 20, converts_half=True),
    "avx2": Machine("avx2", 8, 16, converts_half=True),
    "baseline": Machine("baseline", 4, 16),
}


def split_lanes(count: int, lanes: int) -> tuple[int, ...]:
    """`count` channels as vectors: full ones, then halves down to 4 lanes, then single elements.

    20 channels on 16 lanes are (16, 4): on most processors cheaper than two full vectors, and nothing is masked.
    """
    pieces: list[int] = []
    width = lanes
    while count:
        if width < 4:
            width = 1
        pieces += [width] * (count // width)
        count %= width
        width //= 2
    return tuple(pieces)
