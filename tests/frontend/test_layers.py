"""Shapes, parameters and ops of every layer that this version has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from convc.frontend import Net
from convc.frontend.layers import LAYERS
from convc.ir.graph import Initializer
from convc.ir.interpreter import run_reference
from convc.ir.verify import verify

Build = Callable[..., Net]


def trainable(net: Net) -> int:
    return sum(p.value.type.size for p in net.graph(1).parameters.values() if p.trainable)


@pytest.mark.parametrize(
    ("shape", "layer", "output"),
    [
        # The lectures: OH = (H + 2P - FH)/S + 1.
        ("1x7x7", "conv 1 k=3", (1, 5, 5)),
        ("1x7x7", "conv 1 k=3 s=2", (1, 3, 3)),
        ("1x28x31", "conv 1 k=5 s=3 pad=2", (1, 10, 11)),
        ("1x4x4", "conv 1 k=3 pad=1", (1, 4, 4)),
        ("3x32x32", "conv 10 k=5 pad=2", (10, 32, 32)),
        ("3x224x224", "conv 64 k=7 s=2 pad=3", (64, 112, 112)),
        ("1x9x9", "conv 1 k=3 dil=2", (1, 5, 5)),
        ("1x9x9", "conv 1 k=(3, 5) s=(1, 2) pad=(1, 0)", (1, 9, 3)),
        ("1x9x9", "conv 1 k=3x5 pad=(1, 2, 0, 2)", (1, 8, 9)),
        ("1x7x8", "conv 1 k=3 s=2 pad=same", (1, 4, 4)),
        ("1x7x8", "conv 1 kernel=4 stride=3 padding=same dilation=2", (1, 3, 3)),
        ("8x5x5", "conv 8 k=3 groups=in", (8, 3, 3)),
        ("1x28x28", "pool max 2", (1, 14, 14)),
        ("1x7x7", "pool max 3 s=2", (1, 3, 3)),
        ("1x6x6", "pool max 3 s=2 round=ceil", (1, 3, 3)),
        ("1x6x6", "pool avg k=3 s=2 pad=1 count_pad=no", (1, 3, 3)),
        ("5x6x7", "pool avg global", (5, 1, 1)),
        ("5x6x7", "pool max global", (5, 1, 1)),
        ("2x3x4", "flatten", (24,)),
        ("2x3x4", "fc 7", (7,)),
        ("2x3x4", "bn -> relu -> leaky -> leaky 0.2 -> prelu -> elu -> elu 0.5 -> sigmoid -> tanh", (2, 3, 4)),
        ("2x3x4", "linear -> step -> relu6 -> softmax -> dropout 0.5", (2, 3, 4)),
        ("6x3x4", "maxout 3", (2, 3, 4)),
    ],
)
def test_shape(net: Build, shape: str, layer: str, output: tuple[int, ...]) -> None:
    built = net(layer, shape=shape)
    assert built.layers[-1].output == output
    graph = built.graph(3)
    verify(graph)
    assert graph.outputs["logits"].shape == (3, *output)


def test_window_that_does_not_fit_evenly(net: Build, problems: Callable[..., list]) -> None:
    # 7x7, F=3, stride 3: the lectures say "cannot".
    (warning,) = net("conv 1 k=3 s=3", shape="1x7x7").warnings
    assert warning.code == "shape-dropped"
    assert "1 row and 1 column" in warning.message
    (error,) = problems("net n { input 1x7x7 -> conv 1 k=3 s=3 }", strict=True)
    assert (error.code, error.severity) == ("shape-dropped", "error")


@pytest.mark.parametrize(
    "layer",
    ["conv 1 k=3 s=2 pad=1", "conv 1 k=1 s=2", "pool max 3 s=2 pad=1", "pool max 2 s=2", "pool max 3 s=2 round=ceil"],
)
def test_dropped_padding_and_gaps_are_silent(net: Build, layer: str) -> None:
    assert net(layer, shape="1x8x8").warnings == ()


@pytest.mark.parametrize(
    ("shape", "layer", "count"),
    [
        ("3x32x32", "conv 10 k=5 pad=2", 760),
        ("3x32x32", "conv 10 k=5 pad=2 bias=no", 750),
        ("8x5x5", "conv 8 k=3 groups=in", 8 * 9 + 8),
        ("8x5x5", "conv 4 k=3 groups=2", 4 * 4 * 9 + 4),
        ("8x5x5", "bn", 16),
        ("8x5x5", "bn affine=no", 0),
        ("8x5x5", "prelu", 8),
        ("8x5x5", "fc 10", 2010),
        ("8x5x5", "fc 10 bias=no", 2000),
        # 7x7 with C in and out: 49C²; three 3x3: 27C².
        ("6x9x9", "conv in k=7 bias=no", 49 * 36),
        ("6x9x9", "repeat 3 { conv in k=3 bias=no }", 27 * 36),
        # Bottleneck: 3.25C² against 9C².
        ("8x9x9", "conv in//2 k=1 bias=no -> conv in k=3 bias=no -> conv in*2 k=1 bias=no", 13 * 64 // 4),
        ("6x9x9", "conv in k=1x3 bias=no -> conv in k=3x1 bias=no", 6 * 36),
    ],
)
def test_parameter_count(net: Build, shape: str, layer: str, count: int) -> None:
    assert trainable(net(layer, shape=shape)) == count


def test_lenet_has_431080_parameters(net: Build) -> None:
    body = "for c in [20, 50] { conv c k=5 -> relu -> pool max 2 }\nflatten -> fc 500 -> relu -> fc 10\nloss softmax"
    built = net(body)
    assert trainable(built) == 431_080
    assert (built.input_shape, built.classes, built.has_loss) == ((1, 28, 28), 10, True)
    assert list(built.graph(1).parameters) == [
        f"{layer}.{role}" for layer in ("conv1", "conv2", "fc1", "fc2") for role in ("weight", "bias")
    ]


def test_parameter_metadata(net: Build) -> None:
    graph = net(
        "conv 4 k=3 groups=1 init=gauss(0.01) lr=0.5 decay=0 -> bn freeze=yes momentum=0.2 -> fc 3 init=xavier -> prelu"
    ).graph(2)
    weight, bias = graph.parameters["conv1.weight"], graph.parameters["conv1.bias"]
    assert (weight.role, weight.trainable, weight.frozen, weight.lr, weight.decay) == ("weight", True, False, 0.5, 0.0)
    assert weight.value.shape == (4, 1, 3, 3)
    assert weight.initial == Initializer("gauss", 0.01, 9, 36)
    assert bias.initial.kind == "zeros"
    assert weight.span is not None
    assert weight.span.line == 4
    assert [
        (p.name, p.trainable, p.frozen, p.initial.kind, p.initial.value)
        for p in graph.parameters.values()
        if "bn" in p.name
    ] == [
        ("bn1.gamma", True, True, "const", 1.0),
        ("bn1.beta", True, True, "zeros", 0.0),
        ("bn1.mean", False, True, "zeros", 0.0),
        ("bn1.var", False, True, "const", 1.0),
    ]
    assert graph.parameters["fc1.weight"].initial == Initializer("xavier", 0.0, 4 * 26 * 26, 3)
    assert graph.parameters["prelu1.slope"].initial == Initializer("const", 0.25)
    (norm,) = [node for node in graph.nodes if node.op.name == "batch_norm"]
    assert norm.op.attributes == {"eps": 1e-5, "momentum": 0.2, "frozen": True}
    assert norm.label == "bn1"


def test_locations_reach_from_the_word_to_the_last_argument(net: Build) -> None:
    graph = net("  conv 4 k=3  -> relu").graph(1)
    (convolution,) = [node for node in graph.nodes if node.op.name == "conv2d"]
    (span,) = convolution.location
    assert (span.line, span.column, span.end_column) == (4, 3, 13)


def test_forward_graph(net: Build) -> None:
    graph = net("flatten -> fc 3 -> loss softmax weight=0.5 smooth=0.1", shape="1x2x2").graph(4)
    verify(graph)
    assert {name: str(value.type) for name, value in graph.inputs.items()} == {"x": "f32[4,1,2,2]", "labels": "i32[4]"}
    assert {name: value.shape for name, value in graph.outputs.items()} == {"logits": (4, 3), "loss": (), "correct": ()}


def test_input_is_normalised(net: Build) -> None:
    built = net("linear", shape="2x1x1 mean=[0.5, 0.25] std=0.5")
    assert (built.input_mean, built.input_std) == ((0.5, 0.25), (0.5,))
    x = np.array([[[[1.0]], [[1.0]]]], np.float32)
    result = run_reference(built.graph(1), {"x": x})["logits"]
    np.testing.assert_allclose(result.ravel(), [1.0, 1.5])


def test_the_filter_of_the_lectures(net: Build) -> None:
    x = np.array([[1, 2, 3, 0], [0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1]], np.float32)[None, None]
    w = np.array([[2, 0, 1], [0, 1, 2], [1, 0, 2]], np.float32)[None, None]
    graph = net("conv 1 k=3 pad=1 bias=no", shape="1x4x4").graph(1)
    result = run_reference(graph, {"x": x, "conv1.weight": w})["logits"]
    expected = [[7, 12, 10, 2], [4, 15, 16, 10], [10, 6, 15, 6], [8, 10, 4, 3]]
    np.testing.assert_array_equal(result[0, 0], expected)


def test_logits_of_global_pooling_are_rows(net: Build) -> None:
    graph = net("conv 5 k=1 -> pool avg global -> loss softmax").graph(2)
    assert graph.outputs["logits"].shape == (2, 5)
    assert graph.inputs["labels"].shape == (2,)


def test_dense_prediction_has_labels_per_pixel(net: Build) -> None:
    graph = net("conv 5 k=1 -> loss softmax", shape="1x3x4").graph(2)
    assert graph.inputs["labels"].shape == (2, 3, 4)


def test_dropout_streams_differ(net: Build) -> None:
    graph = net("shared s { dropout 0.5 } -> reuse s -> dropout 0.5").graph(1)
    streams = [node.op.attributes["stream"] for node in graph.nodes if node.op.name == "dropout"]
    assert len(set(streams)) == 3


def test_nothing_known_of_the_batch_in_the_ops(net: Build) -> None:
    built = net("conv 2 k=3 -> bn -> pool max 2 -> dropout 0.1 -> fc 3 -> loss softmax")
    ops = [[repr(node.op) for node in built.graph(batch).nodes] for batch in (1, 7)]
    assert ops[0] == ops[1]


def test_every_layer_is_documented() -> None:
    for kind in LAYERS:
        assert kind.doc, kind.title
        assert all(parameter.doc for parameter in kind.signature), kind.title


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ("k=2 s=2", (56, 56)),
        ("k=3 s=2 pad=1 out_pad=1", (56, 56)),
        ("k=3 s=2 pad=same", (56, 56)),
        ("k=1 s=3 pad=same", (84, 84)),
        ("k=(3, 4) s=(2, 1) dil=2", (59, 34)),
        ("k=5 pad=(0, 1, 2, 3)", (30, 28)),
    ],
)
def test_deconv_sizes_and_parameters(net: Build, arguments: str, size: tuple[int, int]) -> None:
    graph = net(f"conv 4 k=1 -> deconv 6 {arguments} groups=2").graph(1)
    assert graph.outputs["logits"].shape == (1, 6, *size)
    weight = graph.parameters["deconv1.weight"].value
    assert weight.shape[:2] == (4, 3)
    assert graph.parameters["deconv1.bias"].value.shape == (6,)


def test_noise_streams_differ_by_layer(net: Build) -> None:
    ops = [node.op for node in net("noise 0.1 -> noise 0.1").graph(1).nodes]
    assert [op.name for op in ops] == ["noise", "noise"]
    assert ops[0] != ops[1]


@pytest.mark.parametrize(("loss", "op"), [("hinge margin=2", "hinge"), ("mse", "mse")])
def test_losses_count_what_is_correct(net: Build, loss: str, op: str) -> None:
    graph = net(f"fc 3 -> loss {loss}").graph(2)
    assert graph.outputs["loss"].producer.op.name == op
    assert graph.outputs["correct"].producer.op.name == "count_correct"
    assert str(graph.inputs["labels"].type) == "i32[2]"


@pytest.mark.parametrize(("bias", "codes"), [("yes", ["redundant-bias"]), ("no", [])])
def test_a_bias_of_deconv_before_bn_is_redundant(net: Build, bias: str, codes: list[str]) -> None:
    built = net(f"deconv 3 k=2 s=2 bias={bias} -> bn -> fc 2 -> loss softmax")
    assert [warning.code for warning in built.warnings] == codes
