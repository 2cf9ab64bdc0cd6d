"""Bodies, statements, layers and their arguments: the middle of the parser, between expressions and items."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from convc.frontend import syntax
from convc.frontend.expression_parser import OPERATOR_WORDS, ExpressionParser, SyntaxFailure
from convc.frontend.lexer import Token
from convc.frontend.limits import Limits
from convc.frontend.source import Source
from convc.ir.diagnostic import Diagnostic
from convc.ir.span import Span

STATEMENT_WORDS = (
    "let", "assert", "repeat", "for", "if", "else", "as", "from", "add", "mul", "concat", "branch", "residual", "skip",
    "aux", "shared", "reuse",
)  # fmt: skip
SEPARATOR_HINT = "`->` or a newline is missing before it"
Item = TypeVar("Item")


class StatementParser(ExpressionParser):
    """Reads bodies; collects errors in `errors` and resumes at the next separator."""

    def __init__(self, tokens: list[Token], source: Source, limits: Limits) -> None:
        super().__init__(tokens, source, limits)
        self.errors: list[Diagnostic] = []

    def _record(self, failure: SyntaxFailure) -> bool:
        """Keep an error; no if there are enough of them."""
        self.errors.append(failure.diagnostic)
        return len(self.errors) < self.limits.errors

    def _name(self, what: str) -> Token:
        """A name of the user's choice; `what` is what it names."""
        token = self.token
        if token.kind == "name" and token.text in OPERATOR_WORDS:
            message = f"`{token.text}` cannot name {what}: it has a meaning in expressions"
            self.fail("name-reserved", message, token.span)
        return self.expect("name", f"the name of {what}")

    # Bodies

    def body(self) -> syntax.Body:
        """Statements between braces."""
        statements, span = self._braced(self._statement)
        return syntax.Body(tuple(statements), span)

    def _braced(self, read: Callable[[], list[Item]]) -> tuple[list[Item], Span]:
        """What `read` finds between braces, separated by arrows or newlines; every part fails on its own."""
        opener = self.expect("{", "`{`")
        if self.at("->"):
            self._record(SyntaxFailure(Diagnostic("syntax-arrow", "a body cannot begin with `->`", self.token.span)))
            self.advance()
        found: list[Item] = []
        while not self.at("}"):
            position = self.position
            try:
                found.extend(read())
                self._separator()
            except SyntaxFailure as failure:
                if not self._record(failure):
                    self.position = len(self.tokens) - 1
                    self.token = self.tokens[-1]
                    raise
                self._resume(position)
        return found, opener.span.to(self.advance().span)

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


_MISPLACED = {
    "else": "`else` follows the closing brace of an `if`",
    "skip": "`skip` follows the closing brace of a `residual`",
    "branch": "`branch` stands inside `concat { … }`",
}
