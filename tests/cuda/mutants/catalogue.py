"""Which files are broken, and which graphs of one op are to notice: those that run the file, fast ones first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from convc.codegen.cuda.kernel import source_text
from convc.ir.ops.activation import Softmax
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.ops.loss import SoftmaxCrossEntropy
from convc.ir.ops.norm import BatchMoments
from convc.ir.ops.pool import MaxPoolBackward
from convc.ir.ops.reduce import ChannelSum, Sum
from convc.ir.ops.update import SgdUpdate
from convc.ir.types import DType
from tests.cuda.mutants.judging import TIMING, Bench, Tile
from tests.cuda.mutants.rules import KernelMutant, mutants_of
from tests.op_case import OpCase, labels, normal
from tests.op_cases import CASES

_F16, _BF16 = DType.F16, DType.BF16
# A case by its name, with " of infinity" one whose input has one number that is not finite; in 16 bits, for a compute
# capability, by a tile.
Use = str | tuple[str, DType, int] | tuple[str, DType, int, Tile]
_INFINITE = " of infinity"

# What the cases of `tests.op_cases` are too small for: sums in parts, several tiles, teams of more than a warp.
EXTRA = (
    OpCase("conv2d/many_filters", Conv2d(), (normal(2, 8, 4, 5), normal(136, 8, 1, 1), normal(136))),
    OpCase("conv2d/valid", Conv2d(), (normal(2, 32, 6, 7), normal(16, 32, 3, 3))),
    OpCase("conv2d/padded_behind", Conv2d(padding=(0, 0, 0, 1)), (normal(2, 32, 6, 7), normal(16, 32, 3, 3))),
    OpCase("conv2d/groups_of_12", Conv2d(groups=2), (normal(2, 24, 5, 6), normal(20, 12, 3, 3))),
    OpCase("conv2d/groups_2_to_1_of_6", Conv2d(groups=6), (normal(1, 12, 4, 5), normal(6, 2, 3, 3))),
    OpCase(
        "conv2d_backward_data/many_terms",
        Conv2dBackwardData(size=(3, 3), padding=(1, 1, 1, 1)),
        (normal(1, 256, 3, 3), normal(256, 8, 3, 3)),
    ),
    OpCase(
        "conv2d_backward_weights/padded_behind",
        Conv2dBackwardWeights(kernel=(3, 3), padding=(0, 0, 0, 1)),
        (normal(2, 32, 6, 7), normal(2, 16, 4, 6)),
    ),
    OpCase(
        "conv2d_backward_data/many_channels",
        Conv2dBackwardData(size=(5, 6), padding=(1, 1, 1, 1)),
        (normal(2, 8, 5, 6), normal(8, 136, 3, 3)),
    ),
    OpCase(
        "conv2d_backward_weights/many",
        Conv2dBackwardWeights(kernel=(1, 1)),
        (normal(2, 136, 4, 5), normal(2, 136, 4, 5)),
    ),
    OpCase(
        "conv2d/depthwise_many",
        Conv2d(padding=(1, 1, 1, 1), groups=132),
        (normal(2, 132, 3, 5), normal(132, 1, 3, 3)),
    ),
    OpCase(
        "conv2d_backward_data/depthwise_many",
        Conv2dBackwardData(size=(3, 5), padding=(1, 1, 1, 1), groups=132),
        (normal(2, 132, 3, 5), normal(132, 1, 3, 3)),
    ),
    OpCase(
        "conv2d_backward_weights/depthwise_many",
        Conv2dBackwardWeights(kernel=(3, 3), padding=(1, 1, 1, 1), groups=132),
        (normal(2, 132, 3, 5), normal(2, 132, 3, 5)),
    ),
    OpCase(
        "conv2d_backward_weights/depthwise_parts",
        Conv2dBackwardWeights(kernel=(3, 3), padding=(1, 1, 1, 1), groups=8),
        (normal(15, 8, 9, 8), normal(15, 16, 9, 8)),
    ),
    # What lies in memory behind the first row of the image is as large as the maximum of the last window.
    OpCase(
        "max_pool_backward/behind_the_row",
        MaxPoolBackward(kernel=(2, 2), padding=(0, 0, 0, 1)),
        (
            np.array([[[[1, 2, 3]]]], np.float32),
            np.array([[[[0, 0, 0], [1, 0, 1]]]], np.float32),
            np.array([[[[1, 1, 1]]]], np.float32),
        ),
    ),
    OpCase(
        "sgd_update/blocks",
        SgdUpdate(),
        (normal(11, 7, 5, 3), normal(11, 7, 5, 3), np.asarray(0.125), np.asarray(3, np.int32)),
    ),
    *(
        OpCase(
            f"{name}/{algorithm}",
            kind(algorithm=algorithm, padding=(1, 1, 1, 1), **attributes),
            (normal(2, left, 9, 7), right),
        )
        for algorithm in ("winograd_f2x3", "winograd_f4x3", "fft_8")
        for name, kind, attributes, left, right in (
            ("conv2d", Conv2d, {}, 20, normal(36, 20, 3, 3)),
            ("conv2d_backward_data", Conv2dBackwardData, {"size": (9, 7)}, 36, normal(36, 20, 3, 3)),
            ("conv2d_backward_weights", Conv2dBackwardWeights, {"kernel": (3, 3)}, 20, normal(2, 36, 9, 7)),
        )
    ),
    # So far from zero that squares of the numbers, not of their distances from one of them, have no digits left.
    OpCase("batch_moments/far", BatchMoments(), (np.random.default_rng(0).standard_normal((2, 8, 9, 11)) + 1e6,)),
    OpCase("batch_moments/parts", BatchMoments(), (normal(2, 7, 50, 90),)),
    OpCase("channel_sum/parts", ChannelSum(), (normal(2, 7, 50, 90),)),
    OpCase("sum/parts", Sum(), (normal(2, 7, 50, 90),)),
    OpCase("softmax/many", Softmax(), (normal(3, 1500),)),
    OpCase("softmax_cross_entropy/many", SoftmaxCrossEntropy(), (normal(3, 1500), labels(1500, 3))),
)


def _in_halves(*cases: str) -> tuple[Use, ...]:
    """On tensor cores with asynchronous copies, and without these."""
    return (*((case, _F16, 80) for case in cases), *((case, _F16, 75) for case in cases[:2]))


_FORWARD = (
    "conv2d/prime",
    "conv2d/everything",
    "conv2d/groups",
    "conv2d/one_pixel_padded",
    "conv2d/stride_2",
    "conv2d/deep",
)
_FORWARD += (
    "linear/wide",
    "conv2d/lenet_1",
    "conv2d/groups_of_8",
    "conv2d/many_filters",
    "conv2d/prime of infinity",
    "conv2d/valid",
    "conv2d/padded_behind",
)
_DATA = tuple(
    f"conv2d_backward_data/{n}"
    for n in ("prime", "everything", "groups", "stride_2", "asymmetric", "same", "deep", "groups_of_8")
)
_DATA += (
    "conv2d_backward_data/many_channels",
    "conv2d_backward_data/prime of infinity",
    "conv2d_backward_data/many_terms",
)
_WEIGHTS = tuple(
    f"conv2d_backward_weights/{n}"
    for n in ("prime", "everything", "groups", "stride_2", "same", "lenet_1", "deep", "groups_of_8")
)
_WEIGHTS += (
    "conv2d_backward_weights/many",
    "conv2d_backward_weights/prime of infinity",
    "conv2d_backward_weights/padded_behind",
)
_DEPTHWISE = (
    "depthwise",
    "depthwise_doubled",
    "depthwise_stride",
    "depthwise_beyond_image",
    "depthwise_by_4",
    "groups_of_4",
    "depthwise_many",
)
_POOLED = ("overlapping_padded", "leaves_pixels", "asymmetric", "dilated_padded_ceil", "ceil_padded")
_STATISTICS = ("image", "rows", "wide", "blocks", "narrow_blocks", "parts")

_TENSOR_CORES = (
    *_in_halves(
        "conv2d/deep", "conv2d/prime", "conv2d_backward_data/deep", "conv2d_backward_weights/deep", "linear/wide"
    ),
    *_in_halves("conv2d/one_pixel_padded", "conv2d/groups_of_12"),
    ("conv2d_backward_data/stride_beyond_kernel", _F16, 80),
    ("conv2d_backward_data/stride_beyond_kernel", _F16, 75),
    ("conv2d/prime", _F16, 80, (16, 128, 1)),
    ("conv2d/prime", _F16, 75, (16, 128, 1)),
    ("conv2d/deep", _F16, 80, (128, 64, 1)),
    ("conv2d/prime", _F16, 75, (64, 64, 1)),
    ("conv2d_backward_data/deep", _F16, 80, (64, 64, 3)),
)

USES: dict[str, tuple[Use, ...]] = {
    "conv_simt.cu": _FORWARD,
    "conv_simt_data.cu": _DATA,
    "conv_simt_filters.cu": (*_WEIGHTS, ("conv2d_backward_weights/stride_2", _BF16, 75)),
    "simt_tile.cuh": (
        "conv2d/prime",
        "conv2d/deep",
        "conv2d/one_pixel_padded",
        "linear/wide",
        *_DATA[:3],
        *_WEIGHTS[:3],
        "conv2d_backward_data/same",
        "conv2d_backward_data/stride_beyond_kernel",
        "conv2d/prime of infinity",
    ),
    "conv_depthwise.cu": tuple(f"conv2d/{name}" for name in _DEPTHWISE),
    "conv_depthwise_data.cu": tuple(f"conv2d_backward_data/{name}" for name in _DEPTHWISE),
    "conv_depthwise_filters.cu": tuple(f"conv2d_backward_weights/{name}" for name in (*_DEPTHWISE, "depthwise_parts")),
    "depthwise.cuh": (
        *(f"conv2d/{name}" for name in (*_DEPTHWISE, "groups_2_to_1_of_6")),
        *(f"conv2d_backward_data/{name}" for name in _DEPTHWISE),
        *(f"conv2d_backward_weights/{name}" for name in _DEPTHWISE),
    ),
    "sum_filter_parts.cu": _WEIGHTS,
    "sum_image_parts.cu": (*_FORWARD, *_DATA, "linear/wide", *_in_halves("conv2d/deep", "conv2d/prime")),
    "conv_mma.cu": _in_halves(*_FORWARD),
    "conv_mma_data.cu": _in_halves(*_DATA),
    "conv_mma_filters.cu": _in_halves(*_WEIGHTS),
    "conv_mma_pixels.cuh": _in_halves(*_FORWARD, *_DATA[:4]),
    "mma_tile.cuh": _TENSOR_CORES,
    "tensor_core.cuh": (*_TENSOR_CORES[:2], ("conv2d/deep", _F16, 75), ("conv2d/deep", _BF16, 80)),
    "pool.cuh": tuple(f"{op}_pool/{name}" for op in ("max", "avg") for name in _POOLED),
    "pool_backward.cuh": (
        *(f"max_pool_backward/{name}_ties" for name in _POOLED),
        "max_pool_backward/behind_the_row",
        *(f"avg_pool_backward/{name}" for name in _POOLED),
    ),
    "channel_moments.cu": (
        *(f"batch_moments/{name}" for name in _STATISTICS),
        "batch_moments/far",
    ),
    "channel_sums.cu": (
        *(f"channel_sum/{name}" for name in ("image", "rows", "wide", "parts")),
        *(f"batch_norm_backward/{name}" for name in _STATISTICS[:-1]),
    ),
    "channel_block.cuh": tuple(f"batch_moments/{name}" for name in _STATISTICS),
    "sum.cu": tuple(f"sum/{name}" for name in ("image", "rows", "wide", "vector", "scalar", "parts")),
    "block_total.cuh": ("gradient_norm/several", "gradient_norm/chunks", "max_norm/fc", "sum_weights/inputs"),
    "norm_parts.cu": tuple(f"gradient_norm/{name}" for name in ("several", "bias", "chunks", "one")),
    "team.cuh": (
        "softmax/rows",
        "softmax/image",
        "softmax/wide",
        "softmax/two",
        "softmax/many",
        "softmax_cross_entropy/wide",
        "softmax_cross_entropy/many",
    ),
    "sweep.cu": (
        "sgd_update/plain_filter",
        "sgd_update/momentum_bias",
        "sgd_update/plain_one",
        "sgd_update/plain_filter_skipped",
        "sgd_update/blocks",
    ),
}

_WINOGRAD = ("winograd_f2x3", "winograd_f4x3")
USES |= {
    "winograd.cu": (
        *(f"{op}/{name}" for op in ("conv2d", "conv2d_backward_data") for name in _WINOGRAD),
        ("conv2d/winograd_f2x3", DType.F32, 75),
    ),
    "winograd_gradient.cu": (
        *(f"conv2d_backward_weights/{name}" for name in _WINOGRAD),
        *((f"conv2d_backward_weights/{name}", DType.F32, 75) for name in _WINOGRAD),
    ),
    "fft_spectra.cu": ("conv2d/fft_8", "conv2d_backward_data/fft_8", "conv2d_backward_weights/fft_8"),
    "fft_filters.cu": ("conv2d/fft_8", "conv2d_backward_data/fft_8"),
    "fft_product.cu": ("conv2d/fft_8", "conv2d_backward_data/fft_8", "conv2d_backward_weights/fft_8"),
    "fft_results.cu": ("conv2d/fft_8", "conv2d_backward_data/fft_8"),
    "fft_filter_gradients.cu": ("conv2d_backward_weights/fft_8",),
}
# Of these files barriers, waits and stages only: nobody has gone through what else survives there.
TIMING_ONLY = ("winograd.cu", "winograd_gradient.cu", *(file for file in USES if file.startswith("fft_")))

# What runs by default: of each kind of fault one, over the files. Each is found by its beginning.
FAST: tuple[str, ...] = (
    "simt_tile.cuh: no barrier: #define BARRIER_STEP",
    "conv_simt.cu: bound: if (m >= pixels)",
    "tensor_core.cuh: no commit",
    "mma_tile.cuh: weak wait: await_copies",
    "mma_tile.cuh: no swizzle: return line * LENGTH",
    "mma_tile.cuh: other stage: int reading",
    "conv_mma.cu: no condition: const bool inside",
    "conv_depthwise.cu: no barrier",
    "pool.cuh: bound: if (x < 0",
    "pool_backward.cuh: one less",
    "sweep.cu: one more",
    "sum.cu: one less",
    "channel_sums.cu: no partner",
)


@cache
def mutants(file: str) -> tuple[KernelMutant, ...]:
    made = mutants_of(file, source_text(file))
    return tuple(mutant for mutant in made if file not in TIMING_ONLY or mutant.rule in TIMING)


def every_mutant() -> list[KernelMutant]:
    return [mutant for file in USES for mutant in mutants(file)]


def mutant_named(beginning: str) -> KernelMutant:
    """The first mutant whose name begins so. Error: LookupError where kernels have been changed, and there is none."""
    for mutant in mutants(beginning.partition(":")[0]):
        if mutant.name.startswith(beginning):
            return mutant
    raise LookupError(f"no mutant begins with {beginning!r}")


@cache
def bench(use: Use) -> Bench:
    name, dtype, capability, *tile = (use, DType.F32, 80) if isinstance(use, str) else use
    plain = name.removesuffix(_INFINITE)
    (case,) = (case for case in (*CASES, *EXTRA) if case.name == plain)
    return Bench(case, dtype, capability, infinite=name != plain, tile=tile[0] if tile else None)


def benches(file: str) -> Sequence[Bench]:
    """Those of `USES` that run the file today: which kernel computes a case is the compiler's to choose."""
    return [made for made in map(bench, USES[file]) if made.uses(file)]
