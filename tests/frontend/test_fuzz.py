"""Whatever the text: a net or a `CompileError` whose places lie in the text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from convc.frontend import Limits, load, loads, parse_data
from convc.frontend.layers import BY_WORD
from convc.frontend.setting_kinds import BY_WORD as SETTING_WORDS
from convc.ir.diagnostic import CompileError, render, source_lines

LIMITS = Limits(steps=500, evaluations=5000, depth=50, elements=1 << 24, parameter_elements=1 << 24)


def check(text: str) -> None:
    try:
        net = loads(text, file="n.cnn", limits=LIMITS)
    except CompileError as error:
        check_places(error, text)
        return
    assert loads(net.resolved(), file="n.cnn", limits=LIMITS).digest() == net.digest()


def check_places(error: CompileError, text: str) -> None:
    """There is something to say, it can be rendered, and its spans lie inside the text."""
    lines = source_lines(text)
    assert error.diagnostics
    assert str(error)
    for diagnostic in error.diagnostics:
        for span in (diagnostic.span, *(note.span for note in diagnostic.notes)):
            if span is not None:
                assert 1 <= span.line <= span.end_line <= len(lines), (diagnostic, text)
                assert 1 <= span.column <= len(lines[span.line - 1]) + 1, (diagnostic, text)
                assert span.end_column <= len(lines[span.end_line - 1]) + 1, (diagnostic, text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
@example("\ufeff\r\n\x00")
def test_any_text(text: str) -> None:
    check(text)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
@example(data=b"\xff\xfe")
def test_any_bytes(tmp_path_factory, data: bytes) -> None:
    path: Path = tmp_path_factory.mktemp("fuzz") / "a.cnn"
    path.write_bytes(data)
    try:
        load(path, limits=LIMITS)
    except CompileError as error:
        render(error.diagnostics, error.sources)


WORDS = (
    *BY_WORD,
    *SETTING_WORDS,
    "let",
    "assert",
    "repeat",
    "for",
    "if",
    "else",
    "as",
    "from",
    "add",
    "mul",
    "concat",
    "branch",
    "residual",
    "skip",
    "auto",
    "identity",
    "aux",
    "shared",
    "reuse",
    "use",
    "block",
    "net",
    "train",
    "search",
    "in",
    "max",
    "avg",
    "global",
    "softmax",
    "adam",
    "sgd",
    "x",
    "n",
    "b",
    "and",
    "or",
    "not",
    "yes",
    "no",
    "min",
    "len",
    "k",
    "s",
    "pad",
    "groups",
    "name",
    "weight",
    "lr",
    "c",
    "same",
    "floor",
    "mnist",
    "he",
    "gauss",
)
SYMBOLS = (
    "{",
    "}",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "=",
    "->",
    "\n",
    "\n",
    ",",
    "+",
    "-",
    "*",
    "/",
    "**",
    "//",
    "%",
    "<",
    "==",
    "..",
    ".",
    "0",
    "1",
    "2",
    "3",
    "5",
    "0.5",
    "2.0",
    "1e-4",
    "80e",
    "3x3",
    "1x28x28",
    '"s"',
    "# c\n",
    "10000000000",
)
TOKENS = st.lists(st.sampled_from((*WORDS, *SYMBOLS)), max_size=40)


@settings(max_examples=300, deadline=None)
@given(TOKENS, st.booleans())
def test_any_tokens(tokens: list[str], inside: bool) -> None:
    text = " ".join(tokens)
    check("block b(c, s=1) { conv c k=3 s=s }\nnet n(m=2) { input 1x28x28\n" + text + "\n}" if inside else text)


STATEMENTS = st.sampled_from(
    (
        "conv 3 k=3",
        "conv in*2 k=1 s=2",
        "conv 4 k=3 pad=same groups=in",
        "pool max 2",
        "pool avg global",
        "flatten",
        "fc 5",
        "bn",
        "relu",
        "prelu",
        "maxout 2",
        "dropout 0.5",
        "as x",
        "as y[1]",
        "from x",
        "add x",
        "mul x",
        "concat x",
        "add y[1]",
        "b(4)",
        "b 4 s=2 name=q",
        "loss softmax",
        "loss softmax weight=0.5",
        "reuse r",
        "let k = in + 1",
        "conv k k=1",
        "tanh as z",
        'assert in > 2 "only {in} of {k}"',
        "lrn 5",
        "upsample 2",
        "deconv 3 k=2 s=2",
        "noise 0.1",
        "leaky 0.1 freeze=yes",
    )
)
WRAPPERS = st.sampled_from(
    (
        "repeat 2 {{ {} }}",
        "for c in [1, 2] {{ {} }}",
        "if in > 3 {{ {} }} else {{ relu }}",
        "residual {{ {} }} skip auto",
        "residual {{ {} }}",
        "aux {{ {} }}",
        "shared r {{ {} }}",
        "concat {{ branch {{ {} }} branch {{ linear }} }}",
    )
)
PROGRAMS = st.recursive(
    STATEMENTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(" -> ".join),
        st.tuples(WRAPPERS, inner).map(lambda pair: pair[0].format(pair[1])),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PROGRAMS, max_size=5))
def test_any_program(statements: list[str]) -> None:
    body = "\n".join(statements)
    check(
        "block b(c, s=1) { conv c k=3 s=s pad=1 -> bn -> relu }\nnet n { input 2x16x16\n"
        + body
        + "\n}\ntrain { batch 3 }"
    )


@settings(max_examples=100, deadline=None)
@given(TOKENS)
def test_any_data_item(tokens: list[str]) -> None:
    try:
        parse_data(" ".join(tokens))
    except CompileError as error:
        render(error.diagnostics, error.sources)
