"""Reads the text that `convc.ir.printer` writes, so that any pass can be run alone on a dump.

Hand-written recursive descent over a list of tokens, linear in the length of the text. Whatever is wrong with the text
(grammar, names, types, shapes, constants) is a `CompileError` that points to line and column. `#` starts a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.graph import Graph, Initializer, Node, Value
from convc.ir.op import Op
from convc.ir.ops import OPS
from convc.ir.printer import VERSION, WORD, content_hash, name_text
from convc.ir.span import Location, Span
from convc.ir.types import DType, Grid, Layout, TensorType
from convc.ir.verify import verify

Item = TypeVar("Item")

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_NAME = rf"(?:{WORD.pattern}|\d+|{_STRING})"
_KINDS = (
    rf"(?P<value>%{_NAME})",
    rf"(?P<label>@{_NAME})",
    r"(?P<hash>sha256:[0-9a-f]{64}\b)",
    r"(?P<type>[a-z]+\d*(?:<[-+.\w]+:\d+>)?\[(?:\d+(?:,\d+)*)?\](?:\{\w+:\d+\})?)",
    rf"(?P<span>{_STRING}:\d+:\d+(?:-\d+:\d+)?)",
    rf"(?P<string>{_STRING})",
    r"(?P<number>[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)|-inf\b)",
    rf"(?P<word>{WORD.pattern})",
    r"(?P<mark>->|[(){}:,=])",
    r"(?P<unknown>.)",
    r"(?P<end>\Z)",
)
# Blanks and comments, then one token: always matches, so that no blank is tried twice.
_TOKEN = re.compile(rf"(?:\s|\#[^\n]*)*(?:{'|'.join(_KINDS)})", re.ASCII)
_DIGITS = 20  # of an integer; longer ones are no sizes and cost time to print
_RANK = 8
_DEPTH = 4  # of tuples in attributes
_METADATA = {"role": str, "trainable": bool, "frozen": bool, "lr": float, "decay": float, "initial": Initializer}


class _Token(NamedTuple):
    kind: str
    text: str
    offset: int


def parse_ir(text: str, *, file: str = "<ir>", constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The verified graph of an IR text; `constants` holds the arrays of large constants by hash.

    Raises `CompileError`, with spans in `file`, for any malformed text.
    """
    # One kind of line end, the way the renderer of diagnostics counts lines.
    parser = _Parser(text.replace("\r\n", "\n").replace("\r", "\n"), file, constants or {})
    graph = parser.graph()
    verify(graph)
    return graph


class _Parser:
    def __init__(self, text: str, file: str, constants: Mapping[str, np.ndarray]) -> None:
        self.text, self.file, self.constants = text, file, constants
        self.matches: list[re.Match[str]] = []
        for match in _TOKEN.finditer(text):
            self.matches.append(match)
            if match.lastgroup == "unknown":  # No rule takes it, so nothing after it matters.
                break
        self.texts = [match[match.lastgroup or 0] for match in self.matches]
        self.position = 0
        self.values: dict[str, Value] = {}
        self.types: dict[str, TensorType] = {}

    # Tokens

    @property
    def token(self) -> _Token:
        match = self.matches[self.position]
        kind = match.lastgroup or ""
        return _Token(kind, self.texts[self.position], match.start(kind))

    def fail(self, code: str, message: str, token: _Token, hint: str | None = None) -> NoReturn:
        line = self.text.count("\n", 0, token.offset) + 1
        column = token.offset - self.text.rfind("\n", 0, token.offset)
        span = Span(self.file, line, column, line, column + max(1, len(token.text)))
        raise CompileError([Diagnostic(code, message, span, hint=hint)], {self.file: self.text})

    def take(self, kind: str, what: str) -> _Token:
        token = self.token
        if token.kind != kind:
            self.unexpected(what)
        self.position += 1
        return token

    def unexpected(self, what: str) -> NoReturn:
        token = self.token
        self.fail("syntax-ir", f"expected {what}, not {_shown(token.text) if token.text else 'the end'}", token)

    def mark(self, text: str) -> None:
        if self.texts[self.position] != text:
            self.unexpected(f"`{text}`")
        self.position += 1

    def at(self, text: str) -> bool:
        return self.texts[self.position] == text

    def skip(self, text: str) -> bool:
        if self.texts[self.position] != text:
            return False
        self.position += 1
        return True

    def sequence(self, item: Callable[[], Item]) -> list[Item]:
        """`( item, item, … )`."""
        self.mark("(")
        items: list[Item] = []
        while not self.at(")"):
            if items:
                self.mark(",")
            items.append(item())
        self.mark(")")
        return items

    def name(self, token: _Token, sigil: str = "") -> str:
        """The text of a name, which is quoted where it is no plain word."""
        text = token.text[len(sigil) :]
        return self.unquote(token, text) if text.startswith('"') else text

    def key(self, token: _Token) -> str:
        """The one spelling of a value's name: `%"a"` is `%a`."""
        return name_text("%", self.name(token, "%")) if token.text.startswith('%"') else token.text

    def unquote(self, token: _Token, text: str) -> str:
        try:
            return json.loads(text)
        except ValueError:
            self.fail("syntax-ir", f"{_shown(text)} is not a well-formed string", token)

    def integer(self, token: _Token, text: str) -> int:
        if len(text) > _DIGITS:
            self.fail("value-ir", f"{_shown(text)} is too large", token)
        return int(text)

    # Graph

    def graph(self) -> Graph:
        if not self.skip("convc-ir"):
            self.unexpected(f"`convc-ir {VERSION}` at the start")
        version = self.take("number", "a version number")
        if version.text != str(VERSION):
            self.fail("syntax-ir", f"the text has version {_shown(version.text)}, not {VERSION}", version)
        self.mark("graph")
        graph = Graph(self.name(self.take("label", "the graph's name, as in `@net`"), "@"))
        self.sequence(lambda: self.input(graph))
        self.mark("params")
        self.sequence(lambda: self.parameter(graph))
        self.mark("->")
        outputs = self.sequence(self.output)
        self.mark("{")
        while not self.at("}"):
            if self.at("update"):
                self.update(graph)
            elif self.token.kind == "value":
                self.node(graph)
            else:
                self.unexpected("a node such as `%1 = relu(%x) : f32[1,2]`, `update` or `}`")
        self.mark("}")
        if self.token.kind != "end":
            self.unexpected("the end of the text")
        for token, value in outputs:
            name = self.name(token)
            self.unique(token, name, graph.outputs, "output")
            graph.outputs[name] = self.defined(value)
        return graph

    def unique(self, token: _Token, name: str, table: Mapping[str, object], what: str) -> None:
        if name in table:
            self.fail("name-ir", f"{what} {_shown(name)} is there twice", token)

    def declaration(self) -> tuple[_Token, str, TensorType]:
        token = self.take("value", "a name such as `%x`")
        self.unique(token, self.key(token), self.values, "value")
        self.mark(":")
        return token, self.name(token, "%"), self.type()

    def input(self, graph: Graph) -> None:
        token, name, type = self.declaration()
        self.values[self.key(token)] = graph.add_input(name, type)

    def parameter(self, graph: Graph) -> None:
        token, name, type = self.declaration()
        metadata: dict[str, Any] = self.attributes(_METADATA, "a parameter")
        location = self.location()
        if len(location) > 1:
            self.fail("syntax-ir", "a parameter has one place", token)
        span = location[0] if location else None
        self.values[self.key(token)] = graph.add_parameter(name, type, span=span, **metadata)

    def output(self) -> tuple[_Token, _Token]:
        kind = "string" if self.token.kind == "string" else "word"
        name = self.take(kind, "the name of an output")
        self.mark(":")
        return name, self.take("value", "a value such as `%1`")

    def update(self, graph: Graph) -> None:
        self.mark("update")
        token = self.take("value", "a parameter")
        name = self.name(token, "%")
        self.mark("=")
        source = self.take("value", "a value such as `%1`")
        value = self.defined(source)
        if name not in graph.parameters:
            self.fail("name-ir", f"{_shown(name)} is not a parameter", token, _similar(name, graph.parameters))
        self.unique(token, name, graph.updates, "update of")
        expected = graph.parameters[name].value.type
        if value.type.with_layout(None) != expected.with_layout(None):
            self.fail("type-ir", f"the parameter is {expected}, but the update {value.type}", source)
        graph.updates[name] = value

    def node(self, graph: Graph) -> None:
        results = [self.take("value", "a result")]
        while self.skip(","):
            results.append(self.take("value", "a result such as `%2`"))
        self.mark("=")
        token = self.take("word", "an op")
        kind = OPS.get(token.text)
        if kind is None:
            self.fail("name-ir", f"there is no op {_shown(token.text)}", token, _similar(token.text, OPS))
        operands = self.sequence(lambda: self.defined(self.take("value", "an operand such as `%1`")))
        attributes = self.attributes(_hints(kind), kind.name)
        self.mark(":")
        types = [(self.token, self.type())]
        while self.skip(","):
            types.append((self.token, self.type()))
        label = self.name(self.take("label", "a label"), "@") if self.token.kind == "label" else ""
        location = self.location()
        try:
            node = Node(kind(**attributes), tuple(operands), location, label)
        except (ValueError, TypeError, IndexError, ArithmeticError, AssertionError) as error:
            self.fail("shape-ir", f"{kind.name}: {error}", token)
        if not len(node.results) == len(results) == len(types):
            counts = f"{len(results)} names and {len(types)} types"
            self.fail("type-ir", f"{kind.name} has {len(node.results)} results, but here are {counts}", token)
        for name, value, (place, declared) in zip(results, node.results, types, strict=True):
            if declared.with_layout(None) != value.type.with_layout(None):
                self.fail("type-ir", f"{kind.name} gives {value.type.with_layout(None)}, not {declared}", place)
            value.type = declared
            self.unique(name, self.key(name), self.values, "value")
            self.values[self.key(name)] = value
        graph.insert(node)

    def defined(self, token: _Token) -> Value:
        value = self.values.get(self.key(token))
        if value is None:
            hint = _similar(token.text, [text for text in self.values if not text[1].isdigit()])
            self.fail("name-ir", f"{_shown(token.text)} is not defined before it is used", token, hint)
        return value

    # Types, places, attributes

    def type(self) -> TensorType:
        token = self.take("type", "a type such as `f32[1,2]`")
        if token.text not in self.types:
            self.types[token.text] = self.new_type(token)
        return self.types[token.text]

    def new_type(self, token: _Token) -> TensorType:
        head, _, rest = token.text.partition("[")
        name, angle, numbers = head.partition("<")
        known = [dtype.value for dtype in DType]
        if name not in known:
            self.fail("type-ir", f"there is no element type {_shown(name)}", token, f"known are {', '.join(known)}")
        sizes, _, layout = rest.partition("]")
        shape = tuple(self.integer(token, size) for size in sizes.split(",") if size)
        if len(shape) > _RANK:
            self.fail("type-ir", f"{len(shape)} dimensions are more than {_RANK}", token)
        type = TensorType(DType(name), shape, grid=self.grid(token, numbers[:-1]) if angle else None)
        if (type.grid is None) != (type.dtype is not DType.Q8):
            self.fail("type-ir", "q8, and nothing else, has a step and a zero, as in q8<0.5:0>[1,2]", token)
        if not layout:
            return type
        order, _, channels = layout[1:-1].partition(":")
        return type.with_layout(Layout(order, self.integer(token, channels)))

    def grid(self, token: _Token, text: str) -> Grid:
        """`0.5:0`."""
        step, _, zero = text.partition(":")
        try:
            return Grid(float(step), self.integer(token, zero)).checked()
        except ValueError as error:
            self.fail("type-ir", str(error), token)

    def location(self) -> Location:
        if not self.skip("loc"):
            return ()
        self.mark("(")
        spans = [self.span()]
        while self.skip(","):
            spans.append(self.span())
        self.mark(")")
        return tuple(spans)

    def span(self) -> Span:
        token = self.take("span", 'a place such as "net.cnn":7:3-7:20')
        quote = token.text.rindex('"') + 1
        start, _, end = token.text[quote + 1 :].partition("-")
        line, column = (self.integer(token, number) for number in start.split(":"))
        end_line, end_column = (self.integer(token, number) for number in (end or start).split(":"))
        return Span(self.unquote(token, token.text[:quote]), line, column, end_line, end_column)

    def attributes(self, hints: Mapping[str, Any], owner: str) -> dict[str, Any]:
        """`{name=literal, …}`, or nothing, with values of the types that `hints` asks for."""
        found: dict[str, Any] = {}
        if not self.skip("{"):
            return found
        while not self.at("}"):
            if found:
                self.mark(",")
            token = self.take("word", "an attribute")
            if token.text not in hints:
                hint = _similar(token.text, hints) or f"known are {', '.join(hints) or 'none'}"
                self.fail("name-ir", f"{owner} has no attribute {_shown(token.text)}", token, hint)
            self.unique(token, token.text, found, "attribute")
            self.mark("=")
            place, hint = self.token, hints[token.text]
            try:
                found[token.text] = self.initializer() if hint is Initializer else _convert(self.literal(), hint)
            except _WrongType:
                self.fail("type-ir", f"{token.text} of {owner} has the form {_form(hint)}", place)
        self.mark("}")
        return found

    def initializer(self) -> Initializer:
        token = self.token
        known = "string" if token.kind == "string" else "word"
        kind = self.name(self.take(known, "an initialisation such as he(0.0,9,27)"))
        numbers = tuple(self.sequence(self.literal))
        value, fan_in, fan_out = _convert(numbers, tuple[float, int, int])
        return Initializer(kind, value, fan_in, fan_out)

    def literal(self, depth: int = 0) -> Any:
        token = self.token
        if token.text == "(" and depth < _DEPTH:
            return tuple(self.sequence(lambda: self.literal(depth + 1)))
        self.position += 1
        if token.kind == "number" and token.text.lstrip("+-").isdigit():
            return self.integer(token, token.text)
        if token.kind == "number" or token.text in ("inf", "nan"):
            return float(token.text)
        if token.text in ("true", "false"):
            return token.text == "true"
        if token.kind == "string":
            return self.unquote(token, token.text)
        if token.kind == "hash":
            return self.stored(token)
        self.position -= 1
        self.unexpected("a number, true, false, a string or a tuple")

    def stored(self, token: _Token) -> tuple[Any, ...]:
        """The numbers of a constant whose array lies beside the text."""
        if token.text not in self.constants:
            self.fail("value-ir", f"the array of the constant {token.text[:19]}… is not there", token)
        array = np.asarray(self.constants[token.text])
        if content_hash(array) != token.text:
            self.fail("value-ir", f"the array of the constant {token.text[:19]}… has another content", token)
        return tuple(array.ravel().tolist())


class _WrongType(Exception):
    """A literal that an attribute cannot take."""


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the annotated type of an attribute: a scalar, a union of scalars, or a tuple."""
    if hint is float and type(value) is int:
        return float(value)
    if get_origin(hint) is tuple and type(value) is tuple:
        items: tuple[Any, ...] = value
        wanted = get_args(hint)
        if len(wanted) == 2 and wanted[1] is ...:
            wanted = (wanted[0],) * len(items)
        if len(wanted) == len(items):
            return tuple(_convert(item, one) for item, one in zip(items, wanted, strict=True))
    elif type(value) in (get_args(hint) if isinstance(hint, UnionType) else (hint,)):
        return value
    raise _WrongType


def _form(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"({', '.join('…' if one is ... else _form(one) for one in get_args(hint))})"
    if isinstance(hint, UnionType):
        return " or ".join(map(_form, get_args(hint)))
    if hint is Initializer:
        return "he(0.0,9,27): a kind with value, fan in and fan out"
    return {int: "integer", float: "number", bool: "true or false", str: "string"}.get(hint, str(hint))


@cache
def _hints(kind: type[Op]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _similar(word: str, known: Iterable[str]) -> str | None:
    close = get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]}?" if close else None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
