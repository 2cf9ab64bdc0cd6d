"""Graphs back to text: what is written loads as the graph that it came from, names included."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from convc.frontend import Net, load, loads
from convc.frontend.decompile import decompile, forward_graph, settings_text
from convc.frontend.formatter import format_text
from convc.frontend.layers import LAYERS as TABLE
from convc.frontend.limits import Limits
from convc.ir.diagnostic import CompileError
from convc.ir.equivalence import difference
from convc.ir.graph import Graph, Initializer
from convc.ir.parser import parse_ir
from convc.ir.printer import print_ir
from convc.ir.types import f32

Build = Callable[..., Net]
ROOT = Path(__file__).parent.parent.parent
FILES = sorted([*ROOT.glob("examples/*.cnn"), *Path(__file__).parent.glob("nets/*.cnn")])


def returns(graph: Graph, *, names: bool = True) -> str:
    """The text of a graph, after the checks that every text has to pass."""
    result = decompile(graph)
    text = result.text
    assert format_text(text) == text
    batch = next(iter(graph.inputs.values())).shape[0]
    twin = loads(text).graph(batch)
    assert difference(graph, twin) is None, text
    assert list(result.names) == list(graph.parameters)
    assert list(result.names.values()) == list(twin.parameters)
    if names:
        assert list(twin.parameters) == list(graph.parameters), text
        assert result.renamed == {}
    return text


def body(text: str) -> str:
    """The statements of the only net, without indentation."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("net "))
    return "\n".join(line[2:] for line in lines[start + 2 : -1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_files(path: Path) -> None:
    graph = load(path).graph(3)
    text = returns(graph)
    # Labels of layers, and the random streams that follow from them, are the same, too.
    assert [node.label for node in loads(text).graph(3).nodes] == [node.label for node in graph.nodes]


LAYERS = [
    "conv 20 k=5 -> relu -> pool max 2",
    "conv 4 k=3 s=2 pad=(1, 0, 1, 2) dil=2 bias=no init=xavier",
    "conv 4 k=3x5 s=1x2 pad=1x2",
    "conv 4 k=2 pad=same init=gauss(0.01)",
    "conv 4 k=3 s=2 pad=same",
    "conv 4 k=1 init=uniform(0.5) -> conv 4 k=1 init=const(-0.25)",
    "conv 4 k=1 init=zeros -> conv 4 k=1 init=orthogonal",
    "conv 4 k=3 -> conv 4 k=3 groups=in -> conv 8 k=3 groups=2",
    "deconv 3 k=3 s=2 pad=1 out_pad=1",
    "conv 4 k=3 -> deconv 6 k=4x2 s=2 bias=no groups=2 init=xavier",
    "deconv 3 k=3 s=2 pad=same -> deconv 3 k=2 s=3 pad=same",
    "deconv 2 k=3 s=2 pad=(1, 0, 0, 1) out_pad=(0, 1) dil=2",
    "pool max 3 s=2 pad=1 round=ceil",
    "pool avg 3 s=2 pad=1 count_pad=no",
    "pool avg global",
    "pool max global",
    "pool max 2x3 s=1 pad=same",
    "flatten -> fc 10 -> relu -> fc 3 bias=no",
    "fc 10 init=gauss(0.01)",
    "fc 10 dropconnect=0.5 -> fc 3 dropconnect=0.25 bias=no name=last",
    "shared s { fc 784 dropconnect=0.5 } -> reuse s",
    "conv 4 k=3 bits=1 -> conv in k=3 groups=in bits=1 bias=no freeze=yes -> fc 10 bits=1 name=last",
    "fc 10 bits=1 dropconnect=0.5 -> shared s { fc 10 bits=1 } -> reuse s",
    "fc 10 -> flatten -> flatten -> relu -> fc 2",
    "bn eps=0.001 momentum=0.25 -> bn affine=no -> bn freeze=yes",
    "lrn 5 alpha=0.0005 beta=0.5 k=2",
    "leaky -> leaky 0.2 -> leaky(-1.5) -> elu -> elu 0.5 -> prelu -> sigmoid -> tanh -> step -> relu6 -> softmax",
    "linear -> relu -> linear",
    "conv 6 k=1 -> maxout 3",
    "dropout 0.25 -> noise 0.5 -> dropout 0.25",
    "relu -> dropout 0.5 name=first -> fc 3 name=head -> dropout 0.5",
    "upsample 2 -> upsample 2 mode=bilinear",
    "conv 2 k=3 freeze=yes -> conv 2 k=3 lr=0.1 decay=0 -> bn lr=0.3 -> prelu decay=2.5",
    "conv 2 k=3 name=relu1 -> relu name=conv3 -> conv 2 k=3 -> conv 2 k=3 name=conv1",
    "conv 1 k=3 name=start -> conv 1 k=3 name=same -> conv 1 k=1 name=h as h -> relu -> add h",
    "fc 10 -> loss softmax",
    "fc 10 -> loss softmax smooth=0.1 weight=0.3",
    "fc 10 -> loss hinge margin=0.5",
    "fc 10 -> loss mse weight=2",
    "conv 3 k=1 -> loss softmax",
    "conv 3 k=28 -> loss softmax",
    "pool avg global -> flatten -> loss softmax",
]


@pytest.mark.parametrize("text", LAYERS)
def test_layers(net: Build, text: str) -> None:
    returns(net(text).graph(2))


def test_every_layer_of_the_table_is_tried() -> None:
    titles = {kind.title for kind in TABLE} - {"input"}
    tried = " -> ".join(LAYERS).split(" -> ")
    assert {title for title in titles if not any(re.match(rf"{title}\b", text) for text in tried)} == set()


TOPOLOGY = [
    "relu as a -> tanh as b -> sigmoid -> add a, b",
    "as image -> conv 1 k=1 -> add image -> mul image -> concat image, image",
    "conv 3 k=3 as a -> pool avg global as g -> from a -> mul g",
    "conv 3 k=3 as a -> pool avg global -> mul a",
    "residual { conv 1 k=3 pad=1 -> bn }",
    "residual { conv 4 k=3 s=2 pad=1 bias=no -> bn } skip auto -> relu",
    "residual { conv 4 k=3 s=2 pad=1 } skip { conv 4 k=1 s=2 }",
    "residual { } -> residual { relu } skip { linear } -> residual { linear } skip { relu }",
    "residual { residual { relu } -> residual { tanh } skip { relu } } skip { residual { relu } }",
    "residual { relu as a -> tanh -> add a } -> relu as b -> residual { conv 1 k=1 -> add b }",
    "concat { branch { conv 2 k=1 } branch { linear } branch { conv 3 k=1 } }",
    "concat { branch { } branch { } } -> concat { branch { conv 2 k=1 } }",
    "concat { branch { linear } } -> concat { branch { conv 2 k=1 } branch { } }",
    "concat { branch { concat { branch { relu } branch { conv 1 k=1 } } } branch { residual { relu } } }",
    "conv 1 k=1 as a -> concat { branch { add a } branch { from a } branch { tanh } }",
    "aux { fc 3 -> loss softmax weight=0.3 } -> relu -> aux { fc 3 -> loss softmax } -> fc 3 -> loss softmax",
    "aux { fc 3 -> loss softmax weight=0.3 } -> fc 3",
    "relu as a -> fc 3 -> loss softmax -> from a -> tanh -> fc 3 -> loss softmax weight=0.5",
    "shared trunk { conv 1 k=3 pad=1 -> relu } -> tanh -> reuse trunk",
    "repeat 3 { shared s { conv 1 k=3 pad=1 -> dropout 0.5 } }",
    "shared s { shared t { conv 1 k=1 } -> reuse t } -> relu -> reuse s",
    "shared s { conv 1 k=1 -> shared t { conv 1 k=1 } -> reuse t } -> relu",
    "shared s { residual { conv 1 k=1 -> bn } } -> reuse s -> concat { branch { reuse s } branch { relu } }",
    "relu as a -> shared s { conv 1 k=1 -> add a } -> tanh -> reuse s",
    # names inside
    "shared s { as x -> conv 1 k=1 -> relu as y -> tanh -> add x, y } -> reuse s",
    "for i in 0..3 { conv in*2 k=1 as rung[i] }\nfor i in 0..3 { from rung[2 - i] -> relu }",
    "conv 2 k=1 as unused -> from unused -> relu as dead -> from unused -> tanh",
    # a ladder
    "pool max 2 as a -> pool max 2 -> conv 4 k=3 pad=1 -> upsample 2 -> concat a",
]  # fmt: skip


@pytest.mark.parametrize("text", TOPOLOGY)
def test_topology(net: Build, text: str) -> None:
    returns(net(text).graph(2))


BLOCKS = """
block unit(c, s=1) { residual { conv c k=3 s=s pad=1 bias=no -> bn } skip auto -> relu }
block stage2(c) { unit(c, s=2) -> unit c name=last }
block head(n) { fc n -> loss softmax }
block pair { as x -> conv in k=1 as y -> relu -> add x, y }
block tower(n) { conv 2 k=1 -> if n > 1 { tower(n - 1) } }
"""


@pytest.mark.parametrize(
    "text",
    [
        "unit(2) -> unit 2 -> stage2(4) -> unit 4 name=end -> unit 4",
        "unit(2) -> unit 2 freeze=yes -> stage2(4, freeze=yes, lr=0.5) -> unit 4 lr=0.1 decay=0",
        "unit 4 s=2 -> repeat 5 { unit 4 } -> head 10",
        "pair -> conv 3 k=1 -> pair name=pair7 -> pair -> conv 5 k=1",
        "tower(4) -> tower(2)",
        "unit 2 name=first -> unit 3 name=second -> aux { pool avg 2 -> head 4 } -> head 5",
        "unit 2 name=aux1 -> unit 2",
        "unit 2 -> shared s { unit 2 -> unit 2 } -> reuse s -> unit 2",
    ],
)
def test_blocks(net: Build, text: str) -> None:
    returns(net(text, before=BLOCKS, strict=False).graph(2))


def test_the_input_keeps_its_numbers() -> None:
    for line in ("input 3x8x8 mean=0.1 std=[0.3, 0.25, 1]", "input 3x8x8 std=2", "input 1x8x8 mean=-0.5 std=1e-07"):
        text = returns(loads(f"net n {{ {line} -> relu }}").graph(2))
        assert text.splitlines()[1].strip().startswith(f"{line} -> relu".split(" std")[0])


def test_loops_and_blocks_are_found_again(net: Build) -> None:
    text = returns(net("unit 4 s=2 -> repeat 5 { unit 4 } -> unit 8 s=2", before=BLOCKS, strict=False).graph(2))
    unit = "block unit(c, s = 1) {\n  residual { conv c k=3 s=s pad=1 bias=no -> bn } skip auto\n  relu\n}\n"
    assert text.startswith(unit)
    assert body(text) == "unit 4 s=2\nrepeat 5 { unit 4 }\nunit 8 s=2"


def test_what_reads_like_a_person_wrote_it(net: Build) -> None:
    source = "conv 20 k=5 -> relu -> pool max 2\nconv 50 k=5 -> relu -> pool max 2\nflatten -> fc 500 -> relu\nfc 10"
    assert body(returns(net(source).graph(1))) == source
    widths = "conv 8 k=1 -> relu\nconv 16 k=3 pad=1 -> relu\nconv 32 k=1 -> relu"
    assert body(returns(net(widths).graph(1))) == widths


def test_from_the_text_of_the_ir(net: Build) -> None:
    source = "unit 2 -> shared s { conv 2 k=1 -> dropout 0.5 } -> bn -> reuse s -> fc 3 -> loss softmax weight=0.3"
    graph = net(source, before=BLOCKS, strict=False).graph(2)
    again = parse_ir(print_ir(graph))
    assert decompile(again).text == returns(again) == returns(graph)


def test_names_that_cannot_be_kept_are_mapped(net: Build) -> None:
    graph = renamed(net("conv 3 k=3 -> relu -> fc 4").graph(1), {"conv1": "features.0", "fc1": "head-1"})
    result = decompile(graph)
    assert result.names == {
        "features.0.weight": "features_0.weight" if "features_0" in result.text else "features._0.weight",
        "features.0.bias": "features_0.bias" if "features_0" in result.text else "features._0.bias",
        "head-1.weight": "head_1.weight",
        "head-1.bias": "head_1.bias",
    }
    assert list(loads(result.text).graph(1).parameters) == list(result.names.values())


def test_without_names_all_layers_are_numbered(net: Build) -> None:
    graph = net("conv 3 k=3 name=first -> relu name=act -> residual { conv 3 k=1 name=inner }").graph(1)
    result = decompile(graph, keep_names=False)
    assert "name=" not in result.text
    assert result.renamed["first.weight"] == "conv1.weight"
    assert result.renamed["res1.inner.weight"] == "res1.conv1.weight"


def test_parameters_shared_without_a_common_name(net: Build) -> None:
    graph = net("conv 1 k=3 pad=1 -> relu -> conv 1 k=3 pad=1").graph(1)
    first, _, second = graph.nodes
    for index in (1, 2):
        old = second.operands[index]
        graph.set_operand(second, index, first.operands[index])
        assert old.name is not None
        graph.remove_parameter(old.name)
    result = decompile(graph)
    assert result.names == {"conv1.weight": "conv1.conv1.weight", "conv1.bias": "conv1.conv1.bias"}
    assert difference(graph, loads(result.text).graph(1)) is None


def test_settings_are_appended(net: Build) -> None:
    graph = net("fc 3 -> loss softmax").graph(1)
    text = decompile(graph, settings="train { batch 32\nepochs 3 }").text
    assert loads(text).settings.batch == 32
    with pytest.raises(CompileError) as caught:
        decompile(graph, settings="train { bath 32 }")
    assert [d.code for d in caught.value.diagnostics] == ["name-setting"]


def test_settings_of_a_file_come_with_their_constants(tmp_path: Path) -> None:
    path = tmp_path / "a.cnn"
    text = 'let n = 8\nlet m = n * 2\nlet u = 3\ntrain { data npz "x.npz" -> batch m }\nnet n { input 1x8x8 -> fc u }\n'
    path.write_text(text)
    settings = settings_text(load(path))
    assert settings is not None
    assert "let u" not in settings
    net = loads(decompile(load(path).graph(1), settings=settings).text)
    assert net.settings.batch == 16
    assert net.settings.data is not None
    assert net.settings.data.path == str(tmp_path / "x.npz")


def test_freezing_by_pattern_stays_with_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.cnn"
    items = 'train { init "w.safetensors" freeze="conv1.weight" }'
    path.write_text(f"net n {{ input 1x8x8 -> conv 2 k=3 -> bn -> fc 3 -> loss softmax }}\n{items}")
    net = load(path)
    text = decompile(forward_graph(net, 2), settings=settings_text(net)).text
    assert "freeze=yes" not in text
    assert difference(loads(text).graph(2), net.graph(2)) is None


# What has no syntax


def renamed(graph: Graph, stems: dict[str, str]) -> Graph:
    text = print_ir(graph)
    for old, new in stems.items():
        for role in ("weight", "bias"):
            text = text.replace(f"%{old}.{role}", f'%"{new}.{role}"')
    return parse_ir(text)


def refused(graph: Graph) -> list[str]:
    with pytest.raises(CompileError) as caught:
        decompile(graph)
    assert {d.code for d in caught.value.diagnostics} == {"missing-syntax"}
    return [d.message for d in caught.value.diagnostics]


def test_all_nodes_without_syntax_are_listed(net: Build) -> None:
    from convc.ir.builder import Builder
    from convc.ir.ops.elementwise import Exp, Multiply, Sqrt

    graph = net("conv 2 k=3 -> relu").graph(1)
    builder = Builder(graph)
    span = graph.nodes[0].span
    assert span is not None
    x = graph.outputs["logits"]
    with builder.at((span,), "odd1"):
        x = builder.add(Sqrt(), builder.add(Exp(), x))
    x = builder.add(Multiply(), x, builder.constant(2.0))
    graph.outputs["logits"] = x
    with pytest.raises(CompileError) as caught:
        decompile(graph)
    found = caught.value.diagnostics
    assert [(d.message.split(" has")[0], d.span) for d in found] == [
        ("exp odd1", span),
        ("sqrt odd1", span),
        ("mul", None),
    ]


def changed(graph: Graph, name: str, **metadata: object) -> Graph:
    graph.parameters[name] = replace(graph.parameters[name], **metadata)  # type: ignore[arg-type]
    return graph


def test_parameters_that_no_layer_makes(net: Build) -> None:
    def graph() -> Graph:
        return net("conv 2 k=3 -> bn -> fc 3").graph(1)

    cases = [
        (changed(graph(), "conv1.weight", initial=Initializer("he", 0.0, 5, 5)), "as if it had 5 inputs"),
        (changed(graph(), "conv1.bias", initial=Initializer("const", 1.0)), "starts with const(1)"),
        (changed(graph(), "bn1.gamma", frozen=True), "not both"),
        (changed(graph(), "fc1.weight", trainable=False), "is not trainable"),
        (changed(graph(), "fc1.weight", initial=Initializer("magic")), "no initialiser 'magic'"),
        (changed(graph(), "fc1.weight", lr=0.5), "differ in freeze, lr or decay"),
    ]
    for case, wanted in cases:
        (message,) = [text for text in refused(case) if wanted in text]
        assert "has no surface syntax" in message
    unused = graph()
    unused.add_parameter("extra.weight", f32(2, 2))
    assert refused(unused) == ["no layer has the parameter extra.weight"]


def test_ends_that_no_net_has(net: Build) -> None:
    graph = net("relu").graph(1)
    graph.inputs = {}
    assert "the inputs are none" in refused(graph)[0]
    graph = net("relu").graph(1)
    graph.outputs["more"] = graph.outputs["logits"]
    assert "logits, more" in refused(graph)[0]
    graph = net("fc 3 -> loss softmax").graph(1)
    step = specialised(graph)
    assert "training step" in refused(step)[0]


def specialised(graph: Graph) -> Graph:
    """As a training step has it: something is updated."""
    graph.updates["fc1.bias"] = graph.parameters["fc1.bias"].value
    return graph


def test_a_single_output_may_have_any_name(net: Build) -> None:
    graph = net("relu -> tanh").graph(2)
    graph.outputs = {"probabilities": graph.outputs["logits"]}
    assert difference(graph, loads(decompile(graph).text).graph(2)) is None


def test_bodies_deeper_than_anybody_writes(net: Build) -> None:
    tower = "block t(n) { relu -> conv 1 k=1 -> if n > 1 { t(n - 1) } }"
    graph = net("t 110", before=tower, shape="1x2x2").graph(1)
    result = decompile(graph)
    assert difference(graph, loads(result.text).graph(1)) is None
    assert 0 < len(result.renamed) < 40


def test_a_net_beyond_the_limits(net: Build) -> None:
    graph = net("repeat 30 { relu as a -> conv 1 k=3 pad=1 -> add a }").graph(1)
    with pytest.raises(CompileError) as caught:
        decompile(graph, limits=Limits(steps=50))
    assert [d.code for d in caught.value.diagnostics] == ["budget-work"]


def test_deep_and_long_names(net: Build) -> None:
    graph = net("conv 1 k=1 -> relu -> conv 1 k=1").graph(1)
    graph = renamed(graph, {"conv1": ".".join(["a"] * 3000), "conv2": "b" * 3000})
    result = decompile(graph)
    assert difference(graph, loads(result.text).graph(1)) is None
    assert list(result.names) == list(graph.parameters)
