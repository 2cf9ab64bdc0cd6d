"""Operands and attributes that an op cannot take: `InferError`, with the offending numbers in the message."""

from __future__ import annotations

from contextlib import suppress

import pytest

from convc.ir.op import InferError, Op, operand_counts
from convc.ir.ops import OPS
from convc.ir.ops.activation import Maxout, MaxoutBackward, Prelu, Relu, Softmax, SoftmaxBackward
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.ops.distance import Hinge, HingeBackward, MeanSquaredError, MeanSquaredErrorBackward
from convc.ir.ops.dropconnect import DropConnect, DropConnectTraining
from convc.ir.ops.elementwise import Add, Greater, Multiply, Select
from convc.ir.ops.join import Concat, InsertChannels, SliceChannels
from convc.ir.ops.linear import Linear, LinearBackwardData, LinearBackwardWeights
from convc.ir.ops.local_response import LocalResponseNorm, LocalResponseNormBackward
from convc.ir.ops.log_softmax import LogSoftmax, LogSoftmaxBackward
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.ir.ops.loss_scaling import AllFinite, MoveScale, ScaleLoss, Unscale
from convc.ir.ops.maps import ScaleMaps, SpatialSum, SpreadMaps
from convc.ir.ops.norm import BatchNorm, BatchNormBackward, BatchNormTraining
from convc.ir.ops.pad import Pad
from convc.ir.ops.pool import AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward
from convc.ir.ops.random import Draw, Dropout, DropoutTraining, Noise, NoiseTraining
from convc.ir.ops.rearrange import Rearrange
from convc.ir.ops.reduce import ChannelSum
from convc.ir.ops.resample import Upsample, UpsampleBackward
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.ops.sweep import Accumulate, GradientNorm, MaxNorm
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.ir.ops.update import AdamUpdate, RmspropUpdate, SgdUpdate, Update
from convc.ir.types import DType, TensorType, f32
from tests.op_cases import CASES, OpCase, operand_types


def i32(*shape: int) -> TensorType:
    return TensorType(DType.I32, shape)


IMAGE, FILTER = f32(2, 3, 7, 7), f32(4, 3, 3, 3)
HALF = {"kernel": (2, 2), "stride": (2, 2)}

# Op, operand types, words that the message must hold.
ERRORS: list[tuple[Op, tuple[TensorType, ...], list[str]]] = [
    (Conv2d(), (f32(2, 3), FILTER), ["images", "f32[2,3]"]),
    (Conv2d(), (IMAGE, f32(4, 3)), ["filters", "f32[4,3]"]),
    (Conv2d(), (f32(2, 5, 7, 7), FILTER), ["5 input channels", "3 x 1"]),
    (Conv2d(groups=3), (IMAGE, f32(4, 1, 3, 3)), ["4 output channels", "3 groups"]),
    (Conv2d(groups=0), (f32(2, 0, 7, 7), FILTER), ["0 groups"]),
    (Conv2d(), (IMAGE, FILTER, f32(5)), ["bias", "4", "f32[5]"]),
    (Conv2d(), (IMAGE, FILTER, f32(4, 1)), ["bias", "f32[4,1]"]),
    (Conv2d(), (f32(2, 3, 2, 7), FILTER), ["kernel 3x3", "2x7"]),
    (Conv2d(padding=(1, 0, 0, 0), dilation=(3, 3)), (f32(2, 3, 5, 9), FILTER), ["kernel 7x7", "6x9"]),
    (Conv2d(stride=(0, 1)), (IMAGE, FILTER), ["stride", "(0, 1)"]),
    (Conv2d(dilation=(1, -1)), (IMAGE, FILTER), ["dilation", "(1, -1)"]),
    (Conv2d(padding=(0, 0, -1, 0)), (IMAGE, FILTER), ["padding", "-1"]),
    (Conv2d(), (IMAGE, f32(4, 3, 0, 3)), ["kernel", "(0, 3)"]),
    (Conv2dBackwardData(size=(7, 7)), (f32(2, 4, 5), FILTER), ["four dimensions", "f32[2,4,5]"]),
    (Conv2dBackwardData(size=(7, 7)), (f32(2, 5, 5, 5), FILTER), ["5 channels", "4 filters"]),
    (Conv2dBackwardData(size=(7, 7)), (f32(2, 4, 5, 6), FILTER), ["(5, 6)", "(5, 5)"]),
    (Conv2dBackwardData(size=(7, 7), stride=(0, 0)), (f32(2, 4, 5, 5), FILTER), ["stride"]),
    (Rearrange((7, 3), (1, 0), (3, 7)), (f32(2, 20),), ["f32[2,20]", "[7, 3]"]),
    (Rearrange((4, 5), (1, 1), (20,)), (f32(2, 20),), ["[1, 1]", "2 axes"]),
    (Rearrange((4, 5), (1, 0), (3, 7)), (f32(2, 20),), ["20 elements", "[3, 7]"]),
    (Rearrange((-4, -5), (1, 0), (20,)), (f32(2, 20),), ["[-4, -5]"]),
    (Rearrange(), (f32(2),), ["f32[2]"]),
    (Pad((1, 1, 1, 1)), (f32(2, 3),), ["borders", "f32[2,3]"]),
    (Pad((-4, 0, -3, 0)), (IMAGE,), ["(-4, 0, -3, 0)", "7x7"]),
    (Pad((-9, 0, 9, 0)), (IMAGE,), ["(-9, 0, 9, 0)"]),
    (Pad(value=float("inf")), (IMAGE,), ["finite", "inf"]),
    (LogSoftmax(), (f32(2),), ["channel dimension", "f32[2]"]),
    (LogSoftmaxBackward(), (f32(2, 3), f32(2, 4)), ["f32[2,3]", "f32[2,4]"]),
    (MaxPool((2, 2), dilation=(7, 1)), (IMAGE,), ["window 8x2", "7x7"]),
    (MaxPool((2, 2), padding=(1, 0, 1, 0), dilation=(3, 1)), (f32(2, 3, 2, 7),), ["dilation (3, 1)", "2x7"]),
    (AvgPool((2, 2), dilation=(0, 1)), (IMAGE,), ["dilation", "(0, 1)"]),
    (Conv2dBackwardWeights(kernel=(3, 3)), (f32(2, 3), f32(2, 4, 5, 5)), ["four dimensions", "f32[2,3]"]),
    (Conv2dBackwardWeights(kernel=(3, 3)), (IMAGE, f32(3, 4, 5, 5)), ["2 images against 3"]),
    (Conv2dBackwardWeights(kernel=(3, 3)), (IMAGE, f32(2, 4, 5, 7)), ["(5, 7)", "(5, 5)"]),
    (Conv2dBackwardWeights(kernel=(3, 3), groups=2), (IMAGE, f32(2, 4, 5, 5)), ["3 input channels", "2 groups"]),
    (Linear(), (IMAGE, f32(5, 3)), ["rows", "f32[2,3,7,7]"]),
    (Linear(), (f32(2, 3), f32(5, 4)), ["3 features", "f32[5,4]"]),
    (Linear(), (f32(2, 3), f32(5, 3), f32(3)), ["5 elements", "f32[3]"]),
    (LinearBackwardData(), (f32(2, 5), f32(4, 3)), ["5 features", "f32[4,3]"]),
    (LinearBackwardData(), (f32(2), f32(4, 3)), ["two dimensions", "f32[2]"]),
    (LinearBackwardWeights(), (f32(2, 3), f32(4, 5)), ["2 rows against 4"]),
    (LinearBackwardWeights(), (f32(), f32(4, 5)), ["two dimensions", "f32[]"]),
    (MaxPool((2, 2)), (f32(2, 3),), ["images", "f32[2,3]"]),
    (MaxPool((8, 2)), (IMAGE,), ["window 8x2", "7x7"]),
    (MaxPool((2, 2), padding=(0, 2, 0, 0)), (IMAGE,), ["(0, 2, 0, 0)", "2x2"]),
    (MaxPool((2, 2), stride=(0, 2)), (IMAGE,), ["stride", "(0, 2)"]),
    (MaxPool((0, 2)), (IMAGE,), ["kernel", "(0, 2)"]),
    (AvgPool((2, 2), padding=(-1, 0, 0, 0)), (IMAGE,), ["padding", "-1"]),
    (MaxPoolBackward(**HALF), (f32(2, 3, 3, 4), IMAGE, f32(2, 3, 3, 3)), ["f32[2,3,3,4]"]),
    (AvgPoolBackward(**HALF, size=(7, 7)), (f32(2, 3, 4, 3),), ["(4, 3)", "(3, 3)"]),
    (AvgPoolBackward(**HALF, size=(7, 7)), (f32(2, 3),), ["images", "f32[2,3]"]),
    (BatchNorm(), (f32(3), f32(3), f32(3), f32(3), f32(3)), ["channel dimension", "f32[3]"]),
    (BatchNorm(), (IMAGE, f32(3), f32(3), f32(4), f32(3)), ["3 channels", "f32[4]"]),
    (BatchNormTraining(), (IMAGE, f32(), f32(3)), ["3 channels", "f32[]"]),
    (BatchNormBackward(), (f32(2, 3), IMAGE, f32(3), f32(3), f32(3)), ["f32[2,3]", "f32[2,3,7,7]"]),
    (Softmax(), (f32(3),), ["channel dimension", "f32[3]"]),
    (SoftmaxBackward(), (f32(2, 3), f32(2, 4)), ["f32[2,3]", "f32[2,4]"]),
    (Maxout(2), (IMAGE,), ["3 channels", "groups of 2"]),
    (Maxout(0), (IMAGE,), ["3 channels", "groups of 0"]),
    (Maxout(2), (f32(4),), ["channel dimension", "f32[4]"]),
    (MaxoutBackward(2), (f32(2, 2), f32(2, 6), f32(2, 2)), ["f32[2,2]", "f32[2,3]"]),
    (Dropout(1.0), (IMAGE,), ["[0, 1)", "1.0"]),
    (Dropout(-0.5), (IMAGE,), ["-0.5"]),
    (DropoutTraining(2.0), (IMAGE, i32(), i32()), ["2.0"]),
    (DropoutTraining(), (IMAGE, i32(1), i32()), ["scalars", "i32[1]"]),
    (Noise(-0.5), (IMAGE,), ["-0.5"]),
    (NoiseTraining(float("inf")), (IMAGE, i32(), i32()), ["inf"]),
    (NoiseTraining(), (IMAGE, i32(), i32(1)), ["scalars", "i32[1]"]),
    (Flatten(), (f32(3),), ["flatten", "f32[3]"]),
    (Unflatten((3, 4)), (f32(2, 13),), ["f32[2,13]", "(3, 4)"]),
    (Unflatten((-3, -4)), (f32(2, 12),), ["(-3, -4)"]),
    (ChannelSum(), (f32(3),), ["no channels", "f32[3]"]),
    (Add(), (f32(2, 3), f32(3, 2)), ["[2, 3]", "[3, 2]"]),
    (Add(), (f32(2, 3), f32(2)), ["[2]", "[2, 3]"]),
    (Multiply(), (f32(2, 3, 4, 4), f32(1, 3, 1, 1)), ["[1, 3, 1, 1]", "[2, 3, 4, 4]"]),
    (Add(), (f32(2, 3),), ["add takes 2 operands, not 1"]),
    (Greater(), (f32(2, 3), f32(), f32()), ["greater takes 2 operands, not 3"]),
    (Relu(), (f32(2), f32(2)), ["relu takes 1 operands, not 2"]),
    (Prelu(), (IMAGE, f32(4)), ["[4]", "[2, 3, 7, 7]"]),
    (Select(), (IMAGE, IMAGE, IMAGE), ["bool", "f32[2,3,7,7]"]),
    (SoftmaxCrossEntropy(), (f32(7), i32(7)), ["(N, K)", "f32[7]"]),
    (SoftmaxCrossEntropy(), (f32(7, 10), i32(6)), ["i32[6]", "i32[7]"]),
    (SoftmaxCrossEntropy(), (f32(7, 10), f32(7)), ["f32[7]", "i32[7]"]),
    (SoftmaxCrossEntropy(), (f32(7, 0), i32(7)), ["no classes", "f32[7,0]"]),
    (SoftmaxCrossEntropyBackward(), (f32(1), f32(7, 10), i32(7)), ["scalar", "f32[1]"]),
    (CountCorrect(), (f32(2, 3, 4, 5), i32(2, 4, 4)), ["i32[2,4,4]", "i32[2,4,5]"]),
    (SgdUpdate(), (f32(3), f32(4), f32(), i32()), ["f32[3]", "f32[4]"]),
    (SgdUpdate(momentum=0.9), (f32(3), f32(3), f32(), i32()), ["1 states"]),
    (SgdUpdate(), (f32(3), f32(3), f32(1), i32()), ["scalars", "f32[1]"]),
    (AdamUpdate(), (f32(3), f32(3), f32(3), f32(), i32()), ["2 states"]),
    (RmspropUpdate(momentum=0.5), (f32(3), f32(3), f32(3), f32(), i32()), ["2 states"]),
    (SgdUpdate(), (f32(3), f32(3), f32(), i32(), f32(3)), ["factor", "f32[3]"]),
    (SgdUpdate(), (f32(3), f32(3), f32(), i32(), f32(), f32(2)), ["whether to update", "f32[2]"]),
    (SgdUpdate(), (f32(3), f32(3), f32(), i32(), f32(), f32(), f32()), ["0 states"]),
    (ScaleLoss(), (f32(3), f32()), ["scalars", "f32[3]"]),
    (ScaleLoss(), (f32(), f32(1)), ["scalars", "f32[1]"]),
    (Unscale(), (f32(3), f32(3)), ["scalar", "f32[3]"]),
    (Unscale(), (i32(3), f32()), ["numbers", "i32[3]"]),
    (AllFinite(), (f32(3), i32(3)), ["numbers", "i32[3]"]),
    (MoveScale(), (f32(), f32(), f32(), f32(1)), ["scalars", "f32[1]"]),
    (MoveScale(), (f32(), f32(), i32(), f32()), ["scalars", "i32[]"]),
    (MoveScale(growth=0.5), (f32(),) * 4, ["growth 0.5"]),
    (MoveScale(backoff=2.0), (f32(),) * 4, ["backoff 2.0"]),
    (MoveScale(backoff=0.0), (f32(),) * 4, ["backoff 0.0"]),
    (MoveScale(interval=0), (f32(),) * 4, ["interval", "0"]),
    (Accumulate(), (f32(3), f32(4), i32(), i32()), ["f32[3]", "f32[4]"]),
    (Accumulate(), (f32(3), f32(3), i32(2), i32()), ["scalars", "i32[2]"]),
    (GradientNorm(), (f32(3), i32(3)), ["numbers", "i32[3]"]),
    (MaxNorm(), (f32(3),), ["f32[3]"]),
    (MaxNorm(0.0), (f32(3, 2),), ["positive", "0.0"]),
    (MaxNorm(1.0, 2), (f32(3, 2),), ["axis 0 or 1", "2"]),
    (MaxNorm(1.0, 1, 2), (f32(3, 2),), ["2 groups", "f32[3,2]"]),
    (ScaleWeights(), (f32(3), f32(3)), ["f32[3]"]),
    (ScaleWeights(2), (f32(3, 2), f32(2)), ["axis 0 or 1", "2"]),
    (ScaleWeights(0, 3), (f32(3, 2), f32(3)), ["3 groups", "f32[3,2]"]),
    (ScaleWeights(), (f32(3, 2), f32(2)), ["3 units", "f32[2]"]),
    (ScaleWeights(1, 3), (f32(3, 2), f32(2)), ["6 units", "f32[2]"]),
    (SumWeights(1, 2), (f32(3, 2),), ["2 groups", "f32[3,2]"]),
    (Binarize(), (f32(3),), ["two or more dimensions", "f32[3]"]),
    (DropConnect(1.0), (f32(3, 2),), ["[0, 1)", "1.0"]),
    (DropConnectTraining(-0.5), (f32(3, 2), i32(), i32()), ["[0, 1)", "-0.5"]),
    (DropConnectTraining(), (f32(3, 2), i32(2), i32()), ["scalars", "i32[2]"]),
    (DropoutTraining(), (f32(3, 2), i32(), i32(), i32(2)), ["rows before", "i32[2]"]),
    (SoftmaxCrossEntropy(), (f32(2, 3), i32(2), f32(4)), ["f32[4]", "f32[2,3]"]),
    (CountCorrect(), (f32(2, 3), f32(2, 4)), ["f32[2,4]", "f32[2,3]"]),
    (Concat(), (IMAGE,), ["at least 2", "1"]),
    (Concat(), (IMAGE, f32(2, 3, 7, 6)), ["f32[2,3,7,7]", "f32[2,3,7,6]"]),
    (Concat(), (f32(3), f32(3)), ["channels", "f32[3]"]),
    (SliceChannels(1, 3), (IMAGE,), ["1 to 3", "3"]),
    (SliceChannels(0, 0), (IMAGE,), ["0 to -1"]),
    (InsertChannels(2, 4), (IMAGE,), ["3 channels", "2", "4"]),
    (ScaleMaps(), (IMAGE, f32(2, 4, 1, 1)), ["f32[2,3,7,7]", "f32[2,4,1,1]"]),
    (ScaleMaps(), (f32(2, 3), f32(2, 3)), ["images", "f32[2,3]"]),
    (SpatialSum(), (f32(2, 3),), ["images", "f32[2,3]"]),
    (SpreadMaps((2, 2)), (IMAGE,), ["one pixel", "f32[2,3,7,7]"]),
    (SpreadMaps((0, 2)), (f32(2, 3, 1, 1),), ["0x2"]),
    (LocalResponseNorm(), (f32(3),), ["no channels", "f32[3]"]),
    (LocalResponseNorm(size=0), (IMAGE,), ["at least 1", "0"]),
    (LocalResponseNorm(alpha=-1.0, k=0.5), (IMAGE,), ["alpha", "-1.0", "0.5"]),
    (LocalResponseNormBackward(), (f32(2, 3), IMAGE), ["f32[2,3]", "f32[2,3,7,7]"]),
    (Hinge(), (f32(7, 10), i32(6)), ["i32[6]", "i32[7]"]),
    (Hinge(-1.0), (f32(7, 10), i32(7)), ["margin", "-1.0"]),
    (HingeBackward(), (f32(1), f32(7, 10), i32(7)), ["scalar", "f32[1]"]),
    (MeanSquaredError(), (f32(7, 10), f32(7, 9)), ["f32[7,9]", "f32[7,10]"]),
    (MeanSquaredError(), (f32(7, 10), i32(6)), ["i32[6]", "i32[7]"]),
    (MeanSquaredError(), (f32(7), f32(7)), ["(N, K)", "f32[7]"]),
    (MeanSquaredErrorBackward(), (f32(2), f32(7, 10), i32(7)), ["scalar", "f32[2]"]),
    (Upsample(), (f32(2, 3),), ["images", "f32[2,3]"]),
    (Upsample(0), (IMAGE,), ["at least 1", "0"]),
    (Upsample(2, "cubic"), (IMAGE,), ["cubic"]),
    (UpsampleBackward(2), (IMAGE,), ["7x7", "2"]),
    (Constant((1.0, 2.0), (3,)), (), ["2 values", "(3,)"]),
    (Constant((1.0,), (-1,)), (), ["negative", "-1"]),
]


@pytest.mark.parametrize(("op", "types", "words"), ERRORS, ids=[f"{n}-{e[0].name}" for n, e in enumerate(ERRORS)])
def test_message_holds_the_numbers(op: Op, types: tuple[TensorType, ...], words: list[str]) -> None:
    with pytest.raises(InferError) as caught:
        op.result_types(*types)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("values", "dtype"), [((1.0,), "f31"), ((300,), "u8"), ((0.5,), "i32"), ((2**31,), "i32"), ((2,), "bool")]
)
def test_constants_hold_what_their_element_type_can(values: tuple[float, ...], dtype: str) -> None:
    with pytest.raises(InferError, match=dtype):
        Constant(values, (), dtype)


# One case per op: what holds for the op holds for its shapes.
FIRST: dict[str, OpCase] = {}
for _case in CASES:
    FIRST.setdefault(_case.op.name, _case)


# Updates take a factor of the gradient and whether to update at all, draws the number of rows before.
OPTIONAL_SCALARS = {
    name: 2 if issubclass(op, Update) else 1 for name, op in OPS.items() if issubclass(op, (Update, Draw))
}


@pytest.mark.parametrize("name", OPS)
def test_wrong_numbers_of_operands(name: str) -> None:
    case = FIRST[name]
    types = operand_types(case)
    least, most = operand_counts(type(case.op))
    for wrong in ((), types[:-1], (*types, f32()), (*types, f32(), f32())):
        if least <= len(wrong) <= most and name in ("conv2d", "linear", "constant"):
            continue
        if len(wrong) == len(types) or (name in ("gradient_norm", "all_finite") and wrong):
            continue
        if 1 <= len(wrong) - len(types) <= OPTIONAL_SCALARS.get(name, 0):
            continue
        with pytest.raises(InferError):
            case.op.result_types(*wrong)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("rank", range(6))
def test_odd_ranks_never_escape_as_other_errors(name: str, rank: int) -> None:
    case = FIRST[name]
    types = operand_types(case)
    for position in range(len(types)):
        odd = list(types)
        odd[position] = TensorType(types[position].dtype, (2, 3, 5, 7, 11)[:rank])
        with suppress(InferError):
            case.op.result_types(*odd)
