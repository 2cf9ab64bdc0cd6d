"""The hand-written parser and the declarative grammar accept the same texts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.frontend.expression_parser import OPERATOR_WORDS
from convc.frontend.lexer import Token, tokenize
from convc.frontend.limits import DEFAULT_LIMITS
from convc.frontend.parser import parse
from convc.frontend.source import Source
from convc.ir.diagnostic import CompileError

lark = pytest.importorskip("lark")

HERE = Path(__file__).parent
SIGNS = {"+": "SIGN", "-": "SIGN", "*": "TIMES", "/": "TIMES", "//": "TIMES", "%": "TIMES", "(": "LPAR"}
SIGNS |= dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), "COMPARE")


def terminal(tokens: list[Token], position: int, wanted: set[str], literals: dict[str, str]) -> str:
    """The name that the grammar has for a token; a word is a keyword where the parser can take it."""
    token, following = tokens[position], tokens[position + 1]
    previous = tokens[position - 1] if position else None
    named = previous is not None and previous.kind == "name" and previous.text not in OPERATOR_WORDS
    if token.kind == "(" and token.touching and named and "CALL" in wanted:
        return "CALL"
    if token.kind == "[" and token.touching and "INDEX" in wanted:
        return "INDEX"
    if token.kind == "name":
        literal = literals.get(token.text)
        if literal in wanted or token.text in OPERATOR_WORDS:
            return str(literal)
        if token.text == "schedule" and "RATES" in wanted and following.kind not in _NO_RATE:
            return "RATES"
        if token.text in ("skip", "branch") and _begins(previous):
            return str(literal)  # no keyword here, and it cannot be the word of a layer
        return "NAME"
    if token.kind in ("newline", "number", "duration", "dimensions", "string"):
        return token.kind.upper()
    return SIGNS.get(token.kind) or literals[token.kind]


def _begins(previous: Token | None) -> bool:
    return previous is None or previous.kind in ("newline", "->", "{", ".")


_NO_RATE = ("name", "newline", "->", "}", "end", "{")


@cache
def grammar() -> lark.Lark:
    text = (HERE / "grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(text, parser="lalr", lexer="basic", maybe_placeholders=False)


def grammar_accepts(tokens: list[Token]) -> bool:
    literals = {known.pattern.value: known.name for known in grammar().terminals if known.pattern.type == "str"}
    parser = grammar().parse_interactive()
    try:
        for position, token in enumerate(tokens[:-1]):
            wanted = set(parser.choices())
            for word in (literals.get(token.text), "RATES" if token.text == "schedule" else None):
                if token.kind == "name" and word in wanted and not _takes(parser, word):
                    wanted.remove(word)  # it was in the table for a state that this one was merged with
            name = terminal(tokens, position, wanted, literals)
            parser.feed_token(lark.Token(name, token.text))
        parser.feed_eof()
    except lark.exceptions.UnexpectedInput:
        return False
    return True


def _takes(parser: lark.parsers.lalr_interactive_parser.InteractiveParser, word: str) -> bool:
    try:
        parser.copy().feed_token(lark.Token(word, ""))
    except lark.exceptions.UnexpectedInput:
        return False
    return True


def parser_accepts(source: Source) -> bool:
    try:
        parse(source)
    except CompileError:
        return False
    return True


def check(text: str) -> bool | None:
    """Whether both accept the text; None where it has lexical errors."""
    source = Source("n.cnn", text)
    try:
        tokens = tokenize(source, DEFAULT_LIMITS)
    except CompileError:
        return None
    accepted = parser_accepts(source)
    assert accepted == grammar_accepts(tokens), text
    return accepted


ACCEPTED = [path.read_text(encoding="utf-8") for path in sorted((HERE / "nets").glob("*.cnn"))] + [
    "",
    "\n\n# nothing\n",
    'let a = 3\nlet b = [1, 2,]\nuse "x.cnn"',
    "net n(a, b=2,) { }",
    "net n { repeat 2 { relu } -> for (a, b) in [(1,2)] { conv a k=b } -> for i in 0..3 { relu } }",
    "net n {\n if a { relu }\n else if b { tanh }\n else { elu }\n}",
    "net n { residual { relu } skip { linear } -> residual { relu } skip auto as x -> add x, y[1] name=z }",
    "net n { concat { branch { relu }\n branch { tanh } } -> concat a, b[i+1] -> mul a }",
    "net n { shared s { relu } -> reuse s as q -> from q -> aux { loss softmax weight=0.3 } }",
    "net n { conv (1 if a else 2) k=(1, 2) x[1] not y -> b(1, s=2,) -> c() -> pool max 2 }",
    'net n { let a = -2**-3 + not_x * (1, )[0] // 2 % 5 -> assert not a == b and c or d "no" }',
    "train { batch 3 -> epochs 4\n schedule 0.1 for 80e, 0.01 for 500s, .001\n schedule cosine warmup=5e\n schedule\n}",
    'train { augment { pad 4 -> crop 32\n flip h } -> data folder "x" split=0.9 -> optim adam lr=-1 }',
    "search random 30 { optim.lr in log(1e-4, 1e-1) batch in [1, 2] } refine 2",
    "search grid {\n a in [1]\n b.c in [2]\n}",
]
REJECTED = [
    "net n { -> relu }",
    "net n { relu -> }",
    "net n { relu -> -> relu }",
    "net n { concat { } }",
    "net n { 1 < 2 }",
    "net n { let a = 1 < 2 < 3 }",
    "net n { let a = 1 + not b }",
    "net n { conv 3, 4 }",
    "net n { conv (1 2) }",
    "net n { skip }",
    "net n { in }",
    "net in { }",
    "net n { as yes }",
    "net n { repeat { relu } }",
    "net n { for a [1] { relu } }",
    "train { batch, }",
    "train { -> batch 3 }",
    "train { schedule 0.1 for }",
    "search random { a [1] }",
    "conv 3 k=3",
    "net n { relu } }",
    "net n { x = 3 }",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_both_accept(text: str) -> None:
    assert check(text) is True


@pytest.mark.parametrize("text", REJECTED)
def test_both_reject(text: str) -> None:
    assert check(text) in (False, None)


PIECES = (
    "net n {",
    "block b(c, s=1) {",
    "train {",
    "search random 3 {",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\n",
    " -> ",
    ",",
    "=",
    " conv ",
    "3",
    "0.5",
    "80e",
    "3x1",
    '"s"',
    " x",
    "x(",
    "x[",
    " in ",
    " if ",
    " else ",
    " and ",
    " or ",
    " not ",
    " yes ",
    " as ",
    " for ",
    "repeat ",
    "let ",
    "assert ",
    "from ",
    "add ",
    "mul ",
    "concat ",
    "branch ",
    "residual ",
    " skip ",
    " auto ",
    "aux ",
    "shared ",
    "reuse ",
    "schedule ",
    "use ",
    "refine ",
    "..",
    ".",
    "+",
    "-",
    "*",
    "**",
    "//",
    "==",
    "<",
    "k=",
    " # c\n",
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_random_tokens(text: str) -> None:
    check(text)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    """A piece put into, or taken out of, a text that is right."""
    text = data.draw(st.sampled_from(ACCEPTED[9:]))
    position = data.draw(st.integers(0, len(text)))
    removed = data.draw(st.integers(0, 3))
    piece = data.draw(st.sampled_from(("", *PIECES)))
    check(text[:position] + piece + text[position + removed :])
