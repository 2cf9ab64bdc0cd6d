"""Which name means what, from the text alone."""

from __future__ import annotations

import pytest

from convc.frontend.bindings import Bindings, bindings_of
from convc.frontend.cursor import Cursor, cursor_at
from convc.frontend.parser import parse, parse_what_is_there
from convc.frontend.source import Source

TEXT = """\
let n = 1
block b(n, same=2) {
  conv n k=3 pad=same name=n
  let m = n + 1
  residual { relu as x -> add x } skip { let n = m -> conv n k=1 }
  for n in 0..n { conv n k=1 }
  if n == 1 { relu as x } else { relu as x }
  add x
}
net top {
  input 1x8x8 -> fc n
  b 3
  reuse s
  repeat 2 { shared s { relu } }
  pool max 2
}
train { batch n }
"""


def names(text: str) -> Bindings:
    return bindings_of(parse(Source("n.cnn", text)))


def meaning(word: str, number: int = 1) -> tuple[str, int] | None:
    """Kind and line of what an occurrence of a word means."""
    offset = -1
    for _ in range(number):
        offset = TEXT.index(word, offset + 1)
    line = TEXT.count("\n", 0, offset) + 1
    found = names(TEXT).at(line, offset - (TEXT.rfind("\n", 0, offset) + 1) + 1)
    return (found.kind, found.span.line) if found else None


@pytest.mark.parametrize(
    ("word", "number", "expected"),
    [
        ("n k=3", 1, ("parameter", 2)),
        ("same name", 1, None),  # the argument's own word wins over the parameter
        ("n\n  let", 1, None),  # name= takes any word
        ("n + 1", 1, ("parameter", 2)),
        ("m -> conv", 1, ("let", 4)),
        ("n k=1", 1, ("let", 5)),  # the one of the skip
        ("n { conv", 1, ("parameter", 2)),  # the end of a range does not see the loop's variable
        ("n k=1", 2, ("loop", 6)),
        ("x }", 1, ("value", 5)),  # `add x` in the body of the residual
        ("x\n}", 1, ("value", 7)),  # `if` does not end a name, the residual does
        ("n\n  b", 1, ("let", 1)),
        ("b 3", 1, ("block", 2)),
        ("s\n  repeat", 1, ("shared", 14)),
        ("max 2", 1, None),
        ("n }\n", 1, ("let", 1)),
    ],
)
def test_meaning(word: str, number: int, expected: tuple[str, int] | None) -> None:
    assert meaning(word, number) == expected


def test_uses() -> None:
    found = names(TEXT)
    (block,) = [binding for binding in found.introduced if binding.kind == "block"]
    assert [span.line for span in found.uses_of(block)] == [12]


def test_what_can_be_seen() -> None:
    found = names(TEXT)
    at_skip = {(b.kind, b.name) for b in found.introduced if b.visible_at(5, 60)}
    assert {("let", "n"), ("let", "m"), ("parameter", "n"), ("block", "b")} <= at_skip
    assert ("loop", "n") not in at_skip
    # A constant is there behind its definition, not before.
    assert not any(b.name == "m" and b.visible_at(3, 3) for b in found.introduced)


def test_statements_that_do_not_parse_are_left_out() -> None:
    file = parse_what_is_there(Source("n.cnn", "let a = \nnet n {\n  input 1x8x8 as x\n  conv 3 k=\n  from x\n}\n"))
    assert file is not None
    assert [(b.kind, b.name) for b in bindings_of(file).introduced] == [("net", "n"), ("value", "x")]
    assert parse_what_is_there(Source("n.cnn", "net n {")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Cursor((), (), "")),
        ("ne", Cursor((), (), "ne")),
        ("net n { input 1x8x8 -> con", Cursor((("net", "n"),), (), "con")),
        ("net n {\n  conv 8 k=3 ", Cursor((("net", "n"),), ("conv", "8", "k", "=", "3"), "")),
        ("net n {\n  conv 8 # k", Cursor((("net", "n"),), ("conv", "8"), "", comment=True)),
        ("net n {\n  conv 8 # k\n", Cursor((("net", "n"),), (), "")),
        ('use "bl', Cursor((), ("use",), "bl", string=True)),
        ('use "bl" ', Cursor((), ("use", '"bl"'), "")),
        ("net n { let a = (1,\n  b", Cursor((("net", "n"),), ("let", "a", "=", "(", "1", ","), "b")),
        ("net n { residual { relu } skip ", Cursor((("net", "n"),), ("skip",), "")),
        ("net n { residual { relu } }", Cursor((), (), "")),
        ("}}} ]) net ", Cursor((), ("]", ")", "net"), "")),
    ],
)
def test_cursor(text: str, expected: Cursor) -> None:
    assert cursor_at(text, len(text)) == expected


def test_the_key_of_the_value_being_typed() -> None:
    assert cursor_at("net n { conv 8 pad=", 19).key == "pad"
    assert cursor_at("net n { conv 8 pad=sa", 21).key == "pad"
    assert cursor_at("net n { conv 8 pad", 18).key is None
