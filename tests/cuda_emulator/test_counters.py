"""Counters: the mix of instructions, bank conflicts, sectors."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda_emulator.counters import Counters
from tests.cuda_emulator.launching import In, Module, Out
from tests.cuda_emulator.snippets import needs_compiler, with_addresses

pytestmark = needs_compiler

SHARED = ".shared .align 16 .b8 tile[16384]; mov.u32 %r20, tile;"


def counters(body: str, *, threads: int = 32, scale: int = 4, floats: int = 4096) -> Counters:
    x, y = np.zeros(floats, np.float32), np.empty(floats, np.float32)
    module = Module(with_addresses(body, scale=scale))
    return module.launch("k", 1, threads, [Out(y), In(x)], count=True)


def test_the_mix() -> None:
    body = "setp.lt.u32 %p1, %r0, 8; @%p1 add.u32 %r1, %r0, 1; ld.global.u8 %r2, [%l1];"
    found = counters(body, threads=64)
    assert found.mix()["add.u32"] == 2
    assert found.mix()["ld.global.u8"] == 2  # though it is a load and a conversion
    assert found.mix()["ret"] == 2
    add = next(executed for executed in found.instructions if executed.opcode == "add.u32")
    assert (add.warps, add.lanes) == (2, 8)
    assert found.executed == sum(found.mix().values())


@pytest.mark.parametrize(
    ("address", "store", "wavefronts", "fewest"),
    [
        ("mad.lo.u32 %r1, %r0, 4, %r20;", "st.shared.u32 [%r1], %r0;", 1, 1),
        ("mad.lo.u32 %r1, %r0, 8, %r20;", "st.shared.u32 [%r1], %r0;", 2, 1),
        ("mad.lo.u32 %r1, %r0, 128, %r20;", "st.shared.u32 [%r1], %r0;", 32, 1),
        ("mad.lo.u32 %r1, %r0, 132, %r20;", "st.shared.u32 [%r1], %r0;", 1, 1),
        ("mov.u32 %r1, %r20;", "st.shared.u32 [%r1], 5;", 1, 1),  # one word for all
        ("shr.u32 %r2, %r0, 1; mad.lo.u32 %r1, %r2, 128, %r20;", "st.shared.u32 [%r1], 5;", 16, 1),
        ("mad.lo.u32 %r1, %r0, 2, %r20;", "st.shared.u16 [%r1], %r0;", 1, 1),
        # Wide accesses: half a warp, or a quarter of it, at a time.
        ("mad.lo.u32 %r1, %r0, 8, %r20;", "st.shared.v2.u32 [%r1], {%r0, %r0};", 2, 2),
        ("mad.lo.u32 %r1, %r0, 16, %r20;", "st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};", 4, 4),
        ("mad.lo.u32 %r1, %r0, 32, %r20;", "st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};", 8, 4),
    ],
)
def test_bank_conflicts(address: str, store: str, wavefronts: int, fewest: int) -> None:
    found = counters(f"{SHARED} {address} {store}")
    assert (found.shared_wavefronts, found.bank_conflicts) == (wavefronts, wavefronts - fewest)


@pytest.mark.parametrize(("row_bytes", "wavefronts"), [(16, 4), (64, 8 * 4 // 2), (128, 32), (144, 4)])
def test_bank_conflicts_of_ldmatrix(row_bytes: int, wavefronts: int) -> None:
    """Eight rows of 16 bytes are one wavefront where they lie in different banks: here 16 to 144 bytes apart."""
    body = f"""
     {SHARED} mov.u32 %r2, 0; mad.lo.u32 %r3, %r0, 16, %r20;
     $L: st.shared.v4.u32 [%r3], {{%r0, %r0, %r0, %r0}}; add.u32 %r3, %r3, 512; add.u32 %r2, %r2, 1;
     setp.lt.u32 %p1, %r2, 16; @%p1 bra $L; bar.sync 0;
     mad.lo.u32 %r1, %r0, {row_bytes}, %r20;
     ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r4, %r5, %r6, %r7}}, [%r1];
    """
    load = next(e for e in counters(body).instructions if e.opcode.startswith("ldmatrix"))
    assert (load.transactions, load.fewest) == (wavefronts, 4)


@pytest.mark.parametrize(
    ("load", "scale", "sectors", "wasted"),
    [
        ("ld.global.f32 %r1, [%l1];", 4, 4, 0),
        ("ld.global.f32 %r1, [%l1];", 8, 8, 4),
        ("ld.global.f32 %r1, [%l1];", 128, 32, 28),
        ("ld.global.f32 %r1, [%l1+4];", 4, 5, 1),
        ("ld.global.v4.f32 {%r1, %r2, %r3, %r4}, [%l1];", 16, 16, 0),
        ("setp.lt.u32 %p1, %r0, 8; @%p1 ld.global.f32 %r1, [%l1];", 4, 1, 0),
        ("ld.global.f32 %r1, [%l1];", 0, 1, 0),
    ],
)
def test_sectors(load: str, scale: int, sectors: int, wasted: int) -> None:
    found = counters(load, scale=scale)
    assert (found.sectors, found.wasted_sectors) == (sectors, wasted)


def test_sectors_of_copies_and_the_worst() -> None:
    body = f"""
     {SHARED} mad.lo.u32 %r1, %r0, 16, %r20; cp.async.cg.shared.global [%r1], [%l1], 16;
     ld.global.f32 %r2, [%l1]; cp.async.wait_all;
    """
    found = counters(body, scale=32)
    copy = next(e for e in found.instructions if e.opcode.startswith("cp.async.cg"))
    assert (copy.space, copy.transactions, copy.fewest) == ("global", 32, 16)
    assert [e.opcode for e in found.worst()] == ["ld.global.f32", "cp.async.cg.shared.global"]


def test_nothing_is_counted_unless_asked_for() -> None:
    x, y = np.zeros(32, np.float32), np.empty(32, np.float32)
    found = Module(with_addresses("ld.global.f32 %r1, [%l1];")).launch("k", 1, 32, [Out(y), In(x)])
    assert found.sectors == 0
    assert found.mix()["ld.global.f32"] == 1
