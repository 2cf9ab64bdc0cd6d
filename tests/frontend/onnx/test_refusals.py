"""What cannot be expressed is refused, all of it at once, with operator, name, attribute and reason."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import convc
from convc.ir.diagnostic import CompileError
from tests.frontend.onnx.models import Array, Op, dims, draw, make_model, save


def refusal(model: Any, folder: Path) -> CompileError:
    with pytest.raises(CompileError) as caught:
        convc.from_onnx(save(model, folder))
    return caught.value


def test_all_unsupported_nodes_are_listed_at_once(tmp_path: Path) -> None:
    model = make_model(
        [
            Op("Erf", "x", "a", name="/act/Erf"),
            Op("Conv", "a w", "b", {"auto_pad": "UPPER"}, name="/conv/Conv"),
            Op("Gelu", "b", "c", name="/act/Gelu"),
            Op("LRN", "x", "d", {"size": 4}, name="/norm/LRN"),
            Op("Conv", "d w", "e", {"padding": [1, 1, 1, 1]}, name="/conv2/Conv"),
            Op("MaxPool", "e", "f g", {"kernel_shape": [2, 2]}, name="/pool/MaxPool"),
            Op("Cast", "x", "h", {"to": TensorProto.INT64}, name="/cast/Cast"),
            Op("Sum", "c f g h", "y", name="/sum/Sum"),
        ],
        ("N", 3, 8, 8),
        {"w": draw((3, 3, 3, 3))},
        opset=20,
    )
    error = refusal(model, tmp_path)
    assert {diagnostic.code for diagnostic in error.diagnostics} == {"onnx-unsupported"}
    messages = [diagnostic.message for diagnostic in error.diagnostics]
    assert messages == [
        "Erf `/act/Erf`: the operator is not supported",
        "Gelu `/act/Gelu`: the operator is not supported",
        "LRN `/norm/LRN`: attribute `size`: 4 is not odd: ONNX and PyTorch differ on which side has one channel more",
        "Conv `/conv2/Conv`: attribute `padding`: opset 20 knows no such attribute",
        "Cast `/cast/Cast`: attribute `to`: a computed value becomes int64; only floating-point types are supported",
    ]
    assert "nearest supported operator is" in str(error)


NHWC = ("N", 3, 8, 8)
W = draw((3, 3, 3, 3))

# Operator, operands, attributes, constants, words of the message.
REFUSED: list[tuple[str, str, Mapping[str, Any], Mapping[str, Array], str]] = [
    ("Conv", "x w", {"auto_pad": "UPPER"}, {"w": W}, "attribute `auto_pad`: 'UPPER'"),
    ("Conv", "x w", {"auto_pad": "VALID", "pads": [1, 1, 1, 1]}, {"w": W}, "pads="),
    ("Conv", "x w", {"kernel_shape": [5, 5]}, {"w": W}, "kernel_shape"),
    ("Conv", "x w", {"group": 2}, {"w": W}, "3 input channels, but the filter reads 3 x 2"),
    ("Conv", "x w", {"pads": [1, 1, 1]}, {"w": W}, r"attribute `pads`"),
    ("Conv", "x w", {"pads": [0, 0, 0, -1]}, {"w": W}, r"attribute `pads`"),
    ("Conv", "x w", {"strides": [0, 1]}, {"w": W}, r"attribute `strides`"),
    ("Conv", "x w", {"dilations": [9, 9]}, {"w": W}, "larger than the padded input"),
    ("Conv", "x w", {}, {"w": draw((3, 3, 3))}, "filters are 3x3x3"),
    ("Conv", "x w", {}, {"w": W.astype(np.int64)}, "is int64, not float32"),
    ("Conv", "x w b", {}, {"w": W, "b": draw((4,))}, "the bias is 4, but there are 3 filters"),
    ("Conv", "x x", {}, {}, "is computed from the input; only constants"),
    ("ConvTranspose", "x w", {"pads": [9, 9, 9, 9]}, {"w": W}, "would have"),
    ("ConvTranspose", "x w", {"auto_pad": "SAME_UPPER", "strides": [5, 5]}, {"w": W}, "larger than what there is"),
    ("ConvTranspose", "x w", {"auto_pad": "SAME_UPPER", "pads": [1, 1, 1, 1]}, {"w": W}, "is given beside it"),
    ("MaxPool", "x", {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "dilations": [2, 2]}, {}, "dilation"),
    ("AveragePool", "x", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID", "ceil_mode": 1}, {}, "VALID"),
    ("MaxPool", "x", {"kernel_shape": [2]}, {}, "attribute `kernel_shape`"),
    ("MaxPool", "x", {"kernel_shape": [2, 2], "storage_order": 1}, {}, "attribute `storage_order`: 1"),
    ("MaxPool", "x", {"kernel_shape": [2, 2], "pads": [2, 2, 2, 2]}, {}, "smaller than the window"),
    ("AveragePool", "x", {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [0, 0, 2, 2], "ceil_mode": 1}, {}, "ceil"),
    ("AveragePool", "x", {"kernel_shape": [1 << 20, 1 << 20]}, {}, "more than 1024 taps"),
    ("Gemm", "x w", {}, {"w": draw((3, 3))}, "reads rows"),
    ("MatMul", "w x", {}, {"w": draw((8, 8))}, "first operand is a constant"),
    ("MatMul", "x w", {}, {"w": draw((3, 8, 4))}, "only one matrix for all rows"),
    ("MatMul", "x x", {}, {}, "is computed from the input"),
    ("Add", "x c", {}, {"c": draw((4, 3, 1, 1))}, "does not spread"),
    ("Add", "x c", {}, {"c": draw((5,))}, "do not match"),
    ("Add", "x c", {}, {"c": np.array([np.nan], np.float32)}, "not finite"),
    ("PRelu", "x c", {}, {"c": draw((4, 1, 1))}, "do not spread"),
    ("Pow", "x c", {}, {"c": np.array(1.5, np.float32)}, "exponent 1.5"),
    ("Clip", "x c", {}, {"c": draw((2,))}, "not a number"),
    ("Softmax", "x", {"axis": 0}, {}, "along the batch"),
    ("Softmax", "x", {"axis": 4}, {}, "attribute `axis`: 4 is no axis"),
    ("ReduceMean", "x", {}, {}, "the batch among them"),
    ("ReduceMean", "x", {"axes": [0]}, {}, "along the batch"),
    ("Concat", "x x", {"axis": 0}, {}, "along the batch"),
    ("Concat", "x c", {"axis": 1}, {"c": draw((1, 3, 8, 8))}, "is a constant"),
    ("Transpose", "x", {"perm": [1, 0, 2, 3]}, {}, "moves the batch"),
    ("Transpose", "x", {"perm": [0, 1, 1, 2]}, {}, "no order of 4 dimensions"),
    ("Squeeze", "x", {}, {}, "without a list of axes"),
    ("Squeeze", "x a", {}, {"a": dims(1)}, "not all of extent 1"),
    ("Unsqueeze", "x a", {}, {"a": dims(0)}, "along the batch"),
    ("Flatten", "x", {"axis": 2}, {}, "joins the batch"),
    ("Reshape", "x s", {}, {"s": dims(-1, 3)}, "does not keep the images of a batch apart"),
    ("Reshape", "x s", {}, {"s": dims(1, -1)}, "holds for one batch size only"),
    ("Reshape", "x s", {}, {"s": dims(-1, -1)}, "is no shape"),
    ("Reshape", "x s", {}, {"s": dims(0, -7)}, "is no shape"),
    ("Reshape", "x s", {}, {"s": dims(0, 5, -1)}, "do not fill"),
    ("Reshape", "x s", {}, {"s": dims(0, 1, 2, 3, 0)}, "keeps dimension 4"),
    ("Reshape", "x s", {"allowzero": 1}, {"s": dims(0, -1)}, "attribute `allowzero`"),
    ("Expand", "x s", {}, {"s": dims(2, 3, 8, 8)}, "batch cannot be repeated"),
    ("Slice", "x s e a", {}, {"s": dims(0), "e": dims(2), "a": dims(0)}, "a part of the batch"),
    ("Slice", "x s e a t", {}, {"s": dims(5), "e": dims(0), "a": dims(2), "t": dims(-1)}, "step of -1"),
    ("Slice", "x s e a", {}, {"s": dims(5), "e": dims(5), "a": dims(2)}, "are none"),
    ("Gather", "x i", {"axis": 1}, {"i": dims(0, 2)}, "only one index, or consecutive ones"),
    ("Gather", "x i", {"axis": 1}, {"i": dims(3)}, "are not among the 3"),
    ("Pad", "x p", {"mode": "reflect"}, {"p": dims(0, 0, 1, 1, 0, 0, 1, 1)}, "attribute `mode`: 'reflect'"),
    ("Pad", "x p", {}, {"p": dims(1, 0, 0, 0, 0, 0, 0, 0)}, "adds images to the batch"),
    ("Pad", "x p", {}, {"p": dims(0, 0, -9, 0, 0, 0, 0, 0)}, "leave nothing"),
    ("DepthToSpace", "x", {"blocksize": 2}, {}, "3 channels do not split"),
    ("Resize", "x - s", {"mode": "area"}, {"s": np.array([1, 1, 2, 2], np.float32)}, "'area'"),
    ("Resize", "x - s", {"mode": "nearest"}, {"s": np.array([1, 1, 1.5, 1.5], np.float32)}, "no whole number"),
    (
        "Resize",
        "x - s",
        {"coordinate_transformation_mode": "align_corners"},
        {"s": np.array([1, 1, 2, 2], np.float32)},
        "align_corners with round_prefer_floor",
    ),
    ("Resize", "x - s", {"mode": "linear"}, {"s": np.array([1, 2, 2, 2], np.float32)}, "batch or the channels"),
    ("BatchNormalization", "x c c c c", {"training_mode": 1}, {"c": draw((3,))}, r"model.eval\(\)"),
    ("BatchNormalization", "x c c c c", {}, {"c": draw((4,))}, "gamma is 4"),
    ("Resize", "x - s", {"mode": "linear"}, {"s": np.array([1, 1, 1 << 30, 1], np.float32)}, "elements"),
    ("Resize", "x - s", {"mode": "linear"}, {"s": np.array([1, 1, 1 << 22, 1], np.float32)}, "too large a matrix"),
    ("Resize", "x - s", {"mode": "linear"}, {"s": np.array([1, 1, np.nan, 1], np.float32)}, "no size or factor"),
    ("BatchNormalization", "x c c c v", {}, {"c": draw((3,)), "v": -np.ones(3, np.float32)}, "variance is negative"),
    ("Dropout", "x r t", {}, {"r": np.array(0.5, np.float32), "t": np.array(True)}, r"model.eval\(\)"),
    ("Log", "x", {}, {}, "for constants and shapes only"),
    ("Upsample", "x s", {}, {"s": np.array([1, 1, 2, 2], np.float32)}, "no such operator in opset 17"),
    ("If", "x", {}, {}, "not supported"),
    ("LSTM", "x", {}, {}, "not supported"),
]


@pytest.mark.parametrize(("kind", "operands", "attributes", "constants", "words"), REFUSED)
def test_refused_with_the_reason(
    kind: str, operands: str, attributes: Mapping[str, Any], constants: Mapping[str, Array], words: str, tmp_path: Path
) -> None:
    model = make_model([Op(kind, operands, "y", attributes, "the_node")], NHWC, constants)
    error = refusal(model, tmp_path)
    (diagnostic,) = error.diagnostics
    if diagnostic.code == "onnx-unsupported":
        assert diagnostic.message.startswith(f"{kind} `the_node`: ")
    else:
        assert diagnostic.code == "onnx-malformed"
    assert re.search(words, diagnostic.message), diagnostic.message


def test_outputs_beyond_the_first_are_refused_where_they_are_read(tmp_path: Path) -> None:
    pool = Op("MaxPool", "x", "a i", {"kernel_shape": [2, 2]})
    assert convc.from_onnx(save(make_model([pool, Op("Relu", "a", "y")], NHWC), tmp_path)).classes == 3
    message = str(refusal(make_model([pool, Op("Relu", "a", "b"), Op("Cast", "i", "y", {"to": 1})], NHWC), tmp_path))
    assert "its output 2, `i`, is read" in message


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 4), ""),
        (("N", 3, "H", 4), "only the batch may be open"),
        (("N",), "1 dimension"),
        (("N", 1, 2, 3, 4), "5 dimensions"),
        (("N", 0, 2, 2), "Nx0x2x2"),
        (("N", -3, 2, 2), "Nx-3x2x2"),
        (("N", 1 << 20, 1 << 20, 4), "elements"),
    ],
)
def test_inputs_that_are_no_images(shape: tuple[int | str, ...], words: str, tmp_path: Path) -> None:
    model = make_model([Op("Relu", "x", "y")], shape)
    if not words:
        assert convc.from_onnx(save(model, tmp_path)).input_shape == (4, 1, 1)
        return
    assert words in str(refusal(model, tmp_path))


def test_several_inputs_are_named(tmp_path: Path) -> None:
    model = make_model([Op("Add", "x z", "y")], NHWC)
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 8, 8]))
    assert "2 inputs: x, z" in str(refusal(model, tmp_path))
    # One that nothing reads is no obstacle.
    unused = make_model([Op("Relu", "x", "y")], NHWC)
    unused.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 8, 8]))
    assert convc.from_onnx(save(unused, tmp_path)).input_shape == (3, 8, 8)


def test_inputs_of_integers_are_refused(tmp_path: Path) -> None:
    assert "is uint8" in str(refusal(make_model([Op("Relu", "x", "y")], NHWC, kind=TensorProto.UINT8), tmp_path))


@pytest.mark.parametrize("opset", [6, 24, 99])
def test_unknown_opsets_are_refused(opset: int, tmp_path: Path) -> None:
    assert f"opset {opset}" in str(refusal(make_model([Op("Relu", "x", "y")], NHWC, opset=opset), tmp_path))


def test_other_domains_are_refused(tmp_path: Path) -> None:
    model = make_model([Op("Relu", "x", "y")], NHWC)
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "domain `com.microsoft`" in str(refusal(model, tmp_path))


def test_a_missing_library_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(make_model([Op("Relu", "x", "y")], NHWC), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CompileError, match=r"`onnx` is not installed") as caught:
        convc.from_onnx(path)
    assert caught.value.diagnostics[0].code == "onnx-library"
