"""Kernels in CUDA C++, compiled by NVIDIA's compiler: right under every schedule, and caught with a defect planted."""

from __future__ import annotations

import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda_emulator.faults import Fault
from tests.cuda_emulator.launching import NO_CHECKS, Checks, In, InOut, Module, Out
from tests.cuda_emulator.nvrtc import CompilationError, compile_cuda
from tests.cuda_emulator.schedule import EVEN, SCHEDULES, Schedule
from tests.cuda_emulator.snippets import needs_compiler, needs_nvrtc

pytestmark = [needs_compiler, needs_nvrtc]

KERNELS = Path(__file__).parent / "kernels"
ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


@cache
def module(name: str, arch: str = "sm_80", *options: str) -> Module:
    source = (KERNELS / f"{name}.cu").read_text(encoding="utf-8")
    return Module(compile_cuda(source, arch, ("-lineinfo", *options)))


def tiles(extent: int, tile: int = 64) -> int:
    return -(-extent // tile)


def run_gemm(made: Module, m: int, n: int, k: int, **options: Any) -> float:
    """The largest error of the product in single precision."""
    rng = np.random.default_rng(m + n + k)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    c = np.empty((m, n), np.float32)
    made.launch("gemm", (tiles(n), tiles(m)), 256, [In(a), In(b), Out(c), m, n, k], **options)
    return float(np.abs(c - a.astype(np.float64) @ b).max())


def run_mma(made: Module, m: int, n: int, k: int, kind: str = "f16", **options: Any) -> float:
    """The largest error of the product on tensor cores, NaN for what is not written."""
    rng = np.random.default_rng(m + n + k)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k)))
    if kind == "f16":
        left, right = (x.astype(np.float16).view(np.uint16) for x in (a, b))
        a, b = (x.view(np.float16).astype(np.float32) for x in (left, right))
    else:
        left, right = ((x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b))
        a, b = ((x.astype(np.uint32) << 16).view(np.float32) for x in (left, right))
    c = np.empty((m, n), np.float32)
    arguments = [In(left), In(right), Out(c), m, n, k]
    made.launch("gemm_mma", (tiles(n), tiles(m)), 128, arguments, **options)
    return float(np.abs(c - a.astype(np.float64) @ b.T).max())


# Right under every schedule


@pytest.mark.parametrize("arch", ["sm_75", *ARCHITECTURES])
@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 16), (70, 65, 33), (1, 1, 1)])
def test_gemm(arch: str, m: int, n: int, k: int) -> None:
    for schedule in SCHEDULES:
        assert run_gemm(module("gemm", arch), m, n, k, schedule=schedule) < 1e-5 * k


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 128), (70, 65, 40)])
def test_gemm_on_tensor_cores(arch: str, kind: str, m: int, n: int, k: int) -> None:
    made = module("gemm_mma", arch, f'-DTYPE="{kind}"')
    for schedule in SCHEDULES:
        assert run_mma(made, m, n, k, kind, schedule=schedule) < 1e-5 * k


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("n", [1, 31, 1000])
def test_reduction(arch: str, n: int) -> None:
    x, out = np.arange(n, dtype=np.float32), np.empty(1, np.float32)
    for schedule in SCHEDULES:
        module("reduce", arch).launch("reduce", 1, 256, [In(x), Out(out), n], schedule=schedule)
        assert out[0] == n * (n - 1) / 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("options", [(), ("-use_fast_math",)], ids=["", "fast"])
def test_elementwise(arch: str, options: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 3, 1000, 1023):
        x, y = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
        wanted = np.maximum(2.5 * x.astype(np.float64) + y, 0)
        for schedule in SCHEDULES:
            found = y.copy()
            module("elementwise", arch, *options).launch(
                "axpy_relu", 2, 128, [2.5, In(x), InOut(found), n], schedule=schedule
            )
            assert np.allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_functions_of_the_mathematical_library() -> None:
    """They are long: slow paths with local memory, tables in constant memory, divisions."""
    names = ["sinf", "cosf", "expf", "logf", "tanhf", "rsqrtf", "erff", "log1pf", "expm1f", "cbrtf"]
    calls = "".join(f"y[{k} * n + i] = {name}(x[i]);" for k, name in enumerate(names))
    source = f"""
    extern "C" __global__ void k(const float* x, float* y, int n) {{
      const int i = threadIdx.x;
      if (i < n) {{ {calls} y[{len(names)} * n + i] = 1.0f / x[i]; y[{len(names) + 1} * n + i] = powf(x[i], 1.7f); }}
    }}"""
    x = np.array([1e-3, 0.5, 1.0, 2.0, 3.0, 10.0, 80.0, 123456.0, 7e8], np.float32)
    y = np.empty((len(names) + 2, len(x)), np.float32)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        wanted = [np.sin(wide), np.cos(wide), np.exp(wide), np.log(wide), np.tanh(wide), wide**-0.5]
        wanted += [np.vectorize(math.erf)(wide), np.log1p(wide), np.expm1(wide), np.cbrt(wide)]
        wanted = np.array([*wanted, 1 / wide, wide ** float(np.float32(1.7))]).astype(np.float32)
    for arch in ARCHITECTURES:
        Module(compile_cuda(source, arch)).launch("k", 1, 32, [In(x), Out(y), len(x)])
        assert np.allclose(y, wanted, rtol=1e-6, atol=1e-7)


# Planted defects. First with the checks, which find them under any schedule; then by the results alone.

LATE = ("-DWAIT=STAGES-1",)
NO_BARRIER = ("-DBARRIER=",)
UNCHECKED = ("-DROW_LIMIT(row,rows)=true",)


@each_schedule
def test_a_weakened_wait_is_caught(schedule: Schedule) -> None:
    made = module("gemm_mma", "sm_80", *LATE)
    with pytest.raises(Fault) as caught:
        run_mma(made, 64, 64, 128, schedule=schedule)
    assert caught.value.check in ("pending-copy", "uninitialised")


@each_schedule
def test_a_dropped_barrier_is_caught(schedule: Schedule) -> None:
    made = module("gemm_mma", "sm_80", *NO_BARRIER)
    with pytest.raises(Fault) as caught:
        run_mma(made, 64, 64, 128, schedule=schedule)
    assert caught.value.check in ("race", "uninitialised", "pending-copy")
    for name in ("BARRIER_FILLED", "BARRIER_READ"):
        with pytest.raises(Fault) as caught:
            run_gemm(module("gemm", "sm_80", f"-D{name}="), 64, 64, 16, schedule=schedule)
        assert caught.value.check in ("race", "uninitialised")
    made = module("reduce", "sm_80", *NO_BARRIER)
    arguments = [In(np.ones(9, np.float32)), Out(np.empty(1, np.float32)), 9]
    with pytest.raises(Fault):
        made.launch("reduce", 1, 256, arguments, schedule=schedule)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gemm_mma", LATE),
        ("gemm_mma", NO_BARRIER),
        ("gemm", ("-DBARRIER_FILLED=",)),
        ("gemm", ("-DBARRIER_READ=",)),
    ],
    ids=["wait", "mma-barrier", "filled-barrier", "read-barrier"],
)
def test_schedules_show_it_in_the_results(name: str, options: tuple[str, ...]) -> None:
    """With the checks off, some schedule of the matrix yields wrong numbers."""
    run = run_mma if name == "gemm_mma" else run_gemm
    errors = [run(module(name, "sm_80", *options), 64, 64, 128, schedule=s, checks=NO_CHECKS) for s in SCHEDULES]
    assert any(not error < 1e-3 for error in errors), errors


def test_a_dropped_bounds_check_is_caught() -> None:
    with pytest.raises(Fault) as caught:
        run_mma(module("gemm_mma", "sm_80", *UNCHECKED), 70, 64, 32)
    assert caught.value.check == "bounds"
    assert "kernel.cu:" in str(caught.value)
    x, y = np.ones(10, np.float32), np.ones(10, np.float32)
    with pytest.raises(Fault, match=r"reads 4 bytes at offset 40 of buffer \d, which has 40 bytes"):
        module("elementwise", "sm_80", "-DLIMIT=(n+1)").launch("axpy_relu", 1, 32, [1.0, In(x), InOut(y), 10])


def test_a_misaligned_vector_is_caught() -> None:
    x, y = np.ones(16, np.float32), np.ones(16, np.float32)
    for made, shift in ((module("elementwise", "sm_80", "-DOFFSET=1"), 0), (module("elementwise"), 4)):
        with pytest.raises(Fault) as caught:
            made.launch("axpy_relu", 1, 32, [1.0, In(x, shift), InOut(y), 12])
        assert caught.value.check == "alignment"


def test_a_write_to_an_input_is_caught() -> None:
    x, y = np.ones(16, np.float32), np.ones(16, np.float32)
    with pytest.raises(Fault) as caught:
        module("elementwise").launch("axpy_relu", 1, 32, [1.0, In(x), In(y), 16])
    assert caught.value.check == "read-only"


def test_a_forgotten_partner_of_a_shuffle_shows_in_the_result() -> None:
    x, out = np.ones(256, np.float32), np.empty(1, np.float32)
    module("reduce", "sm_80", "-DFIRST_PARTNER=8").launch("reduce", 1, 256, [In(x), Out(out), 256])
    assert out[0] == 128


def test_a_broken_swizzle_shows_in_the_counters() -> None:
    def count(*options: str) -> tuple[int, int]:
        made = module("gemm_mma", "sm_80", *options)
        x = np.zeros((64, 64), np.uint16)
        found = made.launch(
            "gemm_mma", 1, 128, [In(x), In(x), Out(np.empty((64, 64), np.float32)), 64, 64, 64], count=True
        )
        return found.bank_conflicts, found.shared_wavefronts

    good, wavefronts = count()
    assert good == 0
    # Rows of 64 bytes: without the swizzle, four of eight rows share their banks.
    assert count("-DSWIZZLE(row)=0") == (3 * wavefronts, 4 * wavefronts)
    assert run_mma(module("gemm_mma", "sm_80", "-DSWIZZLE(row)=0"), 64, 64, 64) < 1e-3


def test_the_mix_of_a_kernel() -> None:
    made = module("gemm_mma")
    x = np.zeros((64, 64), np.uint16)
    found = made.launch("gemm_mma", 1, 128, [In(x), In(x), Out(np.empty((64, 64), np.float32)), 64, 64, 64])
    mix = found.mix()
    # 64 x 64 x 64 are 4 x 8 x 4 products of 16 x 8 x 16.
    assert mix["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] == 4 * 8 * 4
    assert mix["ldmatrix.sync.aligned.m8n8.x4.shared.b16"] == 4 * 4 * 4


def test_checks_can_be_left_out_one_by_one() -> None:
    made = module("gemm_mma", "sm_80", *LATE)
    with pytest.raises(Fault) as caught:
        run_mma(made, 64, 64, 128, checks=Checks(copies=False))
    assert caught.value.check in ("race", "uninitialised")


# The compiler and the clock


def test_errors_and_warnings_of_the_compiler() -> None:
    for source, message in (
        ("__global__ void k() { undeclared(); }", "undeclared"),
        ('extern "C" __global__ void k(int* p) { int unused; *p = 1; }', "never referenced"),
        ('extern "C" __global__ void k() { asm("frobnicate.s32;"); }', "frobnicate"),
    ):
        with pytest.raises(CompilationError, match=message):
            compile_cuda(source)


def test_speed() -> None:
    """30 MFLOP/s are the least that makes the matrix of schedules bearable; README.md has what is usual."""
    for run, name in ((run_gemm, "gemm"), (run_mma, "gemm_mma")):
        made = module(name)
        run(made, 64, 64, 64)
        start = time.process_time()
        run(made, 128, 128, 128, schedule=EVEN)
        assert 2 * 128**3 / (time.process_time() - start) > 30e6
