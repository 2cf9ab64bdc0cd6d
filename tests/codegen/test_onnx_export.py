"""Models for other tools: ONNX's checker accepts them, and ONNX Runtime computes what the interpreter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.codegen.onnx.model import IR_VERSIONS, encode
from convc.codegen.onnx.table import TABLE
from convc.frontend import loads
from convc.frontend.layers import LAYERS
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import Op
from convc.ir.ops.activation import Relu, Step
from convc.ir.ops.elementwise import Absolute, Add, Divide, Exp, Greater, Maximum, Minimum, Negate, Select, Sign, Sqrt
from convc.ir.ops.elementwise import Multiply as Times
from convc.ir.ops.elementwise import Subtract as Minus
from convc.ir.ops.join import InsertChannels, SliceChannels
from convc.ir.ops.local_response import LocalResponseNorm
from convc.ir.ops.log_softmax import LogSoftmax
from convc.ir.ops.maps import SpatialSum, SpreadMaps
from convc.ir.ops.pad import Pad
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.rearrange import Rearrange
from convc.ir.ops.shape import Unflatten
from convc.ir.types import f32

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Layers behind one another: whole bodies of nets that read 3x11x13.
BODIES = {
    "conv": "conv 4 k=(3,2) s=(2,1) pad=(1,0,2,1) dil=(1,2) -> conv 6 k=3 pad=same -> conv 3 k=1 bias=no",
    "groups": "conv 6 k=3 groups=3 -> conv 6 k=3 groups=in bias=no",
    "deconv": "deconv 4 k=3 s=2 pad=1 out_pad=1 -> deconv 2 k=(2,3) s=(1,2) bias=no -> deconv 4 k=3 dil=2 groups=2",
    "shared_deconv": "deconv 3 k=2 s=2 as a\n relu\n add a",
    "pool": "pool max 3 s=2 pad=1 -> pool avg 2 s=1 pad=1 -> pool avg 3 s=2 pad=1 count_pad=no",
    "ceil": "pool max 2 s=3 round=ceil -> pool max 2 round=ceil",
    "ceil_max": "pool max 3 s=2 pad=1 round=ceil",
    "ceil_avg": "pool avg 2 round=ceil",
    "ceil_avg_pad": "pool avg 3 s=2 pad=(0,1) round=ceil -> pool avg 2 s=2 pad=(1,0) round=ceil",
    "ceil_avg_no": "pool avg 3 s=2 pad=(0,1) round=ceil count_pad=no",
    "global": "as a -> pool avg global as b\n from a -> pool max global\n add b -> flatten",
    "fc": "fc 7 -> bn -> relu -> fc 5 bias=no dropconnect=0.5",
    "bits": "conv 4 k=3 bits=1 -> conv 6 k=3 groups=2 bits=1 bias=no -> bn -> fc 5 bits=1",
    "bn": "conv 4 k=3 bias=no -> bn -> bn affine=no eps=0.1",
    "lrn": "conv 9 k=1 -> lrn 5 alpha=0.5 -> lrn 3 k=2 beta=0.5",
    "lrn_even": "conv 9 k=1 -> lrn 4 alpha=0.5 -> lrn 2 alpha=0.1 k=0.5",
    "lrn_flat": "fc 8 -> lrn 3 alpha=0.9",
    "activations": "conv 6 k=1 -> leaky 0.2 -> elu 0.7 -> sigmoid -> tanh -> linear -> relu -> relu6",
    "relu6": "conv 6 k=1 init=gauss(9) -> relu6",
    "prelu": "conv 6 k=1 -> prelu -> fc 5 -> prelu",
    "step": "conv 6 k=1 -> step",
    "maxout": "conv 6 k=1 -> maxout 3 -> fc 8 -> maxout 2",
    "softmax": "conv 6 k=3 -> softmax",
    "dropout": "dropout 0.5 -> noise 0.1 -> conv 2 k=1",
    "upsample": "upsample 2 -> conv 2 k=3 -> upsample 3 mode=bilinear",
    "bilinear": "upsample 2 mode=bilinear",
    "residual": "residual { conv 5 k=3 s=2 pad=1 -> bn -> relu } skip auto",
    "concat": "concat { branch { conv 2 k=1 } branch { pool max 3 s=1 pad=1 } }",
    "squeeze": "as a -> pool avg global -> conv 3 k=1 -> sigmoid\n mul a",
    "shared": "shared s { conv 3 k=1 -> prelu }\n reuse s -> bn",
    "aux": "conv 4 k=3\n aux { fc 10 -> loss softmax weight=0.3 }\n fc 10 -> loss softmax",
    "nothing": "",
}


def outside(model: bytes, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    (result,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return result


def drawn(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for the parameters at which nothing cancels: no zeros, no ones, positive variances."""
    random = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {}
    for name, parameter in graph.parameters.items():
        array = random.standard_normal(parameter.value.shape).astype(np.float32)
        values[name] = np.abs(array) + 0.5 if parameter.role in ("var", "gamma") else array * 0.5
    return values


def compare(graph: Graph, opset: int = 17, rows: int = 3) -> Any:
    """Export, run both, and return the model."""
    weights = drawn(graph)
    model = encode(graph, weights, opset, {"net": "n"})
    x = np.random.default_rng(1).random((rows, *graph.inputs["x"].shape[1:])).astype(np.float32)
    found = outside(model, x)
    feed: dict[str, np.ndarray] = {**weights, "x": x, "labels": np.zeros(rows, np.int32)}
    expected = run_reference(
        graph, {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in feed.items()}
    )
    scale = max(1.0, float(np.abs(expected["logits"]).max()))
    assert found.shape == expected["logits"].shape
    assert np.abs(found - expected["logits"]).max() <= 1e-5 * scale
    return onnx.load_from_string(model)


def net(body: str) -> Graph:
    return loads(f"net n {{\n input 3x11x13\n {body}\n}}").graph(1)


@pytest.mark.parametrize("name", BODIES)
def test_layers(name: str) -> None:
    compare(net(BODIES[name]))


@pytest.mark.parametrize("opset", IR_VERSIONS)
@pytest.mark.parametrize("name", ["conv", "ceil_avg_pad", "lrn_even", "maxout", "upsample", "squeeze", "step", "bits"])
def test_every_opset(name: str, opset: int) -> None:
    model = compare(net(BODIES[name]), opset)
    assert model.opset_import[0].version == opset
    assert model.ir_version == IR_VERSIONS[opset]


def test_every_layer_of_the_language_is_tried() -> None:
    tried = " ".join(BODIES.values()) + " input"
    missing = [kind.title for kind in LAYERS if kind.title not in tried and kind.word != "loss"]
    assert not missing


# Ops that no layer makes, as importers and rewrites do.
OPS: dict[str, tuple[Op, ...]] = {
    "dilated_max": (MaxPool((2, 3), (1, 2), (1, 0, 1, 2), dilation=(2, 1)),),
    "dilated_ceil": (MaxPool((2, 2), (3, 3), ceil=True, dilation=(2, 4)),),
    "pad": (Pad((1, 0, 2, 3), 0.5), Pad((-1, 2, 0, -3))),
    "rearrange": (Rearrange((3, 11, 13), (2, 0, 1), (13, 3, 11)),),
    "slice": (SliceChannels(1, 2), InsertChannels(1, 5)),
    "sum": (SpatialSum(), SpreadMaps((2, 3))),
    "log_softmax": (LogSoftmax(),),
    "lrn": (LocalResponseNorm(2, 0.5),),
    "unary": (Exp(), Sqrt(), Negate(), Absolute(), Sign()),
    "unflatten": (Rearrange((3, 11, 13), (0, 1, 2), (429,)), Unflatten((3, 11, 13))),
    "step": (Step(), Relu()),
}


def chain(ops: tuple[Op, ...]) -> Graph:
    graph = Graph("n")
    value, builder = graph.add_input("x", f32(1, 3, 11, 13)), Builder(graph)
    for number, op in enumerate(ops):
        with builder.at((), f"op{number}"):
            value = builder.add(op, value)
    graph.outputs["logits"] = value
    return graph


@pytest.mark.parametrize("name", OPS)
def test_ops(name: str) -> None:
    compare(chain(OPS[name]))


def test_joins_with_vectors_and_constants() -> None:
    graph = Graph("n")
    x, builder = graph.add_input("x", f32(1, 3, 4, 5)), Builder(graph)
    vector = graph.add_parameter("v", f32(3))
    with builder.at((), "joins"):
        value = builder.add(Add(), x, vector)
        value = builder.add(Maximum(), builder.add(Minus(), value, builder.constant(0.3)), x)
        value = builder.add(Divide(), builder.add(Minimum(), value, vector), builder.constant(0.7))
        above = builder.add(Greater(), value, vector)
        value = builder.add(Select(), above, builder.add(Times(), value, value), x)
    graph.outputs["logits"] = value
    model = compare(graph)
    # Only one tensor has the parameter's name.
    assert [tensor.name for tensor in model.graph.initializer].count("v") == 1


def test_means_with_dilation_need_a_newer_opset() -> None:
    graph = chain((AvgPool((2, 3), (1, 2), (1, 0, 1, 2), dilation=(2, 1)),))
    compare(graph, opset=19)
    with pytest.raises(convc.CompileError, match="need opset 19, not 17") as error:
        encode(graph, {}, 17, {})
    assert error.value.diagnostics[0].code == "onnx-op"


def test_every_entry_is_tried() -> None:
    graphs = [net(body) for body in BODIES.values()] + [chain(ops) for ops in OPS.values()]
    found = {type(node.op) for graph in graphs for node in graph.nodes}
    found |= {Add, Minus, Maximum, Divide, Minimum, Greater, Select, Times}
    assert set(TABLE) <= found, sorted(op.name for op in set(TABLE) - found)


def test_names_are_those_of_the_language() -> None:
    graph = net(BODIES["residual"])
    model = compare(graph)
    assert {tensor.name for tensor in model.graph.initializer} == set(graph.parameters)
    assert [node.name for node in model.graph.node] == [
        "res1.conv1", "res1.bn1", "res1.relu1", "skip1.conv1", "skip1.bn1", "res1.add", "output",
    ]  # fmt: skip
    (image,), (result,) = model.graph.input, model.graph.output
    assert (image.name, result.name) == ("x", "logits")
    sizes = [dimension.dim_param or dimension.dim_value for dimension in image.type.tensor_type.shape.dim]
    assert sizes == ["N", 3, 11, 13]


def test_branches_of_the_training_are_left_out() -> None:
    model = compare(net(BODIES["aux"]))
    assert not any(tensor.name.startswith("aux1") for tensor in model.graph.initializer)


def test_mean_and_deviation_of_images_are_part_of_it() -> None:
    compare(loads("net n {\n input 3x4x5 mean=(10, 20, 30) std=7\n conv 2 k=1\n}").graph(1))


def test_a_program_is_exported_with_its_weights(tmp_path: Path) -> None:
    with convc.compile(
        loads("net n {\n input 1x6x6\n conv 3 k=3 -> bn -> relu -> dropout 0.5\n fc 4\n}"), batch=2
    ) as program:
        for name in program.params:
            program.params[name] = program.params[name] * 0.5 + 0.1
        convc.to_onnx(program, tmp_path / "n.onnx")
        x = np.random.default_rng(0).random((2, 1, 6, 6)).astype(np.float32)
        expected = program(x)
        with pytest.raises(convc.CompileError, match="opset 12"):
            convc.to_onnx(program, tmp_path / "other.onnx", opset=12)
    model = onnx.load(tmp_path / "n.onnx")
    assert (model.opset_import[0].version, model.ir_version, model.producer_name) == (17, 8, "convc")
    np.testing.assert_allclose(outside((tmp_path / "n.onnx").read_bytes(), x), expected, rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "other.onnx").exists()


def test_a_training_program_is_exported_for_inference(tmp_path: Path) -> None:
    text = "net n {\n input 1x4x4\n fc 8 -> bn -> relu -> dropout 0.5 -> fc 3\n loss softmax\n}"
    text += "\ntrain { optim sgd lr=0.1 }"
    x = np.random.default_rng(0).random((4, 1, 4, 4)).astype(np.float32)
    with convc.compile(loads(text), batch=4, mode="train") as trained, convc.compile(loads(text), batch=4) as program:
        trained.step(x, np.array([0, 1, 2, 0]))
        convc.to_onnx(trained, tmp_path / "n.onnx")
        for name in program.params:
            program.params[name] = trained.params[name]
        expected = program(x)
    np.testing.assert_allclose(outside((tmp_path / "n.onnx").read_bytes(), x), expected, rtol=1e-5, atol=1e-6)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "n.cnn", tmp_path / "n.onnx"
    file.write_text("net n(classes=4) {\n  input 1x6x6\n  conv 3 k=3 -> relu\n  fc classes\n}\n")
    assert main(["export", str(file), "-o", str(out), "--set", "classes=5", "--opset", "18"]) == 0
    text = capsys.readouterr()
    assert "opset 18, x (N, 1, 6, 6) to logits" in text.out
    assert "comes without weights" in text.err
    assert outside(out.read_bytes(), np.zeros((1, 1, 6, 6), np.float32)).shape == (1, 5)
    before = out.read_bytes()
    assert main(["export", str(file), "-o", str(out), "--opset", "99"]) == 1
    assert "opset 99" in capsys.readouterr().err
    assert out.read_bytes() == before
    with convc.compile(convc.load(file), batch=1, target="reference", seed=5) as program:
        program.save(tmp_path / "w.safetensors")
        expected = program(np.ones((1, 1, 6, 6), np.float32))
    assert main(["export", str(file), "-o", str(out), "--weights", str(tmp_path / "w.safetensors")]) == 0
    assert capsys.readouterr().err == ""
    np.testing.assert_allclose(outside(out.read_bytes(), np.ones((1, 1, 6, 6), np.float32)), expected, rtol=1e-5)
