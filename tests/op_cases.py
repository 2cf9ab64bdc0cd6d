"""The table of op cases: every op of `convc.ir.ops.OPS` with odd shapes, all attributes, and operands to run it on.

It drives the tests of shapes, gradients and costs, and the comparison of back ends with the reference. Operands are
reproducible; inputs of functions with kinks stay away from them, so that numeric gradients exist.

    for case in CASES:
        results = case.op.reference(*make_operands(case, np.float64))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from convc.ir.op import Op
from convc.ir.ops import activation, elementwise
from convc.ir.ops.cast import Cast
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.ops.elementwise import Elementwise, Greater, RunningAverage, Select
from convc.ir.ops.linear import Linear, LinearBackwardData, LinearBackwardWeights
from convc.ir.ops.log_softmax import LogSoftmax, LogSoftmaxBackward
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.ir.ops.norm import BatchMoments, BatchNorm, BatchNormBackward, BatchNormTraining
from convc.ir.ops.pool import AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward
from convc.ir.ops.random import Dropout, DropoutTraining, Noise, NoiseTraining
from convc.ir.ops.reduce import ChannelSum, Sum
from convc.ir.ops.shape import Flatten, Relayout, Unflatten
from convc.ir.types import DType, TensorType
from tests.channel_cases import CHANNEL_CASES
from tests.loss_cases import LOSS_CASES
from tests.op_case import Array, OpCase, Operand, Random, Shape, labels, make_operands, normal, operand_types, positive
from tests.quantize_cases import QUANTIZE_CASES
from tests.rearrange_cases import REARRANGE_CASES
from tests.resample_cases import RESAMPLE_CASES
from tests.update_cases import UPDATE_CASES

__all__ = ["CASES", "OpCase", "Operand", "Random", "cases_of", "labels", "make_operands", "operand_types"]

# Convolutions: name, images, filters, geometry. Every geometry is tried in all three directions.
_CONVOLUTIONS: list[tuple[str, Shape, Shape, dict[str, Any]]] = [
    ("plain", (2, 3, 7, 7), (5, 3, 3, 3), {}),
    ("one_pixel", (1, 1, 1, 1), (1, 1, 1, 1), {}),
    ("one_pixel_padded", (1, 3, 1, 1), (17, 3, 3, 3), {"padding": (1, 1, 1, 1)}),
    ("same", (2, 17, 5, 7), (3, 17, 3, 3), {"padding": (1, 1, 1, 1)}),
    ("stride_2", (2, 3, 11, 13), (4, 3, 3, 3), {"stride": (2, 2), "padding": (1, 1, 1, 1)}),
    ("stride_3_leaves_pixels", (1, 1, 8, 8), (1, 1, 3, 3), {"stride": (3, 3)}),
    ("stride_beyond_kernel", (2, 3, 11, 8), (4, 3, 2, 2), {"stride": (3, 4)}),
    ("asymmetric", (1, 2, 9, 11), (3, 2, 3, 5), {"stride": (2, 3), "padding": (0, 1, 2, 3)}),
    ("dilation", (2, 3, 9, 9), (4, 3, 3, 3), {"dilation": (2, 2), "padding": (2, 2, 2, 2)}),
    (
        "everything",
        (1, 4, 13, 11),
        (6, 2, 3, 2),
        {"stride": (3, 2), "dilation": (2, 3), "padding": (1, 2, 3, 4), "groups": 2},
    ),
    ("groups", (2, 4, 6, 6), (6, 2, 3, 3), {"groups": 2}),
    ("depthwise", (2, 5, 7, 7), (5, 1, 3, 3), {"groups": 5, "padding": (1, 1, 1, 1)}),
    ("depthwise_doubled", (1, 3, 7, 5), (6, 1, 3, 3), {"groups": 3, "stride": (2, 2)}),
    ("depthwise_wide", (2, 50, 7, 7), (50, 1, 3, 3), {"groups": 50, "padding": (1, 1, 1, 1)}),
    ("depthwise_stride", (3, 20, 9, 15), (20, 1, 3, 3), {"groups": 20, "stride": (2, 2), "padding": (1, 1, 1, 1)}),
    (
        "depthwise_dilated",
        (1, 18, 11, 9),
        (18, 1, 5, 3),
        {"groups": 18, "stride": (1, 2), "dilation": (2, 3), "padding": (4, 3, 4, 2)},
    ),
    ("depthwise_large", (1, 7, 9, 37), (7, 1, 7, 9), {"groups": 7, "padding": (3, 4, 3, 4)}),
    ("depthwise_beyond_image", (2, 6, 2, 3), (6, 1, 5, 5), {"groups": 6, "padding": (4, 4, 4, 4)}),
    ("depthwise_by_4", (2, 8, 5, 6), (32, 1, 3, 3), {"groups": 8, "padding": (1, 1, 0, 0)}),
    ("groups_of_4", (2, 24, 7, 5), (24, 4, 3, 3), {"groups": 6, "stride": (2, 1), "padding": (1, 1, 1, 1)}),
    ("groups_of_8", (1, 40, 5, 6), (40, 8, 3, 3), {"groups": 5, "padding": (1, 1, 1, 1)}),
    ("groups_2_to_1", (1, 24, 5, 6), (12, 2, 2, 3), {"groups": 12}),
    ("pointwise", (7, 17, 5, 5), (20, 17, 1, 1), {}),
    ("pointwise_stride", (2, 3, 7, 7), (4, 3, 1, 1), {"stride": (2, 2)}),
    ("row", (1, 3, 4, 9), (4, 3, 1, 7), {"padding": (0, 3, 0, 3)}),
    ("column", (1, 3, 9, 4), (4, 3, 7, 1), {"padding": (3, 0, 3, 0)}),
    ("padding_beyond_kernel", (1, 2, 2, 2), (3, 2, 2, 2), {"padding": (3, 3, 3, 3)}),
    ("whole_image", (2, 3, 5, 5), (10, 3, 5, 5), {}),
    ("prime", (1, 7, 13, 17), (11, 7, 5, 3), {"padding": (2, 1, 2, 1)}),
    ("lenet_1", (2, 1, 28, 28), (20, 1, 5, 5), {}),
    ("lenet_2", (7, 20, 12, 12), (50, 20, 5, 5), {}),
    ("first_layer", (1, 3, 23, 23), (17, 3, 7, 7), {"stride": (2, 2), "padding": (3, 3, 3, 3)}),
    ("deep", (2, 64, 7, 7), (64, 64, 3, 3), {"padding": (1, 1, 1, 1)}),
]

# Pools: name, images, attributes.
_POOLS: list[tuple[str, Shape, dict[str, Any]]] = [
    ("halves", (2, 3, 6, 6), {"kernel": (2, 2), "stride": (2, 2)}),
    ("one_pixel", (1, 1, 1, 1), {}),
    ("leaves_pixels", (1, 17, 7, 5), {"kernel": (2, 2), "stride": (2, 2)}),
    ("overlapping", (2, 3, 7, 7), {"kernel": (3, 3), "stride": (2, 2)}),
    ("overlapping_padded", (1, 3, 7, 8), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}),
    ("stride_1", (1, 2, 5, 5), {"kernel": (3, 3), "padding": (1, 1, 1, 1)}),
    ("dilated", (2, 3, 9, 8), {"kernel": (3, 2), "stride": (1, 2), "dilation": (2, 3)}),
    (
        "dilated_padded_ceil",
        (1, 17, 8, 7),
        {"kernel": (2, 3), "stride": (2, 3), "dilation": (3, 2), "padding": (1, 2, 1, 0), "ceil": True},
    ),
    ("ceil", (2, 3, 6, 6), {"kernel": (3, 3), "stride": (2, 2), "ceil": True}),
    (
        "ceil_padded",
        (1, 1, 6, 7),
        {"kernel": (3, 3), "stride": (3, 2), "padding": (1, 1, 1, 1), "ceil": True},
    ),
    ("asymmetric", (1, 3, 7, 11), {"kernel": (2, 5), "stride": (1, 3), "padding": (0, 1, 1, 3)}),
    ("stride_beyond_kernel", (1, 3, 11, 11), {"kernel": (2, 2), "stride": (3, 4)}),
    ("global", (7, 20, 5, 7), {"kernel": (5, 7)}),
    ("global_large", (2, 20, 3, 10), {"kernel": (3, 10)}),
    ("large_padded", (2, 5, 9, 11), {"kernel": (5, 6), "stride": (3, 4), "padding": (2, 2, 2, 2)}),
    ("large_overlapping", (1, 17, 4, 17), {"kernel": (2, 9), "stride": (1, 4), "padding": (0, 3, 1, 4)}),
    ("large_dilated", (1, 3, 12, 9), {"kernel": (5, 4), "stride": (2, 1), "dilation": (2, 2), "padding": (3, 2, 0, 1)}),
    ("wide", (2, 50, 13, 13), {"kernel": (3, 3), "stride": (2, 2)}),
]

# A sum of squares around this has lost more digits of a float32 than results may.
FAR = 64.0
_NORMALISED: list[tuple[str, Shape]] = [
    ("image", (2, 3, 5, 7)),
    ("rows", (7, 17)),
    ("one_channel", (1, 1, 2, 3)),
    ("batch_of_one", (1, 3, 3, 3)),
    ("single_value", (1, 3, 1, 1)),
    ("wide", (7, 50, 5, 5)),
    ("blocks", (2, 132, 9, 11)),
    ("narrow_blocks", (1, 2, 40, 60)),
]

_SHAPES: list[tuple[str, Shape]] = [
    ("image", (2, 3, 5, 7)),
    ("rows", (7, 17)),
    ("vector", (5,)),
    ("scalar", ()),
    ("one_pixel", (1, 1, 1, 1)),
    ("wide", (2, 50, 7, 3)),
]

# Right and left operand of binary element-wise ops.
_PAIRS: list[tuple[str, Shape, Shape]] = [
    ("image", (2, 3, 5, 7), (2, 3, 5, 7)),
    ("rows", (7, 17), (7, 17)),
    ("scalars", (), ()),
    ("scalar_right", (1, 3, 2, 2), ()),
    ("scalar_left", (), (2, 17)),
    ("channels_right", (2, 3, 5, 1), (3,)),
    ("channels_left", (17,), (7, 17)),
    ("wide", (2, 50, 7, 3), (50,)),
]


def _convolutions() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, x, w, geometry in _CONVOLUTIONS:
        op = Conv2d(**geometry)
        k, kernel, size = w[0], (w[2], w[3]), (x[2], x[3])
        dy = normal(x[0], k, *op.window(kernel).output_size(size))
        wide = max(x[1], k) >= 17
        bias = (normal(k),)
        data = Conv2dBackwardData(size=size, **geometry)
        weights = Conv2dBackwardWeights(kernel=kernel, **geometry)
        cases += [
            OpCase(f"conv2d/{name}", op, (normal(*x), normal(*w), *bias), (0, 1, 2), wide),
            OpCase(f"conv2d_backward_data/{name}", data, (dy, normal(*w)), (0, 1), wide),
            OpCase(f"conv2d_backward_weights/{name}", weights, (normal(*x), dy), (0, 1), wide),
        ]
    return [*cases, OpCase("conv2d/no_bias", Conv2d(), (normal(2, 3, 5, 5), normal(4, 3, 3, 3)), (0, 1))]


def _linears() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, n, d, o in [("one", 1, 1, 1), ("odd", 2, 3, 5), ("batch_7", 7, 17, 20), ("wide", 7, 800, 50)]:
        x, w, dy, wide = normal(n, d), normal(o, d), normal(n, o), o >= 17
        cases += [
            OpCase(f"linear/{name}", Linear(), (x, w, normal(o)), (0, 1, 2), wide),
            OpCase(f"linear/{name}_no_bias", Linear(), (x, w), (0, 1), wide),
            OpCase(f"linear_backward_data/{name}", LinearBackwardData(), (dy, w), (0, 1), wide),
            OpCase(f"linear_backward_weights/{name}", LinearBackwardWeights(), (x, dy), (0, 1), wide),
        ]
    return cases


def _pools() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, x, attributes in _POOLS:
        forward, wide = MaxPool(**attributes), x[1] >= 17
        dy = normal(*forward.infer(TensorType(DType.F32, x)).shape)
        for kind in ("distinct", "ties"):
            image, suffix = Random(x, kind), "" if kind == "distinct" else "_ties"
            result = _after_first(forward.reference)
            differentiable = (0,) if kind == "distinct" else ()
            backward = MaxPoolBackward(**attributes)
            cases += [
                OpCase(f"max_pool/{name}{suffix}", forward, (image,), differentiable, wide),
                OpCase(f"max_pool_backward/{name}{suffix}", backward, (dy, image, result), (), wide),
            ]
        for count in (True, False):
            suffix = "" if count else "_real_pixels"
            average = AvgPool(**attributes, count_padding=count)
            backward = AvgPoolBackward(**attributes, count_padding=count, size=(x[2], x[3]))
            cases += [
                OpCase(f"avg_pool/{name}{suffix}", average, (normal(*x),), (0,), wide),
                OpCase(f"avg_pool_backward/{name}{suffix}", backward, (dy,), (0,), wide),
            ]
    return cases


def _after_first(function: Callable[..., Array]) -> Callable[..., Array]:
    """An operand that is computed from those before it, but for the first."""
    return lambda _, *operands: function(*operands)


def _norms() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, x in _NORMALISED:
        c, axes, wide = x[1], (0, *range(2, len(x))), x[1] >= 17 or x[-1] >= 17
        vectors = (positive(c), normal(c))
        statistics = (lambda dy, x, gamma, axes=axes: x.mean(axes), lambda dy, x, gamma, m, axes=axes: x.var(axes))
        cases += [
            OpCase(f"batch_norm/{name}", BatchNorm(eps=1e-3), (normal(*x), *vectors, normal(c), positive(c)), (), wide),
            OpCase(f"batch_norm_training/{name}", BatchNormTraining(1e-3), (normal(*x), *vectors), (0, 1, 2), wide),
            OpCase(f"batch_moments/{name}", BatchMoments(), (normal(*x),), (), wide),
            OpCase(
                f"batch_norm_training/far_from_zero/{name}",
                BatchNormTraining(1e-3),
                (np.add(FAR, np.random.default_rng(c).standard_normal(x)), *vectors),
                (),
                wide,
            ),
            OpCase(
                f"batch_norm_backward/{name}",
                BatchNormBackward(1e-3),
                (normal(*x), normal(*x), positive(c), *statistics),
                (),
                wide,
            ),
        ]
    return cases


def _across_channels() -> list[OpCase]:
    cases: list[OpCase] = []
    shapes = [("rows", (7, 10)), ("image", (2, 6, 3, 5)), ("two", (1, 2)), ("wide", (2, 50, 3, 3))]
    softmax, backward, logarithm = activation.Softmax(), activation.SoftmaxBackward(), LogSoftmax()
    for name, x in shapes:
        wide = x[1] >= 17
        cases += [
            OpCase(f"softmax/{name}", softmax, (normal(*x),), (0,), wide),
            OpCase(f"log_softmax/{name}", logarithm, (normal(*x),), (0,), wide),
            OpCase(
                f"log_softmax_backward/{name}",
                LogSoftmaxBackward(),
                (normal(*x), lambda dy: logarithm.reference(-2 * dy)),
                (),
                wide,
            ),
            # Any distribution serves as the soft-max that was computed.
            OpCase(f"softmax_backward/{name}", backward, (normal(*x), lambda dy: softmax.reference(-2 * dy)), (), wide),
        ]
        for group in sorted({1, 2, x[1]}):
            forward = activation.Maxout(group)
            for kind in ("distinct", "ties"):
                result = _after_first(forward.reference)
                dy = normal(x[0], x[1] // group, *x[2:])
                suffix = f"{name}_{group}{'' if kind == 'distinct' else '_ties'}"
                differentiable = (0,) if kind == "distinct" else ()
                gradient = activation.MaxoutBackward(group)
                cases += [
                    OpCase(f"maxout/{suffix}", forward, (Random(x, kind),), differentiable, wide),
                    OpCase(f"maxout_backward/{suffix}", gradient, (dy, Random(x, kind), result), (), wide),
                ]
    large = Random((3, 7), "large")
    return [*cases, OpCase("softmax/large", softmax, (large,)), OpCase("log_softmax/large", logarithm, (large,))]


def _elementwise() -> list[OpCase]:
    cases: list[OpCase] = []
    # Op, distribution of the operand, whether the gradient is the true one.
    unary: list[tuple[Elementwise, str, bool]] = [
        (activation.Relu(), "nonzero", True),
        (activation.LeakyRelu(0.125), "nonzero", True),
        (activation.Elu(0.75), "nonzero", True),
        (activation.Sigmoid(), "normal", True),
        (activation.Tanh(), "normal", True),
        (activation.Step(), "clipped", False),  # straight-through
        (activation.Relu6(), "clipped", True),
        (elementwise.Negate(), "normal", True),
        (elementwise.Absolute(), "nonzero", True),
        (elementwise.Sign(), "nonzero", False),
        (elementwise.Exp(), "normal", True),
        (elementwise.Sqrt(), "positive", True),
        (Cast("f32"), "normal", True),  # to 16 bits: tests/ir/test_rounding.py, tests/codegen/test_halves.py
    ]
    for op, kind, smooth in unary:
        for name, shape in _SHAPES:
            cases.append(
                OpCase(f"{op.name}/{name}", op, (Random(shape, kind),), (0,) if smooth else (), name == "wide")
            )
        cases.append(OpCase(f"{op.name}/zeros", op, (np.zeros((2, 3), np.float32),)))
    for op in (activation.Sigmoid(), activation.Tanh(), activation.Elu()):
        cases.append(OpCase(f"{op.name}/large", op, (Random((2, 3, 2, 2), "large"),)))
    binary: list[tuple[Elementwise, str, str, bool]] = [
        (elementwise.Add(), "normal", "normal", True),
        (elementwise.Subtract(), "normal", "normal", True),
        (elementwise.Multiply(), "normal", "normal", True),
        (elementwise.Divide(), "normal", "nonzero", True),
        (elementwise.Maximum(), "halves", "quarters", True),
        (elementwise.Minimum(), "halves", "quarters", True),
        (Greater(), "ties", "ties", False),
        (RunningAverage(0.25), "normal", "normal", False),
    ]
    for op, left_kind, right_kind, smooth in binary:
        for name, left, right in _PAIRS:
            operands = (Random(left, left_kind), Random(right, right_kind))
            cases.append(OpCase(f"{op.name}/{name}", op, operands, (0, 1) if smooth else (), name == "wide"))
    for op in (elementwise.Maximum(), elementwise.Minimum()):
        cases.append(OpCase(f"{op.name}/ties", op, (Random((2, 3, 4, 4), "ties"), Random((2, 3, 4, 4), "ties"))))
    for name, shape in _SHAPES:
        operands = (Random(shape, "bool"), normal(*shape), normal(*shape))
        cases.append(OpCase(f"select/{name}", Select(), operands, (1, 2), name == "wide"))
    image = (2, 3, 4, 5)
    cases += [
        OpCase("select/scalars", Select(), (Random(image, "bool"), normal(), normal(3)), (1, 2)),
        OpCase("select/channel_condition", Select(), (Random((3,), "bool"), normal(*image), normal()), (1, 2)),
    ]
    for name, shape in [("image", image), ("rows", (7, 17)), ("one_pixel", (1, 1, 1, 1)), ("wide", (2, 50, 3, 3))]:
        slopes = (Random(shape, "nonzero"), normal(shape[1]))
        cases.append(OpCase(f"prelu/{name}", activation.Prelu(), slopes, (0, 1), name == "wide"))
    cases.append(OpCase("prelu/shared", activation.Prelu(), (Random(image, "nonzero"), normal()), (0, 1)))
    return cases


def _losses() -> list[OpCase]:
    cases: list[OpCase] = []
    for name, shape, kind, smooth in [
        ("mnist", (7, 10), "normal", 0.0),
        ("smooth", (2, 10), "normal", 0.125),
        ("one_class", (1, 1), "normal", 0.0),
        ("three", (1, 3), "normal", 0.0),
        ("pixels", (2, 3, 4, 5), "normal", 0.125),
        ("large", (7, 17), "large", 0.0),
        ("wide", (7, 1000), "normal", 0.0),
    ]:
        logits, truth = Random(shape, kind), labels(shape[1], shape[0], *shape[2:])
        differentiable, wide = (0,) if kind == "normal" else (), name == "wide"
        cases += [
            OpCase(f"softmax_cross_entropy/{name}", SoftmaxCrossEntropy(smooth), (logits, truth), differentiable, wide),
            OpCase(
                f"softmax_cross_entropy_backward/{name}",
                SoftmaxCrossEntropyBackward(smooth),
                (normal(), logits, truth),
                (),
                wide,
            ),
            OpCase(
                f"softmax_cross_entropy/{name}_weighted",
                SoftmaxCrossEntropy(smooth),
                (logits, truth, positive(shape[1])),
                differentiable,
                wide,
            ),
            OpCase(
                f"softmax_cross_entropy_backward/{name}_weighted",
                SoftmaxCrossEntropyBackward(smooth),
                (normal(), logits, truth, positive(shape[1])),
                (),
                wide,
            ),
            OpCase(f"count_correct/{name}_numbers", CountCorrect(), (logits, Random(shape, "ties")), (), wide),
            OpCase(f"count_correct/{name}", CountCorrect(), (logits, truth), (), wide),
            OpCase(f"count_correct/{name}_ties", CountCorrect(), (replace(logits, kind="ties"), truth), (), wide),
        ]
    return cases


def _others() -> list[OpCase]:
    scalar = np.asarray
    noise, before = (scalar(7, np.int32), scalar(3, np.int32)), scalar(5, np.int32)
    cases = [
        OpCase("constant/scalar", Constant.of(np.asarray(2.5, np.float32)), ()),
        OpCase("constant/fill", Constant((0.1,), (2, 3, 4)), ()),
        OpCase("constant/vector", Constant.of(np.arange(5, dtype=np.float32)), ()),
        OpCase("constant/image", Constant.of(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)), ()),
        OpCase("constant/whole", Constant.of(np.asarray([-(2**31), 2**31 - 1], np.int32)), ()),
        OpCase("constant/truth", Constant.of(np.asarray([True, False])), ()),
    ]
    for name, x in [("image", (2, 3, 5, 7)), ("one_pixel", (1, 1, 1, 1)), ("rows", (7, 17)), ("wide", (2, 50, 5, 5))]:
        flat = (x[0], int(np.prod(x[1:])))
        wide = name == "wide"
        cases += [
            OpCase(f"flatten/{name}", Flatten(), (normal(*x),), (0,), wide),
            OpCase(f"unflatten/{name}", Unflatten(x[1:]), (normal(*flat),), (0,), wide),
            OpCase(f"relayout/{name}", Relayout(), (normal(*x),), (0,), wide),
            OpCase(f"channel_sum/{name}", ChannelSum(), (normal(*x),), (), wide),
            OpCase(f"sum/{name}", Sum(), (normal(*x),), (), wide),
            OpCase(f"dropout/{name}", Dropout(0.5, 9), (normal(*x),), (), wide),
            OpCase(f"noise/{name}", Noise(0.5, 9), (normal(*x),), (), wide),
        ]
        for std in (0.0, 0.25, 3.0):
            added = NoiseTraining(std, stream=0xDEADBEEF)
            cases.append(OpCase(f"noise_training/{name}_{std}", added, (normal(*x), *noise), (0,), wide))
            cases.append(OpCase(f"noise_training/{name}_{std}_later", added, (normal(*x), *noise, before), (0,), wide))
        for rate in (0.0, 0.2, 0.5, 0.999):
            op = DropoutTraining(rate, stream=0xDEADBEEF)
            cases.append(OpCase(f"dropout_training/{name}_{rate}", op, (normal(*x), *noise), (0,), wide))
            cases.append(OpCase(f"dropout_training/{name}_{rate}_later", op, (normal(*x), *noise, before), (0,), wide))
    return [*cases, OpCase("sum/scalar", Sum(), (normal(),)), OpCase("sum/vector", Sum(), (normal(5),))]


CASES: tuple[OpCase, ...] = (
    *_convolutions(),
    *_linears(),
    *_pools(),
    *_norms(),
    *_across_channels(),
    *_elementwise(),
    *_losses(),
    *_others(),
    *CHANNEL_CASES,
    *LOSS_CASES,
    *REARRANGE_CASES,
    *QUANTIZE_CASES,
    *RESAMPLE_CASES,
    *UPDATE_CASES,
)


def cases_of(*kinds: type[Op]) -> list[OpCase]:
    """The cases of some ops, for tests of one kernel family."""
    return [case for case in CASES if isinstance(case.op, kinds)]
