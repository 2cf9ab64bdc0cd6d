"""Tokens and comments to the shape that the formatter writes."""

from __future__ import annotations

from convc.frontend.layout import Braces, Brackets, Chain, Comment, Entry, Item, Part, Remark, Segment, Word
from convc.frontend.lexer import Token
from convc.frontend.token_roles import Roles, place

# Words that carry a statement on behind the brace of its first body.
_CONTINUATIONS = ("else", "skip", "refine")
_OPERATORS = ("+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=")
_LONGEST_NUMBER = 39  # to which a zero may be added


def layout(tokens: list[Token], comments: list[Token], roles: Roles) -> list[Entry]:
    """The entries of a file. `tokens` parse without error, and `roles` come from their tree."""
    return _Reader(tokens, comments, roles).entries(None)


class _Reader:
    """A cursor over tokens and comments in the order of the text."""

    def __init__(self, tokens: list[Token], comments: list[Token], roles: Roles) -> None:
        self.tokens = sorted([*tokens, *comments], key=place)
        self.roles = roles
        self.position = 0
        self.token = self.tokens[0]
        self.line = 0  # of the last token or comment that was read
        self.previous: Token | None = None  # the last token
        self.tight = False  # whether the statement separates its arguments by spaces
        self.depth = 0  # of brackets within the statement

    def advance(self) -> Token:
        token = self.token
        self.position += 1
        if self.position < len(self.tokens):
            self.token = self.tokens[self.position]
        if token.kind != "newline":
            self.line = token.span.line
            if token.kind != "comment":
                self.previous = token
        return token

    def comment(self) -> Comment:
        own_line = self.token.span.line != self.line
        token = self.advance()
        return Comment(token.text.rstrip(" \t\f"), token.span.column, own_line)

    def behind_comments(self) -> Token:
        """The next token that is no comment."""
        position = self.position
        while self.tokens[position].kind == "comment":
            position += 1
        return self.tokens[position]

    # Bodies

    def entries(self, braces: Braces | None) -> list[Entry]:
        """Up to the closing brace or the end; a comment right behind the opening brace goes to `braces`."""
        found: list[Entry] = []
        while self.token.kind not in ("}", "end"):
            if self.token.kind == "newline":
                self.advance()
                continue
            gap = bool(found) and self.token.span.line > self.line + 1
            if self.token.kind != "comment":
                found.append(self._chain(gap))
                continue
            comment = self.comment()
            last = found[-1] if found else None
            if comment.own_line or (last is None and (braces is None or braces.opening)):
                found.append(Remark(comment, gap))
            elif last is None:
                assert braces is not None
                braces.opening = comment
            elif isinstance(last, Chain) and last.trailing is None:
                last.trailing = comment
            else:
                found.append(Remark(comment, gap))
        return found

    def _chain(self, gap: bool) -> Chain:
        chain = Chain([Segment(self._statement())], gap)
        while self.behind_comments().kind == "->":
            line = self.line
            comments: list[Comment] = []
            while self.token.kind in ("comment", "->"):
                if self.token.kind == "comment":
                    comments.append(self.comment())
                else:
                    self.advance()
            breaks = self.token.span.line != line
            chain.segments.append(Segment(self._statement(), breaks, comments))
        return chain

    def _statement(self) -> list[Part]:
        self.tight, self.depth = place(self.token) in self.roles.spaced, 0
        parts: list[Part] = []
        while True:
            token = self.token
            if token.kind == "comment":
                following = self.behind_comments()
                if following.kind == "{":
                    parts.append(self._braces())
                elif self._continues(following):
                    parts.append(self.comment())
                else:
                    return parts
            elif token.kind in ("newline", "->", "}", "end") or (parts and self._begins(token)):
                return parts
            else:
                parts.append(self._part(bool(parts)))

    def _continues(self, token: Token) -> bool:
        return (
            self.previous is not None
            and self.previous.kind == "}"
            and token.kind == "name"
            and token.text in _CONTINUATIONS
        )

    def _begins(self, token: Token) -> bool:
        """Whether an entry begins without a separator before it."""
        behind_brace = self.previous is not None and self.previous.kind == "}"
        return place(token) in self.roles.entries or (token.text == "branch" and behind_brace)

    def _part(self, space: bool) -> Part:
        """The next word, brackets or braces; `space`: whether one may stand before it."""
        if self.token.kind == "{":
            return self._braces()
        if self.token.kind in ("(", "["):
            return self._brackets(space)
        space = space and self._space()
        return Word(_text(self.advance()), space)

    def _braces(self) -> Braces:
        """From the opening brace, or the comments before it, which move behind it."""
        braces = Braces()
        moved: list[Comment] = []
        while self.token.kind == "comment":
            moved.append(self.comment())
        tight, depth = self.tight, self.depth
        opener = self.advance()
        braces.entries = self.entries(braces)
        if moved:
            if braces.opening is not None:
                moved.append(braces.opening)
            braces.opening = None if moved[0].own_line else moved.pop(0)
            braces.entries[:0] = [Remark(comment, False) for comment in moved]
        closer = self.advance()
        braces.broken = opener.span.line != closer.span.line
        self.tight, self.depth = tight, depth
        return braces

    # Brackets

    def _brackets(self, space: bool) -> Brackets:
        before = self.previous
        called = self.token.kind == "(" and self._belongs(before)
        indexing = self.token.kind == "[" and self._indexes(before)
        space = space and not called and not indexing and self._space()
        opener = self.advance()
        self.depth += 1
        brackets = Brackets(opener.kind, space)
        brackets.expanded = self.behind_comments().span.line > opener.span.line
        if self.token.kind == "comment" and self.token.span.line == opener.span.line:
            brackets.opening = self.comment()
        commas = self._items(brackets)
        self.advance()
        self.depth -= 1
        brackets.tuple_of_one = commas == 1 and len(brackets.items) == 1 and opener.kind == "(" and not called
        return brackets

    def _items(self, brackets: Brackets) -> int:
        """Read up to the closing bracket; returns the number of commas."""
        commas = 0
        item = Item()
        pending: list[Comment] = []  # comments whose place the next token tells
        while True:
            if self.token.kind == "comment":
                pending.append(self.comment())
                continue
            ends = self.token.kind in (")", "]", ",")
            last = item if item.parts else brackets.items[-1] if brackets.items else None
            behind = pending and not pending[0].own_line and (ends or not item.parts)
            if behind and last is not None and last.trailing is None:
                last.trailing = pending.pop(0)
            if not ends:
                item.leading += pending
                pending = []
                if not item.parts:
                    item.begins_line = self.token.span.line > self.line
                item.parts.append(self._part(bool(item.parts)))
                continue
            if item.parts:
                brackets.items.append(item)
                item = Item()
            if self.token.kind != ",":
                brackets.closing = item.leading + pending
                return commas
            commas += 1
            item.leading += pending
            pending = []
            self.advance()

    def _belongs(self, before: Token | None) -> bool:
        """Whether the parenthesis that comes now belongs to the name before it: a call, or parameters."""
        if before is None or before.kind != "name":
            return False
        where = place(before)
        return where in self.roles.definitions or (self.token.touching and where in self.roles.callees)

    def _indexes(self, before: Token | None) -> bool:
        if before is None or not self.token.touching:
            return False
        if before.kind == "name":
            return place(before) in self.roles.values
        return before.kind in ("number", "duration", "dimensions", "string", ")", "]")

    # Spaces

    def _space(self) -> bool:
        """Whether a space stands between the last token and the next one, which are of one statement."""
        before, token = self.previous, self.token
        assert before is not None
        if token.kind in (".", "..", ",", "**") or before.kind in (".", "..", "**"):
            return False
        if before.kind in ("+", "-") and place(before) in self.roles.signs:
            return False
        if token.kind == "=":
            return place(before) not in self.roles.keys
        if before.kind == "=":
            return place(self._second_last()) not in self.roles.keys
        if self.tight and self.depth == 0:
            # Between arguments that spaces separate, operators take none; but `1e - 3` must not become a number.
            if token.kind in _OPERATORS and place(token) not in self.roles.signs:
                return before.kind == "duration"
            if before.kind in _OPERATORS:
                return self._second_last().kind == "duration"
        return True

    def _second_last(self) -> Token:
        """The token before the last one."""
        found = [token for token in self.tokens[max(self.position - 8, 0) : self.position] if token.kind != "comment"]
        return found[-2]


def _text(token: Token) -> str:
    leading_point = token.kind in ("number", "duration") and token.text.startswith(".")
    return "0" + token.text if leading_point and len(token.text) <= _LONGEST_NUMBER else token.text
