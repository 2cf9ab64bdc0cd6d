"""Text to tokens. Line ends and brackets are settled here, so that the parser sees only what separates statements.

A newline is a token exactly where it separates: not inside `( )` or `[ ]`, not around `->`, not after `{`, before `{`
or `}`, nor between `}` and `else`, `skip` or `refine`. All brackets are balanced when the tokens leave this module,
and nested at most as deep as the limits allow, so the parser can recurse and can resume after an error.
"""

from __future__ import annotations

import re

from convc.frontend.limits import DEFAULT_LIMITS, Limits, raised
from convc.frontend.source import Source
from convc.ir.diagnostic import CompileError, Diagnostic, Note
from convc.ir.span import Span
from convc.lazy import dataclass

_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_TOKEN = re.compile(
    rf"""
      (?P<blank>  [ \t\f]+ | \#[^\n]* )
    | (?P<newline> \n )
    | (?P<duration> {_NUMBER}[es](?![A-Za-z_0-9]|[+-][0-9]) )
    | (?P<dimensions> [0-9]+(?:x[0-9]+)+(?![A-Za-z_0-9]) )
    | (?P<number> {_NUMBER}(?:[eE][+-]?[0-9]+)?(?![A-Za-z_0-9]|\.[0-9]) )
    | (?P<malformed> \.?[0-9][A-Za-z_0-9.]* )
    | (?P<name> [A-Za-z_][A-Za-z_0-9]* )
    | (?P<string> "[^"\\\n]*(?:\\[^\n][^"\\\n]*)*" )
    | (?P<unterminated> "[^\n]* )
    | (?P<operator> -> | \*\* | // | == | != | <= | >= | \.\. | [-+*/%<>=(){{}}\[\],.] )
    | (?P<stray> [^\x00-\x7f]+ | [^\n] )
    """,
    re.VERBOSE,
)
_CLOSES = {")": "(", "]": "[", "}": "{"}
_LONGEST_NUMBER = 40
_ENOUGH_ERRORS = 8  # after which a text is hardly meant to be a net


@dataclass(frozen=True)
class Token:
    """`kind` is name, number, duration, dimensions, string, newline, end, comment, or the operator's own text.

    `touching`: no white space before it. That tells the call `f(x)` from the argument `f (x)`.
    """

    kind: str
    text: str
    span: Span
    touching: bool = False


def tokenize(
    source: Source,
    limits: Limits = DEFAULT_LIMITS,
    origin: tuple[int, int] = (1, 1),
    comments: list[Token] | None = None,
) -> list[Token]:
    """The tokens of a text, ended by one of kind `end`. Raises a `CompileError` with all lexical errors.

    `origin` is the (line, column) of the first character, for text that lies inside other text. Comments are not among
    the tokens; whoever wants them gives a list, to which they are added in their order.
    """
    return _Lexer(source, limits, origin, comments).run()


def normalise(text: str) -> str:
    """Without byte-order mark; every line end is a line feed."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


class _Lexer:
    def __init__(self, source: Source, limits: Limits, origin: tuple[int, int], comments: list[Token] | None) -> None:
        self.source = source
        self.comments = comments
        self.text = normalise(source.text)
        self.limits = limits
        self.line, column = origin
        self.line_start = 1 - column  # offset of what would be column 1
        self.tokens: list[Token] = []
        self.open: list[Token] = []
        self.first_line = self.line
        self.lines = self.text.split("\n")
        self.misaligned: tuple[Token, Token] | None = None
        self.errors: list[Diagnostic] = []
        self.pending: Span | None = None  # a newline that becomes a token if what follows does not absorb it

    def run(self) -> list[Token]:
        end = 0
        previous_end = -1  # where the last token ended, blanks not counted
        for match in _TOKEN.finditer(self.text):
            kind = match.lastgroup
            start, end = match.span()
            if kind == "blank":
                if self.comments is not None and self.text[start] == "#":
                    self.comments.append(Token("comment", match.group(), self._span(start, end)))
                continue
            if kind == "newline":
                self._newline(start)
                continue
            text = match.group()
            span = self._span(start, end)
            if kind in ("malformed", "unterminated", "stray"):
                self._bad(kind, text, span)
            else:
                self._emit(Token(text if kind == "operator" else str(kind), text, span, start == previous_end))
            previous_end = end
            if len(self.tokens) > self.limits.tokens:
                message = f"more than {self.limits.tokens:,} words, numbers and signs"
                self._error("syntax-budget", message, span, raised("tokens"))
                break
            if len(self.errors) >= _ENOUGH_ERRORS or (kind == "stray" and text < " "):
                break
        if self.open and not self.errors:
            self._unclosed(self.open[-1])
        if self.errors:
            raise CompileError(self.errors, {self.source.name: self.source.text})
        self.tokens.append(Token("end", "", self._span(len(self.text), len(self.text))))
        return self.tokens

    def _span(self, start: int, end: int) -> Span:
        column = start - self.line_start + 1
        return Span(self.source.name, self.line, column, self.line, column + end - start)

    def _error(self, code: str, message: str, span: Span, hint: str | None = None) -> None:
        self.errors.append(Diagnostic(code, message, span, hint=hint))

    def _newline(self, offset: int) -> None:
        inside = bool(self.open) and self.open[-1].kind != "{"
        if not inside and self.tokens and self.tokens[-1].kind not in ("{", "->", "newline"):
            self.pending = self.pending or self._span(offset, offset)
        self.line += 1
        self.line_start = offset + 1

    def _emit(self, token: Token) -> None:
        kind = token.kind
        if kind in ("{", "}"):
            # Braces never stand inside parentheses: an unclosed one ends here, where it can still be told.
            while self.open and self.open[-1].kind != "{":
                self._unclosed(self.open.pop())
        if self.pending is not None:
            continues = kind in ("->", "{", "}") or (
                token.text in ("else", "skip", "refine") and self.tokens[-1].kind == "}"
            )
            if not continues:
                self.tokens.append(Token("newline", "", self.pending))
            self.pending = None
        if kind in ("(", "[", "{"):
            self.open.append(token)
            if len(self.open) > self.limits.nesting:
                message = f"brackets are nested deeper than {self.limits.nesting}"
                if len(self.open) == self.limits.nesting + 1:
                    self._error("syntax-budget", message, token.span, raised("nesting"))
        elif kind in _CLOSES:
            if not self.open:
                self._error("syntax-unopened", f"this `{kind}` closes nothing", token.span)
            elif self.open[-1].kind != _CLOSES[kind]:
                opener = self.open.pop()
                message = f"`{kind}` cannot close the `{opener.kind}` of line {opener.span.line}"
                self._error("syntax-unclosed", message, token.span)
            else:
                self._check_alignment(self.open.pop(), token)
        elif kind == "number" and len(token.text) > _LONGEST_NUMBER:
            self._error("syntax-number", f"a number has at most {_LONGEST_NUMBER} characters", token.span)
        elif kind == "name" and len(token.text) > self.limits.name_characters:
            message = f"a name has at most {self.limits.name_characters} characters"
            self._error("syntax-budget", message, token.span, raised("name_characters"))
        elif kind == "string":
            if len(token.text) - 2 > self.limits.string_characters:
                message = f"a string has at most {self.limits.string_characters:,} characters"
                self._error("syntax-budget", message, token.span, raised("string_characters"))
            self._check_escapes(token)
        self.tokens.append(token)

    def _check_alignment(self, opener: Token, closer: Token) -> None:
        """Remember the first brace that begins a line but not below the line of its opening one."""
        if self.misaligned is not None or closer.kind != "}" or opener.span.line == closer.span.line:
            return
        indents = [_indent(self.lines[token.span.line - self.first_line]) for token in (opener, closer)]
        if indents[1] == closer.span.column - 1 and indents[0] != indents[1]:
            self.misaligned = (opener, closer)

    def _unclosed(self, opener: Token) -> None:
        notes: tuple[Note, ...] = ()
        if self.misaligned is not None and opener.kind == "{":
            first, last = self.misaligned
            text = f"the `}}` of line {last.span.line} closes this one, with which it is not aligned"
            notes = (Note(text, first.span),)
        message = f"this `{opener.kind}` is never closed"
        self.errors.append(Diagnostic("syntax-unclosed", message, opener.span, notes))

    def _check_escapes(self, token: Token) -> None:
        for match in re.finditer(r"\\(.)", token.text):
            if match.group(1) not in '"\\':
                column = token.span.column + match.start()
                span = Span(token.span.file, token.span.line, column, token.span.line, column + 2)
                hint = "write \\\\ for a backslash; folders are separated by /"
                self._error("syntax-escape", f'`{match.group()}` is not an escape; only \\" and \\\\ are', span, hint)

    def _bad(self, kind: str, text: str, span: Span) -> None:
        shown = text if len(text) <= 20 else text[:20] + "…"
        if kind == "malformed":
            self._error("syntax-number", f"`{shown}` is neither a number nor a name", span, _number_hint(text))
        elif kind == "unterminated":
            self._error("syntax-string", "this string has no end on its line", span)
        elif text in ("“", "”", "„", "'"):
            self._error("syntax-character", f"strings stand between plain double quotes, not {text}", span)
        else:
            self._error("syntax-character", f"a {_describe(text[0])} cannot stand here", span, _character_hint(text[0]))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _number_hint(text: str) -> str | None:
    if text.startswith(("0x", "0b")):
        return "numbers are decimal"
    if re.match(r"[0-9.]+[A-Za-z_]", text):
        return "names begin with a letter; 80e is 80 epochs, 500s are 500 steps, 3x3 is a pair"
    return None


def _describe(character: str) -> str:
    import unicodedata

    name = unicodedata.name(character, "").lower()
    code = f"U+{ord(character):04X}"
    if character.isprintable() and not character.isspace():
        return f"`{character}`" if character.isascii() or not name else f"`{character}` ({code} {name})"
    return f"character {code}{' ' + name if name else ''}"


_CHARACTER_HINTS = {
    ";": "statements are separated by newlines or `->`",
    ":": "arguments are written key=value",
    "→": "write ->",
    "×": "write x, as in 3x224x224",
    "−": "write the minus of ASCII, -",
    "–": "write the minus of ASCII, -",
    "\u00a0": "this is a no-break space; write a plain one",
    "!": "negation is `not`",
    "&": "conjunction is `and`",
    "|": "disjunction is `or`",
    "^": "powers are written **",
}


def _character_hint(character: str) -> str | None:
    if character < " " or character == "\x7f":
        return "a .cnn file is plain text"
    return _CHARACTER_HINTS.get(character)
