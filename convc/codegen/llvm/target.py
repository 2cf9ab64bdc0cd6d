"""The processor that code is generated for: tiers, features, and LLVM's target machine.

A *tier* is a promise about instructions. `avx512` and `avx2` are the x86-64-v4 and x86-64-v3 levels, `baseline` is what
every processor of the host's architecture has. The tier comes from the host's feature flags, never from the processor's
name, which virtual machines report wrongly. `CONVC_CPU=avx512|avx2|baseline` forces a lower one. `CONVC_WITHOUT` lists
features (LLVM's names, such as `avx512bf16`, with commas between) that code is generated without though the host has
them. `CONVC_EMULATE=amx` is for tests: kernels are those of a processor with AMX, whose instructions are emulated.

Bits: an object file computes the same bits on every host that can run its tier. Nothing in code generation may reorder
or contract floating-point operations (kernels ask for `llvm.fma` themselves), the `avx2` and `baseline` tiers use a
fixed feature list, and the `avx512` tier adds the host's features, which change the choice of instructions but not
results; with one exception: with `avx512bf16` products of bfloat16 numbers are rounded otherwise (`docs/precision.md`).

Only this module and `link` import llvmlite.binding, and only when called: loading LLVM costs some 60 ms.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.passes.machine import TIERS, Tier, Variant

CPU_VARIABLE = "CONVC_CPU"
WITHOUT_VARIABLE = "CONVC_WITHOUT"
EMULATE_VARIABLE = "CONVC_EMULATE"
# The feature that adds two products of bfloat16 numbers to a float32 sum.
DOT_BF16 = "avx512bf16"
# And the one that adds four products of 8 bits to a sum of 32.
DOT_INT8 = "avx512vnni"
# Those that multiply matrices in tile registers, of bfloat16 numbers and of whole numbers of 8 bits.
AMX_BF16 = ("amx-tile", "amx-bf16")
AMX_INT8 = ("amx-tile", "amx-int8")
# No feature of a processor: kernels do in memory what the instructions of AMX would.
EMULATED_AMX = "emulated-amx"

_V3 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# What marks the generation whose LLVM model schedules best for hosts with AMX; the flags decide, not the name.
_SAPPHIRE_RAPIDS = ("amx-tile", "amx-bf16", "avx512fp16", "avx512bf16")

llvm_lock = threading.RLock()
"""Held around every use of LLVM and across `os.fork`: no child inherits LLVM in the middle of something."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=llvm_lock.acquire, after_in_parent=llvm_lock.release, after_in_child=llvm_lock.release)

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def with_llvm(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Run `function` under `llvm_lock`, including the end of its local variables, which may dispose of LLVM objects."""

    @wraps(function)
    def locked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with llvm_lock:
            return function(*args, **kwargs)

    return locked


@dataclass(frozen=True)
class CpuTarget:
    """What the generators and LLVM need to know about the processor.

    `vector_bytes` is the full vector width, `registers` the number of vector registers, `features` LLVM's feature
    string ("+avx2,-avx512f,..."), `flags` the features that may be used, `why` the reason for the tier, for reports.
    """

    tier: Tier
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    has_fma: bool
    flags: frozenset[str] = frozenset()
    why: str = ""

    @property
    def lanes(self) -> int:
        """float32 values in a vector."""
        return self.vector_bytes // 4

    @property
    def architecture(self) -> str:
        """The first part of the triple, such as "x86_64" or "aarch64"."""
        return self.triple.split("-", 1)[0]

    def has(self, *flags: str) -> bool:
        """Whether all of `flags` (LLVM's names, such as "avx512fp16") may be used."""
        return self.flags.issuperset(flags)


def host_target(force: str | None = None) -> CpuTarget:
    """The target for this machine: `force`, else the environment's `CONVC_CPU`, else the best tier that it has.

    Raises CompileError (`value-cpu-tier`) for an unknown tier and for one that this processor cannot run.
    """
    wanted = force or os.environ.get(CPU_VARIABLE, "").strip() or None
    origin = "asked for" if force else f"{CPU_VARIABLE}={wanted}"
    if wanted is not None and wanted not in TIERS:
        fail("value-cpu-tier", f"unknown CPU tier '{wanted}'", hint=f"one of {', '.join(TIERS)}")
    return _host_target(wanted, origin if wanted else "", _without(), os.environ.get(EMULATE_VARIABLE, "") == "amx")


def _without() -> frozenset[str]:
    """The features that the environment asks to do without."""
    return frozenset(filter(None, os.environ.get(WITHOUT_VARIABLE, "").replace(" ", "").split(",")))


@with_llvm
@cache
def _host_target(wanted: Tier | None, origin: str, without: frozenset[str], emulates_amx: bool) -> CpuTarget:
    binding = _llvm()
    found = cast("Mapping[str, bool]", binding.get_host_cpu_features())
    host = {flag: present and flag not in without for flag, present in found.items()}
    triple = str(binding.get_process_triple())
    if emulates_amx or (_uses_tiles(host) and _amx_obstacle(without) is not None):
        host |= {flag: False for flag in host if flag.startswith("amx-")}
    target = choose_target(triple, host, wanted, origin)
    if not emulates_amx or target.tier != "avx512":
        return target
    return replace(target, flags=target.flags | {EMULATED_AMX} | {*AMX_BF16, *AMX_INT8} - without)


def _uses_tiles(host: Mapping[str, bool]) -> bool:
    return any(all(host.get(flag, False) for flag in flags) for flags in (AMX_BF16, AMX_INT8))


@with_llvm
@cache
def _amx_obstacle(without: frozenset[str]) -> str | None:
    """Why this process cannot use the processor's tiles; None where it can."""
    binding = _llvm()
    found = cast("Mapping[str, bool]", binding.get_host_cpu_features())
    host = {flag: present and flag not in without for flag, present in found.items()}
    if not _uses_tiles(host):
        lacking = ", ".join(sorted(flag for flag in {*AMX_BF16, *AMX_INT8} if not found.get(flag, False)))
        return f"the processor lacks {lacking}" if lacking else f"{WITHOUT_VARIABLE}={','.join(sorted(without))}"
    target = choose_target(str(binding.get_process_triple()), host)
    if target.tier != "avx512":
        return target.why
    # Not needed elsewhere, and it needs much of what is here.
    from convc.codegen.llvm.amx_host import obstacle

    return obstacle(target)


def amx_state() -> str:
    """Whether products go through the tiles of AMX here, and why not, in words."""
    target = host_target()
    if target.has(*AMX_BF16) or target.has(*AMX_INT8):
        return "emulated" if target.has(EMULATED_AMX) else "in use"
    return f"not in use: {_amx_obstacle(_without()) or f'the tier is {target.tier}'}"


def choose_target(triple: str, host: Mapping[str, bool], wanted: Tier | None = None, origin: str = "") -> CpuTarget:
    """The target for a machine of this triple and feature list; `wanted` forces a tier, `origin` says who wants it."""
    x86 = triple.startswith(("x86_64", "amd64"))
    needs: dict[Tier, tuple[str, ...]] = {"avx512": _V4, "avx2": _V3, "baseline": ()}
    missing: dict[Tier, list[str]] = {
        tier: [flag for flag in needs[tier] if not host.get(flag, False)] for tier in TIERS
    }
    if not x86:
        missing["avx512"] = missing["avx2"] = ["x86-64"]
    best: Tier = next(tier for tier in TIERS if not missing[tier])
    if wanted is not None and missing[wanted]:
        fail(
            "value-cpu-tier",
            f"this processor cannot run the CPU tier '{wanted}': it lacks {', '.join(missing[wanted])}",
            hint=f"the best tier here is {best}",
        )
    tier: Tier = wanted or best
    why = origin if wanted else _reason(best, missing)
    if tier == "avx512":
        enabled = frozenset(flag for flag, present in host.items() if present)
        features = ",".join(("+" if host[flag] else "-") + flag for flag in sorted(host))
        cpu = "sapphirerapids" if enabled.issuperset(_SAPPHIRE_RAPIDS) else "x86-64-v4"
        return CpuTarget(tier, triple, cpu, features, 64, 32, True, enabled, why)
    if tier == "avx2":
        # Whatever the host has above the level is named and switched off, so that the tier is the same everywhere.
        above = sorted(flag for flag in host if flag.startswith(("avx512", "avx10", "amx-")))
        features = ",".join([f"+{flag}" for flag in _V3] + [f"-{flag}" for flag in above])
        return CpuTarget(tier, triple, "x86-64-v3", features, 32, 16, True, frozenset(_V3), why)
    if x86:
        return CpuTarget(tier, triple, "x86-64", "", 16, 16, False, frozenset({"sse", "sse2"}), why)
    arm = triple.startswith(("aarch64", "arm64"))
    return CpuTarget(tier, triple, "generic", "", 16, 32 if arm else 16, arm, frozenset({"neon"} if arm else ()), why)


@with_llvm
def tier_targets(products: Sequence[Variant] = ()) -> dict[Variant, CpuTarget]:
    """The tiers of this architecture, best first, each as what all processors of the tier have; before them those of
    the best tier that have an instruction of `products`, too, if the architecture knows it.

    This processor need not run them: code is generated for others, too.
    """
    triple = str(_llvm().get_process_triple())
    if not triple.startswith(("x86_64", "amd64")):
        return {"baseline": choose_target(triple, {})}
    without = _without()
    wanted: list[tuple[Variant, Tier, tuple[str, ...]]] = [
        (name, "avx512", (*_V4, name)) for name in products if name not in without
    ]
    for tier in TIERS:
        wanted.append((tier, tier, _V4))
    return {
        name: choose_target(triple, dict.fromkeys(flags, True), tier, "every processor of the tier")
        for name, tier, flags in wanted
    }


@with_llvm
def make_target_machine(target: CpuTarget) -> Any:
    """LLVM's target machine: code generation at level 2, position-independent, small code model.

    The small model keeps constants at short offsets from the code; `link` lays an object's sections out in one piece
    and reaches functions elsewhere in the process through stubs, so it needs no large model.
    """
    return (
        _llvm()
        .Target.from_triple(target.triple)
        .create_target_machine(
            cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small", jit=True
        )
    )


@with_llvm
def optimise(module: Any, target_machine: Any) -> None:
    """Run LLVM's level 1 pipeline on a parsed module, in place, without vectorisers and unroller."""
    binding = _llvm()
    options = binding.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_unrolling = options.loop_interleaving = False
    builder = binding.create_pass_builder(target_machine, options)
    builder.getModulePassManager().run(module, builder)


@with_llvm
def compile_object(llvm_ir_text: str, target: CpuTarget, *, inline: bool = False) -> bytes:
    """The object file (ELF or Mach-O) for a module; RuntimeError with LLVM's words if the text is not valid.

    Kernels are written in registers, vectorised and unrolled by their generators: LLVM's code generation alone makes
    the same speed of them as its level 1 pipeline, in half the time. `inline` runs that pipeline all the same, for
    modules of small functions that call each other.
    """
    machine, module = _parsed(llvm_ir_text, target)
    if inline:
        optimise(module, machine)
    return bytes(machine.emit_object(module))


@with_llvm
def emit_assembly(llvm_ir_text: str, target: CpuTarget) -> str:
    """The same code as assembly text, for dumps and for tests that look at instructions."""
    machine, module = _parsed(llvm_ir_text, target)
    return str(machine.emit_assembly(module))


@with_llvm
def llvm_versions() -> tuple[str, str]:
    """Versions of llvmlite and of the LLVM inside it."""
    import llvmlite

    return str(llvmlite.__version__), ".".join(str(part) for part in _llvm().llvm_version_info)


def _parsed(llvm_ir_text: str, target: CpuTarget) -> tuple[Any, Any]:
    binding = _llvm()
    machine = make_target_machine(target)
    # A context of its own, so that types and constants of one compilation do not pile up in the global one.
    module = binding.parse_assembly(llvm_ir_text, context=binding.create_context())
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    return machine, module


@cache
def _llvm() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


def _reason(best: Tier, missing: Mapping[Tier, list[str]]) -> str:
    if best == "avx512":
        return "the processor has all of x86-64-v4"
    better = TIERS[TIERS.index(best) - 1]
    return f"the best this processor has; {better} needs {', '.join(missing[better])}"
