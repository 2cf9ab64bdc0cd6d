"""The table of architectures, and occupancy by the rules of NVIDIA's calculator, worked out by hand."""

from __future__ import annotations

import pytest

from convc.codegen.cuda.architectures import ARCHITECTURES, Limit, Occupancy, architecture, occupancy
from convc.ir.diagnostic import CompileError

KIB = 1024


def test_names() -> None:
    assert list(ARCHITECTURES) == ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
    for name in ARCHITECTURES:
        assert architecture(name).name == name


@pytest.mark.parametrize(("name", "hint"), [("sm_90a", "`sm_90`"), ("sm_100f", "`sm_100`"), ("sm90", "`sm_90`")])
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(CompileError, match=r"sm_75, sm_80, .*, sm_120") as caught:
        architecture(name)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "value-architecture"
    assert hint in (diagnostic.hint or "")


@pytest.mark.parametrize(
    ("name", "warps", "blocks", "shared_kib", "opt_in_kib"),
    [
        ("sm_75", 32, 16, 64, 64),
        ("sm_80", 64, 32, 164, 163),
        ("sm_86", 48, 16, 100, 99),
        ("sm_89", 48, 24, 100, 99),
        ("sm_90", 64, 32, 228, 227),
        ("sm_100", 64, 32, 228, 227),
        ("sm_120", 48, 24, 100, 99),
    ],
)
def test_technical_specifications(name: str, warps: int, blocks: int, shared_kib: int, opt_in_kib: int) -> None:
    """As the CUDA C++ Programming Guide prints them."""
    found = architecture(name)
    assert (found.warps_per_sm, found.blocks_per_sm) == (warps, blocks)
    assert (found.shared_per_sm, found.shared_opt_in) == (shared_kib * KIB, opt_in_kib * KIB)


def test_only_turing_lacks_asynchronous_copies_and_bf16() -> None:
    assert [name for name, each in ARCHITECTURES.items() if not each.cp_async] == ["sm_75"]
    assert [name for name, each in ARCHITECTURES.items() if not each.bf16_mma] == ["sm_75"]
    assert [name for name, each in ARCHITECTURES.items() if "m16n8k16" not in each.mma_shapes] == ["sm_75"]


CASES: list[tuple[str, int, int, int, int, tuple[Limit, ...]]] = [
    # 8 warps a block; 32 registers are 1024 a warp, 64 warps.
    ("sm_80", 256, 32, 0, 8, ("threads", "registers")),
    # 33 registers are 1056, allocated as 1280 a warp: 12 warps in a partition, 48 in all.
    ("sm_90", 256, 33, 0, 6, ("registers",)),
    # 128 registers are 4096 a warp, 16 warps; 48 KiB and the reserved one go 3 times into 164.
    ("sm_80", 256, 128, 48 * KIB, 2, ("registers",)),
    # 41 KiB go 2 times into 100, 5 times into 228.
    ("sm_86", 128, 40, 40 * KIB, 2, ("shared memory",)),
    ("sm_90", 128, 40, 40 * KIB, 5, ("shared memory",)),
    # 96 registers are 3072 a warp: 5 in each partition of 16384, though 21 would go into the whole SM.
    ("sm_80", 32, 96, 0, 20, ("registers",)),
    # Small blocks: the SM has no more of them.
    ("sm_75", 32, 16, 0, 16, ("blocks",)),
    ("sm_86", 64, 16, 0, 16, ("blocks",)),
    ("sm_89", 64, 16, 0, 24, ("blocks", "threads")),
    ("sm_120", 32, 16, 0, 24, ("blocks",)),
    # Even without shared memory of its own, a block takes 1 KiB: 32 of them fit on sm_80.
    ("sm_80", 32, 16, 0, 32, ("blocks",)),
    # Turing reserves nothing, and allocates in steps of 256 bytes: 64 KiB are 16 times 4096, 15 times 4352.
    ("sm_75", 32, 16, 4096, 16, ("blocks", "shared memory")),
    ("sm_75", 32, 16, 4097, 15, ("shared memory",)),
    # 1024 + 4224 bytes are a 32nd of 164 KiB; a byte more is a step of 128 bytes.
    ("sm_80", 32, 16, 4224, 32, ("blocks", "shared memory")),
    ("sm_80", 32, 16, 4225, 31, ("shared memory",)),
    # A whole SM for one block: the opt-in maximum, and all registers.
    ("sm_90", 256, 255, 227 * KIB, 1, ("registers", "shared memory")),
    ("sm_75", 1024, 64, 64 * KIB, 1, ("threads", "registers", "shared memory")),
    # 5 warps of 8192 registers: 2 in a partition, 8 in all.
    ("sm_80", 160, 255, 0, 1, ("registers",)),
    # What cannot be launched.
    ("sm_86", 128, 32, 99 * KIB + 1, 0, ("shared memory",)),
    ("sm_75", 128, 32, 64 * KIB + 1, 0, ("shared memory",)),
    ("sm_80", 1056, 16, 0, 0, ("threads",)),
    ("sm_80", 32, 256, 0, 0, ("registers",)),
    # 9 warps of 7168 registers are less than 65536, but only 2 go into each partition.
    ("sm_80", 288, 224, 0, 0, ("registers",)),
]


@pytest.mark.parametrize(("name", "threads", "registers", "shared", "blocks", "limits"), CASES)
def test_occupancy(
    name: str, threads: int, registers: int, shared: int, blocks: int, limits: tuple[Limit, ...]
) -> None:
    found = occupancy(architecture(name), threads, registers, shared)
    assert found.blocks == blocks
    assert set(found.limits) == set(limits)
    warps = -(-threads // 32) * blocks
    assert found.warps == warps
    assert found.fraction == warps / architecture(name).warps_per_sm
    assert found.warps_per_block == (-(-threads // 32) if blocks else 0)


def test_a_part_of_a_warp_is_a_warp() -> None:
    assert occupancy(architecture("sm_80"), 33, 32, 0) == occupancy(architecture("sm_80"), 64, 32, 0)


def test_a_kernel_without_registers() -> None:
    assert occupancy(architecture("sm_80"), 64, 0, 0) == Occupancy(32, 64, 1.0, ("blocks", "threads"))


@pytest.mark.parametrize("values", [(0, 32, 0), (32, -1, 0), (32, 32, -1)])
def test_senseless_blocks(values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="a block of"):
        occupancy(architecture("sm_80"), *values)
