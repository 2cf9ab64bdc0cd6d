"""A net back to one self-contained text, by editing its source: comments and layout stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from convc.frontend import syntax
from convc.frontend.expressions import Constant, literal
from convc.frontend.lexer import normalise
from convc.frontend.program import Program, names_in
from convc.frontend.settings import TrainSettings
from convc.ir.span import Span

_HEADER = "# resolved: net "


@dataclass
class _Editor:
    """Replacements in one text, applied together."""

    text: str
    edits: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])

    def __post_init__(self) -> None:
        self.text = normalise(self.text)
        self.starts = [0]
        for line in self.text.split("\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)

    def bounds(self, span: Span) -> tuple[int, int]:
        """Offsets of the first character of a span and of the one behind it."""
        return self.starts[span.line - 1] + span.column - 1, self.starts[span.end_line - 1] + span.end_column - 1

    def slice(self, span: Span) -> str:
        start, end = self.bounds(span)
        return self.text[start:end]

    def replace(self, span: Span, text: str) -> None:
        self.edits.append((*self.bounds(span), text))

    def insert(self, offset: int, text: str) -> None:
        self.edits.append((offset, offset, text))

    def result(self, start: int = 0, end: int | None = None) -> str:
        """The edited text between two offsets of the original."""
        end = len(self.text) if end is None else end
        pieces: list[str] = []
        position = start
        for first, last, text in sorted(self.edits, key=lambda edit: edit[:2]):
            if first < start or last > end:
                continue
            pieces += [self.text[position:first], text]
            position = last
        return "".join([*pieces, self.text[position:end]])


def resolve(
    program: Program,
    net: syntax.Definition,
    given: Mapping[str, Constant],
    train: syntax.Train | None,
    settings: TrainSettings,
    used_blocks: frozenset[str],
    sources: Mapping[str, str],
) -> str:
    """The text that reproduces `net` with the parameters `given` and the settings `train`."""
    return _Resolver(program, net, given, train, settings, sources).text(used_blocks)


class _Resolver:
    def __init__(
        self,
        program: Program,
        net: syntax.Definition,
        given: Mapping[str, Constant],
        train: syntax.Train | None,
        settings: TrainSettings,
        sources: Mapping[str, str],
    ) -> None:
        self.program = program
        self.net = net
        self.given = given
        self.train = train
        self.settings = settings
        self.editors = {name: _Editor(text) for name, text in sources.items()}
        self.root = self.editors[program.root.name]

    def text(self, used_blocks: frozenset[str]) -> str:
        for parameter in self.net.parameters:
            if parameter.name in self.given:
                editor = self.editors[parameter.span.file]
                editor.replace(parameter.span, f"{parameter.name}={literal(self.given[parameter.name])}")
        for definition in self.program.root.definitions:
            if definition.kind == "net" and definition is not self.net:
                self.root.replace(definition.span, "")
        for use in self.program.root.uses:
            self.root.replace(use.span, "")
        self._settings()
        if self.root.text.startswith(_HEADER):
            self.root.edits.append((0, self.root.text.index("\n") + 1, ""))
        parts = [self._header(), self.root.result().rstrip("\n")]
        foreign = [block for name, block in self.program.blocks.items() if name in used_blocks]
        for definition in (*foreign, self.net):
            if definition.span.file != self.program.root.name:
                parts.append(self._foreign(definition))
        return "\n".join(parts) + "\n"

    def _header(self) -> str:
        values = [f"{name} = {literal(value)}" for name, value in self.given.items()]
        return f"{_HEADER}{self.net.name}" + "".join(f"; {value}" for value in values)

    # Settings

    def _settings(self) -> None:
        if self.train is None:
            return
        original = self.program.root.trains[0] if self.program.root.trains else None
        old = {setting.word: setting for setting in original.settings} if original else {}
        added: list[str] = []
        for setting in self.train.settings:
            text = self._setting(setting)
            before = old.get(setting.word)
            if before is None:
                added.append(text)
            elif text != self._setting_slice(before):
                self.root.replace(before.span, text)
        if not added:
            return
        lines = "".join(f"  {text}\n" for text in added)
        if original is None:
            self.root.insert(len(self.root.text), f"\ntrain {{\n{lines}}}\n")
        else:
            end = self.root.bounds(original.span)[1] - 1
            self.root.insert(end, lines if self.root.text[:end].endswith("\n") else "\n" + lines)

    def _setting_slice(self, setting: syntax.Setting) -> str:
        return self.editors[setting.span.file].slice(setting.span)

    def _setting(self, setting: syntax.Setting) -> str:
        """The text of a setting, whose arguments may come from different places."""
        if setting.steps is not None or setting.segments:
            return self._setting_slice(setting)
        return " ".join([setting.word, *(self._argument(setting, argument) for argument in setting.arguments)])

    def _argument(self, setting: syntax.Setting, argument: syntax.Argument) -> str:
        if setting.word in ("data", "init") and argument.key is None and isinstance(argument.value, syntax.Text):
            base = "" if argument.span.file.startswith("--") else os.path.dirname(argument.span.file)
            return literal(os.path.abspath(os.path.join(base, argument.value.value)))
        return self.editors[argument.span.file].slice(argument.span)

    # What `use` brings in

    def _foreign(self, definition: syntax.Definition) -> str:
        """A block or net of another file, with the constants of that file that it mentions."""
        editor = self.editors[definition.span.file]
        constants = self.program.scope_of(definition).constants
        own = {parameter.name for parameter in definition.parameters}
        body_names = set(names_in(definition.body)) - own
        lets = [
            f"let {name} = {literal(value)}"
            for name, value in constants.items()
            if name in body_names and value is not None
        ]
        if lets:
            opening, _ = editor.bounds(definition.body.span)
            editor.insert(opening + 1, "\n  " + "\n  ".join(lets) + "\n")
        earlier: set[str] = set()
        for parameter in definition.parameters:
            replaced = definition is self.net and parameter.name in self.given
            if parameter.default is not None and not replaced:
                for name in _name_nodes(parameter.default):
                    value = constants.get(name.name)
                    if name.name not in earlier and value is not None:
                        editor.replace(name.span, f"({literal(value)})")
            earlier.add(parameter.name)
        return editor.result(*editor.bounds(definition.span))


def _name_nodes(expression: syntax.Expression) -> list[syntax.Name]:
    found: list[syntax.Name] = []
    pending: list[object] = [expression]
    while pending:
        item = pending.pop()
        if isinstance(item, syntax.Name):
            found.append(item)
        elif isinstance(item, tuple):
            pending.extend(item)
        elif isinstance(item, syntax.Node):
            pending.extend(getattr(item, name) for name in item.fields if not name.endswith("span"))
    return found
