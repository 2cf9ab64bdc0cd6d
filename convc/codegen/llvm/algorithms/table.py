"""From the `algorithm` of a convolution to what writes its phases: a table for each direction."""

from __future__ import annotations

from functools import partial

from convc.codegen.llvm.algorithms.fourier import FourierTransform
from convc.codegen.llvm.algorithms.im2col import (
    lower_im2col,
    lower_im2col_backward_data,
    lower_im2col_backward_weights,
    scratch_im2col,
    scratch_im2col_backward_data,
    scratch_im2col_backward_weights,
)
from convc.codegen.llvm.algorithms.strassen import (
    lower_strassen,
    lower_strassen_backward_data,
    lower_strassen_backward_weights,
    scratch_strassen,
)
from convc.codegen.llvm.algorithms.transform_convolution import (
    Kind,
    lower_transform_convolution,
    scratch_transform_convolution,
)
from convc.codegen.llvm.algorithms.transform_weight_gradient import lower_transform_weight_gradient
from convc.codegen.llvm.algorithms.winograd import WinogradTransform
from convc.codegen.llvm.depthwise import (
    lower_depthwise,
    lower_depthwise_backward_data,
    scratch_depthwise_backward_data,
)
from convc.codegen.llvm.depthwise_gradient import lower_depthwise_backward_weights, scratch_depthwise_backward_weights
from convc.codegen.llvm.direct import (
    lower_conv2d,
    lower_conv2d_backward_data,
    scratch_backward_data,
    scratch_conv2d,
)
from convc.codegen.llvm.kernel import KernelBuilder, Lowering
from convc.codegen.llvm.weight_gradient import lower_conv2d_backward_weights, scratch_backward_weights
from convc.ir.op import Op
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.passes.algorithms.fft import FFT
from convc.passes.algorithms.winograd import WINOGRAD, Winograd
from convc.passes.layout import WeightLayout

_DIRECT: dict[type[Op], Lowering] = {
    Conv2d: Lowering(lower_conv2d, scratch_conv2d),
    Conv2dBackwardData: Lowering(lower_conv2d_backward_data, scratch_backward_data),
    Conv2dBackwardWeights: Lowering(lower_conv2d_backward_weights, scratch_backward_weights),
}

# The direct algorithm where vectors span groups.
_DEPTHWISE: dict[type[Op], Lowering] = {
    Conv2d: Lowering(lower_depthwise),
    Conv2dBackwardData: Lowering(lower_depthwise_backward_data, scratch_depthwise_backward_data),
    Conv2dBackwardWeights: Lowering(lower_depthwise_backward_weights, scratch_depthwise_backward_weights),
}

_IM2COL: dict[type[Op], Lowering] = {
    Conv2d: Lowering(lower_im2col, scratch_im2col),
    Conv2dBackwardData: Lowering(lower_im2col_backward_data, scratch_im2col_backward_data),
    Conv2dBackwardWeights: Lowering(lower_im2col_backward_weights, scratch_im2col_backward_weights),
}

_STRASSEN: dict[type[Op], Lowering] = {
    Conv2d: Lowering(lower_strassen, scratch_strassen),
    Conv2dBackwardData: Lowering(lower_strassen_backward_data, scratch_strassen),
    Conv2dBackwardWeights: Lowering(lower_strassen_backward_weights, scratch_strassen),
}


def transformed(kind: Kind) -> dict[type[Op], Lowering]:
    """Transform convolutions in their three directions."""
    images = Lowering(
        partial(lower_transform_convolution, kind=kind),
        partial(scratch_transform_convolution, kind=kind),
    )
    weights = Lowering(
        partial(lower_transform_weight_gradient, kind=kind),
        partial(scratch_transform_convolution, kind=kind),
    )
    return {Conv2d: images, Conv2dBackwardData: images, Conv2dBackwardWeights: weights}


def _winograd(known: Winograd) -> Kind:
    return lambda problem: WinogradTransform(known.axes(problem))


# The kinds that transform filters.
KINDS: dict[str, Kind] = {
    **{known.name: _winograd(known) for known in WINOGRAD},
    **{known.name: partial(FourierTransform.of, known.size) for known in FFT},
}

# Keyed by the names of convc/passes/algorithms/table.py; `auto` is what no pass has decided.
TABLE: dict[str, dict[type[Op], Lowering]] = {
    "auto": _DIRECT,
    "direct": _DIRECT,
    "im2col": _IM2COL,
    **{name: transformed(kind) for name, kind in KINDS.items()},
    "strassen": _STRASSEN,
}
DIRECTIONS: tuple[type[Op], ...] = (Conv2d, Conv2dBackwardData, Conv2dBackwardWeights)


def _lowering(k: KernelBuilder) -> Lowering:
    op = k.op(Conv2d, Conv2dBackwardData, Conv2dBackwardWeights)
    filters = k.kernel.anchor.result if isinstance(op, Conv2dBackwardWeights) else k.kernel.anchor.operands[1]
    layout = k.layout(filters)
    spans_groups = isinstance(layout, WeightLayout) and layout.groups < op.groups
    return (_DEPTHWISE if spans_groups else TABLE[op.algorithm])[type(op)]


def _emit_convolution(k: KernelBuilder) -> None:
    _lowering(k).emit(k)


def _scratch_convolution(k: KernelBuilder) -> int:
    return _lowering(k).scratch(k)


CONVOLUTION = Lowering(_emit_convolution, _scratch_convolution)
