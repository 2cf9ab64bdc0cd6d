"""The table of GPUs agrees with itself, and times follow from it as worked out by hand."""

from __future__ import annotations

import math

import pytest

from convc.codegen.cuda.architectures import occupancy
from convc.codegen.cuda.gpus import EFFICIENCY, GPUS, MMA_SYNC, gpu, predict
from convc.ir.diagnostic import CompileError

LAUNCH = EFFICIENCY.launch_us * 1e-6
H100 = gpu("h100")
# Two blocks of 8 warps on an SM.
TWO = occupancy(H100.architecture, 256, 128, 0)


def test_names() -> None:
    assert gpu("a100") is gpu("a100-80")
    assert gpu("rtx4090").architecture.name == "sm_89"
    with pytest.raises(CompileError, match="h100") as caught:
        gpu("v100")
    assert caught.value.diagnostics[0].code == "value-gpu"
    assert "sm_75" in (caught.value.diagnostics[0].hint or "")
    with pytest.raises(CompileError, match="did you mean `rtx4090`"):
        gpu("rtx409")


@pytest.mark.parametrize("name", GPUS)
def test_single_precision_is_what_lanes_and_clock_give(name: str) -> None:
    found = gpu(name)
    computed = found.sms * found.architecture.fp32_lanes * 2 * found.boost_mhz * 1e-6
    assert computed == pytest.approx(found.fp32_tflops, rel=0.01)


@pytest.mark.parametrize("name", GPUS)
def test_tensor_cores_do_a_power_of_two_in_each_cycle(name: str) -> None:
    """Dense rates with sums in float32: with sparsity, or sums in fp16, they would be twice as high."""
    expected = {"sm_75": 1024, "sm_80": 2048, "sm_90": 4096, "sm_100": 8192, "l4": 1024}
    geforce = 512
    found = gpu(name)
    in_cycle = found.tensor_tflops * 1e6 / (found.sms * found.boost_mhz)
    # H100 and B200 do not keep their boost clock with tensor cores at work.
    rel = 0.08 if found.architecture.name in ("sm_90", "sm_100") else 0.01
    wanted = expected.get(name, expected.get(found.architecture.name, geforce))
    assert in_cycle == pytest.approx(wanted, rel=rel)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_a_source(name: str) -> None:
    assert "whitepaper" in gpu(name).source or "data sheet" in gpu(name).source


def test_full_waves_run_at_the_assumed_rate() -> None:
    assert (TWO.blocks, TWO.warps) == (2, 16)
    work = 10 * 264 * 1e9
    rate = 989.4e12 * EFFICIENCY.tensor * MMA_SYNC["sm_90"]
    assert predict(H100, work, 0, True, 10 * 264, TWO) == pytest.approx(LAUNCH + work / rate)
    rate = 66.9e12 * EFFICIENCY.fp32
    assert predict(H100, work, 0, False, 10 * 264, TWO) == pytest.approx(LAUNCH + work / rate)


def test_a_block_more_is_another_wave() -> None:
    """Blocks of equal work: one more than the SMs hold keeps one SM busy as long as a block takes there alone."""
    each = 1e9
    block = each / (66.9e12 * EFFICIENCY.fp32 / 132)

    def seconds(blocks: int) -> float:
        return predict(H100, each * blocks, 0, False, blocks, TWO) - LAUNCH

    assert seconds(1) == pytest.approx(block)
    assert seconds(132) == pytest.approx(block)
    assert seconds(133) == pytest.approx(2 * block)
    assert seconds(264) == pytest.approx(2 * block)
    assert seconds(265) == pytest.approx(3 * block)
    assert seconds(5 * 264 + 132) == pytest.approx(11 * block)


def test_few_warps_do_not_reach_the_rate() -> None:
    one_of_four = occupancy(H100.architecture, 128, 128, 200 * 1024)
    assert (one_of_four.blocks, one_of_four.warps) == (1, 4)
    full = predict(H100, 132e9, 0, False, 132, TWO) - LAUNCH
    assert predict(H100, 132e9, 0, False, 132, one_of_four) - LAUNCH == pytest.approx(2 * full)


def test_memory_bounds_what_does_little() -> None:
    gigabyte = predict(H100, 1e6, 1e9, False, 264 * 100, TWO)
    assert gigabyte == pytest.approx(LAUNCH + 1e9 / (3352e9 * EFFICIENCY.bandwidth))
    # The same traffic by one block for each eighth SM: too few accesses are in flight.
    assert predict(H100, 1e6, 1e9, False, 132 // 8, TWO) > 10 * gigabyte


def test_a_kernel_takes_at_least_its_launch() -> None:
    assert predict(H100, 1, 4, False, 1, TWO) == pytest.approx(LAUNCH, rel=1e-3)


def test_what_cannot_be_launched_takes_forever() -> None:
    nothing = occupancy(H100.architecture, 256, 32, 300 * 1024)
    assert predict(H100, 1, 1, False, 1, nothing) == math.inf


def test_no_blocks() -> None:
    with pytest.raises(ValueError, match="0 blocks"):
        predict(H100, 1, 1, False, 0, TWO)
