"""Malformed IR text: always a `CompileError` with a place, never another exception."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convc.ir.builder import Builder
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph
from convc.ir.ops import OPS
from convc.ir.ops.constant import Constant
from convc.ir.ops.elementwise import Add
from convc.ir.parser import parse_ir
from convc.ir.printer import content_hash, print_ir
from convc.ir.types import f32
from tests.strategies import graphs

TEXT = """\
convc-ir 1
# A comment.
graph @net(%x: f32[2,1,6,6], %labels: i32[2]) params(
  %conv.weight: f32[4,1,3,3] {role="weight", initial=he(0.0,9,36), lr=0.5} loc("net.cnn":2:3-2:9),
  %bias: f32[4]
) -> (logits: %5, loss: %6) {
  %1 = conv2d(%x, %conv.weight, %bias) {stride=(2,2), padding=(1,1,0,0)} : f32[2,4,3,3]  @conv  loc("net.cnn":2:3-2:9)
  %2 = relu(%1) : f32[2,4,3,3]{nhwc:16}
  %3 = constant() {values=(1,2.5,-inf,nan), shape=(4)} : f32[4]
  %4 = add(%2, %3) : f32[2,4,3,3]  # trailing comment
  %5 = flatten(%4) : f32[2,36]
  %6 = softmax_cross_entropy(%5, %labels) {smooth=0} : f32[]
  %7 = mul(%bias, %bias) : f32[4]
  update %bias = %7
}
"""

# What is replaced, by what, code, where, words of the message.
ERRORS: list[tuple[str, str, str, str, str]] = [
    ("convc-ir 1", "convc-ir 2", "syntax-ir", "1:10", "version '2', not 1"),
    ("convc-ir 1", "", "syntax-ir", "3:1", "expected `convc-ir 1`"),
    ("convc-ir 1", "convc-ir 01", "syntax-ir", "1:10", "version"),
    ("graph @net", "graph net", "syntax-ir", "3:7", "the graph's name"),
    ("%labels: i32[2]", "%labels: i33[2]", "type-ir", "3:39", "no element type 'i33'"),
    ("%labels: i32[2]", "%x: i32[2]", "name-ir", "3:30", "'%x' is there twice"),
    ("%labels: i32[2]", '%"x": i32[2]', "name-ir", "3:30", "'%x' is there twice"),
    ("%bias: f32[4]\n", "%conv.weight: f32[4]\n", "name-ir", "5:3", "'%conv.weight' is there twice"),
    ("%bias: f32[4]\n", "%labels: f32[4]\n", "name-ir", "5:3", "'%labels' is there twice"),
    ("%bias: f32[4]\n", "%bias: f32[4\n", "syntax-ir", "5:10", "expected a type"),
    ("%bias: f32[4]\n", "%bias: f32[-4]\n", "syntax-ir", "5:10", "expected a type"),
    ("%bias: f32[4]\n", "%bias: f32[1,1,1,1,1,1,1,1,1]\n", "type-ir", "5:10", "9 dimensions"),
    ("%bias: f32[4]\n", f"%bias: f32[{'9' * 5000}]\n", "value-ir", "5:10", "too large"),
    ("%bias: f32[4]\n", "%bias: f32[4],\n", "syntax-ir", "6:1", "expected a name"),
    ("lr=0.5", "lr=fast", "syntax-ir", "4:71", "expected a number"),
    ("lr=0.5", "lr=true", "type-ir", "4:71", "lr of a parameter has the form number"),
    ("lr=0.5", "rate=0.5", "name-ir", "4:68", "no attribute 'rate'"),
    ("lr=0.5", "decoy=0.5", "name-ir", "4:68", "did you mean decay?"),
    ("lr=0.5", 'role="bias"', "name-ir", "4:68", "'role' is there twice"),
    ("he(0.0,9,36)", "he(0.0,9)", "type-ir", "4:54", "a kind with value"),
    ("he(0.0,9,36)", "he(0.0,9.5,36)", "type-ir", "4:54", "a kind with value"),
    ("he(0.0,9,36)", "3", "syntax-ir", "4:54", "an initialisation"),
    ('} loc("net.cnn":2:3-2:9)', '} loc("a":1:1, "b":2:2)', "syntax-ir", "4:3", "one place"),
    ('} loc("net.cnn":2:3-2:9)', "} loc()", "syntax-ir", "4:80", "a place"),
    ('} loc("net.cnn":2:3-2:9)', '} loc("net.cnn":2)', "syntax-ir", "4:80", "a place"),
    ('"net.cnn":2:3-2:9),', '"n\\x":2:3-2:9),', "syntax-ir", "4:80", "not a well-formed string"),
    ("loss: %6", "loss: %66", "name-ir", "6:25", "'%66' is not defined"),
    ("loss: %6", "logits: %6", "name-ir", "6:19", "output 'logits' is there twice"),
    ("%1 = conv2d", "%1 = conv3d", "name-ir", "7:8", "did you mean conv2d?"),
    ("%1 = conv2d", "%1 = zzzzzzz", "name-ir", "7:8", "no op 'zzzzzzz'"),
    ("conv2d(%x, %conv.weight", "conv2d(%x, %conv.wait", "name-ir", "7:19", "did you mean %conv.weight?"),
    ("conv2d(%x, %conv.weight, %bias)", "conv2d(%x)", "shape-ir", "7:8", "conv2d takes 2 to 3 operands, not 1"),
    ("conv2d(%x, %conv.weight", "conv2d(%x, %x", "shape-ir", "7:8", "the bias must have 2 elements, not f32[4]"),
    ("stride=(2,2)", "strides=(2,2)", "name-ir", "7:41", "did you mean stride?"),
    ("stride=(2,2)", "stride=2", "type-ir", "7:48", "stride of conv2d has the form (integer, integer)"),
    ("stride=(2,2)", "stride=(2,2,2)", "type-ir", "7:48", "(integer, integer)"),
    ("stride=(2,2)", "stride=(2,2.0)", "type-ir", "7:48", "(integer, integer)"),
    ("stride=(2,2)", "stride=(2,true)", "type-ir", "7:48", "(integer, integer)"),
    ("stride=(2,2)", "stride=(0,2)", "shape-ir", "7:8", "stride must be at least 1"),
    ("stride=(2,2)", "stride=(((((2", "syntax-ir", "7:52", "expected a number"),
    ("stride=(2,2)", "stride=(2,\u00b2)", "syntax-ir", "7:51", "expected a number"),
    ("stride=(2,2)", "stride=(2,\u0662)", "syntax-ir", "7:51", "expected a number"),
    ("stride=(2,2)", "stride=(2 2)", "syntax-ir", "7:51", "expected `,`"),
    ("stride=(2,2)", "stride=(2,2), stride=(2,2)", "name-ir", "7:55", "'stride' is there twice"),
    ("stride=(2,2)", "stride (2,2)", "syntax-ir", "7:48", "expected `=`"),
    ("f32[2,4,3,3]  @conv", "f32[2,4,3,4]  @conv", "type-ir", "7:76", "conv2d gives f32[2,4,3,3], not f32[2,4,3,4]"),
    ("f32[2,4,3,3]  @conv", "f16[2,4,3,3]  @conv", "type-ir", "7:76", "not f16[2,4,3,3]"),
    ("f32[2,4,3,3]  @conv", "f32[2,4,3,3], f32[1]  @conv", "type-ir", "7:8", "1 results, but here are 1 names and 2"),
    ("f32[2,4,3,3]  @conv", "@conv", "syntax-ir", "7:76", "expected a type"),
    ("%2 = relu", "%1 = relu", "name-ir", "8:3", "'%1' is there twice"),
    ("%2 = relu", "%x = relu", "name-ir", "8:3", "'%x' is there twice"),
    ("%2 = relu", "%2, %9 = relu", "type-ir", "8:12", "1 results, but here are 2 names"),
    ("%2 = relu", "%2 relu", "syntax-ir", "8:6", "expected `=`"),
    ("relu(%1)", "relu(%4)", "name-ir", "8:13", "'%4' is not defined before"),
    ("relu(%1)", "relu(%1,)", "syntax-ir", "8:16", "an operand"),
    ("relu(%1)", "relu(%1", "syntax-ir", "8:16", "expected `,`"),
    ("shape=(4)", "shape=(5)", "shape-ir", "9:8", "4 values for the shape (5,)"),
    ("shape=(4)", 'shape=(4), dtype="i32"', "shape-ir", "9:8", "do not fit into i32"),
    ("shape=(4)", 'shape=(4), dtype="q"', "shape-ir", "9:8", "no element type q"),
    ("(1,2.5,-inf,nan)", '("a")', "type-ir", "9:27", "values of constant"),
    ("(1,2.5,-inf,nan)", f"sha256:{'0' * 64}", "value-ir", "9:27", "is not there"),
    ("(1,2.5,-inf,nan)", f"({'9' * 5000})", "value-ir", "9:28", "too large"),
    ("update %bias", "update %bios", "name-ir", "14:10", "did you mean bias?"),
    ("update %bias", "update %x", "name-ir", "14:10", "'x' is not a parameter"),
    ("update %bias = %7", "update %bias = %6", "type-ir", "14:18", "the parameter is f32[4], but the update f32[]"),
    ("= %7\n", "= %7\n  update %bias = %7\n", "name-ir", "15:10", "update of 'bias' is there twice"),
    ("= %7\n}", "= %7\n", "syntax-ir", "16:1", "not the end"),
    ("= %7\n}", "= %7\n} }", "syntax-ir", "15:3", "expected the end"),
    ("= %7\n}", "= %7\n  return %7\n}", "syntax-ir", "15:3", "not 'return'"),
    ("= %7\n}", "= %7\n  \x00\n}", "syntax-ir", "15:3", "not '\\x00'"),
]


def test_the_text_is_valid() -> None:
    graph = parse_ir(TEXT)
    assert [node.op.name for node in graph.nodes][:3] == ["conv2d", "relu", "constant"]
    assert parse_ir(print_ir(graph)) == graph
    assert str(graph.nodes[1].result.type) == "f32[2,4,3,3]{nhwc:16}"
    assert graph.parameters["conv.weight"].lr == 0.5


def test_white_space_and_line_ends_do_not_matter() -> None:
    graph = parse_ir(TEXT)
    assert parse_ir(TEXT.replace("\n", "\r\n")) == graph
    assert parse_ir(TEXT.replace("  %", "\n\n      %")) == graph


@pytest.mark.parametrize(("old", "new", "code", "place", "words"), ERRORS)
def test_error(old: str, new: str, code: str, place: str, words: str) -> None:
    assert TEXT.count(old) == 1, "the table is wrong"
    with pytest.raises(CompileError) as caught:
        parse_ir(TEXT.replace(old, new), file="dump.ir")
    (diagnostic,) = caught.value.diagnostics
    rendered = str(caught.value)
    assert rendered.startswith(f"dump.ir:{place}: error[{code}]: ")
    assert words in rendered
    assert len(rendered) < 1000
    assert diagnostic.span is not None


def test_line_ends_of_every_kind_count() -> None:
    for end in ("\n", "\r\n", "\r"):
        with pytest.raises(CompileError, match=r"<ir>:8:8: ") as caught:
            parse_ir(TEXT.replace("relu", "rely").replace("\n", end))
        assert "    |        ^^^^" in str(caught.value)


def large_constant() -> tuple[str, dict[str, np.ndarray]]:
    graph = Graph("net")
    x = graph.add_input("x", f32(1, 40))
    b = Builder(graph)
    graph.outputs["y"] = b.add(Add(), x, b.add(Constant.of(np.arange(40, dtype=np.float32))))
    constants: dict[str, np.ndarray] = {}
    return print_ir(graph, constants), constants


def test_constants_beside_the_text() -> None:
    text, constants = large_constant()
    graph = parse_ir(text, constants=constants)
    np.testing.assert_array_equal(graph.nodes[0].op.reference(), np.arange(40))
    with pytest.raises(CompileError, match="is not there"):
        parse_ir(text)
    (key,) = constants
    with pytest.raises(CompileError, match="has another content"):
        parse_ir(text, constants={key: constants[key] + 1})
    with pytest.raises(CompileError, match="has another content"):
        parse_ir(text, constants={key: constants[key].astype(np.float64)})
    other = np.arange(41, dtype=np.float32)
    with pytest.raises(CompileError, match="41 values for the shape"):
        parse_ir(text.replace(key, content_hash(other)), constants={content_hash(other): other})


def accepts_or_explains(text: str) -> None:
    error: CompileError | None = None
    try:
        graph = parse_ir(text)
    except CompileError as caught:
        error = caught
    else:
        assert parse_ir(print_ir(graph)) == graph
    if error is not None:
        spans = [diagnostic.span for diagnostic in error.diagnostics]
        assert spans
        assert all(span is not None and span.line >= 1 and span.column >= 1 for span in spans), str(error)


@given(st.text())
@example("convc-ir 1\ngraph @a() params() -> () {}")
@example('convc-ir 1 graph @"\\ud800"() params() -> () {}')
def test_random_text(text: str) -> None:
    accepts_or_explains(text)


@given(st.binary())
def test_random_bytes(data: bytes) -> None:
    accepts_or_explains(data.decode("latin-1"))
    accepts_or_explains("convc-ir 1\ngraph @net() params() -> () {" + data.decode("utf-8", "surrogateescape"))


PIECES = [
    *'(){}[]:,=%@"#-', "->", "\n", " ", "convc-ir", "graph", "params", "update", "loc", "true", "nan", "-inf", "1e999",
    "0", "1", "-1", "7", "99999999999999999999", "9" * 30, "%x", "%1", "%2", "%bias", "@net", '"a"', '"\\', '"\\ud800"',
    '"a":1:2', '"a":1:2-3:4', "f32[4]", "f32[]", "i32[2]", "f32[2,1,6,6]{nhwc:16}", "f32[0]", "q8[1]", "stride",
    "(0,0)", "(-1,-1)", "(1,1,1,1)", "()", "sha256:" + "a" * 64, *OPS,
]  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_random_tokens(pieces: list[str]) -> None:
    accepts_or_explains("convc-ir 1 graph @net(%x: f32[2,1,6,6]) params(%bias: f32[4]) -> () { " + " ".join(pieces))


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_mutated_text(seed: int, changes: int) -> None:
    generator = random.Random(seed)
    text = TEXT
    for _ in range(changes):
        at = generator.randrange(len(text))
        length = generator.choice([0, 1, 1, 3, 10])
        text = text[:at] + generator.choice(["", *PIECES]) + text[at + length :]
    accepts_or_explains(text)


def test_a_long_line_of_open_quotes_is_no_trap() -> None:
    with pytest.raises(CompileError):
        parse_ir('"\\' * 200_000)
    with pytest.raises(CompileError):
        parse_ir("convc-ir 1 " + "# " * 200_000)


def test_every_prefix() -> None:
    for end in range(len(TEXT.rstrip())):
        with pytest.raises(CompileError):
            parse_ir(TEXT[:end])


@settings(max_examples=30)
@given(graphs(max_layers=3), st.data())
def test_attribute_values_of_random_graphs(graph: Graph, data: st.DataObject) -> None:
    """Other numbers in a valid text: the graph is checked, not only the grammar."""
    text = print_ir(graph)
    digits = [index for index, character in enumerate(text) if character.isdigit()]
    at = data.draw(st.sampled_from(digits))
    accepts_or_explains(text[:at] + data.draw(st.sampled_from(["0", "1", "2", "-1", "9999"])) + text[at + 1 :])
