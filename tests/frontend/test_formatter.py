"""`format_text`: the meaning stays, comments stay, and a second time changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convc.frontend import syntax
from convc.frontend.formatter import WIDTH, format_text
from convc.frontend.lexer import Token, tokenize
from convc.frontend.parser import parse
from convc.frontend.source import Source
from convc.ir.diagnostic import CompileError
from tests.frontend import test_fuzz as fuzz
from tests.frontend.programs import mutated, programs
from tests.frontend.test_fuzz import check_places
from tests.frontend.test_grammar import grammar_accepts

HERE = Path(__file__).parent
FILES = sorted([*(HERE.parent.parent / "examples").glob("*.cnn"), *(HERE / "nets").glob("*.cnn")])


def tree(node: object) -> object:
    """A piece of syntax without its places."""
    if isinstance(node, syntax.Node):
        names = [name for name in node.fields if not name.endswith("span") and name not in ("name", "tokens")]
        own = getattr(node, "name", None) if not isinstance(node, syntax.File) else None
        return type(node).__name__, own, *((name, tree(getattr(node, name))) for name in names if hasattr(node, name))
    if isinstance(node, tuple):
        return tuple(map(tree, node))
    # 1 and 1.0 and yes are equal in Python, not in the language.
    return type(node).__name__, node


def comments(text: str) -> list[str]:
    found: list[Token] = []
    tokenize(Source("n.cnn", text), comments=found)
    return sorted(token.text.rstrip(" \t\f") for token in found)


def check(text: str) -> str:
    formatted = format_text(text)
    source = Source("n.cnn", formatted)
    trees = parse(source), parse(Source("n.cnn", text))
    assert tree(trees[0]) == tree(trees[1])
    assert syntax.same_syntax(*trees)
    assert format_text(formatted) == formatted
    assert comments(formatted) == comments(text)
    assert grammar_accepts(tokenize(source))
    assert "\r" not in formatted
    assert "\n\n\n" not in formatted
    assert formatted[:1] not in ("\n", "\ufeff")
    assert formatted == "" or (formatted.endswith("\n") and not formatted.endswith("\n\n"))
    assert all(line == line.rstrip(" \t\f") for line in formatted.split("\n"))
    return formatted


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(programs())
def test_programs_keep_their_meaning(text: str) -> None:
    check(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files(path: Path) -> None:
    check(path.read_text(encoding="utf-8"))


def check_any(text: str) -> None:
    """It is formatted, or refused with places inside the text."""
    try:
        format_text(text, "n.cnn")
    except CompileError as error:
        check_places(error, text)
    else:
        check(text)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=100), mutated()))
@example("net n { a }\0")
def test_any_text(text: str) -> None:
    check_any(text)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.one_of(mutated(), programs()))
def test_loading_programs_never_crashes(text: str) -> None:
    fuzz.check(text)


def test_spaces() -> None:
    text = """\
net n( a=1,b = [ 1,2, ] ){
input 1x28x28->conv 2*a  kernel = (.5 ,3)  s= -1
 let  q=2**-a+in//2
  conv(2*a,k=q[0],) -> conv [1] x[ i+1 ] 1e - 3 -> add x ,y[ 0]  name= z
for(i,j)in[(1,2,),(3,)]{ relu }
 for i in  0 .. n+1 { as x[i] }
}
search random 3 { optim . lr in log( 1,2 )   batch in [1] } refine  2
"""
    assert (
        check(text)
        == """\
net n(a = 1, b = [1, 2]) {
  input 1x28x28 -> conv 2*a kernel=(0.5, 3) s=-1
  let q = 2**-a + in // 2
  conv(2 * a, k=q[0]) -> conv [1] x[i + 1] 1e - 3 -> add x, y[0] name=z
  for (i, j) in [(1, 2), (3,)] { relu }
  for i in 0..n + 1 { as x[i] }
}
search random 3 { optim.lr in log(1, 2) batch in [1] } refine 2
"""
    )


def test_line_breaks() -> None:
    long = "conv 16 k=3 pad=1 bias=no"
    text = f"""\
let widths = [
  (64, 2),
  (128, 2), (256, 3)
]
let short = (1,
  2)
net n {{


  input 3x224x224
  {" -> ".join([long] * 5)}
  repeat 2 {{ {" -> ".join([long] * 4)} }} -> relu
  if in < 16 {{ {" -> ".join([long] * 2)} }} else {{ {long} }}
  relu ->
     tanh
  residual {{
    relu }} skip {{ linear }}


  repeat 2 {{
  }}
}}
let table = [{", ".join(["1000000000"] * 20)}]
net small {{ relu -> concat {{ branch {{ relu }} branch {{ tanh }} }} }} net other {{ relu }}"""
    assert (
        check(text)
        == f"""\
let widths = [
  (64, 2),
  (128, 2), (256, 3)
]
let short = (1, 2)
net n {{
  input 3x224x224
  {long} -> {long} -> {long}
    -> {long} -> {long}
  repeat 2 {{
    {long} -> {long} -> {long}
      -> {long}
  }} -> relu
  if in < 16 {{
    {long} -> {long}
  }} else {{
    {long}
  }}
  relu
    -> tanh
  residual {{
    relu
  }} skip {{ linear }}

  repeat 2 {{ }}
}}
let table = [
  {", ".join(["1000000000"] * 8)},
  {", ".join(["1000000000"] * 8)},
  {", ".join(["1000000000"] * 4)}
]
net small {{ relu -> concat {{ branch {{ relu }} branch {{ tanh }} }} }}
net other {{ relu }}
"""
    )
    lines = check(text).splitlines()
    assert max(map(len, lines)) <= WIDTH


def test_comments() -> None:
    text = """\
# the file


# another
net n( # parameters
  a = 1 # first
  , b # second
) # before the brace
{ # inside
  relu # one
  # own line
  conv 3 k=(1, # height
    2) -> # arrow
    # still
    relu   # aligned
  tanh     # with it
  elu # not with it

  # last
  if a { relu } # yes
  # no
  else { }
}
# end"""
    assert (
        check(text)
        == """\
# the file

# another
net n(  # parameters
  a = 1,  # first
  b  # second
) {  # before the brace
  # inside
  relu  # one
  # own line
  conv 3 k=(
    1,  # height
    2
  )  # arrow
    # still
    -> relu  # aligned
  tanh  # with it
  elu  # not with it

  # last
  if a {
    relu
  }  # yes
  # no
  else { }
}
# end
"""
    )


def test_trailing_comments_that_were_aligned_stay_so() -> None:
    text = """\
net n {
  input 1x28x28                # a
  conv 20 k=5                  # b
  relu
  pool max 2                   # c

  fc 3   # d
  fc 10   # e
}
"""
    assert (
        check(text)
        == """\
net n {
  input 1x28x28  # a
  conv 20 k=5    # b
  relu
  pool max 2     # c

  fc 3  # d
  fc 10  # e
}
"""
    )


def test_line_ends_and_byte_order_mark() -> None:
    assert format_text("\ufeff# a \r\n\r\nnet n { }\r") == "# a\n\nnet n { }\n"
    assert format_text("") == ""
    assert format_text("\n \n") == ""


def test_syntax_errors_are_all_reported() -> None:
    with pytest.raises(CompileError) as caught:
        format_text("net n {\n conv 3,\n relu = 3\n tanh\n}", "some.cnn")
    assert {error.span.line for error in caught.value.diagnostics if error.span} == {2, 3}
    assert caught.value.diagnostics[0].span is not None
    assert caught.value.diagnostics[0].span.file == "some.cnn"


def test_long_texts_take_linear_time() -> None:
    """8,000 tokens in one statement, and 1,000 statements; recursion or a square would show."""
    text = "let a = " + " + ".join(["1"] * 4000) + "\nnet n { " + " -> ".join(["relu"] * 1000) + " }"
    formatted = format_text(text)
    assert format_text(formatted) == formatted


@pytest.mark.parametrize(
    "other", ["let a = 1.0", "let a = yes", "let b = 1", "let a = 1 let b = 1", "let a = [1]", "let a = -1", 'use "a"']
)
def test_different_programs_are_told_apart(other: str) -> None:
    assert not syntax.same_syntax(parse(Source("n", "let a = 1")), parse(Source("n", other)))
    assert syntax.same_syntax(parse(Source("n", "let a = 1")), parse(Source("m", "\n let a=1 # b")))
