"""What a warp and a block do as one: branches, barriers, shuffles, votes, matrices; and schedules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.cuda_emulator.faults import Fault
from tests.cuda_emulator.launching import NO_CHECKS, In, InOut, Module, Out
from tests.cuda_emulator.memory_table import MATRIX_PRODUCTS
from tests.cuda_emulator.schedule import SCHEDULES, Schedule
from tests.cuda_emulator.snippets import kernel, needs_compiler, with_addresses

pytestmark = needs_compiler

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


def words(body: str, threads: int = 32, *inputs: np.ndarray, schedule: Schedule = SCHEDULES[0]) -> list[int]:
    """What the threads of one block store at [%l0]."""
    y = np.empty(threads, np.uint32)
    module = Module(with_addresses(body, inputs=len(inputs)))
    module.launch("k", 1, threads, [Out(y), *(In(x) for x in inputs)], schedule=schedule)
    return y.tolist()


def fault(body: str, threads: int = 32, schedule: Schedule = SCHEDULES[0]) -> Fault:
    with pytest.raises(Fault) as caught:
        words(body, threads, schedule=schedule)
    return caught.value


STORE = " st.global.u32 [%l0], %r1;"


# Control flow


@each_schedule
def test_lanes_part_and_meet(schedule: Schedule) -> None:
    """Each lane loops as often as its number says, then takes one of two ways, then votes with all others."""
    body = f"""
     mov.u32 %r1, 0; mov.u32 %r2, %r0;
     $LOOP: setp.eq.u32 %p1, %r2, 0; @%p1 bra $DONE; add.u32 %r1, %r1, 2; sub.u32 %r2, %r2, 1; bra.uni $LOOP;
     $DONE: and.b32 %r3, %r0, 1; setp.eq.u32 %p2, %r3, 0; @!%p2 bra $ODD;
     add.u32 %r1, %r1, 100; bra $BOTH;
     $ODD: add.u32 %r1, %r1, 1000;
     $BOTH: vote.sync.ballot.b32 %r4, %p2, -1; setp.ne.u32 %p3, %r4, 0x55555555; @%p3 trap;{STORE}
    """
    assert words(body, 64, schedule=schedule) == [2 * t + (1000 if t % 2 else 100) for t in range(64)]


def test_lanes_that_meet_run_together() -> None:
    body = f"setp.lt.u32 %p1, %r0, 8; @%p1 bra $A; mov.u32 %r1, 1; $A: activemask.b32 %r1;{STORE}"
    assert words(body) == [0xFFFFFFFF] * 32
    alone = Schedule("alone", lanes="ascending")
    assert words(body, schedule=alone) == [1 << t for t in range(32)]


@each_schedule
def test_indexed_branches(schedule: Schedule) -> None:
    body = f"""
     and.b32 %r2, %r0, 3;
     $TABLE: .branchtargets $A, $B, $C, $A;
     brx.idx %r2, $TABLE;
     $A: mov.u32 %r1, 10; bra $END;
     $B: mov.u32 %r1, 11; bra $END;
     $C: mov.u32 %r1, 12;
     $END:{STORE}
    """
    assert words(body, schedule=schedule) == [10, 11, 12, 10] * 8


def test_predicated_ends_and_special_registers() -> None:
    y = np.empty((2, 3, 4, 3, 2), np.int32)
    body = """
     ld.param.u64 %l0, [p0];
     mov.u32 %r1, %ctaid.y; mov.u32 %r2, %nctaid.x; mov.u32 %r3, %ctaid.x; mad.lo.u32 %r1, %r1, %r2, %r3;
     mov.u32 %r4, %ntid.z; mov.u32 %r5, %tid.z; mad.lo.u32 %r1, %r1, %r4, %r5;
     mov.u32 %r4, %ntid.y; mov.u32 %r5, %tid.y; mad.lo.u32 %r1, %r1, %r4, %r5;
     mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x; mad.lo.u32 %r1, %r1, %r4, %r5;
     mad.wide.u32 %l0, %r1, 4, %l0; setp.eq.u32 %p1, %r5, 1; @%p1 ret;
     st.global.u32 [%l0], %r1;
    """
    Module(kernel(body, ["u64"])).launch("k", (3, 2), (2, 3, 4), [Out(y)])
    wanted = np.arange(y.size).reshape(y.shape)
    assert (y[..., 0] == wanted[..., 0]).all()
    assert (y[..., 1] == -1).all()


def test_lane_numbers_and_masks() -> None:
    body = f" mov.u32 %r1, %laneid; mov.u32 %r2, %warpid; mad.lo.u32 %r1, %r2, 100, %r1;{STORE}"
    assert words(body, 40) == [*range(32), *range(100, 108)]
    assert words(f" mov.u32 %r1, %lanemask_lt;{STORE}", 3) == [0, 1, 3]


def test_a_kernel_without_instructions() -> None:
    assert Module(kernel("", []).replace(" ret;", "")).launch("k", 3, 100, []).executed == 0


def test_an_endless_loop_is_given_up() -> None:
    text = kernel("$A: bra $A;", [])
    with pytest.raises(Fault, match="1000 instructions of warps, and no end") as caught:
        Module(text).launch("k", 1, 32, [], budget=1000)
    assert caught.value.check == "budget"


# Barriers


@each_schedule
def test_barriers_that_count_votes(schedule: Schedule) -> None:
    body = f" setp.lt.u32 %p1, %r0, 40; bar.red.popc.u32 %r1, 0, %p1; bar.red.and.pred %p2, 1, %p1; @%p2 trap;{STORE}"
    assert words(body, 64, schedule=schedule) == [40] * 64
    body = f" setp.lt.u32 %p1, %r0, 1; bar.red.or.pred %p2, 0, %p1; selp.u32 %r1, 1, 0, %p2;{STORE}"
    assert words(body, 96, schedule=schedule) == [1] * 96


@each_schedule
def test_barriers_for_some_warps(schedule: Schedule) -> None:
    """The first warp waits for what the second one writes, and the third has nothing to do with it."""
    body = f"""
     .shared .align 4 .b8 tile[4];
     shr.u32 %r2, %r0, 5; mov.u32 %r1, 0;
     setp.eq.u32 %p1, %r2, 2; @%p1 bra $END;
     setp.eq.u32 %p2, %r2, 1; @%p2 bra $WRITER;
     barrier.cta.sync.aligned 1, 64; ld.shared.u32 %r1, [tile]; bra $END;
     $WRITER: st.shared.u32 [tile], 5; bar.arrive 1, 64;
     $END:{STORE}
    """
    assert words(body, 96, schedule=schedule) == [5] * 32 + [0] * 64


def test_divergent_barriers() -> None:
    half = " setp.lt.u32 %p1, %r0, 16; @%p1 bra $A; bar.sync 0; $A: mov.u32 %r1, 0; $B: "
    found = fault(half + " bar.warp.sync -1;" + STORE)
    assert found.check == "diverged"
    assert "nobody can go on" in found.what
    # Two barriers, one for each half of a warp: a hang on the hardware, or worse.
    found = fault(" setp.lt.u32 %p1, %r0, 16; @%p1 bra $A; bar.sync 0; bra $B; $A: bar.sync 0; $B: ret;")
    assert (found.check, "different barriers" in found.what) == ("diverged", True)
    # Others have ended.
    found = fault(" setp.lt.u32 %p1, %r0, 32; @%p1 ret; bar.sync 0;", 64)
    assert (found.check, "32 threads never reach" in found.what) == ("diverged", True)
    # One warp waits at another barrier.
    found = fault(" shr.u32 %r2, %r0, 5; bar.sync %r2;", 64)
    assert (found.check, found.thread) == ("diverged", (0, 0, 0))
    # Two warps pass, the third one waits for a fourth.
    found = fault(" bar.sync 0, 64;", 96)
    assert (found.check, "32 threads wait here, 64 have ended" in found.what) == ("diverged", True)
    found = fault(" bar.sync 0, 48;", 64)
    assert (found.check, "at a barrier for 48" in found.what) == ("diverged", True)


# Shuffles and votes


@pytest.mark.parametrize(
    ("shuffle", "wanted"),
    [
        ("bfly.b32 %r1|%p1, %r0, 1, 31", lambda t: t ^ 1),
        ("up.b32 %r1|%p1, %r0, 3, 0", lambda t: t - 3 if t >= 3 else t),
        ("down.b32 %r1|%p1, %r0, 3, 31", lambda t: t + 3 if t < 29 else t),
        ("idx.b32 %r1|%p1, %r0, 5, 31", lambda t: 5),
        # In segments of eight: c has 24 in its upper half.
        ("idx.b32 %r1|%p1, %r0, 5, 0x181f", lambda t: t // 8 * 8 + 5),
        ("down.b32 %r1|%p1, %r0, 3, 0x181f", lambda t: t + 3 if t % 8 < 5 else t),
        ("up.b32 %r1|%p1, %r0, 3, 0x1800", lambda t: t - 3 if t % 8 >= 3 else t),
    ],
)
@each_schedule
def test_shuffles(shuffle: str, wanted: Callable[[int], int], schedule: Schedule) -> None:
    assert words(f" shfl.sync.{shuffle}, -1;{STORE}", schedule=schedule) == [wanted(t) for t in range(32)]


def test_the_predicate_of_a_shuffle() -> None:
    body = f" shfl.sync.down.b32 %r2|%p1, %r0, 30, 31, -1; selp.u32 %r1, 1, 0, %p1;{STORE}"
    assert words(body) == [1, 1] + [0] * 30


@pytest.mark.parametrize(
    ("vote", "wanted"),
    [
        ("vote.sync.ballot.b32 %r1, %p1, -1;", [0x1F] * 32),
        ("vote.sync.any.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2;", [1] * 32),
        ("vote.sync.all.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2;", [0] * 32),
        ("vote.sync.uni.pred %p2, !%p1, -1; selp.u32 %r1, 1, 0, %p2;", [0] * 32),
        ("shr.u32 %r2, %r0, 4; match.any.sync.b32 %r1, %r2, -1;", [0xFFFF] * 16 + [0xFFFF0000] * 16),
        ("match.all.sync.b32 %r1|%p2, %r0, -1; @%p2 trap;", [0] * 32),
        ("match.all.sync.b32 %r1|%p2, 7, -1; @!%p2 trap;", [0xFFFFFFFF] * 32),
        ("redux.sync.add.u32 %r1, %r0, -1;", [496] * 32),
        ("neg.s32 %r2, %r0; redux.sync.min.s32 %r1, %r2, -1;", [2**32 - 31] * 32),
        ("redux.sync.max.u32 %r1, %r0, -1;", [31] * 32),
        ("redux.sync.or.b32 %r1, %r0, -1;", [31] * 32),
        ("redux.sync.and.b32 %r1, %r0, -1;", [0] * 32),
        ("redux.sync.xor.b32 %r1, %r0, -1;", [0] * 32),
    ],
)
def test_votes(vote: str, wanted: list[int]) -> None:
    for schedule in SCHEDULES:
        assert words(f" setp.lt.u32 %p1, %r0, 5; {vote}{STORE}", schedule=schedule) == wanted


@each_schedule
def test_part_of_a_warp_votes(schedule: Schedule) -> None:
    body = f"""
     mov.u32 %r1, 0; setp.ge.u32 %p1, %r0, 8; @%p1 bra $END; vote.sync.ballot.b32 %r1, %p2, 0xff; not.b32 %r1, %r1;
     $END:{STORE}
    """
    found = words(body.replace("%p2", "!%p1"), schedule=schedule)
    assert found == [0xFFFFFF00] * 8 + [0] * 24


def test_collectives_that_do_not_come_together() -> None:
    # Lanes 8.. are members, and never come: they wait at the end of the block.
    found = fault(" setp.ge.u32 %p1, %r0, 8; @%p1 bar.sync 0; @!%p1 shfl.sync.idx.b32 %r1, %r0, 0, 31, -1;")
    assert (found.check, "nobody can go on" in found.what) == ("diverged", True)
    found = fault(" setp.ge.u32 %p1, %r0, 8; @!%p1 shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xff;")
    assert (found.check, "lane 20, which does not take part" in found.what) == ("diverged", True)
    found = fault(" shfl.sync.idx.b32 %r1, %r0, 0, 31, 0xff;")
    assert (found.check, "not among the members" in found.what) == ("diverged", True)
    found = fault(" shl.b32 %r2, 1, %r0; or.b32 %r2, %r2, 3; vote.sync.ballot.b32 %r1, %p1, %r2;")
    assert (found.check, "different members" in found.what) == ("diverged", True)


# Matrices


SHARED_ROWS = """
 .shared .align 16 .b8 tile[1024];
 mov.u32 %r20, tile; mad.lo.u32 %r21, %r0, 4, %r20;
 ld.global.u32 %r1, [%l1]; st.shared.u32 [%r21], %r1; ld.global.u32 %r1, [%l1+128]; st.shared.u32 [%r21+128], %r1;
 ld.global.u32 %r1, [%l1+256]; st.shared.u32 [%r21+256], %r1;
 ld.global.u32 %r1, [%l1+384]; st.shared.u32 [%r21+384], %r1;
 bar.sync 0; mad.lo.u32 %r21, %r0, 16, %r20;
"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(count: int, transposed: bool) -> None:
    """Value c of row r of matrix m is 1000 m + 10 r + c; lane 4 g + t has columns 2 t and 2 t + 1 of row g."""
    matrices = 1000 * np.arange(4)[:, None, None] + 10 * np.arange(8)[:, None] + np.arange(8)
    x = matrices.astype(np.uint16).view(np.uint32).ravel()
    y = np.empty((4, 32), np.uint32)
    registers = ", ".join(f"%r{10 + k}" for k in range(count))
    load = f" ldmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16 {{{registers}}}, [%r21];"
    stores = "".join(f" st.global.u32 [%l0+{128 * k}], %r{10 + k};" for k in range(count))
    Module(with_addresses(SHARED_ROWS + load + stores)).launch("k", 1, 32, [Out(y), In(x)])
    for m in range(count):
        for lane in range(32):
            g, t = lane // 4, lane % 4 * 2
            low, high = (1000 * m + 10 * (t + e) + g if transposed else 1000 * m + 10 * g + t + e for e in (0, 1))
            assert y[m, lane] == low | high << 16


@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix_is_the_inverse(transposed: bool) -> None:
    x = np.arange(256, dtype=np.uint16).view(np.uint32)
    suffix = f"x4{'.trans' if transposed else ''}.shared.b16"
    body = f"""{SHARED_ROWS}
     ldmatrix.sync.aligned.m8n8.{suffix} {{%r10, %r11, %r12, %r13}}, [%r21]; bar.sync 0;
     stmatrix.sync.aligned.m8n8.{suffix} [%r21+512], {{%r10, %r11, %r12, %r13}}; bar.sync 0;
     ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%r21+512]; mad.wide.u32 %l0, %r0, 12, %l0;
     st.global.v4.u32 [%l0], {{%r1, %r2, %r3, %r4}};
    """
    y = np.empty(128, np.uint32)
    Module(with_addresses(body)).launch("k", 1, 32, [Out(y), In(x)])
    assert (y == x).all()


def test_ldmatrix_is_checked() -> None:
    x, y = np.zeros(128, np.uint32), np.empty(32, np.uint32)
    load = " ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r21];"
    for change, check in (
        (" add.u32 %r21, %r21, 8;", "alignment"),
        (" add.u32 %r21, %r21, 1024;", "bounds"),
        (" add.u32 %r21, %r21, 256;", "uninitialised"),
        (" st.shared.u32 [%r21], %r0;", "race"),
    ):
        with pytest.raises(Fault) as caught:
            Module(with_addresses(SHARED_ROWS + change + load)).launch("k", 1, 32, [Out(y), In(x)])
        assert caught.value.check == check
    text = with_addresses(f"setp.eq.u32 %p1, %r0, 31; @%p1 ret; mov.u32 %r21, 0;{load}")
    with pytest.raises(Fault, match="ldmatrix needs all 32 lanes"):
        Module(text).launch("k", 1, 32, [Out(y), In(x)])


def fragments(matrix: np.ndarray, rows: bool) -> np.ndarray:
    """Registers of A (`rows`: 16 x K) or of B (K x 8), as [register][lane] of 32 bits, by the tables of the PTX manual:
    with g = lane / 4, t = lane % 4 and E values in a register, register r of A has
    A[g + 8 (r % 2)][4 E (r / 2) + E t + e], and register r of B has B[4 E r + E t + e][g]."""
    each = 4 // matrix.itemsize
    depth = matrix.shape[1] if rows else matrix.shape[0]
    number = depth // (4 * each) * (2 if rows else 1)
    found = np.empty((number, 32, each), matrix.dtype)
    for r in range(number):
        for lane in range(32):
            g, t = divmod(lane, 4)
            for e in range(each):
                if rows:
                    found[r, lane, e] = matrix[g + 8 * (r % 2), 4 * each * (r // 2) + each * t + e]
                else:
                    found[r, lane, e] = matrix[4 * each * r + each * t + e, g]
    return found.view(np.uint32)[..., 0]


def to_bits(values: np.ndarray, kind: str) -> np.ndarray:
    """Whole numbers as values of a type, in an array whose items have its size."""
    if kind == "bf16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"f16": np.float16, "tf32": np.float32, "s8": np.int8, "u8": np.uint8}[kind])


@pytest.mark.parametrize("shape", MATRIX_PRODUCTS)
def test_matrix_products(shape: str) -> None:
    """Small whole numbers: every sum is exact, in whichever order."""
    size, sums, kind_a, kind_b, _ = shape.split(".")
    depth = int(size.split("k")[1])
    rng = np.random.default_rng(5)
    low_a, low_b = (0 if kind == "u8" else -7 for kind in (kind_a, kind_b))
    a, b = rng.integers(low_a, 8, (16, depth)), rng.integers(low_b, 8, (depth, 8))
    c = rng.integers(-9, 10, (16, 8))
    registers = [*fragments(to_bits(a, kind_a), True), *fragments(to_bits(b, kind_b), False)]
    dtype = {"f32": np.float32, "f16": np.float16, "s32": np.int32}[sums]
    # C: rows g and g + 8, columns 2 t and 2 t + 1.
    lanes = np.arange(32)
    places = [(lanes // 4 + 8 * (k // 2), lanes % 4 * 2 + k % 2) for k in range(4)]
    per = 4 // dtype().itemsize
    c_registers = np.stack([c[place] for place in places]).astype(dtype).reshape(4 // per, per, 32)
    registers += list(np.ascontiguousarray(c_registers.transpose(0, 2, 1)).view(np.uint32)[..., 0])
    x = np.stack(registers).ravel()
    y = np.empty((4 // per, 32), np.uint32)
    steps, n = len(registers), 4 // per
    a_count, b_count = steps - n - (steps - n) // 3, (steps - n) // 3
    loads = "".join(f" ld.global.u32 %r{10 + k}, [%l1+{128 * k}];" for k in range(steps))
    names = [f"%r{10 + k}" for k in range(steps)]
    groups = [names[:a_count], names[a_count : a_count + b_count], names[a_count + b_count :]]
    d = [f"%r{40 + k}" for k in range(n)]
    operands = ", ".join("{" + ", ".join(group) + "}" for group in (d, *groups))
    opcode = f" mma.sync.aligned.{size}.row.col.{sums}.{kind_a}.{kind_b}.{sums}"
    stores = "".join(f" st.global.u32 [%l0+{128 * k}], %r{40 + k};" for k in range(n))
    Module(with_addresses(f"{loads}{opcode} {operands};{stores}")).launch("k", 1, 32, [Out(y), In(x)])
    found = np.empty((16, 8), dtype)
    values = np.ascontiguousarray(y).view(dtype).reshape(n, 32, per)
    for k, place in enumerate(places):
        found[place] = values[k // per, :, k % per]
    assert (found == a @ b + c).all()


def test_products_of_tensor_cores_are_added_exactly() -> None:
    """1 + 2^-24 * 15 in single precision, one by one, would stay 1; one rounding makes 1 + 2^-20."""
    small = np.full((16, 16), 2.0**-12, np.float16)
    small[:, 0] = 1
    b = np.zeros((16, 8), np.float16)
    b[:] = 2.0**-12
    b[0] = 1
    x = np.concatenate([fragments(small, True).ravel(), fragments(b, False).ravel()])
    loads = "".join(f" ld.global.u32 %r{10 + k}, [%l1+{128 * k}];" for k in range(6))
    body = f"""{loads} mov.b32 %r20, 0;
     mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
     {{%r1, %r2, %r3, %r4}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%r20, %r20, %r20, %r20}};{STORE}
    """
    y = np.empty(32, np.float32)
    Module(with_addresses(body)).launch("k", 1, 32, [Out(y), In(x)])
    assert (y == np.float32(1 + 15 * 2.0**-24)).all()


# Schedules


def test_schedules_are_told_apart_by_the_order_in_which_they_write() -> None:
    """Each thread takes the next ticket; all schedules of the matrix hand them out in orders of their own."""
    body = """
     ld.param.u64 %l1, [p1]; ld.param.u64 %l0, [p0];
     mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mad.lo.u32 %r0, %r1, 64, %r0;
     mad.wide.u32 %l0, %r0, 4, %l0; mov.u32 %r3, 0; $L: add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 40; @%p1 bra $L;
     atom.global.add.u32 %r2, [%l1], 1; st.global.u32 [%l0], %r2;
    """
    seen: dict[bytes, str] = {}
    for schedule in SCHEDULES:
        orders = []
        for _ in range(2):
            y, tickets = np.empty(64 * 5, np.uint32), np.zeros(1, np.uint32)
            Module(kernel(body)).launch("k", 5, 64, [Out(y), InOut(tickets)], schedule=schedule)
            assert sorted(y.tolist()) == list(range(320))
            orders.append(y.tobytes())
        assert orders[0] == orders[1], f"{schedule} is not deterministic"
        seen.setdefault(orders[0], schedule.name)
    # One warp after the other, or warps in turns, take tickets in one order.
    assert len(seen) >= len(SCHEDULES) - 2


def test_blocks_that_run_at_once_see_each_other() -> None:
    """A block waits for the next one: it does so for ever where blocks run one by one."""
    body = """
     ld.param.u64 %l0, [p0]; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 1; @%p1 st.global.u32 [%l0], 1; @%p1 ret;
     $WAIT: ld.volatile.global.u32 %r2, [%l0]; setp.ne.u32 %p2, %r2, 1; @%p2 bra $WAIT;
    """
    module = Module(kernel(body, ["u64"]))
    module.launch("k", 2, 32, [InOut(np.zeros(1, np.uint32))], schedule=Schedule("two", resident=2))
    with pytest.raises(Fault, match="no end"):
        module.launch("k", 2, 32, [InOut(np.zeros(1, np.uint32))], budget=10_000)


def test_a_reduction_that_trusts_lanes_to_be_in_step() -> None:
    """Right where lanes run together, wrong where they do not: the schedules find it without the check for races."""
    body = """
     .shared .align 4 .b8 tile[128]; mov.u32 %r1, tile; mad.lo.u32 %r1, %r0, 4, %r1; st.shared.u32 [%r1], 1;
     mov.u32 %r5, 16;
     $LOOP: setp.ge.u32 %p1, %r0, %r5; @%p1 bra $SKIP;
     mad.lo.u32 %r6, %r5, 4, %r1; ld.shared.u32 %r2, [%r6]; ld.shared.u32 %r3, [%r1]; add.u32 %r2, %r2, %r3;
     st.shared.u32 [%r1], %r2;
     $SKIP: shr.u32 %r5, %r5, 1; setp.ne.u32 %p2, %r5, 0; @%p2 bra $LOOP;
     ld.shared.u32 %r1, [tile]; st.global.u32 [%l0], %r1;
    """
    module = Module(with_addresses(body, inputs=0))
    found = {}
    for schedule in SCHEDULES:
        y = np.empty(32, np.uint32)
        module.launch("k", 1, 32, [Out(y)], schedule=schedule, checks=NO_CHECKS)
        found[schedule.name] = int(y[0])
        with pytest.raises(Fault):
            module.launch("k", 1, 32, [Out(y)], schedule=schedule)
    assert found["even"] == 32
    assert found["lane-by-lane"] != 32
