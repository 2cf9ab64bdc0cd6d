"""All operations by the name that IR text uses. An op that is not in this table does not exist."""

from __future__ import annotations

from convc.ir.op import Op
from convc.ir.ops.activation import (
    Elu,
    LeakyRelu,
    Maxout,
    MaxoutBackward,
    Prelu,
    Relu,
    Relu6,
    Sigmoid,
    Softmax,
    SoftmaxBackward,
    Step,
    Tanh,
)
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.cast import Cast
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.ops.distance import Hinge, HingeBackward, MeanSquaredError, MeanSquaredErrorBackward
from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.elementwise import (
    Absolute,
    Add,
    Divide,
    Exp,
    Greater,
    Maximum,
    Minimum,
    Multiply,
    Negate,
    RunningAverage,
    Select,
    Sign,
    Sqrt,
    Subtract,
)
from convc.ir.ops.join import Concat, InsertChannels, SliceChannels
from convc.ir.ops.linear import Linear, LinearBackwardData, LinearBackwardWeights
from convc.ir.ops.local_response import LocalResponseNorm, LocalResponseNormBackward
from convc.ir.ops.log_softmax import LogSoftmax, LogSoftmaxBackward
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.ir.ops.loss_scaling import AllFinite, MoveScale, ScaleLoss, Unscale
from convc.ir.ops.maps import ScaleMaps, SpatialSum, SpreadMaps
from convc.ir.ops.norm import BatchMoments, BatchNorm, BatchNormBackward, BatchNormTraining
from convc.ir.ops.pad import Pad
from convc.ir.ops.pool import AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward
from convc.ir.ops.quantize import Quantize, QuantizeWeights
from convc.ir.ops.random import Dropout, DropoutTraining, Noise, NoiseTraining
from convc.ir.ops.rearrange import Rearrange
from convc.ir.ops.reduce import ChannelSum, Sum
from convc.ir.ops.resample import Upsample, UpsampleBackward
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.shape import Flatten, Relayout, Unflatten
from convc.ir.ops.sweep import Accumulate, GradientNorm, MaxNorm
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate

_ALL: tuple[type[Op], ...] = (
    Constant,
    # layers
    Conv2d, Conv2dBackwardData, Conv2dBackwardWeights,
    Linear, LinearBackwardData, LinearBackwardWeights,
    MaxPool, MaxPoolBackward, AvgPool, AvgPoolBackward,
    Upsample, UpsampleBackward,
    BatchNorm, BatchNormTraining, BatchMoments, BatchNormBackward,
    LocalResponseNorm, LocalResponseNormBackward,
    Softmax, SoftmaxBackward, LogSoftmax, LogSoftmaxBackward, Maxout, MaxoutBackward,
    Dropout, DropoutTraining, Noise, NoiseTraining, DropConnect, DropConnectTraining,
    Flatten, Unflatten, Relayout, Rearrange, Pad,
    Concat, SliceChannels, InsertChannels,
    ScaleMaps, SpatialSum, SpreadMaps,
    # element by element
    Relu, LeakyRelu, Prelu, Elu, Sigmoid, Tanh, Step, Relu6,
    Add, Subtract, Multiply, Divide, Maximum, Minimum, Negate, Absolute, Sign, Exp, Sqrt, Greater, Select,
    RunningAverage, Cast, Quantize,
    # reductions, losses, updates
    ChannelSum, Sum,
    SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward, CountCorrect,
    Hinge, HingeBackward, MeanSquaredError, MeanSquaredErrorBackward,
    Accumulate, GradientNorm, MaxNorm, RoundTo, ScaleWeights, SumWeights, Binarize, QuantizeWeights,
    ScaleLoss, Unscale, AllFinite, MoveScale,
    SgdUpdate, AdagradUpdate, RmspropUpdate, AdamUpdate, AdamWUpdate,
)  # fmt: skip

OPS: dict[str, type[Op]] = {op.name: op for op in _ALL}
