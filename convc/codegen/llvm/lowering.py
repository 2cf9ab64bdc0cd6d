"""From a plan to one LLVM module: the table of lowerings. Kernels with the same signature share their functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from convc.codegen.llvm.algorithms.table import CONVOLUTION, DIRECTIONS, KINDS
from convc.codegen.llvm.algorithms.transform_convolution import lower_transform_filters
from convc.codegen.llvm.binarize import lower_binarize
from convc.codegen.llvm.channel_layout import lower_concat, lower_insert_channels, lower_slice_channels
from convc.codegen.llvm.classification import (
    lower_count_correct,
    lower_log_softmax,
    lower_log_softmax_backward,
    lower_maxout,
    lower_maxout_backward,
    lower_softmax,
    lower_softmax_backward,
    lower_softmax_cross_entropy,
    lower_softmax_cross_entropy_backward,
)
from convc.codegen.llvm.computed_weights import lower_scale_weights, lower_sum_weights
from convc.codegen.llvm.dropconnect import lower_drop_connect
from convc.codegen.llvm.feature_maps import lower_spatial_sum, lower_spread_maps
from convc.codegen.llvm.folding import scratch_per_pixel
from convc.codegen.llvm.kernel import KernelBuilder, Lowering
from convc.codegen.llvm.linear import (
    lower_linear,
    lower_linear_backward_data,
    lower_linear_backward_weights,
    scratch_linear_backward_data,
)
from convc.codegen.llvm.local_response import lower_local_response, scratch_local_response
from convc.codegen.llvm.loss_scaling import lower_move_scale
from convc.codegen.llvm.losses import lower_hinge, lower_hinge_backward, lower_mse, lower_mse_backward
from convc.codegen.llvm.moments import lower_batch_moments, scratch_batch_moments
from convc.codegen.llvm.normalization import (
    lower_batch_norm,
    lower_batch_norm_backward,
    lower_batch_norm_training,
    scratch_batch_norm,
    scratch_batch_norm_again,
)
from convc.codegen.llvm.norms import lower_all_finite, lower_gradient_norm, lower_max_norm, scratch_over_gradients
from convc.codegen.llvm.pairs import lower_pairs
from convc.codegen.llvm.pooling import lower_pool, lower_pool_backward, scratch_pool_backward
from convc.codegen.llvm.rearranging import lower_pad, lower_rearrange
from convc.codegen.llvm.resampling import lower_upsample, lower_upsample_backward
from convc.codegen.llvm.round_to import lower_round_to
from convc.codegen.llvm.step import Call, make_step
from convc.codegen.llvm.sweeps import (
    lower_channel_sum,
    lower_elementwise,
    lower_relayout,
    lower_sum,
    scratch_channel_sum,
)
from convc.codegen.llvm.updates import lower_accumulate, lower_unscale, lower_update
from convc.codegen.llvm.vocabulary import MOST_INSTRUCTIONS, CodeTooLarge, Function, module_text
from convc.codegen.llvm.whole_numbers import lower_quantize_weights
from convc.ir import ops
from convc.ir.diagnostic import fail
from convc.ir.op import Op
from convc.lazy import dataclass
from convc.passes.fusion import Kernel, is_elementwise
from convc.passes.layout import WeightLayout
from convc.passes.plan import Plan
from convc.passes.transformed_layout import TransformedLayout


def _lower_relayout(k: KernelBuilder) -> None:
    if isinstance(k.layout(k.kernel.anchor.result), TransformedLayout):
        lower_transform_filters(k, KINDS)
    elif isinstance(k.layout(k.kernel.anchor.result), WeightLayout):
        lower_pairs(k)
    else:
        lower_relayout(k)


LOWERINGS: dict[type[Op], Lowering] = {
    **dict.fromkeys(DIRECTIONS, CONVOLUTION),
    ops.Linear: Lowering(lower_linear),
    ops.LinearBackwardData: Lowering(lower_linear_backward_data, scratch_linear_backward_data),
    ops.LinearBackwardWeights: Lowering(lower_linear_backward_weights),
    ops.MaxPool: Lowering(lower_pool),
    ops.AvgPool: Lowering(lower_pool),
    ops.MaxPoolBackward: Lowering(lower_pool_backward, scratch_pool_backward),
    ops.AvgPoolBackward: Lowering(lower_pool_backward, scratch_pool_backward),
    ops.BatchNorm: Lowering(lower_batch_norm, scratch_batch_norm_again),
    ops.BatchNormTraining: Lowering(lower_batch_norm_training, scratch_batch_norm),
    ops.BatchMoments: Lowering(lower_batch_moments, scratch_batch_moments),
    ops.BatchNormBackward: Lowering(lower_batch_norm_backward, scratch_batch_norm),
    ops.Softmax: Lowering(lower_softmax),
    ops.SoftmaxBackward: Lowering(lower_softmax_backward),
    ops.LogSoftmax: Lowering(lower_log_softmax),
    ops.LogSoftmaxBackward: Lowering(lower_log_softmax_backward),
    ops.Maxout: Lowering(lower_maxout),
    ops.MaxoutBackward: Lowering(lower_maxout_backward),
    ops.SoftmaxCrossEntropy: Lowering(lower_softmax_cross_entropy, scratch_per_pixel),
    ops.SoftmaxCrossEntropyBackward: Lowering(lower_softmax_cross_entropy_backward),
    ops.CountCorrect: Lowering(lower_count_correct, scratch_per_pixel),
    ops.ChannelSum: Lowering(lower_channel_sum, scratch_channel_sum),
    ops.Sum: Lowering(lower_sum),
    ops.Relayout: Lowering(_lower_relayout),
    ops.Rearrange: Lowering(lower_rearrange),
    ops.Pad: Lowering(lower_pad),
    ops.Concat: Lowering(lower_concat),
    ops.SliceChannels: Lowering(lower_slice_channels),
    ops.InsertChannels: Lowering(lower_insert_channels),
    ops.ScaleMaps: Lowering(lower_spread_maps),
    ops.SpreadMaps: Lowering(lower_spread_maps),
    ops.SpatialSum: Lowering(lower_spatial_sum),
    ops.LocalResponseNorm: Lowering(lower_local_response, scratch_local_response),
    ops.LocalResponseNormBackward: Lowering(lower_local_response, scratch_local_response),
    ops.Hinge: Lowering(lower_hinge, scratch_per_pixel),
    ops.HingeBackward: Lowering(lower_hinge_backward),
    ops.MeanSquaredError: Lowering(lower_mse, scratch_per_pixel),
    ops.MeanSquaredErrorBackward: Lowering(lower_mse_backward),
    ops.Upsample: Lowering(lower_upsample),
    ops.UpsampleBackward: Lowering(lower_upsample_backward),
    ops.DropConnectTraining: Lowering(lower_drop_connect),
    ops.Accumulate: Lowering(lower_accumulate),
    ops.GradientNorm: Lowering(lower_gradient_norm, scratch_over_gradients),
    ops.AllFinite: Lowering(lower_all_finite, scratch_over_gradients),
    ops.Unscale: Lowering(lower_unscale),
    ops.MoveScale: Lowering(lower_move_scale),
    ops.MaxNorm: Lowering(lower_max_norm),
    ops.RoundTo: Lowering(lower_round_to),
    ops.QuantizeWeights: Lowering(lower_quantize_weights),
    ops.ScaleWeights: Lowering(lower_scale_weights),
    ops.SumWeights: Lowering(lower_sum_weights),
    ops.Binarize: Lowering(lower_binarize),
    ops.SgdUpdate: Lowering(lower_update),
    ops.AdagradUpdate: Lowering(lower_update),
    ops.RmspropUpdate: Lowering(lower_update),
    ops.AdamUpdate: Lowering(lower_update),
    ops.AdamWUpdate: Lowering(lower_update),
}

# Not kernels: views, constants, and what `specialize` has replaced by the time code is generated.
DECOMPOSED: frozenset[type[Op]] = frozenset(
    {ops.Constant, ops.Flatten, ops.Unflatten, ops.Dropout, ops.Noise, ops.DropConnect}
)


def lowering_of(kernel: Kernel) -> Lowering:
    if kernel.anchor in kernel.chain or is_elementwise(kernel.anchor):
        return Lowering(lower_elementwise)
    return LOWERINGS[type(kernel.anchor.op)]


def scratch_bytes(kernel: Kernel, plan: Plan) -> int:
    """Scratch space of a kernel, asked while memory is being planned."""
    return lowering_of(kernel).scratch(KernelBuilder(plan, kernel, "fma"))


@dataclass(frozen=True)
class PhaseCall:
    """One call in the step: which function for which kernel."""

    kernel: Kernel
    function: str
    comment: str


@dataclass(frozen=True)
class ModuleText:
    """The functions of a program, the step last, and its phases in order."""

    functions: tuple[Function, ...]
    phases: tuple[PhaseCall, ...]

    @cached_property
    def text(self) -> str:
        """LLVM IR of all functions as one module."""
        return module_text(self.functions, "internal")


def _ignore(function: Function) -> None:
    pass


def generate(
    plan: Plan,
    fma: str,
    most: int = MOST_INSTRUCTIONS,
    name: str = "step",
    written: Callable[[Function], None] = _ignore,
) -> ModuleText:
    """The module of a plan, which exports the step under `name`; `fma` names the intrinsic that multiplies and adds
    (fma, or fmuladd without hardware). `written` is told of each function as soon as it is complete.

    Error: `budget-code` as soon as there are more than `most` instructions.
    """
    functions: dict[str, list[Function]] = {}
    calls: list[Call] = []
    for kernel in plan.kernels:
        known = len(functions)
        phases = _phases(plan, kernel, fma, functions, most)
        calls += phases
        if len(functions) > known:
            for phase in phases:
                written(phase.function)
    step = make_step(plan, calls, name)
    written(step)
    made = [function for phases in functions.values() for function in phases]
    return ModuleText((*made, step), tuple(PhaseCall(c.kernel, c.function.name, c.function.comment) for c in calls))


def _phases(plan: Plan, kernel: Kernel, fma: str, functions: dict[str, list[Function]], most: int) -> list[Call]:
    """The phases of a kernel, taken from `functions` where a kernel of the same signature has made them."""
    builder = KernelBuilder(plan, kernel, fma, most - sum(f.size for phases in functions.values() for f in phases))
    signature = f"{lowering_of(kernel).emit.__name__}\n{builder.signature()}"
    if signature not in functions:
        try:
            lowering_of(kernel).emit(builder)
        except CodeTooLarge:
            node = kernel.anchor
            message = f"with {node.label or node.op.name} the code grows beyond {most:,} instructions"
            fail("budget-code", message, node.span, hint="`--limit instructions=N` changes the limit")
        for number, function in enumerate(builder.phases):
            function.name = f"k{len(functions)}_{number}_{function.name}"
        functions[signature] = builder.phases
    return [Call(kernel, function, builder.arguments) for function in functions[signature]]
