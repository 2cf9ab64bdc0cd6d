"""Tiers from feature flags, target machines, and the instructions that they produce."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from convc.codegen.llvm.link import link
from convc.codegen.llvm.target import (
    TIERS,
    CpuTarget,
    Tier,
    choose_target,
    compile_object,
    emit_assembly,
    host_target,
    llvm_versions,
    make_target_machine,
)
from convc.ir.diagnostic import CompileError

X86 = "x86_64-unknown-linux-gnu"
V3: dict[str, bool] = dict.fromkeys(("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "sse2"), True)
V4 = V3 | dict.fromkeys(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"), True) | {"amx-tile": False}
ALL_OF_SAPPHIRE_RAPIDS = V4 | dict.fromkeys(("amx-tile", "amx-bf16", "avx512fp16", "avx512bf16"), True)

# y[i] = fma(x[i], x[i], 1) for 16 values, and expf of the first into y[16].
KERNEL = """
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
declare float @expf(float)

define void @kernel(ptr %x, ptr %y) {
  %v = load <16 x float>, ptr %x, align 4
  %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %v, <16 x float> %v, <16 x float> splat (float 1.0))
  store <16 x float> %r, ptr %y, align 4
  %first = extractelement <16 x float> %v, i64 0
  %e = call float @expf(float %first)
  %last = getelementptr float, ptr %y, i64 16
  store float %e, ptr %last
  ret void
}
"""


def tier_or_skip(tier: Tier) -> CpuTarget:
    try:
        return host_target(tier)
    except CompileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("features", "tier", "cpu", "vector_bytes"),
    [
        (ALL_OF_SAPPHIRE_RAPIDS, "avx512", "sapphirerapids", 64),
        (V4, "avx512", "x86-64-v4", 64),
        (V4 | {"avx512bw": False}, "avx2", "x86-64-v3", 32),
        (V3, "avx2", "x86-64-v3", 32),
        (V3 | {"fma": False}, "baseline", "x86-64", 16),
        ({}, "baseline", "x86-64", 16),
    ],
)
def test_the_flags_decide(features: dict[str, bool], tier: str, cpu: str, vector_bytes: int) -> None:
    target = choose_target(X86, features)
    assert (target.tier, target.cpu, target.vector_bytes) == (tier, cpu, vector_bytes)
    assert target.lanes == vector_bytes // 4
    assert target.has_fma == (tier != "baseline")


def test_the_reason_names_what_is_missing() -> None:
    assert choose_target(X86, V4 | {"avx512bw": False}).why.endswith("avx512 needs avx512bw")
    assert "x86-64-v4" in choose_target(X86, V4).why


def test_a_lower_tier_has_everything_above_switched_off() -> None:
    target = choose_target(X86, ALL_OF_SAPPHIRE_RAPIDS, "avx2", "CONVC_CPU=avx2")
    switched = target.features.split(",")
    for flag in ("avx512f", "avx512vl", "avx512fp16", "amx-tile"):
        assert f"-{flag}" in switched
        assert f"+{flag}" not in switched
    assert not target.has("avx512f")
    assert target.has("avx2", "fma")
    assert target.why == "CONVC_CPU=avx2"


@pytest.mark.parametrize(("triple", "registers", "has_fma"), [("aarch64-linux-gnu", 32, True), ("riscv64", 16, False)])
def test_other_architectures_get_plain_four_lane_vectors(triple: str, registers: int, has_fma: bool) -> None:
    target = choose_target(triple, {})
    assert (target.tier, target.cpu, target.features, target.lanes) == ("baseline", "generic", "", 4)
    assert (target.registers, target.has_fma) == (registers, has_fma)


def test_a_tier_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(CompileError, match=r"cannot run the CPU tier 'avx512': it lacks avx512f") as caught:
        choose_target(X86, V3, "avx512")
    assert "best tier here is avx2" in str(caught.value)
    with pytest.raises(CompileError, match="it lacks x86-64"):
        choose_target("aarch64-linux-gnu", {}, "avx2")


def test_the_environment_forces_a_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", "baseline")
    assert (host_target().tier, host_target().why) == ("baseline", "CONVC_CPU=baseline")
    monkeypatch.setenv("CONVC_CPU", "")
    assert host_target().tier == host_target(host_target().tier).tier
    monkeypatch.setenv("CONVC_CPU", "sse9")
    with pytest.raises(CompileError, match="unknown CPU tier 'sse9'") as caught:
        host_target()
    assert "avx512, avx2, baseline" in str(caught.value)


def test_the_environment_takes_features_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_WITHOUT", "avx512bf16, avx512f")
    target = host_target()
    assert target.tier != "avx512"
    assert not target.has("avx512bf16")
    monkeypatch.setenv("CONVC_WITHOUT", "avx512bf16")
    assert not host_target().has("avx512bf16")
    assert "+avx512bf16" not in host_target().features.split(",")


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_compiles_links_and_computes(tier: Tier) -> None:
    target = tier_or_skip(tier)
    library = link(compile_object(KERNEL, target), ["kernel"])
    x = (ctypes.c_float * 16)(*[i / 4 for i in range(16)])
    y = (ctypes.c_float * 17)()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(library["kernel"])(x, y)
    assert list(y) == [(i / 4) ** 2 + 1 for i in range(16)] + [1.0]
    library.close()


@pytest.mark.skipif(host_target("baseline").architecture != "x86_64", reason="x86 instructions")
@pytest.mark.parametrize("tier", TIERS)
def test_instructions_of_a_tier(tier: Tier) -> None:
    text = emit_assembly(KERNEL, tier_or_skip(tier))
    assert ("%zmm" in text) == (tier == "avx512")
    assert ("%ymm" in text) == (tier == "avx2")
    assert ("vfmadd" in text) == (tier != "baseline")


def test_objects_are_reproducible() -> None:
    assert compile_object(KERNEL, host_target()) == compile_object(KERNEL, host_target())


def test_loops_are_left_as_written() -> None:
    text = """
    define void @loop(ptr %x) {
    entry:
      br label %next
    next:
      %i = phi i64 [0, %entry], [%j, %next]
      %at = getelementptr float, ptr %x, i64 %i
      %v = load float, ptr %at
      %w = fadd float %v, 1.0
      store float %w, ptr %at
      %j = add i64 %i, 1
      %more = icmp ult i64 %j, 1024
      br i1 %more, label %next, label %done
    done:
      ret void
    }
    """
    assert emit_assembly(text, host_target("baseline")).count("addss") == 1


@pytest.mark.parametrize("text", ["nonsense", "define void @f() { ret i32 0 }"])
def test_an_invalid_module_raises_with_llvms_words(text: str) -> None:
    with pytest.raises(RuntimeError, match="error"):
        compile_object(text, host_target())


def test_a_target_machine_is_for_the_target() -> None:
    assert make_target_machine(host_target()).triple == host_target().triple


def test_versions() -> None:
    assert all(version[0].isdigit() for version in llvm_versions())


def test_llvm_is_not_loaded_by_importing() -> None:
    modules = "convc.codegen.llvm.target, convc.codegen.llvm.spmd, convc.runtime.threads, convc.runtime.doctor"
    script = f"import sys, {modules}; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
