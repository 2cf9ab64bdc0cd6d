"""Cases for every operator that is imported: attributes, versions, ranks, constants on either side.

All of them are run by ONNX Runtime, by the interpreter and as native code. A test demands a case for every operator of
the table and for each attribute that it honours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.frontend.onnx.models import Array, Op, dims, draw

IMAGE = (2, 3, 7, 8)


@dataclass(frozen=True)
class Case:
    name: str
    ops: tuple[Op, ...]
    x: tuple[int, ...] = IMAGE
    constants: Mapping[str, Array] | None = None
    opset: int = 17
    positive: bool = False  # for roots and divisors

    def __str__(self) -> str:
        return self.name


def one(
    kind: str,
    name: str,
    x: Sequence[int] = IMAGE,
    constants: Mapping[str, Array] | None = None,
    operands: str | None = None,
    opset: int = 17,
    positive: bool = False,
    **attributes: Any,
) -> Case:
    """A model of a single node."""
    operands = " ".join(["x", *(constants or {})]) if operands is None else operands
    return Case(f"{kind}/{name}", (Op(kind, operands, "y", attributes),), tuple(x), constants, opset, positive)


def f(*shape: int, seed: object = 0) -> Array:
    return draw(shape, (shape, seed))


def number(value: float) -> Array:
    return np.array(value, np.float32)


def _convolutions() -> list[Case]:
    w, b, half = f(4, 3, 3, 3), f(4, seed="b"), f(4, 1, 3, 2)
    square = {"w": w, "b": b}
    cases = [
        one("Conv", "plain", constants=square),
        one("Conv", "no_bias", constants={"w": w}, kernel_shape=[3, 3]),
        one("Conv", "strides_pads", constants=square, strides=[2, 3], pads=[1, 0, 2, 3]),
        one("Conv", "dilations", constants=square, dilations=[2, 1], pads=[2, 1, 2, 1], opset=11),
        one("Conv", "group", (2, 2, 7, 8), {"w": half}, group=2, opset=7),
        one("Conv", "depthwise", (2, 6, 5, 5), {"w": f(6, 1, 3, 3), "b": f(6)}, group=6, pads=[1, 1, 1, 1], opset=21),
        one("Conv", "1d", (2, 3, 9), {"w": f(5, 3, 4), "b": f(5)}, strides=[2], pads=[1, 2], dilations=[2]),
    ]
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        cases += [
            one("Conv", mode, constants={"w": f(4, 3, 4, 3)}, auto_pad=mode, strides=[2, 3]),
            one("Conv", f"{mode}_1d", (1, 3, 10), {"w": f(4, 3, 4)}, auto_pad=mode, strides=[3]),
            one("MaxPool", mode, auto_pad=mode, kernel_shape=[3, 2], strides=[2, 2]),
            one("AveragePool", mode, auto_pad=mode, kernel_shape=[3, 2], strides=[2, 2]),
            one("ConvTranspose", mode, constants={"w": f(3, 4, 4, 3)}, auto_pad=mode, strides=[2, 3]),
        ]
    t, tb = f(3, 4, 3, 3), f(4)
    return [
        *cases,
        one("ConvTranspose", "plain", constants={"w": t, "b": tb}),
        one(
            "ConvTranspose", "strides_pads", constants={"w": t}, strides=[2, 3], pads=[1, 0, 2, 1], kernel_shape=[3, 3]
        ),
        one("ConvTranspose", "output_padding", constants={"w": t, "b": tb}, strides=[2, 2], output_padding=[1, 1]),
        one("ConvTranspose", "dilations", constants={"w": t}, dilations=[2, 3], strides=[1, 2]),
        one("ConvTranspose", "group", (2, 4, 5, 5), {"w": f(4, 3, 3, 3), "b": f(6)}, group=2, strides=[2, 2]),
        one("ConvTranspose", "output_shape", constants={"w": t}, strides=[2, 2], output_shape=[13, 16]),
        one("ConvTranspose", "larger_output_shape", constants={"w": t}, strides=[3, 3], output_shape=[23, 26]),
        one("ConvTranspose", "1d", (2, 3, 6), {"w": f(3, 4, 3), "b": tb}, strides=[2], pads=[1, 0], output_padding=[1]),
    ]


def _pools() -> list[Case]:
    cases: list[Case] = []
    for kind in ("MaxPool", "AveragePool"):
        cases += [
            one(kind, "plain", kernel_shape=[2, 2]),
            one(kind, "strides_pads", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 2, 1]),
            one(kind, "ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, opset=10),
            one(kind, "ceil_pads", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, pads=[1, 1, 0, 0]),
            one(kind, "1d", (2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 1]),
            one(kind, "whole_map", kernel_shape=[7, 8], opset=7),
            one(kind, "opset_7", kernel_shape=[3, 2], strides=[1, 2], opset=7),
            one(kind, "dilations", kernel_shape=[3, 2], dilations=[2, 3], opset=19),
        ]
    return [
        *cases,
        one("MaxPool", "dilations_pads_ceil", kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 2, 0], ceil_mode=1),
        one("MaxPool", "storage_order", kernel_shape=[2, 2], storage_order=0),
        one("AveragePool", "real_pixels", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0),
        one("AveragePool", "count_pads", kernel_shape=[3, 3], pads=[1, 2, 1, 0], strides=[2, 2], count_include_pad=1),
        one("AveragePool", "count_dilated", kernel_shape=[2, 3], pads=[1, 2, 1, 0], dilations=[2, 2], opset=19,
            count_include_pad=1),
        one("AveragePool", "count_ceil", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], ceil_mode=1, opset=19,
            count_include_pad=1),
        one("GlobalAveragePool", "images"),
        one("GlobalAveragePool", "large", (1, 2, 40, 33)),
        one("GlobalAveragePool", "1d", (2, 3, 9)),
        one("GlobalMaxPool", "images"),
        one("GlobalMaxPool", "large", (1, 2, 40, 33)),
    ]  # fmt: skip


def _layers() -> list[Case]:
    c = 3
    norm = {"g": f(c), "b": f(c, seed=1), "m": f(c, seed=2), "v": np.abs(f(c, seed=3)) + 0.5}
    row = (2, 12)
    return [
        one("BatchNormalization", "plain", constants=norm),
        one("BatchNormalization", "epsilon", constants=norm, epsilon=0.01, momentum=0.7, opset=14, training_mode=0),
        one("BatchNormalization", "opset_7", constants=norm, opset=7),
        one("BatchNormalization", "spatial", constants=norm, opset=8, spatial=1),
        one("BatchNormalization", "rows", (4, 3), norm, opset=9),
        one("BatchNormalization", "rows_spatial", (4, 3), norm, opset=8, spatial=0),
        one("BatchNormalization", "1d", (2, 3, 5), norm),
        one("Gemm", "plain", row, {"w": f(12, 5)}, alpha=0.5),
        one("Gemm", "transposed", row, {"w": f(5, 12), "c": f(5)}, transB=1, transA=0, beta=2.0),
        one("Gemm", "scalar_bias", row, {"w": f(12, 5), "c": f(1)}, opset=7),
        one("Gemm", "row_bias", row, {"w": f(12, 5), "c": f(1, 5)}, opset=11),
        one("MatMul", "rows", row, {"w": f(12, 5)}),
        one("MatMul", "tokens", (2, 6, 12), {"w": f(12, 5)}),
        one("MatMul", "pixels", (2, 3, 4, 6), {"w": f(6, 5)}),
        one("MatMul", "one_pixel", (2, 1, 1, 6), {"w": f(6, 5)}),
        one("MatMul", "matrix_with_ones", (2, 3, 4, 6), {"w": f(1, 1, 6, 5)}),
        one("LRN", "plain", (2, 7, 4, 3), size=5, alpha=0.5, beta=0.6, bias=2.0),
        one("LRN", "defaults", (1, 4, 3, 3), size=3),
        one("Dropout", "ratio", opset=10, ratio=0.3),
        one("Dropout", "operand", constants={"r": number(0.25), "t": np.array(False)}, opset=12),
        one("Dropout", "seed", opset=13, seed=3),
        one("Identity", "plain"),
        one("Cast", "float", to=1, opset=19, saturate=1),
    ]


def _activations() -> list[Case]:
    plain = ("Abs", "Exp", "HardSwish", "Neg", "Relu", "Sigmoid", "Sign", "Softsign", "Tanh")
    cases = [one(kind, "plain") for kind in plain]
    return [
        *cases,
        one("Sqrt", "plain", positive=True),
        one("Reciprocal", "plain", positive=True),
        one("Relu", "rows", (3, 17)),
        one("Celu", "alpha", alpha=0.7),
        one("Elu", "alpha", alpha=1.5),
        one("LeakyRelu", "alpha", alpha=0.2),
        one("LeakyRelu", "default", opset=7),
        one("Selu", "default"),
        one("Selu", "both", alpha=1.2, gamma=0.8),
        one("HardSigmoid", "default"),
        one("HardSigmoid", "both", alpha=0.5, beta=0.3),
        one("Clip", "attributes", opset=7, min=-0.5, max=0.75),
        one("Clip", "low_attribute", opset=10, min=-0.5),
        one("Clip", "both", constants={"low": number(-0.5), "high": number(0.75)}),
        one("Clip", "high", constants={"high": number(0.5)}, operands="x - high"),
        one("Clip", "relu", constants={"low": number(0)}, opset=12),
        one("Clip", "relu6", constants={"low": number(0), "high": number(6)}, opset=13),
        one("Clip", "crossed", constants={"low": number(0.5), "high": number(-0.5)}),
        one("Clip", "open", constants={"low": number(-np.inf), "high": number(np.finfo(np.float32).max)}),
        one("PRelu", "channels", constants={"s": f(3, 1, 1)}),
        one("PRelu", "one", constants={"s": f(1)}),
        one("PRelu", "columns", constants={"s": f(8)}),
        one("PRelu", "elements", constants={"s": f(3, 7, 8)}),
        one("PRelu", "rows", (3, 6), {"s": f(6)}, opset=7),
        one("Pow", "square", constants={"e": number(2)}),
        one("Pow", "cube", constants={"e": number(3)}),
        one("Pow", "fourth", constants={"e": np.array([4], np.float32)}, opset=7),
        one("Pow", "root", constants={"e": number(0.5)}, positive=True),
        one("Pow", "one", constants={"e": number(1)}),
    ]


def _arithmetic() -> list[Case]:
    cases: list[Case] = []
    shapes = {
        "scalar": (), "one": (1,), "channels": (3, 1, 1), "channels_4d": (1, 3, 1, 1), "columns": (8,), "rows": (7, 1),
        "maps": (7, 8), "images": (1, 3, 7, 8), "channels_columns": (3, 1, 8),
    }  # fmt: skip
    for kind in ("Add", "Sub", "Mul", "Div"):
        for name, shape in shapes.items():
            constant = {"c": np.abs(f(*shape)) + 0.5}
            cases += [
                one(kind, f"{name}_right", constants=constant),
                one(kind, f"{name}_left", constants=constant, operands="c x", positive=True),
            ]
        cases += [
            Case(f"{kind}/two", (Op("Exp", "x", "a"), Op(kind, "x a", "y"))),
            Case(f"{kind}/factors", (Op("Exp", "x", "a"), Op("GlobalAveragePool", "a", "b"), Op(kind, "x b", "y"))),
            Case(
                f"{kind}/factors_left", (Op("Exp", "x", "a"), Op("GlobalAveragePool", "a", "b"), Op(kind, "b a", "y"))
            ),
            Case(
                f"{kind}/one_map",
                (Op("Exp", "x", "a"), Op("ReduceMean", "a", "b", {"axes": [1]}), Op(kind, "x b", "y")),
            ),
            Case(
                f"{kind}/columns_and_rows",
                (
                    Op("Exp", "x", "e"),
                    Op("ReduceMean", "e", "a", {"axes": [1, 2]}),
                    Op("ReduceMean", "e", "b", {"axes": [3]}),
                    Op(kind, "a b", "y"),
                ),
            ),
            Case(
                f"{kind}/transposed",
                (
                    Op("Transpose", "x", "a", {"perm": [0, 2, 3, 1]}),
                    Op("Exp", "a", "b"),
                    Op("Reshape", "x shape", "c"),
                    Op(kind, "c b", "y"),
                ),
                constants={"shape": dims(0, 7, 8, 3)},
            ),
        ]
    cases += [
        one("Add", "larger_constant", (2, 3, 1, 1), {"c": f(3, 4, 5)}),
        one("Add", "rows_vector", (3, 6), {"c": f(6)}, opset=7),
        one("Add", "many_numbers", (1, 5, 64, 64), {"c": f(5, 64, 64)}),
    ]
    for kind in ("Sum", "Max", "Min", "Mean"):
        cases += [
            Case(f"{kind}/three", (Op("Exp", "x", "a"), Op("Neg", "x", "b"), Op(kind, "x a b", "y"))),
            Case(f"{kind}/maps", (Op("GlobalMaxPool", "x", "a"), Op(kind, "x a", "y")), opset=8),
            one(kind, "one"),
        ]
    return [*cases, one("Max", "constant", constants={"c": f(3, 1, 1)}), one("Min", "constant", constants={"c": f(8)})]


def _shapes() -> list[Case]:
    big = 2**31 - 1
    return [
        one("Flatten", "default"),
        one("Flatten", "ones", (2, 1, 1, 6), axis=3, opset=9),
        one("Flatten", "negative", (2, 5, 6), axis=-2, opset=13),
        one("Reshape", "rows", constants={"s": dims(-1, 168)}),
        one("Reshape", "kept", constants={"s": dims(0, 8, -1)}, opset=7),
        one("Reshape", "seen_batch", constants={"s": dims(2, 4, 2, 21)}),
        one("Reshape", "rank_5", constants={"s": dims(0, 3, 7, 2, 4)}, opset=14, allowzero=0),
        one("Squeeze", "attribute", (2, 1, 4, 1), axes=[1, 3], opset=11),
        one("Squeeze", "operand", (2, 3, 1, 5), {"a": dims(-2)}, opset=13),
        one("Unsqueeze", "attribute", (2, 3, 4), axes=[1, 4], opset=7),
        one("Unsqueeze", "operand", (2, 3, 4), {"a": dims(-1, 2)}, opset=13),
        one("Transpose", "nhwc", perm=[0, 2, 3, 1]),
        one("Transpose", "nchw", (2, 5, 4, 3), perm=[0, 3, 1, 2]),
        one("Transpose", "images", perm=[0, 1, 3, 2]),
        one("Transpose", "rank_3", (2, 4, 5), perm=[0, 2, 1]),
        one("Expand", "maps", (2, 3, 1, 1), {"s": dims(1, 3, 4, 5)}),
        one("Expand", "channels", (2, 1, 4, 5), {"s": dims(3, 1, 1)}),
        one("Expand", "rows", (2, 3, 1, 5), {"s": dims(2, 1, 6, 1)}, opset=8),
        one("Concat", "channels", operands="x x", axis=1),
        one("Concat", "single", operands="x", axis=1),
        one("Concat", "columns", operands="x x x", axis=-1),
        one("Concat", "rows_of_features", (3, 5), operands="x x", axis=1),
        Case("Concat/pixels", (Op("GlobalMaxPool", "x", "a"), Op("GlobalAveragePool", "x", "b"),
                               Op("Concat", "a b", "y", {"axis": 1}))),
        Case("Concat/image_and_pixel_rows", (Op("Reshape", "x s", "a"), Op("Concat", "a x", "y", {"axis": 1})),
             (2, 3, 1, 1), {"s": dims(0, 3, 1, 1)}),
        Case("Split/halves", (Op("Split", "x", "a b", {"axis": 1}), Op("Sub", "a b", "y")), (2, 6, 4, 5), opset=11),
        Case("Split/attribute", (Op("Split", "x", "a y", {"axis": 1, "split": [2, 4]}),), (2, 6, 4, 5), opset=7),
        Case("Split/operand", (Op("Split", "x s", "a y b", {"axis": -1}),), (2, 3, 4, 9), {"s": dims(2, 4, 3)}),
        Case("Split/num_outputs", (Op("Split", "x", "a b y", {"axis": 2, "num_outputs": 3}),), (2, 3, 7, 4), opset=18),
        one("Slice", "attributes", opset=9, starts=[1, 0], ends=[3, 5], axes=[2, 3]),
        one("Slice", "attributes_without_axes", opset=7, starts=[0, 1], ends=[big, 3]),
        one("Slice", "channels", (2, 6, 4, 5), {"s": dims(1), "e": dims(5), "a": dims(1)}),
        one("Slice", "negative", constants={"s": dims(-3), "e": dims(-1), "a": dims(-1)}),
        one("Slice", "steps", constants={"s": dims(0, 1), "e": dims(big, big), "a": dims(2, 3), "t": dims(2, 3)}),
        one("Slice", "steps_of_channels", (1, 7, 3, 3), {"s": dims(1), "e": dims(6), "a": dims(1), "t": dims(2)}),
        one("Slice", "steps_to_the_end", (1, 5, 3, 4), {"s": dims(2), "e": dims(5), "a": dims(1), "t": dims(2)}),
        one("Slice", "long_steps", (1, 2, 5, 4), {"s": dims(0), "e": dims(5), "a": dims(2), "t": dims(4)}),
        one("Slice", "rows_of_features", (3, 9), {"s": dims(2), "e": dims(7), "a": dims(1)}),
        one("Gather", "column", constants={"i": np.array(2)}, axis=3),
        one("Gather", "channel_from_the_end", constants={"i": np.array(-1)}, axis=1, opset=11),
        one("Gather", "consecutive", constants={"i": dims(1, 2)}, axis=2),
        one("Pad", "attributes", opset=10, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5, mode="constant"),
        one("Pad", "images", constants={"p": dims(0, 0, 1, 2, 0, 0, 3, 0)}),
        one("Pad", "value", constants={"p": dims(0, 0, 0, 1, 0, 0, 2, 0), "v": number(-1.5)}, opset=13),
        one("Pad", "channels", constants={"p": dims(0, 1, 0, 0, 0, 2, 0, 0)}),
        one("Pad", "channels_value", constants={"p": dims(0, 1, 0, 0, 0, 2, 0, 0), "v": number(2)}),
        one("Pad", "all", constants={"p": dims(0, 1, 1, 0, 0, 2, 0, 3), "v": number(2)}),
        one("Pad", "cropped", constants={"p": dims(0, 0, -1, 2, 0, 0, 0, -3)}),
        one("Pad", "axes", constants={"p": dims(1, 2, 3, 0), "v": number(0.25), "a": dims(-1, 2)}, opset=18),
        one("Pad", "rank_3", (2, 3, 6), {"p": dims(0, 0, 1, 0, 0, 2), "v": number(0.5)}),
        one("DepthToSpace", "default", (2, 12, 3, 2), blocksize=2, opset=7),
        one("DepthToSpace", "DCR", (1, 18, 2, 3), blocksize=3, mode="DCR"),
        one("DepthToSpace", "CRD", (1, 18, 2, 3), blocksize=3, mode="CRD"),
        one("SpaceToDepth", "plain", (2, 3, 6, 4), blocksize=2),
        Case("Shape/view", (Op("Shape", "x", "s"), Op("Gather", "s zero", "n", {"axis": 0}),
                            Op("Unsqueeze", "n axis", "n1"), Op("Concat", "n1 rest", "t", {"axis": 0}),
                            Op("Reshape", "x t", "y")),
             constants={"zero": np.array(0), "axis": dims(0), "rest": dims(-1)}),
        Case("Shape/part", (Op("Shape", "x", "s", {"start": 0, "end": 2}), Op("Concat", "s rest", "t", {"axis": 0}),
                            Op("Reshape", "x t", "y")), constants={"rest": dims(-1)}, opset=15),
        Case("Size/of_an_image", (Op("Size", "x", "a"), Op("Shape", "x", "s"), Op("Gather", "s zero", "n"),
                                  Op("Div", "a n", "d"), Op("Unsqueeze", "d axis", "d1"),
                                  Op("Concat", "minus d1", "t", {"axis": 0}), Op("Reshape", "x t", "y")),
             constants={"zero": np.array(0), "axis": dims(0), "minus": dims(-1)}),
    ]  # fmt: skip


def _reductions() -> list[Case]:
    cases: list[Case] = []
    for kind in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"):
        where: list[tuple[str, list[int], int]] = [
            ("maps", [2, 3], 1), ("maps_dropped", [-1, -2], 0), ("channels", [1], 1), ("columns", [3], 0),
            ("channels_rows", [1, 2], 0), ("image", [1, 2, 3], 1),
        ]  # fmt: skip
        for name, axes, keep in where:
            if kind == "ReduceSum":
                cases.append(one(kind, name, constants={"a": dims(*axes)}, keepdims=keep))
            else:
                cases.append(one(kind, name, axes=axes, keepdims=keep))
        cases += [
            one(kind, "rank_3", (2, 4, 9), {"a": dims(2)}, keepdims=0, opset=18),
            one(kind, "nothing", constants={"a": np.zeros(0, np.int64)}, noop_with_empty_axes=1, opset=18),
        ]
    cases.append(one("ReduceSum", "attribute", opset=11, axes=[2, 3], keepdims=1))
    for kind in ("Softmax", "LogSoftmax"):
        cases += [
            one(kind, "rows", (3, 7)),
            one(kind, "channels", axis=1),
            one(kind, "columns", axis=-1),
            one(kind, "tokens", (2, 5, 6), axis=2),
            one(kind, "old_default", opset=11),
            one(kind, "old_axis", opset=9, axis=2),
            one(kind, "old_last", (2, 5, 6), opset=12, axis=-1),
        ]
    return cases


def _resizes() -> list[Case]:
    scales = np.array([1, 1, 2, 2], np.float32)
    by_3, uneven = np.array([1, 1, 3, 3], np.float32), np.array([1, 1, 2, 3], np.float32)
    position, rounding = "coordinate_transformation_mode", "nearest_mode"

    def resize(name: str, opset: int = 13, s: Array = scales, x: Sequence[int] = IMAGE, **attributes: Any) -> Case:
        return one("Resize", name, x, {"s": s}, "x - s" if opset > 10 else "x s", opset, **attributes)

    def sized(name: str, *sizes: int, x: Sequence[int] = IMAGE, opset: int = 13, **attributes: Any) -> Case:
        return one("Resize", name, x, {"s": dims(*sizes)}, "x - - s", opset, **attributes)

    corner = {position: "asymmetric", rounding: "floor"}
    return [
        resize("opset_10", 10),
        resize("opset_10_mode", 10, mode="nearest"),
        resize("corner", mode="nearest", **corner),
        resize("corner_by_3", s=by_3, mode="nearest", **corner),
        resize("centres", mode="nearest", **{position: "half_pixel", rounding: "round_prefer_floor"}),
        resize("centres_up", mode="nearest", **{position: "half_pixel", rounding: "round_prefer_ceil"}),
        resize("uneven", s=uneven, mode="nearest", **corner),
        resize("linear", mode="linear"),
        one(
            "Resize",
            "linear_by_3",
            constants={"r": f(0), "s": by_3},
            opset=11,
            mode="linear",
            **{position: "half_pixel"},
        ),
        resize("pytorch", mode="linear", cubic_coeff_a=-0.75, **{position: "pytorch_half_pixel"}),
        resize("symmetric", 19, mode="linear", **{position: "half_pixel_symmetric"}),
        resize("corners", mode="linear", **{position: "align_corners"}),
        resize("linear_from_the_corner", mode="linear", **{position: "asymmetric"}),
        resize("linear_uneven", s=uneven, mode="linear"),
        resize("linear_by_half", s=np.array([1, 1, 0.5, 0.5], np.float32), mode="linear"),
        resize("linear_by_part", s=np.array([1, 1, 1.6, 0.7], np.float32), mode="linear"),
        resize(
            "symmetric_by_part",
            19,
            s=np.array([1, 1, 1.6, 0.7], np.float32),
            mode="linear",
            **{position: "half_pixel_symmetric"},
        ),
        resize("cubic", mode="cubic"),
        resize("cubic_coefficient", mode="cubic", s=uneven, cubic_coeff_a=-0.5, **{position: "align_corners"}),
        resize("cubic_inside", mode="cubic", exclude_outside=1),
        resize("cubic_smaller", mode="cubic", s=np.array([1, 1, 0.6, 0.8], np.float32)),
        resize("opset_10_linear", 10, mode="linear"),
        sized("sizes_linear", 2, 3, 10, 5, mode="linear"),
        sized("sizes_corners", 2, 3, 9, 20, mode="linear", **{position: "align_corners"}),
        sized("sizes_to_one", 2, 3, 1, 1, mode="linear", **{position: "pytorch_half_pixel"}),
        resize("one_pixel", s=by_3, x=(2, 3, 1, 1), mode="linear", exclude_outside=0, extrapolation_value=0.0),
        resize("by_1", s=np.ones(4, np.float32), mode="linear"),
        resize("axes", 18, s=scales[2:], axes=[2, 3], antialias=0, keep_aspect_ratio_policy="stretch", **corner),
        sized("sizes", 2, 3, 14, 16, mode="linear"),
        sized("sizes_nearest", 2, 3, 21, 24, mode="nearest", **corner),
        sized("sizes_of_one_pixel", 2, 3, 5, 4, x=(2, 3, 1, 1), mode="linear", **{position: "pytorch_half_pixel"}),
        one("Upsample", "linear", constants={"s": scales}, opset=9, mode="linear"),
        one("Upsample", "attribute", opset=7, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"),
        one("Upsample", "operand", constants={"s": scales}, opset=9),
    ]


CASES: tuple[Case, ...] = (
    *_convolutions(), *_pools(), *_layers(), *_activations(), *_arithmetic(), *_shapes(), *_reductions(), *_resizes(),
)  # fmt: skip
