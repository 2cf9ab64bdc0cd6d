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
from convc.frontend.expression_parser import OPERATOR_WORDS, ExpressionParser, SyntaxFailure
from convc.frontend.hints import did_you_mean
from convc.frontend.lexer import Token, tokenize
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.source import Source
from convc.ir.diagnostic import CompileError, Diagnostic

ITEM_WORDS = ("use", "block", "net", "let", "train", "search")
STATEMENT_WORDS = (
    "let", "assert", "repeat", "for", "if", "else", "as", "from", "add", "mul", "concat", "branch", "residual", "skip",
    "aux", "shared", "reuse",
)  # fmt: skip
Tree = TypeVar("Tree")
SEPARATOR_HINT = "`->` or a newline is missing before it"


def parse(source: Source, limits: Limits = DEFAULT_LIMITS) -> syntax.File:
    """The syntax tree of a whole file. Raises a `CompileError` with every syntax error that could be told apart."""
    parser = Parser(tokenize(source, limits), source, limits)
    file = parser.file()
    if parser.errors:
        raise CompileError(parser.errors, {source.name: source.text})
    return file


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


class Parser(ExpressionParser):
    """Reads items, statements and settings; collects errors in `errors`."""

    def __init__(self, tokens: list[Token], source: Source, limits: Limits) -> None:
        super().__init__(tokens, source, limits)
        self.errors: list[Diagnostic] = []

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

    def _record(self, failure: SyntaxFailure) -> bool:
        self.errors.append(failure.diagnostic)
        return len(self.errors) < self.limits.errors

    def _use(self) -> syntax.Use:
        start = self.advance()
        path = self.string()
        return syntax.Use(path.value, start.span.to(path.span), path.span)

    def _name(self, what: str) -> Token:
        """A name of the user's choice; `what` is what it names."""
        token = self.token
        if token.kind == "name" and token.text in OPERATOR_WORDS:
            message = f"`{token.text}` cannot name {what}: it has a meaning in expressions"
            self.fail("name-reserved", message, token.span)
        return self.expect("name", f"the name of {what}")

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

    # Bodies

    def body(self) -> syntax.Body:
        opener = self.expect("{", "`{`")
        statements: list[syntax.Statement] = []
        if self.at("->"):
            self._record(SyntaxFailure(Diagnostic("syntax-arrow", "a body cannot begin with `->`", self.token.span)))
            self.advance()
        while not self.at("}"):
            position = self.position
            try:
                statements.extend(self._statement())
                self._separator()
            except SyntaxFailure as failure:
                if not self._record(failure):
                    self.position = len(self.tokens) - 1
                    self.token = self.tokens[-1]
                    raise
                self._resume(position)
        return syntax.Body(tuple(statements), opener.span.to(self.advance().span))

    def _separator(self) -> None:
        if self.at("}"):
            return
        if self.accept("newline"):
            return
        if self.at("->"):
            arrow = self.advance()
            if self.at("}"):
                self.fail("syntax-arrow", "a body cannot end with `->`", arrow.span)
            return
        self.unexpected("`->`, a newline or `}`", SEPARATOR_HINT if self.at("name") else None)

    def _resume(self, position: int) -> None:
        """Move to the next separator of the body that was being read when the statement at `position` began."""
        self.depth = 0
        depth = sum({"{": 1, "}": -1}.get(token.kind, 0) for token in self.tokens[position : self.position])
        while not self.at("end"):
            if depth <= 0 and self.at("}"):
                return
            if depth <= 0 and self.at("newline", "->") and self.position > position:
                self.advance()
                return
            depth += {"{": 1, "}": -1}.get(self.token.kind, 0)
            self.advance()

    def _statement(self) -> list[syntax.Statement]:
        token = self.token
        if token.kind != "name":
            hint = "nothing stands between the two arrows" if token.kind == "->" else None
            self.unexpected("a layer or a statement", hint)
        reader = self._readers().get(token.text)
        if reader is None:
            found: list[syntax.Statement] = [self._apply("a layer or a statement")]
        else:
            found = [reader()]
        if token.text not in ("let", "assert", "repeat", "for", "if", "as") and self.at_word("as"):
            found.append(self._as())
        return found

    def _readers(self) -> dict[str, Callable[[], syntax.Statement]]:
        return {
            "let": self._let,
            "assert": self._assert,
            "repeat": self._repeat,
            "for": self._for,
            "if": self._if,
            "as": self._as,
            "from": self._from,
            "add": self._join,
            "mul": self._join,
            "concat": self._concat,
            "residual": self._residual,
            "aux": self._aux,
            "shared": self._shared,
            "reuse": self._reuse,
        }

    # Statements

    def _let(self) -> syntax.Let:
        start = self.advance()
        name = self._name("a constant")
        self.expect("=", "`=`")
        value = self.expression()
        return syntax.Let(name.text, value, start.span.to(value.span), name.span)

    def _assert(self) -> syntax.Assert:
        start = self.advance()
        condition = self.expression()
        message = self.message() if self.at("string") else None
        return syntax.Assert(condition, message, start.span.to(self.previous.span))

    def _repeat(self) -> syntax.Repeat:
        start = self.advance()
        count = self.expression()
        body = self.body()
        return syntax.Repeat(count, body, start.span.to(count.span))

    def _for(self) -> syntax.For:
        start = self.advance()
        closer = self.accept("(")
        names: list[syntax.Name] = []
        while True:
            name = self._name("a loop variable")
            names.append(syntax.Name(name.text, name.span))
            if not self.accept(","):
                break
        if closer:
            self.expect(")", "`,` or `)`")
        if not self.at_word("in"):
            self.unexpected("`in`", "a loop reads `for c in [64, 128] { … }` or `for i in 0..n { … }`")
        self.advance()
        values = self.expression()
        stop = self.expression() if self.accept("..") else None
        end = self.previous.span
        return syntax.For(tuple(names), values, stop, self.body(), start.span.to(end))

    def _if(self) -> syntax.If:
        start = self.advance()
        condition = self.expression()
        end = self.previous.span
        branches = [(condition, self.body())]
        otherwise: syntax.Body | None = None
        while otherwise is None and self.at_word("else"):
            self.advance()
            if self.at_word("if"):
                self.advance()
                condition = self.expression()
                branches.append((condition, self.body()))
            else:
                otherwise = self.body()
        return syntax.If(tuple(branches), otherwise, start.span.to(end))

    def _reference(self) -> syntax.Reference:
        name = self._name("a value")
        index: syntax.Expression | None = None
        end = name.span
        if self.at("[") and self.token.touching:
            self.advance()
            index = self.expression()
            end = self.expect("]", "`]`").span
        return syntax.Reference(name.text, index, name.span.to(end))

    def _as(self) -> syntax.As:
        start = self.advance()
        target = self._reference()
        return syntax.As(target, start.span.to(target.span))

    def _from(self) -> syntax.From:
        start = self.advance()
        source = self._reference()
        return syntax.From(source, start.span.to(source.span))

    def _join(self) -> syntax.Join:
        word = self.advance()
        sources = [self._reference()]
        while self.accept(","):
            sources.append(self._reference())
        arguments = self._keywords()
        return syntax.Join(word.text, tuple(sources), arguments, word.span.to(self.previous.span), word.span)

    def _concat(self) -> syntax.Statement:
        if self.peek().kind != "{":
            return self._join()
        word = self.advance()
        opener = self.advance()
        branches: list[syntax.Body] = []
        while not self.at("}"):
            if self.accept("newline"):
                continue
            if not self.at_word("branch"):
                self.unexpected(
                    "`branch { … }`",
                    "each branch of a concat is a body of its own: concat { branch { … } branch { … } }",
                )
            self.advance()
            branches.append(self.body())
        end = self.advance()
        if not branches:
            self.fail("syntax-empty", "a concat needs at least one branch", opener.span.to(end.span))
        return syntax.Concat(tuple(branches), word.span.to(end.span), word.span)

    def _residual(self) -> syntax.Residual:
        word = self.advance()
        body = self.body()
        skip: syntax.Body | str = "identity"
        if self.at_word("skip"):
            self.advance()
            if self.at("{"):
                skip = self.body()
            elif self.at_word("identity", "auto"):
                skip = self.advance().text
            else:
                self.unexpected("`identity`, `auto` or `{ … }`")
        return syntax.Residual(body, skip, word.span.to(self.previous.span), word.span)

    def _aux(self) -> syntax.Aux:
        word = self.advance()
        body = self.body()
        return syntax.Aux(body, word.span.to(body.span), word.span)

    def _shared(self) -> syntax.Shared:
        word = self.advance()
        name = self._name("a shared part")
        body = self.body()
        return syntax.Shared(name.text, body, word.span.to(name.span), name.span)

    def _reuse(self) -> syntax.Reuse:
        word = self.advance()
        name = self._name("a shared part")
        return syntax.Reuse(name.text, word.span.to(name.span), name.span)

    # Layers, blocks and their arguments

    def _apply(self, what: str) -> syntax.Apply:
        word = self._word(what)
        if self.at("="):
            self.fail("syntax-assignment", "constants are defined by `let`", word.span, f"let {word.text} = …")
        called = self.at("(") and self.token.touching
        arguments = self._called() if called else self._spaced()
        return syntax.Apply(word.text, arguments, word.span.to(self.previous.span), word.span)

    def _word(self, what: str) -> Token:
        """A word of the language or the name of a block; what it means is found out later."""
        if self.at_word(*OPERATOR_WORDS, "skip", "branch"):
            self.unexpected(what, _MISPLACED.get(self.token.text))
        return self.expect("name", what)

    def _called(self) -> tuple[syntax.Argument, ...]:
        self.advance()
        found: list[syntax.Argument] = []
        while not self.at(")"):
            found.append(self._argument())
            if not self.at(")"):
                self.expect(",", "`,` or `)`", "arguments in parentheses are separated by commas")
        self.advance()
        return tuple(found)

    def _spaced(self) -> tuple[syntax.Argument, ...]:
        found: list[syntax.Argument] = []
        while not self.at("newline", "->", "}", "end", "{") and not self.at_word("as"):
            found.append(self._argument())
            if self.at(","):
                self.unexpected("a space", "arguments are separated by spaces; commas stand only between ( ) and [ ]")
        return tuple(found)

    def _keywords(self) -> tuple[syntax.Argument, ...]:
        found: list[syntax.Argument] = []
        while self._at_key():
            found.append(self._argument())
        return tuple(found)

    def _at_key(self) -> bool:
        return self.at("name") and self.token.text not in OPERATOR_WORDS and self.peek().kind == "="

    def _argument(self) -> syntax.Argument:
        if self._at_key():
            key = self.advance()
            self.advance()
            value = self.expression()
            return syntax.Argument(key.text, value, key.span.to(self.previous.span))
        value = self.expression()
        return syntax.Argument(None, value, value.span)

    # The items `train` and `search`

    def _train(self) -> syntax.Train:
        start = self.advance()
        self.expect("{", "`{`")
        settings: list[syntax.Setting] = []
        while not self.at("}"):
            position = self.position
            try:
                settings.append(self.setting())
                self._separator()
            except SyntaxFailure as failure:
                if not self._record(failure):
                    self.position = len(self.tokens) - 1
                    self.token = self.tokens[-1]
                    raise
                self._resume(position)
        return syntax.Train(tuple(settings), start.span.to(self.advance().span))

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


_MISPLACED = {
    "else": "`else` follows the closing brace of an `if`",
    "skip": "`skip` follows the closing brace of a `residual`",
    "branch": "`branch` stands inside `concat { … }`",
}
