"""The text of kernels under the host's sanitizers: no races, no access beyond a tensor, nothing undefined."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.interpreter import run_reference
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.cuda.emulated import run_emulated
from tests.cuda.host.compiling import NotForTheHost, SanitizerReport, translated, works
from tests.cuda.host.device import HostDevice
from tests.cuda.mutants.catalogue import mutant_named
from tests.cuda.mutants.judging import applying
from tests.cuda.test_ops import TOLERANCE, needs_nvrtc
from tests.op_cases import CASES

# What is not looked at (relayouts and the like) runs in the emulator, which needs NVIDIA's compiler.
pytestmark = needs_nvrtc

full = pytest.mark.full
# By the file that is looked at.
USES: dict[str, str] = {
    "conv_simt.cu": "conv2d/prime",
    "conv_simt_data.cu": "conv2d_backward_data/stride_2",
    "conv_simt_filters.cu": "conv2d_backward_weights/same",
    "conv_depthwise.cu": "conv2d/depthwise_stride",
    "conv_depthwise_data.cu": "conv2d_backward_data/depthwise_stride",
    "conv_depthwise_filters.cu": "conv2d_backward_weights/depthwise",
    "sum_filter_parts.cu": "conv2d_backward_weights/lenet_1",
    "sum_image_parts.cu": "conv2d/prime",
    "channel_moments.cu": "batch_moments/wide",
    "channel_sums.cu": "batch_norm_backward/wide",
    "sum.cu": "sum/wide",
    "softmax.cu": "softmax/image",
    "softmax_backward.cu": "softmax_backward/image",
    "softmax_cross_entropy_backward.cu": "softmax_cross_entropy_backward/pixels",
    "loss.cu": "softmax_cross_entropy/pixels",
    "norm_parts.cu": "gradient_norm/several",
    "norm.cu": "gradient_norm/several",
    "max_norm.cu": "max_norm/filters",
    "scale_weights.cu": "scale_weights/inputs",
    "sum_weights.cu": "sum_weights/inputs",
    "binarize.cu": "binarize/wide",
    "each_weight.cu": "round_to/f16/odd",
    "sweep.cu": "adam_update/plain_filter",
    "map.cu": "max_pool_backward/overlapping_padded_ties",
}
FAST = ("conv_simt.cu", "channel_moments.cu", "sweep.cu")


def run(file: str, sanitizer: str, change: object = None) -> None:
    """A case on the device. Errors: AssertionError for wrong results, `SanitizerReport` for what a sanitizer finds."""
    (case,) = (case for case in CASES if case.name == USES[file])
    graph, named = single_op_graph(case, case_arrays(case))
    exact = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in named.items()}
    expected = run_reference(graph.copy(), exact)
    device = HostDevice(sanitizer=sanitizer, files=(file,))
    if callable(change):
        device.change = change
    results = run_emulated(graph, named, device)
    assert device.launched, f"{case} has no {file}"
    for name, reference in expected.items():
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        error = float(np.abs(results[name] - reference).max(initial=0.0)) / scale
        assert error <= TOLERANCE, f"{name}: relative error {error:.2e}"


def needs(sanitizer: str) -> None:
    if not works(sanitizer):
        pytest.skip(f"no compiler with a sanitizer for {sanitizer} here")


@pytest.mark.parametrize("sanitizer", ["threads", "addresses"])
@pytest.mark.parametrize("file", [file if file in FAST else pytest.param(file, marks=full) for file in USES])
def test_nothing_is_found(file: str, sanitizer: str) -> None:
    needs(sanitizer)
    run(file, sanitizer)


# Planted defects: each is one that the rules of the mutants make.

RACES = (
    "channel_moments.cu: no barrier",
    pytest.param("simt_tile.cuh: no barrier: #define BARRIER_FILLED", marks=full),
    pytest.param("simt_tile.cuh: no barrier: #define BARRIER_STEP", marks=full),
    pytest.param("conv_depthwise.cu: no barrier", marks=full),
    pytest.param("block_total.cuh: no barrier", marks=full),
)
ACCESSES = (
    "sweep.cu: one more: for",
    pytest.param("conv_simt.cu: bound: if (m >= pixels)", marks=full),
    pytest.param(
        "pool_backward.cuh: bound: if (across < 0 || across % STRIDE_W != 0 || across / STRIDE_W >= OW) continue; #2",
        marks=full,
    ),
    pytest.param("sum.cu: one more: for (Index", marks=full),
)
# A file that others include, and whose kernel it is part of here.
KERNELS = {"simt_tile.cuh": "conv_simt.cu", "block_total.cuh": "norm_parts.cu", "pool_backward.cuh": "map.cu"}


def complaint(beginning: str, sanitizer: str) -> str:
    needs(sanitizer)
    mutant = mutant_named(beginning)
    with pytest.raises(SanitizerReport) as caught:
        run(KERNELS.get(mutant.file, mutant.file), sanitizer, applying(mutant))
    return caught.value.summary


@pytest.mark.parametrize("beginning", RACES)
def test_a_dropped_barrier_is_a_race(beginning: str) -> None:
    assert "ThreadSanitizer: data race" in complaint(beginning, "threads")


@pytest.mark.parametrize("beginning", ACCESSES)
def test_an_access_beyond_a_tensor_is_found(beginning: str) -> None:
    assert "AddressSanitizer: heap-buffer-overflow" in complaint(beginning, "addresses")


def test_what_has_no_form_on_the_host_is_told() -> None:
    with pytest.raises(NotForTheHost, match=r"ldmatrix\.sync"):
        translated(
            'asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0}, [%1];" : "=r"(r) : "r"(a) : "memory");'
        )
    assert translated('asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));') == "y = host::from_half(x.bits);"
    assert translated('asm volatile("" : "+r"(place));') == 'asm volatile("" : "+r"(place));'
    assert (
        translated("extern __shared__ float4 memory[];")
        == "float4* const memory = static_cast<float4*>(host::dynamic);"
    )
