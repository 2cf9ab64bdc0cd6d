"""From a plan to launches: the table of lowerings. What an op is not in here has no form on a GPU."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.cuda.classification import lower_softmax, lower_softmax_backward
from convc.codegen.cuda.convolutions import lower_convolution, scratch_convolution
from convc.codegen.cuda.kernel import KernelBuilder, Launch
from convc.codegen.cuda.local_response import lower_local_response
from convc.codegen.cuda.losses import (
    lower_count_correct,
    lower_hinge,
    lower_hinge_backward,
    lower_mean_squared_error,
    lower_mean_squared_error_backward,
    lower_softmax_cross_entropy,
    lower_softmax_cross_entropy_backward,
    scratch_loss,
)
from convc.codegen.cuda.maps import (
    lower_batch_norm,
    lower_concat,
    lower_elementwise,
    lower_insert_channels,
    lower_maxout,
    lower_pad,
    lower_pool,
    lower_pool_backward,
    lower_rearrange,
    lower_relayout,
    lower_slice_channels,
    lower_spread_maps,
    lower_upsample,
)
from convc.codegen.cuda.norms import lower_all_finite, lower_gradient_norm, scratch_over_gradients
from convc.codegen.cuda.statistics import (
    lower_batch_moments,
    lower_batch_norm_backward,
    lower_batch_norm_training,
    lower_channel_sum,
    lower_spatial_sum,
    lower_sum,
    scratch_batch_norm_backward,
    scratch_channel_sum,
    scratch_moments,
    scratch_sum,
)
from convc.codegen.cuda.updates import lower_accumulate, lower_move_scale, lower_unscale, lower_update
from convc.codegen.cuda.weights import (
    lower_binarize,
    lower_drop_connect,
    lower_max_norm,
    lower_round_to,
    lower_scale_weights,
    lower_sum_weights,
)
from convc.ir import ops
from convc.ir.diagnostic import fail
from convc.ir.op import Op
from convc.lazy import dataclass
from convc.passes.fusion import Kernel, is_elementwise
from convc.passes.plan import Plan


def _no_scratch(k: KernelBuilder) -> int:
    return 0


@dataclass(frozen=True)
class Lowering:
    """How an op becomes launches, and how many bytes of scratch space they share."""

    emit: Callable[[KernelBuilder], None]
    scratch: Callable[[KernelBuilder], int] = _no_scratch


_PRODUCTS = (
    *(ops.Conv2d, ops.Conv2dBackwardData, ops.Conv2dBackwardWeights),
    *(ops.Linear, ops.LinearBackwardData, ops.LinearBackwardWeights),
)
_UPDATES = (ops.SgdUpdate, ops.AdagradUpdate, ops.RmspropUpdate, ops.AdamUpdate, ops.AdamWUpdate)

LOWERINGS: dict[type[Op], Lowering] = {
    **dict.fromkeys(_PRODUCTS, Lowering(lower_convolution, scratch_convolution)),
    **dict.fromkeys(_UPDATES, Lowering(lower_update)),
    ops.Accumulate: Lowering(lower_accumulate),
    ops.Unscale: Lowering(lower_unscale),
    ops.MoveScale: Lowering(lower_move_scale),
    ops.GradientNorm: Lowering(lower_gradient_norm, scratch_over_gradients),
    ops.AllFinite: Lowering(lower_all_finite, scratch_over_gradients),
    ops.MaxNorm: Lowering(lower_max_norm),
    ops.RoundTo: Lowering(lower_round_to),
    ops.DropConnectTraining: Lowering(lower_drop_connect),
    ops.ScaleWeights: Lowering(lower_scale_weights),
    ops.SumWeights: Lowering(lower_sum_weights),
    ops.Binarize: Lowering(lower_binarize),
    ops.MaxPool: Lowering(lower_pool),
    ops.AvgPool: Lowering(lower_pool),
    ops.MaxPoolBackward: Lowering(lower_pool_backward),
    ops.AvgPoolBackward: Lowering(lower_pool_backward),
    ops.BatchNorm: Lowering(lower_batch_norm),
    ops.BatchNormTraining: Lowering(lower_batch_norm_training, scratch_moments),
    ops.BatchMoments: Lowering(lower_batch_moments, scratch_moments),
    ops.BatchNormBackward: Lowering(lower_batch_norm_backward, scratch_batch_norm_backward),
    ops.ChannelSum: Lowering(lower_channel_sum, scratch_channel_sum),
    ops.SpatialSum: Lowering(lower_spatial_sum),
    ops.Sum: Lowering(lower_sum, scratch_sum),
    ops.Softmax: Lowering(lower_softmax),
    ops.LogSoftmax: Lowering(lower_softmax),
    ops.SoftmaxBackward: Lowering(lower_softmax_backward),
    ops.LogSoftmaxBackward: Lowering(lower_softmax_backward),
    ops.SoftmaxCrossEntropy: Lowering(lower_softmax_cross_entropy, scratch_loss),
    ops.SoftmaxCrossEntropyBackward: Lowering(lower_softmax_cross_entropy_backward),
    ops.CountCorrect: Lowering(lower_count_correct, scratch_loss),
    ops.Hinge: Lowering(lower_hinge, scratch_loss),
    ops.HingeBackward: Lowering(lower_hinge_backward),
    ops.MeanSquaredError: Lowering(lower_mean_squared_error, scratch_loss),
    ops.MeanSquaredErrorBackward: Lowering(lower_mean_squared_error_backward),
    ops.LocalResponseNorm: Lowering(lower_local_response),
    ops.LocalResponseNormBackward: Lowering(lower_local_response),
    ops.Maxout: Lowering(lower_maxout),
    ops.MaxoutBackward: Lowering(lower_maxout),
    ops.Relayout: Lowering(lower_relayout),
    ops.Rearrange: Lowering(lower_rearrange),
    ops.Pad: Lowering(lower_pad),
    ops.Concat: Lowering(lower_concat),
    ops.SliceChannels: Lowering(lower_slice_channels),
    ops.InsertChannels: Lowering(lower_insert_channels),
    ops.ScaleMaps: Lowering(lower_spread_maps),
    ops.SpreadMaps: Lowering(lower_spread_maps),
    ops.Upsample: Lowering(lower_upsample),
    ops.UpsampleBackward: Lowering(lower_upsample),
}

# Not kernels: views, constants, and what `specialize` has replaced by the time code is generated.
DECOMPOSED: frozenset[type[Op]] = frozenset(
    {ops.Constant, ops.Flatten, ops.Unflatten, ops.Dropout, ops.Noise, ops.DropConnect}
)
# Whole numbers of 8 bits are for processors without a GPU.
UNAVAILABLE: frozenset[type[Op]] = frozenset({ops.Quantize, ops.QuantizeWeights})


def lowering_of(kernel: Kernel) -> Lowering:
    if kernel.anchor in kernel.chain or is_elementwise(kernel.anchor):
        return Lowering(lower_elementwise)
    return LOWERINGS[type(kernel.anchor.op)]


def scratch_bytes(kernel: Kernel, plan: Plan) -> int:
    """Scratch space of a kernel, asked while memory is being planned."""
    return lowering_of(kernel).scratch(KernelBuilder(plan, kernel))


def launches(plan: Plan) -> tuple[Launch, ...]:
    """The launches of a step in order; kernels of equal text share an entry point of a source.

    Error: `unavailable-op` for one that no GPU can start.
    """
    made: list[Launch] = []
    for kernel in plan.kernels:
        builder = KernelBuilder(plan, kernel)
        lowering_of(kernel).emit(builder)
        for launch in builder.launches:
            x, y, z = launch.grid(plan.batch)
            if x >= 1 << 31 or max(y, z) >= 1 << 16:
                node = kernel.anchor
                message = f"{node.op.name} of {node.label} would take {x}x{y}x{z} blocks, more than a GPU can start"
                fail("unavailable-op", message, node.span, hint="a smaller stride, or fewer groups")
        made += builder.launches
    return tuple(made)
