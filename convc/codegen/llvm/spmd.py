"""The native half of the thread pool: barrier, worker loop and launch, as LLVM IR text.

A compiled step is a function that every thread of a pool runs at the same time ("single program, multiple data"):

    void step(ptr argument, i64 rank, i64 parties)

Threads split each kernel's iterations by rank and meet at barriers, `call void @convc_barrier(ptr control)`. Rank 0
is the thread that launches; the others wait in `convc_worker`. `control` is the pool's control block, whose address
the program keeps in its argument block. Objects declare `convc_barrier` and are linked with `load_runtime().imports`.

A waiting thread polls for a number of rounds (`pause`, every 64th time `sched_yield`) and then sleeps in the kernel, so
an idle pool burns no processor time and threads beyond the number of cores make progress. The barrier is one word,
(generation << 16) + arrived: one cache line travels, and no thread can be two generations behind, because a
generation ends only when all have arrived.

No wake-up is lost: a sleeper counts itself in `sleepers` and then compares the word again (the kernel does, inside the
futex call); a waker changes the word and then reads `sleepers`; all four are sequentially consistent, so at least one
of the two sees the other. A wake-up costs a system call only if somebody sleeps.

This is the one file with IR as text: atomics, `pause`, the control register and a varargs system call are all it does.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Literal

from convc.codegen.llvm.link import Library, link
from convc.codegen.llvm.object_cache import cache_key, shared_cache
from convc.codegen.llvm.target import CpuTarget, compile_object, host_target, with_llvm
from convc.ir.diagnostic import fail
from convc.lazy import dataclass

Waits = Literal["futex", "portable"]
"""How threads sleep: by Linux's futex call, or by polling with libc's `usleep`."""

BARRIER = "convc_barrier"
MAX_PARTIES = 1024

# The control block (byte offsets). Words that are written often have two cache lines of their own, since processors
# fetch lines in pairs.
_BARRIER_WORD = 0  # i32
_STEP = 128  # i32, counts launches; with it, on the line that workers read anyway:
_FUNCTION = 136  # ptr, null tells the workers to leave
_ARGUMENT = 144  # ptr
_PARTIES = 256  # i64; this line is only read, but for the two counts of sleepers
_BARRIER_SPIN = 264  # i64, rounds of polling before a thread sleeps at a barrier
_IDLE_SPIN = 272  # i64, the same for a worker between launches
_BARRIER_SLEEPERS = 280  # i32
_STEP_SLEEPERS = 284  # i32
_SIZE = 384
_ALIGNMENT = 128

CONTROL_BLOCK: Mapping[str, int] = {
    "SIZE": _SIZE,
    "ALIGNMENT": _ALIGNMENT,
    "PARTIES": _PARTIES,
    "BARRIER_SPIN": _BARRIER_SPIN,
    "IDLE_SPIN": _IDLE_SPIN,
}
"""What somebody needs who keeps a control block without `ControlBlock`: sizes, and where its three numbers go."""

_FUTEX_NUMBERS = {"x86_64": 202, "amd64": 202, "aarch64": 98, "riscv64": 98}
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_EVERYBODY = 2**31 - 1
# MXCSR: exceptions masked, round to nearest, flush denormal results to zero, treat denormal operands as zero.
_FLUSH_DENORMALS = 0x1F80 | 0x8000 | 0x0040
_EXPORTS = (BARRIER, "convc_worker", "convc_launch", "convc_stop", "convc_relax")


class ControlBlock:
    """The memory through which the threads of a pool talk. Its address is fixed for its life, also across `reset`."""

    def __init__(self, parties: int, barrier_spin: int, idle_spin: int) -> None:
        if not 1 <= parties <= MAX_PARTIES:
            raise ValueError(f"between 1 and {MAX_PARTIES} threads, not {parties}")
        self.parties = parties
        self._memory = ctypes.create_string_buffer(_SIZE + _ALIGNMENT)
        self.address = -(-ctypes.addressof(self._memory) // _ALIGNMENT) * _ALIGNMENT
        self._spin = (barrier_spin, idle_spin)
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first launch; only while no thread is inside."""
        ctypes.memset(self.address, 0, _SIZE)
        for offset, value in ((_PARTIES, self.parties), (_BARRIER_SPIN, self._spin[0]), (_IDLE_SPIN, self._spin[1])):
            ctypes.c_int64.from_address(self.address + offset).value = value

    def keep_forever(self) -> None:
        """Never free the memory: for a pool whose threads could not be stopped."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._memory))


@dataclass(frozen=True)
class SpmdRuntime:
    """Addresses of the linked functions.

    `barrier(control)`, `worker(control, rank)`, `launch(control, function, argument)`, `stop(control)`,
    `relax(rounds)` (spins, to measure how long a round takes).
    """

    library: Library
    barrier: int
    worker: int
    launch: int
    stop: int
    relax: int

    @property
    def imports(self) -> Mapping[str, int]:
        """What objects that call the barrier are to be linked with."""
        return {BARRIER: self.barrier}


def load_runtime() -> SpmdRuntime:
    """The runtime for this process: compiled (or taken from the object cache) and linked once, never unloaded."""
    return _load_runtime(default_waits())


def default_waits() -> Waits:
    """How threads sleep here; CompileError (`platform-unsupported`) where there is neither futex nor POSIX."""
    if os.name != "posix":
        fail("platform-unsupported", f"convc's thread runtime needs Linux or another POSIX system, not {sys.platform}")
    known = host_target("baseline").architecture in _FUTEX_NUMBERS
    return "futex" if sys.platform == "linux" and known else "portable"


@with_llvm
@cache
def _load_runtime(waits: Waits) -> SpmdRuntime:
    return link_runtime(runtime_object(waits))


def runtime_object(waits: Waits) -> bytes:
    """The object file of the runtime, from the object cache if that has it."""
    # Nothing in it profits from vectors: the baseline object serves every tier.
    target = host_target("baseline")
    text = runtime_ir(target, waits)
    key = cache_key(text, target, {})
    image = shared_cache().get(key)
    if image is None:
        image = compile_object(text, target, inline=True)
        shared_cache().put(key, image)
    return image


def link_runtime(image: bytes) -> SpmdRuntime:
    """Link a compiled `runtime_ir`. RuntimeError if that fails."""
    library = link(image, _EXPORTS).keep_forever()
    return SpmdRuntime(library, *(library[name] for name in _EXPORTS))


def runtime_ir(target: CpuTarget, waits: Waits) -> str:
    """The runtime as LLVM IR for `target`'s architecture."""
    x86 = target.architecture in ("x86_64", "amd64")
    sleep = _futex(_FUTEX_NUMBERS[target.architecture]) if waits == "futex" else _POLLING
    relax = _RELAX_X86 if x86 else _RELAX_YIELD
    return "\n".join((sleep, relax, _FLOAT_MODE_X86 if x86 else _FLOAT_MODE_NONE, _BARRIER_IR, _WORKER_IR, _LAUNCH_IR))


def _at(name: str, offset: int) -> str:
    return f"%{name} = getelementptr i8, ptr %control, i64 {offset}"


def _futex(number: int) -> str:
    return f"""
declare i64 @syscall(i64, ...) nounwind

define internal void @sleep_while(ptr %word, ptr %sleepers, i32 %value) noinline nounwind {{
  atomicrmw add ptr %sleepers, i32 1 seq_cst
  %ignored = call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i64 {_FUTEX_WAIT_PRIVATE}, i32 %value, ptr null)
  atomicrmw sub ptr %sleepers, i32 1 seq_cst
  ret void
}}

define internal void @wake(ptr %word, ptr %sleepers) alwaysinline nounwind {{
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %count, 0
  br i1 %any, label %call, label %done
call:
  %ignored = call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i64 {_FUTEX_WAKE_PRIVATE}, i64 {_EVERYBODY})
  br label %done
done:
  ret void
}}"""


# Sleepers look again every 100 microseconds, so nobody has to be woken.
_POLLING = """
declare i32 @usleep(i32) nounwind

define internal void @sleep_while(ptr %word, ptr %sleepers, i32 %value) noinline nounwind {
  %ignored = call i32 @usleep(i32 100)
  ret void
}

define internal void @wake(ptr %word, ptr %sleepers) alwaysinline nounwind {
  ret void
}"""

# Schedulers may pack threads onto one processor, and always do on a busy machine: every 64 rounds (some microseconds) a
# polling thread lets others run, which may be the very one that it waits for. Without this a step takes ten to a
# hundred times as long whenever two threads meet on one processor.
_RELAX_X86 = """
declare void @llvm.x86.sse2.pause()
declare i32 @sched_yield() nounwind

define internal void @relax(i64 %round) alwaysinline nounwind {
  call void @llvm.x86.sse2.pause()
  %low = and i64 %round, 63
  %turn = icmp eq i64 %low, 63
  br i1 %turn, label %yield, label %done
yield:
  %ignored = call i32 @sched_yield()
  br label %done
done:
  ret void
}"""

_RELAX_YIELD = """
declare i32 @sched_yield() nounwind

define internal void @relax(i64 %round) alwaysinline nounwind {
  %ignored = call i32 @sched_yield()
  ret void
}"""

_FLOAT_MODE_X86 = f"""
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define internal void @enter_float_mode(ptr %saved) alwaysinline nounwind {{
  %wanted = alloca i32
  store i32 {_FLUSH_DENORMALS}, ptr %wanted
  call void @llvm.x86.sse.stmxcsr(ptr %saved)
  call void @llvm.x86.sse.ldmxcsr(ptr %wanted)
  ret void
}}

define internal void @leave_float_mode(ptr %saved) alwaysinline nounwind {{
  call void @llvm.x86.sse.ldmxcsr(ptr %saved)
  ret void
}}"""

_FLOAT_MODE_NONE = """
define internal void @enter_float_mode(ptr %saved) alwaysinline nounwind {
  ret void
}

define internal void @leave_float_mode(ptr %saved) alwaysinline nounwind {
  ret void
}"""

_BARRIER_IR = f"""
define void @{BARRIER}(ptr %control) nounwind {{
entry:
  {_at("parties.at", _PARTIES)}
  {_at("word", _BARRIER_WORD)}
  {_at("sleepers", _BARRIER_SLEEPERS)}
  {_at("spin.at", _BARRIER_SPIN)}
  %parties.wide = load i64, ptr %parties.at
  %parties = trunc i64 %parties.wide to i32
  %alone = icmp eq i32 %parties, 1
  br i1 %alone, label %leave, label %arrive
arrive:
  %before = atomicrmw add ptr %word, i32 1 acq_rel
  %earlier = and i32 %before, 65535
  %arrived = add i32 %earlier, 1
  %last = icmp eq i32 %arrived, %parties
  br i1 %last, label %release, label %wait
release:
  %full = or i32 %before, 65535
  %next = add i32 %full, 1
  %ignored = atomicrmw xchg ptr %word, i32 %next seq_cst
  call void @wake(ptr %word, ptr %sleepers)
  ret void
wait:
  %generation = lshr i32 %before, 16
  %spin = load i64, ptr %spin.at
  br label %poll
poll:
  %round = phi i64 [0, %wait], [%round.next, %again], [%round, %sleep]
  %now = load atomic i32, ptr %word acquire, align 4
  %now.generation = lshr i32 %now, 16
  %same = icmp eq i32 %now.generation, %generation
  br i1 %same, label %stay, label %leave
stay:
  %short = icmp ult i64 %round, %spin
  br i1 %short, label %again, label %sleep
again:
  call void @relax(i64 %round)
  %round.next = add i64 %round, 1
  br label %poll
sleep:
  call void @sleep_while(ptr %word, ptr %sleepers, i32 %now)
  br label %poll
leave:
  ret void
}}"""

_WORKER_IR = f"""
define void @convc_worker(ptr %control, i64 %rank) nounwind {{
entry:
  %saved = alloca i32
  {_at("step.at", _STEP)}
  {_at("function.at", _FUNCTION)}
  {_at("argument.at", _ARGUMENT)}
  {_at("parties.at", _PARTIES)}
  {_at("spin.at", _IDLE_SPIN)}
  {_at("sleepers", _STEP_SLEEPERS)}
  %parties = load i64, ptr %parties.at
  %spin = load i64, ptr %spin.at
  call void @enter_float_mode(ptr %saved)
  br label %next
next:
  %seen = phi i32 [0, %entry], [%step, %run]
  br label %poll
poll:
  %round = phi i64 [0, %next], [%round.next, %again], [%round, %sleep]
  %step = load atomic i32, ptr %step.at acquire, align 4
  %same = icmp eq i32 %step, %seen
  br i1 %same, label %stay, label %begin
stay:
  %short = icmp ult i64 %round, %spin
  br i1 %short, label %again, label %sleep
again:
  call void @relax(i64 %round)
  %round.next = add i64 %round, 1
  br label %poll
sleep:
  call void @sleep_while(ptr %step.at, ptr %sleepers, i32 %seen)
  br label %poll
begin:
  %function = load ptr, ptr %function.at
  %argument = load ptr, ptr %argument.at
  %stop = icmp eq ptr %function, null
  br i1 %stop, label %leave, label %run
run:
  call void %function(ptr %argument, i64 %rank, i64 %parties)
  call void @{BARRIER}(ptr %control)
  br label %next
leave:
  call void @leave_float_mode(ptr %saved)
  ret void
}}"""

_LAUNCH_IR = f"""
define void @convc_launch(ptr %control, ptr %function, ptr %argument) nounwind {{
entry:
  %saved = alloca i32
  {_at("parties.at", _PARTIES)}
  %parties = load i64, ptr %parties.at
  call void @enter_float_mode(ptr %saved)
  %alone = icmp eq i64 %parties, 1
  br i1 %alone, label %run, label %share
share:
  call void @publish(ptr %control, ptr %function, ptr %argument)
  br label %run
run:
  call void %function(ptr %argument, i64 0, i64 %parties)
  call void @{BARRIER}(ptr %control)
  call void @leave_float_mode(ptr %saved)
  ret void
}}

define void @convc_stop(ptr %control) nounwind {{
  call void @publish(ptr %control, ptr null, ptr null)
  ret void
}}

define internal void @publish(ptr %control, ptr %function, ptr %argument) alwaysinline nounwind {{
  {_at("step.at", _STEP)}
  {_at("function.at", _FUNCTION)}
  {_at("argument.at", _ARGUMENT)}
  {_at("sleepers", _STEP_SLEEPERS)}
  store ptr %function, ptr %function.at
  store ptr %argument, ptr %argument.at
  %ignored = atomicrmw add ptr %step.at, i32 1 seq_cst
  call void @wake(ptr %step.at, ptr %sleepers)
  ret void
}}

define void @convc_relax(i64 %rounds) nounwind {{
entry:
  %word = alloca i32
  store i32 0, ptr %word
  br label %next
next:
  %round = phi i64 [0, %entry], [%round.next, %next]
  %value = load atomic i32, ptr %word acquire, align 4
  call void @relax(i64 %round)
  %round.next = add i64 %round, 1
  %more = icmp ult i64 %round.next, %rounds
  br i1 %more, label %next, label %leave
leave:
  ret void
}}"""
