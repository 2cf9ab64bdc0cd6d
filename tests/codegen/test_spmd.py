"""Barrier, worker loop and launch, with native steps that notice when a barrier leaks."""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from convc.codegen.llvm.link import Library, link
from convc.codegen.llvm.spmd import (
    BARRIER,
    MAX_PARTIES,
    ControlBlock,
    SpmdRuntime,
    Waits,
    default_waits,
    link_runtime,
    load_runtime,
    runtime_ir,
)
from convc.codegen.llvm.target import compile_object, host_target

ROUNDS = 100
ROOM = 64  # ranks for which the argument block has room

# Argument block (64-bit words): 0 control, 8... counters by rank, 8 + ROOM... leaks seen by rank, then parties by rank.
# In every round each rank bumps its counter, and behind the barrier compares it with its neighbour's.
STEP = f"""
declare void @{BARRIER}(ptr)

define void @step(ptr %argument, i64 %rank, i64 %parties) {{
entry:
  %control = load ptr, ptr %argument
  %neighbour.next = add i64 %rank, 1
  %neighbour = urem i64 %neighbour.next, %parties
  %counters = getelementptr i64, ptr %argument, i64 8
  %own = getelementptr i64, ptr %counters, i64 %rank
  %other = getelementptr i64, ptr %counters, i64 %neighbour
  %leaks = getelementptr i64, ptr %own, i64 {ROOM}
  %seen = getelementptr i64, ptr %leaks, i64 {ROOM}
  store i64 %parties, ptr %seen
  br label %round
round:
  %i = phi i64 [0, %entry], [%i.next, %round]
  %value = load i64, ptr %own
  %bumped = add i64 %value, 1
  store i64 %bumped, ptr %own
  call void @{BARRIER}(ptr %control)
  %read = load i64, ptr %other
  %differs = icmp ne i64 %read, %bumped
  %leak = zext i1 %differs to i64
  %leaks.old = load i64, ptr %leaks
  %leaks.new = add i64 %leaks.old, %leak
  store i64 %leaks.new, ptr %leaks
  call void @{BARRIER}(ptr %control)
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, {ROUNDS}
  br i1 %more, label %round, label %done
done:
  ret void
}}
"""

# out[rank] = in[0] * in[1], which is a denormal number for the values of the test.
PRODUCT = """
define void @product(ptr %argument, i64 %rank, i64 %parties) {
  %second = getelementptr float, ptr %argument, i64 1
  %a = load float, ptr %argument
  %b = load float, ptr %second
  %c = fmul float %a, %b
  %outs = getelementptr float, ptr %argument, i64 2
  %out = getelementptr float, ptr %outs, i64 %rank
  store float %c, ptr %out
  ret void
}
"""


@pytest.fixture(scope="module", params=["futex", "portable"])
def runtime(request: pytest.FixtureRequest) -> SpmdRuntime:
    waits: Waits = request.param
    if waits == "futex" and default_waits() != "futex":
        pytest.skip("no futex here")
    target = host_target("baseline")
    return link_runtime(compile_object(runtime_ir(target, waits), target, inline=True))


@pytest.fixture(scope="module")
def step(runtime: SpmdRuntime) -> Iterator[Library]:
    library = link(compile_object(STEP + PRODUCT, host_target()), ["step", "product"], runtime.imports)
    yield library
    library.close()


@contextmanager
def workers(runtime: SpmdRuntime, control: ControlBlock) -> Iterator[list[threading.Thread]]:
    enter = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(runtime.worker)
    threads = [
        threading.Thread(target=enter, args=(control.address, rank), daemon=True) for rank in range(1, control.parties)
    ]
    for thread in threads:
        thread.start()
    yield threads
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(runtime.stop)(control.address)
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def launcher(runtime: SpmdRuntime, control: ControlBlock):
    native = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(runtime.launch)
    return lambda function, argument: native(control.address, function, ctypes.addressof(argument))


@pytest.mark.parametrize("spin", [1, 2000])
@pytest.mark.parametrize("parties", [1, 2, 3, 8])
def test_no_barrier_leaks_and_every_launch_reaches_every_rank(
    runtime: SpmdRuntime, step: Library, parties: int, spin: int
) -> None:
    # A spin limit of 1 sends every wait into the kernel, so that lost wake-ups would show as a hang.
    launches = 20 if parties < 8 else 5
    control = ControlBlock(parties, spin, spin)
    argument = (ctypes.c_int64 * (8 + 3 * ROOM))(control.address)
    with workers(runtime, control):
        launch = launcher(runtime, control)
        for _ in range(launches):
            launch(step["step"], argument)
    assert argument[8 : 8 + parties] == [ROUNDS * launches] * parties
    assert argument[8 + ROOM : 8 + ROOM + parties] == [0] * parties
    assert argument[8 + 2 * ROOM : 8 + 2 * ROOM + parties] == [parties] * parties


def test_the_generation_may_wrap_around(runtime: SpmdRuntime, step: Library) -> None:
    control = ControlBlock(2, 2000, 2000)
    last_generation = 0xFFFF << 16
    ctypes.c_uint32.from_address(control.address).value = last_generation
    argument = (ctypes.c_int64 * (8 + 3 * ROOM))(control.address)
    with workers(runtime, control):
        launcher(runtime, control)(step["step"], argument)
    assert argument[8:10] == [ROUNDS, ROUNDS]
    assert argument[8 + ROOM : 10 + ROOM] == [0, 0]
    assert ctypes.c_uint32.from_address(control.address).value >> 16 == 2 * ROUNDS


def test_workers_that_start_late_do_not_miss_the_launch(runtime: SpmdRuntime, step: Library) -> None:
    control = ControlBlock(2, 1, 1)
    argument = (ctypes.c_int64 * (8 + 3 * ROOM))(control.address)
    launch = launcher(runtime, control)
    caller = threading.Thread(target=lambda: launch(step["step"], argument), daemon=True)
    caller.start()
    with workers(runtime, control):
        caller.join(20)
        assert not caller.is_alive()
    assert argument[8:10] == [ROUNDS, ROUNDS]


@pytest.mark.skipif(host_target("baseline").architecture != "x86_64", reason="the control register is x86's")
def test_denormals_are_zero_inside_a_step_and_nowhere_else(runtime: SpmdRuntime, step: Library) -> None:
    control = ControlBlock(2, 1, 1)
    data = (ctypes.c_float * 4)(1e-30, 1e-10, 7.0, 7.0)
    product = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(step["product"])
    with workers(runtime, control):
        launcher(runtime, control)(step["product"], data)
    assert list(data[2:]) == [0.0, 0.0]
    product(ctypes.addressof(data), 0, 1)
    assert data[2] == struct.unpack("f", struct.pack("f", 1e-40))[0] > 0


def test_a_barrier_of_one_returns_at_once(runtime: SpmdRuntime) -> None:
    control = ControlBlock(1, 0, 0)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(runtime.barrier)(control.address)
    assert ctypes.c_uint32.from_address(control.address).value == 0


@pytest.mark.parametrize("parties", [0, -1, MAX_PARTIES + 1])
def test_control_block_refuses_senseless_numbers(parties: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        ControlBlock(parties, 1, 1)


def test_control_block_is_aligned_and_keeps_its_address() -> None:
    control = ControlBlock(3, 10, 20)
    address = control.address
    ctypes.memset(address, 255, 8)
    control.reset()
    assert control.address == address
    assert address % 128 == 0
    assert ctypes.string_at(address, 8) == bytes(8)


def test_the_runtime_is_loaded_once() -> None:
    assert load_runtime() is load_runtime()
    assert load_runtime().imports == {BARRIER: load_runtime().barrier}


def test_other_systems_are_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    from convc.codegen.llvm import spmd
    from convc.ir.diagnostic import CompileError

    monkeypatch.setattr(spmd, "os", type("Stub", (), {"name": "nt"}))
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(CompileError, match="platform-unsupported"):
        default_waits()


def test_the_portable_text_names_no_x86_and_no_linux() -> None:
    from convc.codegen.llvm.target import choose_target

    text = runtime_ir(choose_target("riscv64-unknown-freebsd", {}), "portable")
    assert "x86" not in text
    assert "syscall" not in text
    assert "llvm." not in text
