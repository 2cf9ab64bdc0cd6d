"""What kernels take, from logs of the assembler, and their instructions, from its machine code."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from convc.codegen.cuda import nvrtc, resources
from convc.codegen.cuda.resources import Resources, find_tool, instruction_counts, parse_resources, sass
from convc.ir.diagnostic import CompileError

needs_nvrtc = pytest.mark.skipif(nvrtc.nvrtc() is None, reason=nvrtc.MISSING)
needs_nvdisasm = pytest.mark.skipif(find_tool("nvdisasm") is None, reason="nvdisasm is not installed")
KERNELS = Path(__file__).parent.parent / "cuda_emulator" / "kernels"

LOG = """\
ptxas info    : 0 bytes gmem, 400 bytes cmem[3]
ptxas info    : Compiling entry function 'spills' for 'sm_80'
ptxas info    : Function properties for spills
ptxas         .     528 bytes stack frame, 940 bytes spill stores, 1068 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 528 bytes cumulative stack size, 372 bytes cmem[0]
ptxas info    : Compile time = 27.375 ms
ptxas info    : Compiling entry function 'calls' for 'sm_80'
ptxas info    : Function properties for calls
ptxas         .     160 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 34 registers, used 2 barriers, 240 bytes cumulative stack size, 1332 bytes smem, 364 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Compile time = 6.512 ms
ptxas info    : Function properties for _Z1fPfi
ptxas         .     80 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
"""  # noqa: E501
# As nvcc writes it.
OTHER = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'fill' for 'sm_90'
ptxas info    : Function properties for fill
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers
"""


def test_a_log() -> None:
    assert parse_resources(LOG) == {
        "spills": Resources(32, 528, 940, 1068, shared=0, constant=400 + 372, barriers=0),
        "calls": Resources(34, 240, 4, 12, shared=1332, constant=400 + 364 + 8, barriers=2),
    }


def test_another_form_of_log() -> None:
    assert parse_resources(OTHER) == {"fill": Resources(8, 0, 0, 0, 0, 0, 0)}


def test_a_log_without_kernels() -> None:
    assert parse_resources("") == {}
    assert parse_resources("ptxas info    : 0 bytes gmem\n") == {}


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_120"])
def test_a_kernel_with_shared_memory(architecture: str) -> None:
    source = """
      extern "C" __global__ void reverse(float* p, int n) {
        __shared__ float values[333];
        values[threadIdx.x] = p[threadIdx.x];
        __syncthreads();
        p[threadIdx.x] = values[n - threadIdx.x];
      }"""
    log = nvrtc.compile(source, architecture, [nvrtc.RESOURCES]).log
    (found,) = parse_resources(log).values()
    assert found.shared == 4 * 333
    assert (found.spill_stores, found.spill_loads, found.stack) == (0, 0, 0)
    assert found.barriers == 1
    assert 4 < found.registers < 40


@needs_nvrtc
@needs_nvdisasm
def test_spills_are_seen_in_the_log_and_in_the_code() -> None:
    def made(values: int) -> tuple[Resources, Counter[str]]:
        source = f"""
          extern "C" __global__ void __launch_bounds__(1024, 2) k(float* p, int n) {{
            float v[{values}];
            #pragma unroll
            for (int i = 0; i < {values}; i++) v[i] = p[i * 1024 + threadIdx.x];
            for (int k = 0; k < n; k++) {{
              #pragma unroll
              for (int i = 0; i < {values}; i++) v[i] = v[i] * v[(i * 7 + 1) % {values}] + p[k];
            }}
            #pragma unroll
            for (int i = 0; i < {values}; i++) p[i * 1024 + threadIdx.x] = v[i];
          }}"""
        compiled = nvrtc.compile(source, "sm_80", [nvrtc.RESOURCES])
        return parse_resources(compiled.log)["k"], instruction_counts(sass(compiled.cubin))

    few, calm = made(4)
    many, spilling = made(96)
    assert (few.spill_stores, few.spill_loads, few.stack) == (0, 0, 0)
    assert not calm["STL"]
    assert not calm["LDL"]
    assert many.registers == 32
    assert many.stack
    assert many.spill_stores
    assert many.spill_loads
    assert spilling["STL"]
    assert spilling["LDL"]


# Instructions


def test_families() -> None:
    text = """
        .section	.text.k,"ax",@progbits
.text.k:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R7], [R2.64] ;
        /*0020*/               @P3 LDGSTS.E [R7], [R2.64] ;
        /*0030*/             @!UP1 UIADD3 UR4, UR4, 0x1, URZ ;
        /*0040*/                   HMMA.16816.F32 R4, R8, R2, R4 ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_1:
        /*0060*/                   BRA `(.L_x_1);
        /*0070*/                   NOP;
        /*10080*/                  NOP;
"""
    assert instruction_counts(text) == {"LDC": 1, "LDGSTS": 2, "UIADD3": 1, "HMMA": 1, "BAR": 1, "BRA": 1}


@needs_nvrtc
@needs_nvdisasm
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_a_product_on_tensor_cores(architecture: str) -> None:
    source = (KERNELS / "gemm_mma.cu").read_text(encoding="utf-8")
    counts = instruction_counts(sass(nvrtc.compile(source, architecture, ['-DTYPE="f16"']).cubin))
    assert counts["HMMA"] == 16
    assert counts["LDSM"] == 8
    assert counts["LDGSTS"] == 12
    assert counts["STG"] == 32
    assert counts["FFMA"] == counts["NOP"] == 0


@needs_nvrtc
@needs_nvdisasm
def test_both_disassemblers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_tool("cuobjdump") is None:
        pytest.skip("cuobjdump is not installed")
    source = (KERNELS / "gemm.cu").read_text(encoding="utf-8")
    cubin = nvrtc.compile(source, "sm_75").cubin
    expected = instruction_counts(sass(cubin))
    assert expected["FFMA"] == 128
    monkeypatch.setattr(resources, "find_tool", lambda name: None if name == "nvdisasm" else find_tool(name))
    assert "Function : gemm" in sass(cubin)
    assert instruction_counts(sass(cubin)) == expected


def test_without_a_disassembler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "package_folders", lambda name: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    with pytest.raises(CompileError, match="not installed") as caught:
        sass(b"")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "missing-nvdisasm"
    assert "pip install nvidia-cuda-nvdisasm" in (diagnostic.hint or "")


def test_tools_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in ("cuda/bin", "path"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "nvdisasm").write_text("#!/bin/sh\n")
        (tmp_path / place / "nvdisasm").chmod(0o755)
    monkeypatch.setattr(resources, "package_folders", lambda name: [tmp_path / "wheel"])
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    assert find_tool("nvdisasm") == tmp_path / "path" / "nvdisasm"
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "cuda"))
    assert find_tool("nvdisasm") == tmp_path / "cuda" / "bin" / "nvdisasm"
    assert find_tool("cuobjdump") is None


@needs_nvdisasm
def test_code_that_the_disassembler_refuses() -> None:
    with pytest.raises(CompileError) as caught:
        sass(b"no machine code")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "failed-nvdisasm"
    assert diagnostic.notes
