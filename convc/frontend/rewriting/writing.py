"""The text of the rewritten file: edits where statements stand, twins of blocks, unrolled loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from convc.frontend import syntax
from convc.frontend.bindings import statements_in
from convc.frontend.rewriting.decisions import Decisions, Edit, Group, Part, Unrolled
from convc.frontend.rewriting.frames import Loop
from convc.frontend.rewriting.loops import inlined
from convc.frontend.text_editor import Editor
from convc.ir.span import Span


class Writer:
    """Writes the texts of definitions with decisions carried out in them; `names` are those of blocks to call."""

    def __init__(self, sources: Mapping[str, str], names: Mapping[Group, str]) -> None:
        self.sources = sources
        self.names = names
        self.texts = {file: Editor(text) for file, text in sources.items()}

    def editor(self, file: str) -> Editor:
        """A fresh one: every text that is written is edited on its own."""
        return Editor(self.sources[file])

    def slice(self, span: Span) -> str:
        return self.texts[span.file].slice(span)

    def edit(self, editor: Editor, decisions: Decisions, again: Iterable[syntax.Shared] = ()) -> None:
        """Carry out decisions about statements of the editor's text.

        The shared parts `again` are run for the first time before this text, which so may not define them again.
        """
        unrolled: list[Span] = []
        for statement, decision in decisions.items():
            if isinstance(decision, Edit):
                editor.replace(statement.span, decision.text)
            elif isinstance(decision, Group) and isinstance(statement, syntax.Apply):
                if self.names[decision] != statement.word:
                    editor.replace(statement.word_span, self.names[decision])
            elif isinstance(decision, Unrolled) and isinstance(statement, (syntax.Repeat, syntax.For)):
                place = whole(statement)
                unrolled.append(place)
                editor.replace(place, self._unrolled(editor, statement, decision, again))
        for shared in again:
            place = shared.span.to(shared.body.span)
            if not any(_covers(span, place) for span in unrolled):
                editor.replace(place, f"reuse {shared.name}")

    def _unrolled(self, editor: Editor, loop: Loop, decision: Unrolled, again: Iterable[syntax.Shared]) -> str:
        """The parts of a loop, each from a new line on."""
        start, _ = editor.bounds(loop.span)
        line = editor.text[editor.text.rfind("\n", 0, start) + 1 : start]
        indent = line[: len(line) - len(line.lstrip())]
        shared = [inner for inner in statements_in(loop.body) if isinstance(inner, syntax.Shared)]
        defined = set(again)
        texts: list[str] = []
        for part in decision.parts:
            texts.append(self._part(loop, part, indent, [one for one in shared if one in defined]))
            defined.update(one for one in shared if _runs(part, one))
        return f"\n{indent}".join([*(text.rstrip() for text in texts[:-1]), texts[-1]])

    def _part(self, loop: Loop, part: Part, indent: str, again: list[syntax.Shared]) -> str:
        editor = self.editor(loop.span.file)
        self.edit(editor, part.decisions, again)
        body = editor.result(*editor.bounds(loop.body.span))
        return inlined(body, indent) if part.header is None else f"{part.header} {body}"

    def twin(self, definition: syntax.Definition, name: str, editor: Editor, decisions: Decisions) -> str:
        """The text of a definition under another name; `editor` may hold more edits of it."""
        self.edit(editor, decisions)
        editor.replace(definition.name_span, name)
        return editor.result(*editor.bounds(definition.span))


def whole(loop: Loop) -> Span:
    """A loop with its body: the span of the statement is that of its head."""
    return loop.span.to(loop.body.span)


def _runs(part: Part, shared: syntax.Shared) -> bool:
    """Whether a part of a loop is where a shared part is run first: only there its statements are decided upon."""
    inside = partial(_covers, shared.body.span)
    return any(inside(statement.span) for statement, _ in part.body)


def _covers(outer: Span, inner: Span) -> bool:
    starts = (outer.line, outer.column) <= (inner.line, inner.column)
    ends = (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)
    return outer.file == inner.file and starts and ends
