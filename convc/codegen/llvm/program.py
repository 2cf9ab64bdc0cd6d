"""From a graph to loaded machine code, through the object cache."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, pairwise

from convc.codegen.llvm.link import Library, link
from convc.codegen.llvm.lowering import ModuleText, PhaseCall, generate, scratch_bytes
from convc.codegen.llvm.object_cache import cache_key, shared_cache
from convc.codegen.llvm.spmd import load_runtime
from convc.codegen.llvm.target import (
    AMX_BF16,
    AMX_INT8,
    DOT_BF16,
    DOT_INT8,
    EMULATED_AMX,
    CpuTarget,
    compile_object,
    emit_assembly,
    host_target,
)
from convc.codegen.llvm.vocabulary import MOST_INSTRUCTIONS
from convc.ir.graph import Graph
from convc.lazy import dataclass
from convc.passes.base import PlanPass
from convc.passes.dump import Dump
from convc.passes.machine import MACHINES, Machine
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING, make_plan


@dataclass
class CompiledStep:
    """A linked program: its plan, and the library that exports `step`. `cached` tells where the objects came from."""

    plan: Plan
    target: CpuTarget
    library: Library
    cached: bool

    @cached_property
    def module(self) -> ModuleText:
        """The LLVM IR before LLVM's own passes, and the phases: generated again, since few ask and it is large."""
        return generate(self.plan, fma_of(self.target))

    @property
    def phases(self) -> tuple[PhaseCall, ...]:
        return self.module.phases

    def assembly(self) -> str:
        return emit_assembly(self.module.text, self.target)

    def object_file(self) -> bytes:
        """The code as one object file, which exports `step`; a library is linked from several."""
        return compile_object(self.module.text, self.target)


def machine_of(target: CpuTarget) -> Machine:
    """The target as plans see it."""
    return replace(
        MACHINES[target.tier],
        lanes=target.lanes,
        registers=target.registers,
        dot_bf16=target.has(DOT_BF16),
        dot_int8=target.has(DOT_INT8),
        amx_bf16=target.has(*AMX_BF16),
        amx_int8=target.has(*AMX_INT8),
        emulates_amx=target.has(EMULATED_AMX),
        dot_i16=target.lanes if target.architecture in ("x86_64", "amd64") else 0,
    )


def fma_of(target: CpuTarget) -> str:
    """The intrinsic that multiplies and adds, as `generate` takes it."""
    # Without the instruction, `llvm.fma` is a call per element; `fmuladd` then rounds twice, the same on every host.
    return "fma" if target.has_fma else "fmuladd"


def plan_step(
    graph: Graph, target: CpuTarget | None = None, passes: Sequence[PlanPass] = PLANNING, dump: Dump | None = None
) -> Plan:
    """What `compile_step` works from; nothing is generated. `graph` gains `relayout` nodes."""
    return make_plan(graph, machine_of(target or host_target()), scratch_bytes, passes, dump)


def step_object(plan: Plan, target: CpuTarget, name: str, most_instructions: int = MOST_INSTRUCTIONS) -> bytes:
    """The object file of a plan for `target`, which this processor need not be, with the step as the symbol `name`.

    It is taken from the cache if that has it. Error: `budget-code`.
    """
    key = cache_key(plan.dump(), target, {"fma": fma_of(target), "name": name})
    image = shared_cache().get(key)
    if image is None:
        image = compile_object(generate(plan, fma_of(target), most_instructions, name).text, target)
        shared_cache().put(key, image)
    return image


def compile_step(
    graph: Graph,
    target: CpuTarget | None = None,
    most_instructions: int = MOST_INSTRUCTIONS,
    passes: Sequence[PlanPass] = PLANNING,
    dump: Dump | None = None,
    planned: Callable[[Plan], None] | None = None,
    processes: int = 1,
) -> CompiledStep:
    """Plan by `passes`, generate (unless the cache has the objects), link; `graph` gains `relayout` nodes.

    With `dump` the passes and the LLVM IR are written there. `planned` is called with the plan before anything is made
    of it. Up to `processes` processes compile. Error: `budget-code`.
    """
    target = target or host_target()
    plan = plan_step(graph, target, passes, dump)
    if planned is not None:
        planned(plan)
    key = cache_key(plan.dump(), target, {"fma": fma_of(target)})
    image = shared_cache().get(key)
    if image is None:
        # Not needed where the cache has the objects, which is what start-up time is about.
        from convc.codegen.llvm.emission import Emission

        with Emission(target, processes) as emission:
            generate(plan, fma_of(target), most_instructions, written=emission.add)
            objects = emission.objects()
        shared_cache().put(key, _join(objects))
    else:
        objects = _split(image)
    step = CompiledStep(plan, target, link(objects, ["step"], load_runtime().imports), image is not None)
    if dump is not None:
        dump.write("program.ll", step.module.text)
    return step


def _join(objects: Sequence[bytes]) -> bytes:
    """Object files as one entry of the cache: their number, their lengths, and they."""
    return struct.pack(f"<{1 + len(objects)}Q", len(objects), *map(len, objects)) + b"".join(objects)


def _split(image: bytes) -> list[bytes]:
    (count,) = struct.unpack_from("<Q", image)
    ends = list(accumulate(struct.unpack_from(f"<{count}Q", image, 8), initial=8 * (1 + count)))
    return [image[start:end] for start, end in pairwise(ends)]
