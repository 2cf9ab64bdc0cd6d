"""Tokens to a syntax tree: recursive descent over the tokens of `lexer`, resuming after an error at the next separator.

Written by hand rather than generated: importing a parser generator takes 40 ms and building its tables 60 ms, on every
start, where this parser needs nothing but a few µs per token. It also says what it expected in the user's words, and
reports several errors per file. `tests/frontend/grammar.lark` is the same grammar in declarative form; the tests hold
the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from convc.frontend import syntax
from convc.frontend.expression_parser import SyntaxFailure
from convc.frontend.hints import did_you_mean
from convc.frontend.lexer import Token, tokenize
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.source import Source
from convc.frontend.statement_parser import StatementParser
from convc.ir.diagnostic import CompileError

ITEM_WORDS = ("use", "block", "net", "let", "train", "search")
Tree = TypeVar("Tree")


def parse(source: Source, limits: Limits = DEFAULT_LIMITS) -> syntax.File:
    """The syntax tree of a whole file. Raises a `CompileError` with every syntax error that could be told apart."""
    return parse_tokens(tokenize(source, limits), source, limits)


def parse_tokens(tokens: list[Token], source: Source, limits: Limits = DEFAULT_LIMITS) -> syntax.File:
    """As `parse`, for a text that has been divided into tokens already."""
    parser = Parser(tokens, source, limits)
    file = parser.file()
    if parser.errors:
        raise CompileError(parser.errors, {source.name: source.text})
    return file


def parse_what_is_there(source: Source, limits: Limits = DEFAULT_LIMITS) -> syntax.File | None:
    """The statements of an unfinished text that do parse; None where its brackets do not match. For editors."""
    try:
        return Parser(tokenize(source, limits), source, limits).file()
    except CompileError:
        return None


def parse_expression(source: Source, limits: Limits = DEFAULT_LIMITS) -> syntax.Expression:
    """A single expression, for the value of `--set`."""
    return _whole(source, limits, lambda parser: parser.expression())


def parse_setting(source: Source, limits: Limits = DEFAULT_LIMITS) -> syntax.Setting:
    """A single line of `train`, for `--set train.…` and `--data`."""
    return _whole(source, limits, lambda parser: parser.setting())


def _whole(source: Source, limits: Limits, read: Callable[[Parser], Tree]) -> Tree:
    parser = Parser(tokenize(source, limits), source, limits)
    try:
        while parser.accept("newline"):
            pass
        result = read(parser)
        if not parser.at("end"):
            parser.unexpected("the end")
    except SyntaxFailure as failure:
        raise CompileError([failure.diagnostic], {source.name: source.text}) from None
    return result


class Parser(StatementParser):
    """Reads a whole file, or one piece of it."""

    # Items

    def file(self) -> syntax.File:
        items: list[syntax.Item] = []
        while not self.at("end"):
            if self.accept("newline"):
                continue
            start = self.position
            try:
                items.append(self._item())
            except SyntaxFailure as failure:
                if not self._record(failure):
                    break
                self._skip_item(start)
        return syntax.File(
            self.source.name,
            tuple(item for item in items if isinstance(item, syntax.Use)),
            tuple(item for item in items if isinstance(item, syntax.Let)),
            tuple(item for item in items if isinstance(item, syntax.Definition)),
            tuple(item for item in items if isinstance(item, syntax.Train)),
            tuple(item for item in items if isinstance(item, syntax.Search)),
            len(self.tokens),
        )

    def _item(self) -> syntax.Item:
        token = self.token
        readers: dict[str, Callable[[], syntax.Item]] = {
            "use": self._use,
            "let": self._let,
            "block": self._definition,
            "net": self._definition,
            "train": self._train,
            "search": self._search,
        }
        if token.kind != "name" or token.text not in readers:
            hint = did_you_mean(token.text, ITEM_WORDS) if token.kind == "name" else None
            self.unexpected(
                "`net`, `block`, `train`, `search`, `use` or `let`", hint or "layers stand inside `net NAME { … }`"
            )
        return readers[token.text]()

    def _skip_item(self, start: int) -> None:
        """Continue at the next line outside of braces that begins with an item's word."""
        self.depth = 0
        depth = sum({"{": 1, "}": -1}.get(token.kind, 0) for token in self.tokens[start : self.position])
        while not self.at("end"):
            begins = self.at_word(*ITEM_WORDS) and (self.previous.kind in ("newline", "}") or self.position == 0)
            if depth <= 0 and begins and self.position > start:
                return
            depth += {"{": 1, "}": -1}.get(self.token.kind, 0)
            self.advance()

    def _use(self) -> syntax.Use:
        start = self.advance()
        path = self.string()
        return syntax.Use(path.value, start.span.to(path.span), path.span)

    def _definition(self) -> syntax.Definition:
        start = self.advance()
        name = self._name(f"a {start.text}")
        parameters: list[syntax.Parameter] = []
        if self.accept("("):
            while not self.at(")"):
                parameter = self._name("a parameter")
                default = self.expression() if self.accept("=") else None
                end = default.span if default else parameter.span
                parameters.append(syntax.Parameter(parameter.text, default, parameter.span.to(end)))
                if not self.at(")"):
                    self.expect(",", "`,` or `)`")
            self.advance()
        body = self.body()
        return syntax.Definition(
            start.text, name.text, tuple(parameters), body, start.span.to(body.span), name.span
        )  # fmt: skip

    # The items `train` and `search`

    def _train(self) -> syntax.Train:
        start = self.advance()
        settings, span = self._braced(lambda: [self.setting()])
        return syntax.Train(tuple(settings), start.span.to(span))

    def setting(self) -> syntax.Setting:
        """One line of `train`."""
        word = self._word("a setting such as `batch 64`")
        steps: tuple[syntax.Apply, ...] | None = None
        arguments: tuple[syntax.Argument, ...] = ()
        segments: tuple[syntax.Segment, ...] = ()
        if self.at("{"):
            steps = self._pipeline()
        elif word.text == "schedule" and not self.at("name", "newline", "->", "}", "end"):
            segments = self._segments()
        else:
            arguments = self._spaced()
        span = word.span.to(self.previous.span)
        return syntax.Setting(word.text, arguments, segments, steps, span, word.span)

    def _pipeline(self) -> tuple[syntax.Apply, ...]:
        self.advance()
        steps: list[syntax.Apply] = []
        while not self.at("}"):
            steps.append(self._apply("a step such as `flip h`"))
            self._separator()
        self.advance()
        return tuple(steps)

    def _segments(self) -> tuple[syntax.Segment, ...]:
        found: list[syntax.Segment] = []
        while True:
            rate = self.expression()
            duration: syntax.Expression | None = None
            if self.at_word("for"):
                self.advance()
                duration = self.expression()
            found.append(syntax.Segment(rate, duration, rate.span.to(self.previous.span)))
            if not self.accept(","):
                return tuple(found)

    def _search(self) -> syntax.Search:
        start = self.advance()
        method = self._word("`grid`, `random` or `bayes`")
        count = None if self.at("{") else self.expression()
        self.expect("{", "`{`")
        axes: list[syntax.Axis] = []
        while not self.at("}"):
            if not self.accept("newline"):
                axes.append(self._axis())
        self.advance()
        refine: syntax.Expression | None = None
        if self.at_word("refine"):
            self.advance()
            refine = self.expression()
        name = syntax.Name(method.text, method.span)
        return syntax.Search(name, count, tuple(axes), refine, start.span.to(self.previous.span))

    def _axis(self) -> syntax.Axis:
        path = [self._word("the path of a setting, such as `optim.lr`")]
        while self.accept("."):
            path.append(self._word("a name after the dot"))
        if not self.at_word("in"):
            self.unexpected("`in`", "an axis reads `optim.lr in log(1e-4, 1e-1)`")
        self.advance()
        values = self.expression()
        place = path[0].span.to(path[-1].span)
        return syntax.Axis(".".join(token.text for token in path), values, place.to(values.span), place)
