"""Tokens to expressions, by precedence climbing; base class of the parser of statements.

From weakest to strongest: `a if c else b`, `or`, `and`, `not`, comparison (not chained), `+ -`, `* / // %`, sign, `**`.
"""

from __future__ import annotations

import re
from typing import NoReturn

from convc.frontend import syntax
from convc.frontend.lexer import Token, tokenize
from convc.frontend.limits import Limits, raised
from convc.frontend.source import Source
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.span import Span

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_BINDING = {
    "or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4,
    "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6,
}  # fmt: skip
_NOT, _SIGN = 3, 7
# Words that cannot be constants, because they mean something inside an expression or end one.
OPERATOR_WORDS = ("and", "or", "not", "if", "else", "in", "yes", "no", "as", "for")


class SyntaxFailure(Exception):
    """One syntax error; the parser of statements catches it and resumes at the next separator."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic


class ExpressionParser:
    """A cursor over tokens that reads expressions."""

    def __init__(self, tokens: list[Token], source: Source, limits: Limits) -> None:
        self.tokens = tokens
        self.source = source
        self.limits = limits
        self.position = 0
        self.token = tokens[0]
        self.depth = 0

    # The cursor

    def advance(self) -> Token:
        token = self.token
        if token.kind != "end":
            self.position += 1
            self.token = self.tokens[self.position]
        return token

    def peek(self, ahead: int = 1) -> Token:
        return self.tokens[min(self.position + ahead, len(self.tokens) - 1)]

    @property
    def previous(self) -> Token:
        return self.tokens[max(self.position - 1, 0)]

    def at(self, *kinds: str) -> bool:
        return self.token.kind in kinds

    def at_word(self, *words: str) -> bool:
        return self.token.kind == "name" and self.token.text in words

    def accept(self, kind: str) -> Token | None:
        return self.advance() if self.token.kind == kind else None

    def expect(self, kind: str, what: str, hint: str | None = None) -> Token:
        if self.token.kind != kind:
            self.unexpected(what, hint)
        return self.advance()

    def unexpected(self, what: str, hint: str | None = None) -> NoReturn:
        if hint is None and self.token.kind == "." and self.previous.kind == "number":
            hint = f"write {self.previous.text}.0 or {self.previous.text}"
        self.fail("syntax-unexpected", f"expected {what}, not {describe(self.token)}", self.token.span, hint)

    def fail(self, code: str, message: str, span: Span, hint: str | None = None) -> NoReturn:
        raise SyntaxFailure(Diagnostic(code, message, span, hint=hint))

    # Expressions

    def expression(self) -> syntax.Expression:
        """A whole expression, conditional included."""
        self._enter()
        value = self._operators(1)
        if self.at_word("if"):
            self.advance()
            condition = self._operators(1)
            if not self.at_word("else"):
                self.unexpected("`else`", "a conditional expression reads `a if c else b`")
            self.advance()
            otherwise = self.expression()
            value = syntax.Conditional(condition, value, otherwise, value.span.to(otherwise.span))
        self.depth -= 1
        return value

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > self.limits.nesting:
            message = f"the expression is nested deeper than {self.limits.nesting}"
            self.fail("syntax-budget", message, self.token.span, raised("nesting"))

    def _operators(self, weakest: int) -> syntax.Expression:
        left = self._prefix(weakest)
        while True:
            token = self.token
            strength = _BINDING.get(token.text, 0) if token.kind not in ("string", "newline") else 0
            if strength < weakest:
                return left
            self.advance()
            right = self._operators(strength + 1)
            left = syntax.Binary(token.text, left, right, left.span.to(right.span), token.span)
            if token.text in _COMPARISONS and self.token.kind in _COMPARISONS:
                self.fail(
                    "syntax-comparison", "comparisons cannot be chained", self.token.span, "write `a < b and b < c`"
                )

    def _prefix(self, weakest: int) -> syntax.Expression:
        token = self.token
        negation = self.at_word("not")
        if negation and weakest > _NOT:
            self.unexpected("a value", "`not …` stands in parentheses here")
        if not negation and token.kind not in ("-", "+"):
            return self._power()
        self._enter()
        self.advance()
        operand = self._operators(_NOT) if negation else self._operators(_SIGN)
        self.depth -= 1
        return syntax.Unary(token.text, operand, token.span.to(operand.span))

    def _power(self) -> syntax.Expression:
        base = self._postfix()
        if not self.at("**"):
            return base
        self._enter()
        token = self.advance()
        exponent = self._prefix(_SIGN)  # right-associative, and 2**-1 is allowed
        self.depth -= 1
        return syntax.Binary("**", base, exponent, base.span.to(exponent.span), token.span)

    def _postfix(self) -> syntax.Expression:
        value = self._atom()
        count = 0
        while self.at("[") and self.token.touching:
            count += 1
            if count > 16:
                self.fail("syntax-budget", "more than 16 indices in a row", self.token.span)
            self.advance()
            index = self.expression()
            end = self.expect("]", "`]`")
            value = syntax.Index(value, index, value.span.to(end.span))
        return value

    def _atom(self) -> syntax.Expression:
        token = self.token
        if token.kind == "number":
            return syntax.Number(number(self.advance()), token.span)
        if token.kind == "duration":
            self.advance()
            return syntax.Duration(_numeric(token.text[:-1]), token.text[-1], token.span)
        if token.kind == "dimensions":
            self.advance()
            return syntax.Dimensions(tuple(map(int, token.text.split("x"))), token.span)
        if token.kind == "string":
            return self.string()
        if token.kind in ("(", "["):
            return self._sequence()
        if token.kind != "name" or token.text in ("and", "or", "if", "else", "as", "for"):
            self.unexpected("a value")
        self.advance()
        if token.text in ("yes", "no"):
            return syntax.Boolean(token.text == "yes", token.span)
        if token.text == "in":
            return syntax.Channels(token.span)
        if self.at("(") and self.token.touching:
            items, end = self._items(")")
            return syntax.Call(token.text, items, token.span.to(end), token.span)
        return syntax.Name(token.text, token.span)

    def _sequence(self) -> syntax.Expression:
        start = self.token
        closer = ")" if start.kind == "(" else "]"
        if closer == "]":
            items, end = self._items(closer)
            return syntax.Sequence(items, start.span.to(end))
        self.advance()
        if self.at(")"):
            return syntax.Sequence((), start.span.to(self.advance().span))
        first = self.expression()
        if self.accept(")"):
            return first
        items = [first]
        while self.accept(","):
            if self.at(")"):
                break
            items.append(self.expression())
        end = self.expect(")", "`,` or `)`")
        return syntax.Sequence(tuple(items), start.span.to(end.span))

    def _items(self, closer: str) -> tuple[tuple[syntax.Expression, ...], Span]:
        self.advance()
        items: list[syntax.Expression] = []
        while not self.at(closer):
            items.append(self.expression())
            if not self.at(closer):
                self.expect(",", f"`,` or `{closer}`")
        return tuple(items), self.advance().span

    # Strings

    def string(self) -> syntax.Text:
        token = self.expect("string", "a string")
        return syntax.Text(unescape(token.text[1:-1]), token.span)

    def message(self) -> syntax.Text:
        """The message of an `assert`, in which `{expr}` stands for a value."""
        token = self.expect("string", "a message in double quotes")
        raw = token.text[1:-1]
        parts: list[str | syntax.Expression] = []
        end = 0
        for match in re.finditer(r"\{([^{}]*)\}", raw):
            parts.append(unescape(raw[end : match.start()]))
            parts.append(self._embedded(match.group(1), token.span, 1 + match.start(1)))
            end = match.end()
        parts.append(unescape(raw[end:]))
        return syntax.Text(unescape(raw), token.span, tuple(part for part in parts if part != ""))

    def _embedded(self, text: str, around: Span, offset: int) -> syntax.Expression:
        origin = (around.line, around.column + offset)
        try:
            tokens = tokenize(Source(around.file, text), self.limits, origin)
        except CompileError as error:
            raise SyntaxFailure(error.diagnostics[0]) from None
        inner = ExpressionParser(tokens, self.source, self.limits)
        value = inner.expression()
        if not inner.at("end"):
            inner.unexpected("`}`")
        return value


def number(token: Token) -> int | float:
    """The value of a number token; raises `SyntaxFailure` where it is beyond the range of a double."""
    value = _numeric(token.text)
    if value in (float("inf"), float("-inf")):
        raise SyntaxFailure(Diagnostic("value-range", f"{token.text} is beyond the range of numbers", token.span))
    return value


def _numeric(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def describe(token: Token) -> str:
    """How a message names a token."""
    if token.kind == "end":
        return "the end"
    if token.kind == "newline":
        return "the end of the line"
    shown = token.text if len(token.text) <= 40 else token.text[:40] + "…"
    return f"`{shown}`"
