"""The canonical spelling of a `.cnn` text: `convc fmt`.

    net n{                            net n {
      conv  8 k = 3 ->relu # c          conv 8 k=3 -> relu  # c
    }                                 }

Tokens stay as they are and in their order, so the text means what it meant; only white space changes, and besides it
commas that end a list and numbers without a digit before the point. Statements stay on one line where the author wrote
them so, as far as they fit. Formatting what has been formatted changes nothing.
"""

from __future__ import annotations

from convc.frontend.layout import Braces, Brackets, Chain, Comment, Entry, Item, Part, Remark, Word, flat
from convc.frontend.layout_reader import layout
from convc.frontend.lexer import Token, tokenize
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.parser import parse_tokens
from convc.frontend.source import Source
from convc.frontend.token_roles import roles
from convc.lazy import dataclass

WIDTH = 100
_INDENT = 2
_ARROW = " -> "


def format_text(text: str, file: str = "<text>", limits: Limits = DEFAULT_LIMITS) -> str:
    """The text in canonical spelling. Raises a `CompileError` with all syntax errors; `file` names the text in them."""
    source = Source(file, text)
    comments: list[Token] = []
    tokens = tokenize(source, limits, comments=comments)
    tree = parse_tokens(tokens, source, limits)
    writer = _Writer()
    writer.entries(layout(tokens, comments, roles(tree)), 0)
    return writer.text()


@dataclass
class _Line:
    """A line of the result. `column` is where its trailing comment stood in the source."""

    level: int
    text: str
    comment: str = ""
    column: int = 0

    @property
    def width(self) -> int:
        return _INDENT * self.level + len(self.text)


class _Writer:
    def __init__(self) -> None:
        self.lines: list[_Line | None] = []  # None is an empty line
        self.level = 0
        self.pieces: list[str] = []
        self.column = 0

    def text(self) -> str:
        self._close()
        _align(self.lines)
        return "".join(_line_text(line) for line in self.lines)

    # Lines

    def _write(self, text: str) -> None:
        if not self.pieces:
            text = text.lstrip(" ")
        self.pieces.append(text)
        self.column += len(text)

    def _newline(self, level: int) -> None:
        self._close()
        self.level = level
        self.column = _INDENT * level

    def _close(self, comment: str = "", column: int = 0) -> None:
        if self.pieces:
            self.lines.append(_Line(self.level, "".join(self.pieces), comment, column))
            self.pieces = []

    def _trailing(self, comment: Comment) -> None:
        """End the line with a comment; the next piece begins a new one."""
        self._close(comment.text, comment.column)
        self.column = _INDENT * self.level

    def _remark(self, comment: Comment, level: int) -> None:
        self._newline(level)
        self.lines.append(_Line(level, comment.text))

    def _comment(self, comment: Comment, level: int) -> None:
        """At the end of the line, if there it was; otherwise on a line of its own."""
        if comment.own_line or not self.pieces:
            self._remark(comment, level)
        else:
            self._trailing(comment)

    # Bodies

    def entries(self, entries: list[Entry], level: int) -> None:
        """Each on lines of its own."""
        for entry in entries:
            self._newline(level)
            if entry.gap:
                self.lines.append(None)
            if isinstance(entry, Remark):
                self._remark(entry.comment, level)
            else:
                self._chain(entry, level)

    def _chain(self, chain: Chain, level: int) -> None:
        for i, segment in enumerate(chain.segments):
            if i:
                for comment in segment.comments:
                    self._comment(comment, level + 1)
                if segment.breaks or segment.comments or not self._takes(segment.parts):
                    self._newline(level + 1)
                self._write(_ARROW)
            self._parts(segment.parts, 0)
        if chain.trailing is not None:
            self._trailing(chain.trailing)

    def _takes(self, parts: list[Part]) -> bool:
        """Whether a segment may follow on this line: as a whole, or up to where its first body begins."""
        text = flat(parts)
        width = len(text) if text is not None else _head(parts)
        return self.column + len(_ARROW) + width <= WIDTH

    # Statements

    def _parts(self, parts: list[Part], tail: int) -> None:
        """Write parts, `tail` more columns being needed behind them. Groups open where they do not fit."""
        level = self.level
        text = flat(parts)
        if text is not None and self.column + len(text) + tail <= WIDTH:
            self._write(text)
            return
        # Of several bodies that were on one line, and do not fit, all open: `if a { … } else { … }`.
        all_open = not any(isinstance(part, Braces) and part.flat is None for part in parts)
        for i, part in enumerate(parts):
            if isinstance(part, Comment):
                self._comment(part, level)  # between a body and the `else` behind it
                self._newline(level)
            elif isinstance(part, Word):
                self._write(part.flat)
            else:
                rest = parts[i + 1 :]
                width = _head(rest) + (0 if any(map(_is_group, rest)) else tail)
                fits = part.flat is not None and self.column + len(part.flat) + width <= WIDTH
                if isinstance(part, Brackets):
                    self._brackets(part, fits, level)
                else:
                    self._braces(part, fits and not all_open, level)

    def _braces(self, braces: Braces, fits: bool, level: int) -> None:
        if (fits or not braces.entries) and braces.flat is not None:
            self._write(braces.flat)
            return
        self._write(" {")
        if braces.opening is not None:
            self._trailing(braces.opening)
        self.entries(braces.entries, level + 1)
        self._newline(level)
        self._write("}")

    def _brackets(self, brackets: Brackets, fits: bool, level: int) -> None:
        if (fits or not brackets.items) and brackets.flat is not None:
            self._write(brackets.flat)
            return
        self._write(brackets.start)
        if brackets.opening is not None:
            self._trailing(brackets.opening)
        last = len(brackets.items) - 1
        for i, item in enumerate(brackets.items):
            mark = "," if i < last or brackets.tuple_of_one else ""
            before = brackets.items[i - 1] if i else None
            self._item(item, len(mark), before, brackets.expanded, level + 1)
            self._write(mark)
            if item.trailing is not None:
                self._trailing(item.trailing)
        for comment in brackets.closing:
            self._remark(comment, level + 1)
        self._newline(level)
        self._write(brackets.closer[-1])

    def _item(self, item: Item, tail: int, before: Item | None, keep: bool, level: int) -> None:
        """One item of open brackets: on the line of the one before it where it fits, and where the author left it."""
        for comment in item.leading:
            self._remark(comment, level)
        text = flat(item.parts)
        if (
            before is None
            or before.trailing is not None
            or item.leading
            or (keep and item.begins_line)
            or text is None
            or self.column + 1 + len(text) + tail > WIDTH
        ):
            self._newline(level)
        else:
            self._write(" ")
        self._parts(item.parts, tail)


def _is_group(part: Part) -> bool:
    return isinstance(part, (Braces, Brackets))


def _head(parts: list[Part]) -> int:
    """The width of what comes up to the first bracket or brace, that one included."""
    width = 0
    for part in parts:
        if isinstance(part, Word):
            width += len(part.flat)
        else:
            width += 2 if isinstance(part, Braces) else len(part.start) if isinstance(part, Brackets) else 0
            break
    return width


def _align(lines: list[_Line | None]) -> None:
    """Trailing comments that stood below each other still do."""
    group: list[_Line] = []
    previous: _Line | None = None
    for line in [*lines, None]:
        apart = line is None or previous is None or line.level != previous.level
        if group and (apart or (line is not None and line.comment and line.column != group[0].column)):
            _align_group(group)
            group = []
        if line is not None and line.comment:
            group.append(line)
        previous = line


def _align_group(group: list[_Line]) -> None:
    width = max(line.width for line in group)
    for line in group:
        line.text += " " * (width - line.width)


def _line_text(line: _Line | None) -> str:
    if line is None:
        return "\n"
    comment = f"  {line.comment}" if line.comment else ""
    return f"{' ' * (_INDENT * line.level)}{line.text}{comment}\n"
