"""Whole nets as exporters write them: shape arithmetic, channel-last models, fixed batches, old spellings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import convc
from convc.ir.diagnostic import CompileError
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.ops.rearrange import Rearrange
from convc.ir.verify import verify
from tests.frontend.onnx.models import TOLERANCE, Op, check, dims, draw, make_model, peer, run_net, save

X = draw((3, 3, 12, 10))


def lenet(opset: int = 17, batch: int | str = "N") -> onnx.ModelProto:
    """Convolution, pool, `x.view(x.size(0), -1)` as PyTorch wrote it for years, and dense layers."""
    return make_model(
        [
            Op("Conv", "x conv1.weight conv1.bias", "a", {"pads": [1, 1, 1, 1]}, "/conv1/Conv"),
            Op("Relu", "a", "b", name="/Relu"),
            Op("MaxPool", "b", "c", {"kernel_shape": [2, 2], "strides": [2, 2]}, "/pool/MaxPool"),
            Op("Shape", "c", "s"),
            Op("Gather", "s zero", "n"),
            Op("Unsqueeze", "n axis", "n1"),
            Op("Concat", "n1 minus", "t", {"axis": 0}),
            Op("Reshape", "c t", "d"),
            Op("Gemm", "d fc1.weight fc1.bias", "e", {"transB": 1}, "/fc1/Gemm"),
            Op("Softmax", "e", "y", {"axis": 1}),
        ],
        (batch, 3, 12, 10),
        {
            "conv1.weight": draw((4, 3, 3, 3)),
            "conv1.bias": draw((4,)),
            "fc1.weight": draw((5, 120)),
            "fc1.bias": draw((5,)),
            "zero": np.array(0),
            "axis": dims(0),
            "minus": dims(-1),
        },
        opset=opset,
    )


def test_parameters_keep_the_names_of_their_initialisers(tmp_path: Path) -> None:
    net = check(lenet(), X, tmp_path)
    assert list(net.weights) == ["conv1.weight", "conv1.bias", "fc1.weight", "fc1.bias"]
    assert list(net.graph(1).parameters) == list(net.weights)
    np.testing.assert_array_equal(net.weights["fc1.weight"], draw((5, 120)))
    verify(net.graph(7))


def test_numbered_initialisers_take_the_name_of_their_layer(tmp_path: Path) -> None:
    weights = {"onnx::Conv_12": draw((4, 3, 3, 3)), "13": draw((4,))}
    ops = [Op("Conv", "x onnx::Conv_12 13", "y", name="/features/0/Conv")]
    net = check(make_model(ops, ("N", 3, 12, 10), weights), X, tmp_path)
    assert list(net.weights) == ["features_0_Conv.weight", "features_0_Conv.bias"]


def test_a_fixed_batch_becomes_any_batch(tmp_path: Path) -> None:
    model = make_model(
        [
            Op("Reshape", "x s", "a"),
            Op("Transpose", "a", "b", {"perm": [0, 2, 1, 3]}),
            Op("Reshape", "b t", "y"),
        ],
        (1, 3, 12, 10),
        {"s": dims(1, 3, 4, 30), "t": dims(-1, 360)},
    )
    net = convc.from_onnx(save(model, tmp_path))
    expected = np.concatenate([peer(model, image[None]) for image in X])
    with convc.compile(net, batch=4) as program:
        np.testing.assert_array_equal(program(X), expected)
        np.testing.assert_array_equal(program(X[:2]), expected[:2])


def test_channel_last_models_cost_one_rearrangement(tmp_path: Path) -> None:
    """As tf2onnx writes them: the input is NHWC, and so is what comes out."""
    model = make_model(
        [
            Op("Transpose", "x", "a", {"perm": [0, 3, 1, 2]}),
            Op("Conv", "a w", "b", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
            Op("Transpose", "b", "c", {"perm": [0, 2, 3, 1]}),
            Op("Add", "c bias", "d"),
            Op("Relu", "d", "e"),
            Op("Transpose", "e", "g", {"perm": [0, 3, 1, 2]}),
            Op("Conv", "g v", "h"),
            Op("ReduceMean", "h", "i", {"axes": [2, 3], "keepdims": 0}),
            Op("MatMul", "i m", "j"),
            Op("Add", "j n", "y"),
        ],
        ("N", 12, 10, 3),
        {"w": draw((4, 3, 3, 3)), "bias": draw((4,)), "v": draw((6, 4, 1, 1)), "m": draw((6, 5)), "n": draw((5,))},
        opset=13,
    )
    net = check(model, np.ascontiguousarray(X.transpose(0, 2, 3, 1)), tmp_path)
    graph = net.graph(2)
    assert sum(isinstance(node.op, Rearrange) for node in graph.nodes) == 1
    # Both added vectors are biases of the layers before them.
    assert [len(node.operands) for node in graph.nodes_of(Conv2d, Linear)] == [3, 2, 3]
    assert list(net.weights) == ["w", "bias", "v", "m", "n"]


def test_channel_shuffle_is_one_rearrangement(tmp_path: Path) -> None:
    model = make_model(
        [
            Op("Conv", "x w", "a"),
            Op("Reshape", "a s", "b"),
            Op("Transpose", "b", "c", {"perm": [0, 2, 1, 3, 4]}),
            Op("Reshape", "c t", "d"),
            Op("Conv", "d v", "y", {"group": 2}),
        ],
        ("N", 3, 12, 10),
        {"w": draw((6, 3, 1, 1)), "s": dims(0, 2, 3, 12, 10), "t": dims(0, 6, 12, 10), "v": draw((4, 3, 3, 3))},
    )
    graph = check(model, X, tmp_path).graph(1)
    assert [node.op.name for node in graph.nodes] == ["conv2d", "rearrange", "conv2d"]


def test_borders_and_biases_go_into_the_layers(tmp_path: Path) -> None:
    model = make_model(
        [
            Op("Pad", "x p", "a"),
            Op("Conv", "a w", "b", {"pads": [1, 0, 0, 1]}),
            Op("Add", "bias b", "c"),
            Op("Relu", "c", "d"),
            Op("Flatten", "d", "e"),
            Op("MatMul", "e m", "g"),
            Op("Add", "g n", "y"),
        ],
        ("N", 3, 12, 10),
        {
            "p": dims(0, 0, 1, 2, 0, 0, 0, 1),
            "w": draw((4, 3, 3, 3)),
            "bias": draw((4, 1, 1)),
            "m": draw((4 * 12 * 12, 5)),
            "n": draw((1, 5)),
        },
    )
    graph = check(model, X, tmp_path).graph(1)
    assert [node.op.name for node in graph.nodes] == ["conv2d", "relu", "flatten", "linear"]


def test_caffes_scales_go_into_the_normalisation(tmp_path: Path) -> None:
    c = {"g": np.ones(3), "b": np.zeros(3), "m": draw((3,)), "v": np.abs(draw((3,))) + 1}
    constants = {key: value.astype(np.float32) for key, value in c.items()}
    constants |= {"s": draw((3, 1, 1), "s"), "t": draw((3, 1, 1), "t")}
    ops = [Op("BatchNormalization", "x g b m v", "a"), Op("Mul", "a s", "c"), Op("Add", "c t", "y")]
    net = check(make_model(ops, ("N", 3, 12, 10), constants), X, tmp_path)
    assert [node.op.name for node in net.graph(1).nodes] == ["batch_norm"]
    np.testing.assert_array_equal(net.weights["g"], constants["s"].reshape(-1))


def test_initialisers_may_be_listed_as_inputs(tmp_path: Path) -> None:
    model = lenet(opset=13)
    for tensor in list(model.graph.initializer):
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    net = convc.from_onnx(save(model, tmp_path))
    np.testing.assert_allclose(run_net(net, X, "interpreter"), peer(model, X), atol=1e-6)


def test_weights_may_be_nodes(tmp_path: Path) -> None:
    w, b = draw((4, 3, 3, 3)), draw((4,))
    ops = [
        Op("Constant", "", "w", {"value": numpy_helper.from_array(w)}),
        Op("Constant", "", "b", {"value_floats": [float(number) for number in b]}),
        Op("Constant", "", "low", {"value_float": 0.25}),
        Op("Constant", "", "s", {"value_ints": [0, -1]}),
        Op("Conv", "x w b", "a"),
        Op("Clip", "a low", "c"),
        Op("Reshape", "c s", "y"),
    ]
    check(make_model(ops, ("N", 3, 12, 10)), X, tmp_path)


def test_layers_that_share_weights_share_parameters(tmp_path: Path) -> None:
    """Equal vectors alone are stored once by exporters, and belong to layers of their own."""
    shared = {"w": draw((3, 3, 3, 3)), "b": draw((3,)), "v": draw((3, 3, 1, 1))}
    pads = {"pads": [1, 1, 1, 1]}
    ops = [Op("Conv", "x w b", "a", pads), Op("Conv", "a w b", "c", pads), Op("Conv", "c v b", "y", name="last")]
    net = check(make_model(ops, ("N", 3, 12, 10), shared), X, tmp_path)
    assert list(net.weights) == ["w", "b", "v", "last.bias"]


def test_rows_are_images_of_one_pixel(tmp_path: Path) -> None:
    model = make_model([Op("Gemm", "x w b", "y", {"transB": 1})], ("N", 7), {"w": draw((4, 7)), "b": draw((4,))})
    net = check(model, draw((5, 7)), tmp_path)
    assert net.input_shape == (7, 1, 1)


def test_one_output_of_several_is_chosen(tmp_path: Path) -> None:
    model = make_model([Op("Relu", "x", "a"), Op("Sigmoid", "a", "b"), Op("Gelu", "a", "c")], ("N", 3, 4, 4), opset=20)
    del model.graph.output[:]
    for name in ("a", "b", "c"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    path = save(model, tmp_path)
    with pytest.raises(CompileError, match=r"3 outputs: a, b, c"):
        convc.from_onnx(path)
    # What another output needs is not looked at.
    assert [node.op.name for node in convc.from_onnx(path, output="b").graph(1).nodes] == ["relu", "sigmoid"]
    with pytest.raises(CompileError, match="no node of the model makes `d`"):
        convc.from_onnx(path, output="d")


def test_open_sizes_are_given(tmp_path: Path) -> None:
    model = make_model([Op("Conv", "x w", "y")], ("N", 3, "H", "W"), {"w": draw((2, 3, 3, 3))})
    path = save(model, tmp_path)
    with pytest.raises(CompileError, match=r"Nx3xHxW: only the batch may be open"):
        convc.from_onnx(path)
    assert convc.from_onnx(path, input_shape=(3, 8, 9)).input_shape == (3, 8, 9)
    with pytest.raises(CompileError, match=r"which 4x8x9 does not fit"):
        convc.from_onnx(path, input_shape=(4, 8, 9))


def test_functions_are_written_out(tmp_path: Path) -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    function = helper.make_function("own", "Square", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    graph = helper.make_graph(
        [helper.make_node("Square", ["x"], ["y"], domain="own")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    check(helper.make_model(graph, opset_imports=domains, functions=[function], ir_version=8), X, tmp_path)


def test_half_precision_is_remarked(tmp_path: Path) -> None:
    w = draw((4, 3, 3, 3)).astype(np.float16)
    model = make_model([Op("Conv", "x w", "y")], ("N", 3, 12, 10), {"w": w}, kind=TensorProto.FLOAT16)
    net = convc.from_onnx(save(model, tmp_path))
    assert [note.code for note in net.warnings] == ["onnx-precision"]
    np.testing.assert_array_equal(net.weights["w"], w.astype(np.float32))
    expected = peer(model, X.astype(np.float16))
    np.testing.assert_allclose(run_net(net, X, "interpreter"), expected, atol=0.05)


def test_double_precision_is_rounded_and_remarked(tmp_path: Path) -> None:
    w = draw((4, 3, 3, 3)).astype(np.float64) + 1e-12
    model = make_model([Op("Conv", "x w", "y")], ("N", 3, 12, 10), {"w": w}, kind=TensorProto.DOUBLE)
    net = convc.from_onnx(save(model, tmp_path))
    assert [note.code for note in net.warnings] == ["onnx-precision"] * 2
    assert "rounded to float32" in net.warnings[1].message


def test_an_imported_net_has_no_loss_to_train(tmp_path: Path) -> None:
    net = convc.from_onnx(save(lenet(), tmp_path))
    with pytest.raises(CompileError, match="has no loss"):
        convc.compile(net, mode="train")
    with pytest.raises(CompileError, match="has no text"):
        net.resolved()
    with pytest.raises(CompileError, match="at least 1 image"):
        net.graph(0)


def test_a_program_starts_with_the_weights_whatever_the_seed(tmp_path: Path) -> None:
    net = convc.from_onnx(save(lenet(), tmp_path))
    with convc.compile(net, batch=3, seed=5, target="reference") as program:
        first = program(X)
        program.params["fc1.bias"] = np.zeros(5)
        assert not np.array_equal(program(X), first)
        program.reset(7)
        np.testing.assert_array_equal(program(X), first)


def test_opsets_agree(tmp_path: Path) -> None:
    results = [run_net(convc.from_onnx(save(lenet(opset), tmp_path)), X, "interpreter") for opset in (13, 17, 21, 23)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bvlc_alexnet", "densenet121", "inception_v1", "shufflenet"])
def test_the_nets_that_come_with_onnx(name: str) -> None:
    """Known topologies; their weights are made of constants."""
    path = LIGHT / f"light_{name}.onnx"
    if not path.exists():
        pytest.skip("this version of onnx comes without them")
    net = convc.from_onnx(path)
    assert net.input_shape == (3, 224, 224)
    verify(net.graph(1))
    x = draw((1, 3, 224, 224), name)
    runtime = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = runtime.run(None, {runtime.get_inputs()[0].name: x})[0]
    with convc.compile(net, batch=1) as program:
        result = program(x)
    assert result.shape == expected.shape
    assert float(np.abs(result - expected).max()) <= TOLERANCE * max(float(np.abs(expected).max()), 0.1)


def _torch_nets() -> list[tuple[str, Callable[[], object], tuple[int, ...]]]:
    from torch import nn

    def small() -> object:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.PixelUnshuffle(2),
            nn.Conv2d(32, 6, 1),
            nn.PReLU(6),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(6 * 9, 4),
            nn.LogSoftmax(1),
        )

    def up() -> object:
        return nn.Sequential(nn.ConvTranspose2d(3, 5, 4, 2, 1), nn.SiLU(), nn.Upsample(scale_factor=2, mode="bilinear"))

    return [("small", small, (2, 3, 12, 12)), ("up", up, (2, 3, 6, 7))]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_nets_exported_by_pytorch(index: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    name, make, shape = _torch_nets()[index]
    torch.manual_seed(0)
    model, x = make().eval(), torch.from_numpy(draw(shape, name))  # type: ignore[attr-defined]
    path = tmp_path / f"{name}.onnx"
    torch.onnx.export(model, (x,), str(path), input_names=["x"], dynamic_axes={"x": {0: "N"}}, dynamo=False)
    expected = model(x).detach().numpy()
    result = run_net(convc.from_onnx(path), x.numpy(), "cpu")
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
