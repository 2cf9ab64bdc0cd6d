"""Loads, stores, atomics, copies: what they do, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda_emulator.faults import EmulationError, Fault
from tests.cuda_emulator.launching import NO_CHECKS, In, InOut, Module, Out
from tests.cuda_emulator.memory_table import WIDTHS
from tests.cuda_emulator.schedule import Schedule
from tests.cuda_emulator.snippets import kernel, needs_compiler, with_addresses

pytestmark = needs_compiler

LATE, EARLY = Schedule("late"), Schedule("early", copies="at issue")
SHARED = ".shared .align 16 .b8 tile[1024];"
# %r1: this thread's word in shared memory, %r2: its neighbour's.
WORDS = """
 mov.u32 %r1, tile; mad.lo.u32 %r1, %r0, 4, %r1;
 add.u32 %r2, %r0, 1; and.b32 %r2, %r2, 63; mov.u32 %r3, tile; mad.lo.u32 %r2, %r2, 4, %r3;
"""


# What they do


@pytest.mark.parametrize(
    ("load", "stored", "wanted"),
    [
        ("ld.global.b32 %r10, [%l1];", "%r10", [0x80FF7F01, 0x11223344]),
        ("ld.global.u8 %r10, [%l1];", "%r10", [0x01, 0x44]),
        ("ld.global.s8 %r10, [%l1+2];", "%r10", [0xFFFFFFFF, 0x22]),
        ("ld.global.u16 %r10, [%l1+2];", "%r10", [0x80FF, 0x1122]),
        ("ld.global.s16 %r10, [%l1+2];", "%r10", [0xFFFF80FF, 0x1122]),
        ("ld.global.v2.u8 {%h1, %h2}, [%l1]; mov.b32 %r10, {%h2, %h1};", "%r10", [0x0001007F, 0x00440033]),
        ("ld.global.nc.L1::no_allocate.v2.b16 {%h1, %h2}, [%l1]; mov.b32 %r10, {%h1, %h2};", "%r10", None),
        ("ld.volatile.global.b32 %r10, [%l1];", "%r10", None),
        ("ld.b32 %r10, [%l1];", "%r10", None),
        ("ld.global.b32 %r10, [%l1]; mov.b32 {%h1, %h2}, %r10; mov.b32 %r10, {%h1, %h2};", "%r10", None),
    ],
)
def test_loads(load: str, stored: str, wanted: list[int] | None) -> None:
    x, y = np.array([0x80FF7F01, 0x11223344], np.uint32), np.empty(2, np.uint32)
    text = with_addresses(f"{load} st.global.b32 [%l0], {stored};")
    Module(text).launch("k", 1, 2, [Out(y), In(x)])
    assert y.tolist() == (x.tolist() if wanted is None else wanted)


ADDRESSING = {
    "global": (" add.u64 %l2, %l0, 0;", "global", "[%l2]"),
    "shared32": (" mov.u32 %r1, tile; mad.lo.u32 %r1, %r0, 32, %r1;", "shared", "[%r1]"),
    "shared64": (" mov.u64 %l2, tile; mad.wide.u32 %l2, %r0, 32, %l2;", "shared", "[%l2]"),
    "local32": (" mov.u32 %r1, own;", "local", "[%r1]"),
    "local64": (" mov.u64 %l2, own;", "local", "[%l2]"),
    "generic, global": (" add.u64 %l2, %l0, 0;", "", "[%l2]"),
    "generic, shared": (" mov.u64 %l2, tile; mad.wide.u32 %l2, %r0, 32, %l2; cvta.shared.u64 %l2, %l2;", "", "[%l2]"),
    "generic, local": (" mov.u64 %l2, own; cvta.local.u64 %l2, %l2;", "", "[%l2]"),
}


@pytest.mark.parametrize("space", ADDRESSING)
def test_every_width_in_every_space(space: str) -> None:
    """What is stored in one width is loaded in another, and in itself."""
    address, word, place = ADDRESSING[space]
    word = f".{word}" if word else ""
    rng = np.random.default_rng(6)
    for bits, counts in WIDTHS.items():
        for count in counts:
            x, y = rng.integers(0, 256, (8, 32), np.uint8), np.empty((8, 32), np.uint8)
            kind = {8: "%h", 16: "%h", 32: "%r", 64: "%l"}[bits]
            names = [f"{kind}{10 + k}" for k in range(count)]
            vector = f"{{{', '.join(names)}}}" if count > 1 else names[0]
            size = f"{f'.v{count}' if count > 1 else ''}.b{bits}"
            body = f"""
             .shared .align 32 .b8 tile[256]; .local .align 32 .b8 own[32]; {address}
             ld.global{size} {vector}, [%l1]; st{word}{size} {place}, {vector};
             ld{word}{size} {vector}, {place}; st.global{size} [%l0], {vector};
            """
            Module(with_addresses(body, scale=32)).launch("k", 1, 8, [Out(y), In(x)])
            assert (y[:, : bits * count // 8] == x[:, : bits * count // 8]).all(), (bits, count)


def test_stores_of_narrow_values() -> None:
    y = np.zeros(4, np.uint32)
    body = "mov.u32 %r5, 0x12345678; st.global.u8 [%l0], %r5; st.global.u16 [%l0+2], %r5;"
    Module(with_addresses(body, inputs=0)).launch("k", 1, 4, [InOut(y)])
    assert y.tolist() == [0x56780078] * 4


def test_vectors() -> None:
    x, y = np.arange(128, dtype=np.float32), np.empty(128, np.float32)
    body = """
     ld.global.v4.f32 {%r1, %r2, %r3, %r4}, [%l1];
     st.global.v2.f32 [%l0], {%r4, %r3}; st.global.v2.f32 [%l0+8], {%r2, %r1};
    """
    Module(with_addresses(body, scale=16)).launch("k", 1, 32, [Out(y), In(x)])
    assert y.tolist() == x.reshape(32, 4)[:, ::-1].ravel().tolist()


def test_parameters_by_value() -> None:
    y = np.empty(3, np.int64)
    body = """
     ld.param.u64 %l0, [p0]; ld.param.u32 %r1, [p1]; ld.param.s8 %l1, [p2+4]; ld.param.v2.b16 {%h1, %h2}, [p2];
     cvt.u64.u32 %l2, %r1; st.global.u64 [%l0], %l2; st.global.u64 [%l0+8], %l1; cvt.s64.s16 %l3, %h2;
     st.global.u64 [%l0+16], %l3;
    """
    text = kernel(body, ["u64", "u32"]).replace("p1)", "p1, .param .align 4 .b8 p2[8])")
    Module(text).launch("k", 1, 1, [Out(y), 7, np.array([1, -2], np.int16).tobytes() + b"\xfb\0\0\0"])
    assert y.tolist() == [7, -5, -2]


def test_shared_local_and_constant_memory() -> None:
    y = np.empty(64, np.uint32)
    body = f"""
     {SHARED} .local .align 8 .b8 own[16];
     {WORDS}
     st.shared.u32 [%r1], %r0; bar.sync 0; ld.shared.u32 %r4, [%r2];
     mov.u64 %l5, own; cvta.local.u64 %l6, %l5; st.local.u32 [%l5+8], %r4; ld.u32 %r5, [%l6+8];
     mov.u64 %l7, table; ld.const.u32 %r6, [%l7+4]; ld.global.u32 %r7, [counter];
     add.u32 %r5, %r5, %r6; add.u32 %r5, %r5, %r7; st.global.u32 [%l0], %r5;
    """
    variables = ".const .align 4 .u32 table[2] = {100, 200};\n.global .u32 counter = 1000;"
    Module(with_addresses(body, inputs=0, variables=variables)).launch("k", 1, 64, [Out(y)])
    assert y.tolist() == [1200 + (t + 1) % 64 for t in range(64)]


def test_generic_addresses_of_shared_memory() -> None:
    y = np.empty(32, np.uint32)
    body = f"""
     {SHARED} mov.u64 %l5, tile; cvta.shared.u64 %l6, %l5; mad.wide.u32 %l6, %r0, 4, %l6;
     st.u32 [%l6], %r0; ld.u32 %r1, [%l6]; cvta.to.shared.u64 %l7, %l6; ld.shared.u32 %r2, [%l7];
     add.u32 %r1, %r1, %r2; st.global.u32 [%l0], %r1;
    """
    Module(with_addresses(body, inputs=0)).launch("k", 1, 32, [Out(y)])
    assert y.tolist() == [2 * t for t in range(32)]


def test_module_variables_keep_what_is_written() -> None:
    module = Module(kernel(" mov.u64 %l1, counter; atom.global.add.u32 %r1, [%l1], 2;", [], ".global .u32 counter;"))
    for _ in range(3):
        module.launch("k", 2, 32, [])
    assert module.variable("counter").view(np.uint32).tolist() == [3 * 2 * 32 * 2]


@pytest.mark.parametrize(
    ("operation", "start", "wanted"),
    [
        ("add.u32", 5, 5 + sum(range(32))),
        ("min.u32", 5, 0),
        ("max.s32", 5, 31),
        ("and.b32", 0xFF, 0),
        ("or.b32", 0, 31),
        ("xor.b32", 7, 7),
        ("exch.b32", 5, 31),
        ("inc.u32", 0, 31),
        ("dec.u32", 5, 31),
    ],
)
def test_atomics(operation: str, start: int, wanted: int) -> None:
    y = np.array([start], np.uint32)
    name, kind = operation.split(".")
    text = kernel(f" mov.u32 %r0, %tid.x; ld.param.u64 %l0, [p0]; red.global.{name}.{kind} [%l0], %r0;", ["u64"])
    Module(text).launch("k", 1, 32, [InOut(y)])
    assert y[0] == wanted


def test_atomic_results_and_compare_and_swap() -> None:
    y, old = np.array([3.0], np.float32), np.empty(4, np.float32)
    body = """
     mov.u32 %r0, %tid.x; ld.param.u64 %l0, [p0]; ld.param.u64 %l1, [p1]; mad.wide.u32 %l1, %r0, 4, %l1;
     atom.relaxed.gpu.global.add.f32 %r1, [%l0], 0f3F800000; st.global.f32 [%l1], %r1;
     @%p0 atom.global.cas.b32 %r2, [%l0], %r1, %r0;
    """
    Module(kernel(body)).launch("k", 1, 4, [InOut(y), Out(old)])
    assert old.tolist() == [3, 4, 5, 6]
    swap = kernel(" ld.param.u64 %l0, [p0]; atom.global.cas.b32 %r2, [%l0], 5, 9; st.global.u32 [%l0+4], %r2;", ["u64"])
    z = np.array([5, 0], np.uint32)
    Module(swap).launch("k", 1, 1, [InOut(z)])
    assert z.tolist() == [9, 5]


def test_atomic_halves_of_a_register() -> None:
    y = np.array([1.0, 2.0], np.float16)
    text = kernel(" ld.param.u64 %l0, [p0]; red.global.add.noftz.f16x2 [%l0], 0x40003C00;", ["u64"])  # 1 and 2
    Module(text).launch("k", 1, 3, [InOut(y)])
    assert y.tolist() == [4.0, 8.0]


# cp.async


COPY = f"""
 {SHARED} mov.u32 %r1, tile; mad.lo.u32 %r1, %r0, 16, %r1;
 cp.async.cg.shared.global [%r1], [%l1], 16 SIZE;
 cp.async.commit_group;
 WAIT
 ld.shared.v4.u32 {{%r2, %r3, %r4, %r5}}, [%r1];
 st.global.v4.u32 [%l0], {{%r2, %r3, %r4, %r5}};
"""


def copying(wait: str, size: str = "") -> str:
    return with_addresses(COPY.replace("WAIT", wait).replace("SIZE", size), scale=16)


@pytest.mark.parametrize("schedule", [LATE, EARLY], ids=str)
def test_copies_arrive_when_they_are_waited_for(schedule: Schedule) -> None:
    x, y = np.arange(128, dtype=np.uint32), np.empty(128, np.uint32)
    for wait in ("cp.async.wait_group 0;", "cp.async.wait_all;"):
        Module(copying(wait)).launch("k", 1, 32, [Out(y), In(x)], schedule=schedule)
        assert y.tolist() == x.tolist()


def test_copies_fill_with_zeros() -> None:
    x, y = np.arange(1, 129, dtype=np.uint32), np.empty((32, 4), np.uint32)
    Module(copying("cp.async.wait_group 0;", ", 8")).launch("k", 1, 32, [Out(y), In(x)])
    assert y[:, 2:].tolist() == [[0, 0]] * 32
    assert y[:, :2].tolist() == x.reshape(32, 4)[:, :2].tolist()
    # Nothing is read where the size is 0, whatever the address.
    Module(copying("cp.async.wait_group 0;", ", 0")).launch("k", 1, 32, [Out(y), In(x[:4])])
    assert not y.any()
    ignoring = copying("cp.async.wait_group 0;", ", %p1").replace(
        " cp.async.cg", " setp.gt.u32 %p1, %r0, 0; cp.async.cg"
    )
    Module(ignoring).launch("k", 1, 32, [Out(y), In(x[:4])])
    assert y[0].tolist() == [1, 2, 3, 4]
    assert not y[1:].any()


def test_a_copy_that_is_not_waited_for() -> None:
    x, y = np.arange(128, dtype=np.uint32), np.empty(128, np.uint32)
    for schedule in (LATE, EARLY):
        with pytest.raises(Fault, match=r"a cp\.async is on its way, of lane 0 of warp 0") as caught:
            Module(copying("cp.async.wait_group 1;")).launch("k", 1, 32, [Out(y), In(x)], schedule=schedule)
        assert caught.value.check == "pending-copy"
    # Without the check the numbers tell, where copies come late.
    Module(copying("cp.async.wait_group 1;")).launch("k", 1, 32, [Out(y), In(x)], schedule=LATE, checks=NO_CHECKS)
    assert (y == 0xFFFFFFFF).all()
    Module(copying("cp.async.wait_group 1;")).launch("k", 1, 32, [Out(y), In(x)], schedule=EARLY, checks=NO_CHECKS)
    assert (y == x).all()


def test_a_copy_that_only_its_own_thread_has_waited_for() -> None:
    """Another warp's copies need a barrier as well."""
    body = COPY.replace("WAIT", "cp.async.wait_group 0; xor.b32 %r1, %r1, 512;").replace("SIZE", "")
    x, y = np.arange(256, dtype=np.uint32), np.empty(256, np.uint32)
    with pytest.raises(Fault) as caught:
        Module(with_addresses(body, scale=16)).launch("k", 1, 64, [Out(y), In(x)])
    assert caught.value.check in ("uninitialised", "pending-copy", "race")
    safe = body.replace("wait_group 0;", "wait_group 0; bar.sync 0;")
    Module(with_addresses(safe, scale=16)).launch("k", 1, 64, [Out(y), In(x)])
    assert y.tolist() == [*range(128, 256), *range(128)]


# What they refuse


def test_bounds_of_global_memory() -> None:
    x, y = np.zeros(31, np.float32), np.empty(32, np.float32)
    text = with_addresses("ld.global.f32 %r1, [%l1]; st.global.f32 [%l0], %r1;")
    with pytest.raises(Fault, match="reads 4 bytes at offset 124 of buffer 1, which has 124 bytes") as caught:
        Module(text).launch("k", 1, 32, [Out(y), In(x)])
    assert (caught.value.check, caught.value.thread, caught.value.block) == ("bounds", (31, 0, 0), (0, 0, 0))
    assert "ld.global.f32 %r1, [%l1]" in str(caught.value)
    for address, message in (("[%l1+-4]", "offset -4"), ("[0]", "the address of nothing")):
        with pytest.raises(Fault, match=message):
            Module(text.replace("[%l1]", address)).launch("k", 1, 32, [Out(y), In(x)])


def test_bounds_within_an_element() -> None:
    x, y = np.zeros(6, np.uint8), np.empty(32, np.float32)
    text = with_addresses("ld.global.f32 %r1, [%l1];")
    with pytest.raises(Fault, match="4 bytes at offset 4 of buffer 1, which has 6"):
        Module(text).launch("k", 1, 2, [Out(y), In(x)])


def test_alignment() -> None:
    x, y = np.zeros(64, np.float32), np.empty(64, np.float32)
    text = with_addresses("ld.global.v2.f32 {%r1, %r2}, [%l1];", scale=8)
    Module(text).launch("k", 1, 16, [Out(y), In(x)])
    for bad, shift in ((text.replace("[%l1]", "[%l1+4]"), 0), (text, 4)):
        with pytest.raises(Fault, match="no multiple of 8") as caught:
            Module(bad).launch("k", 1, 16, [Out(y), In(x, shift)])
        assert caught.value.check == "alignment"


def test_read_only() -> None:
    x, y = np.zeros(32, np.float32), np.empty(32, np.float32)
    text = with_addresses("st.global.f32 [%l1], %r0;")
    with pytest.raises(Fault, match="writes at offset 0 of buffer 1, which is read-only") as caught:
        Module(text).launch("k", 1, 32, [Out(y), In(x)])
    assert caught.value.check == "read-only"
    constant = kernel(" mov.u64 %l1, t; st.global.u32 [%l1], 1;", [], ".const .u32 t;")
    with pytest.raises(Fault, match="read-only"):
        Module(constant).launch("k", 1, 1, [])


def test_outputs_begin_as_nan() -> None:
    y = np.zeros(4, np.float32)
    Module(with_addresses("setp.eq.u32 %p1, %r0, 1; @%p1 st.global.f32 [%l0], 0f3F800000;", inputs=0)).launch(
        "k", 1, 4, [Out(y)]
    )
    assert np.isnan(y).tolist() == [True, False, True, True]


def test_shared_memory_that_nobody_has_written() -> None:
    y = np.empty(64, np.uint32)
    body = f"""
     {SHARED} {WORDS} setp.lt.u32 %p1, %r0, 40; @%p1 st.shared.u32 [%r1], %r0; bar.sync 0; ld.shared.u32 %r4, [%r2];
    """
    with pytest.raises(Fault, match="which nobody has written") as caught:
        Module(with_addresses(body, inputs=0)).launch("k", 1, 64, [Out(y)])
    assert (caught.value.check, caught.value.thread) == ("uninitialised", (39, 0, 0))


def test_the_next_block_does_not_find_what_the_last_one_wrote() -> None:
    body = f"""
     {SHARED} {WORDS} mov.u32 %r9, %ctaid.x; setp.eq.u32 %p1, %r9, 0;
     @%p1 st.shared.u32 [%r1], %r0; bar.sync 0; ld.shared.u32 %r4, [%r2];
    """
    with pytest.raises(Fault) as caught:
        Module(with_addresses(body, inputs=0)).launch("k", 2, 64, [Out(np.empty(64, np.uint32))])
    assert (caught.value.check, caught.value.block) == ("uninitialised", (1, 0, 0))


def test_bounds_and_alignment_of_shared_memory() -> None:
    y = np.empty(64, np.uint32)
    for offset, check in ((1021, "alignment"), (1024, "bounds"), (-4, "bounds")):
        body = f"{SHARED} mov.u32 %r1, tile; st.shared.u32 [%r1+{offset}], %r0;"
        with pytest.raises(Fault) as caught:
            Module(with_addresses(body, inputs=0)).launch("k", 1, 1, [Out(y)])
        assert caught.value.check == check


@pytest.mark.parametrize(
    ("sync", "check"),
    [("bar.sync 0;", None), ("", "race"), ("bar.warp.sync 0xffffffff;", "race")],
    ids=["barrier", "nothing", "warp-barrier"],
)
@pytest.mark.parametrize(
    "schedule", [LATE, Schedule("ahead", quantum=None), Schedule("lanes", lanes="ascending")], ids=str
)
def test_reading_what_a_neighbour_wrote(sync: str, check: str | None, schedule: Schedule) -> None:
    y = np.empty(64, np.uint32)
    # All write once before a barrier, so that nothing is uninitialised.
    body = f"""
     {SHARED} {WORDS} st.shared.u32 [%r1], 7; bar.sync 0;
     st.shared.u32 [%r1], %r0; {sync} ld.shared.u32 %r4, [%r2]; st.global.u32 [%l0], %r4;
    """
    module = Module(with_addresses(body, inputs=0))
    if check is None:
        module.launch("k", 1, 64, [Out(y)], schedule=schedule)
        assert y.tolist() == [(t + 1) % 64 for t in range(64)]
        return
    with pytest.raises(Fault) as caught:
        module.launch("k", 1, 64, [Out(y)], schedule=schedule)
    assert caught.value.check == check


def test_within_a_warp_a_warp_barrier_is_enough() -> None:
    y = np.empty(32, np.uint32)
    body = f"""
     {SHARED} {WORDS} xor.b32 %r2, %r1, 4;
     st.shared.u32 [%r1], %r0; SYNC ld.shared.u32 %r4, [%r2]; st.global.u32 [%l0], %r4;
    """
    Module(with_addresses(body.replace("SYNC", "bar.warp.sync -1;"), inputs=0)).launch("k", 1, 32, [Out(y)])
    assert y.tolist() == [t ^ 1 for t in range(32)]
    # Lanes in step make the numbers right all the same; the check does not rely on that.
    module = Module(with_addresses(body.replace("SYNC", ""), inputs=0))
    module.launch("k", 1, 32, [Out(y)], checks=NO_CHECKS)
    assert y.tolist() == [t ^ 1 for t in range(32)]
    with pytest.raises(Fault, match="written by lane 1 of warp 0, with no barrier between"):
        module.launch("k", 1, 32, [Out(y)])


def test_overwriting_what_a_neighbour_still_reads() -> None:
    body = f"""
     {SHARED} {WORDS} st.shared.u32 [%r1], %r0; bar.sync 0; ld.shared.u32 %r4, [%r2]; SYNC st.shared.u32 [%r1], 9;
     st.global.u32 [%l0], %r4;
    """
    y = np.empty(64, np.uint32)
    Module(with_addresses(body.replace("SYNC", "bar.sync 0;"), inputs=0)).launch("k", 1, 64, [Out(y)])
    with pytest.raises(Fault, match=r"read by .*, with no barrier between") as caught:
        Module(with_addresses(body.replace("SYNC", ""), inputs=0)).launch("k", 1, 64, [Out(y)])
    assert caught.value.check == "race"


def test_overwriting_what_others_of_the_warp_still_read() -> None:
    """The writer has read it itself, last of all: the readers before it count as well."""
    body = f"""
     {SHARED} {WORDS} setp.eq.u32 %p1, %r0, 31; @%p1 st.shared.u32 [tile], 1; bar.sync 0;
     ld.shared.u32 %r4, [tile]; SYNC @%p1 st.shared.u32 [tile], 2;
    """
    y = np.empty(32, np.uint32)
    Module(with_addresses(body.replace("SYNC", "bar.warp.sync -1;"), inputs=0)).launch("k", 1, 32, [Out(y)])
    with pytest.raises(Fault, match="read by warp 0, with no barrier between") as caught:
        Module(with_addresses(body.replace("SYNC", ""), inputs=0)).launch("k", 1, 32, [Out(y)])
    assert (caught.value.check, caught.value.thread) == ("race", (31, 0, 0))


def test_two_writers() -> None:
    body = f"{SHARED} shr.u32 %r5, %r0, 5; st.shared.u32 [tile], VALUE;"
    Module(with_addresses(body.replace("VALUE", "7"), inputs=0)).launch("k", 1, 64, [Out(np.empty(64, np.uint32))])
    with pytest.raises(Fault, match="writes shared memory at 0, written by") as caught:
        Module(with_addresses(body.replace("VALUE", "%r5"), inputs=0)).launch(
            "k", 1, 64, [Out(np.empty(64, np.uint32))]
        )
    assert caught.value.check == "race"


def test_atomics_do_not_race_with_each_other() -> None:
    body = f"""
     {SHARED} setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [tile], 0; bar.sync 0;
     atom.shared.add.u32 %r1, [tile], 1; SYNC ld.shared.u32 %r2, [tile]; st.global.u32 [%l0], %r2;
    """
    y = np.empty(64, np.uint32)
    Module(with_addresses(body.replace("SYNC", "bar.sync 0;"), inputs=0)).launch("k", 1, 64, [Out(y)])
    assert y.tolist() == [64] * 64
    with pytest.raises(Fault):
        Module(with_addresses(body.replace("SYNC", ""), inputs=0)).launch("k", 1, 64, [Out(y)])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (" st.global.u32 [%l0], %r1;", "writes offset 0 of buffer 0, which block number 0 has written"),
        (" ld.global.u32 %r2, [%l0]; @%p1 st.global.u32 [%l0], %r1;", "writes offset 0 .* several blocks have read"),
        (" @!%p1 st.global.u32 [%l0], 5; ld.global.u32 %r2, [%l0];", "reads offset 0 .* block number 0 has written"),
        (" @!%p1 st.global.u32 [%l0], 5; red.global.add.u32 [%l0], 1;", "changes offset 0 .* has written"),
        (" @!%p1 red.global.add.u32 [%l0], 1; @%p1 ld.global.u32 %r2, [%l0];", "reads offset 0 .* has changed"),
        (" red.global.add.u32 [%l0], 1;", None),
        (" st.global.u32 [%l0], 5;", None),  # the same value
        (" @!%p1 st.global.u16 [%l0], %r1; @%p1 st.global.u16 [%l0+2], %r1;", None),  # beside each other
        (" membar.gl; st.global.u32 [%l0], %r1;", None),  # knows what it does
        (" membar.cta; st.global.u32 [%l0], %r1;", "which block number 0 has written"),
    ],
)
def test_blocks_are_in_no_order(body: str, message: str | None) -> None:
    head = " ld.param.u64 %l0, [p0]; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 1;"
    module = Module(kernel(head + body, ["u64"]))
    y = np.zeros(1, np.uint32)
    module.launch("k", 2, 1, [InOut(y)], checks=NO_CHECKS)
    if message is None:
        module.launch("k", 2, 1, [InOut(y)])
        return
    with pytest.raises(Fault, match=message) as caught:
        module.launch("k", 2, 1, [InOut(y)])
    assert (caught.value.check, caught.value.block) == ("race", (1, 0, 0))


# Launches that CUDA refuses


def test_launches_that_do_not_fit() -> None:
    text = ".extern .shared .align 16 .b8 dynamic[];\n"
    module = Module(kernel("", [], text).replace(")\n{", ")\n.maxntid 64\n{"))
    module.launch("k", 1, 64, [], 227 * 1024)
    for grid, block, args, shared_bytes, message in (
        (1, 65, [], 0, "may have 64 threads"),
        (1, 64, [], 228 * 1024, "bytes of shared memory"),
        (0, 64, [], 0, "a grid of"),
        (1, 64, [1], 0, "1 arguments for 0 parameters"),
    ):
        with pytest.raises(EmulationError, match=message):
            module.launch("k", grid, block, args, shared_bytes)
    with pytest.raises(EmulationError, match="no kernel other"):
        module.launch("other", 1, 1, [])
    with pytest.raises(EmulationError, match="not contiguous"):
        Module(kernel("", ["u64"])).launch("k", 1, 1, [In(np.zeros((4, 4))[:, 1])])
    with pytest.raises(EmulationError, match="a float for p0"):
        Module(kernel("", ["u32"])).launch("k", 1, 1, [1.5])


def test_pointers_in_structures() -> None:
    module = Module(kernel(" ld.param.u64 %l0, [p0]; ld.global.u64 %l1, [%l0]; st.global.u32 [%l1], 5;", ["u64"]))
    y = np.empty(1, np.uint32)
    memory = module.memory()
    table = np.array([memory.add(Out(y))], np.uint64)
    module.launch("k", 1, 1, [In(table)], memory=memory)
    assert y[0] == 5
