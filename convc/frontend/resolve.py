"""A net back to one self-contained text, by editing its source: comments and layout stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping

from convc.frontend import syntax
from convc.frontend.expressions import Constant, literal
from convc.frontend.program import Program
from convc.frontend.settings import TrainSettings
from convc.frontend.text_editor import Editor
from convc.frontend.transplant import supply_constants

_HEADER = "# resolved: net "


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
        self.editors = {name: Editor(text) for name, text in sources.items()}
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
        given = self.given if definition is self.net else {}
        supply_constants(editor, definition, self.program.scope_of(definition).constants, given)
        return editor.result(*editor.bounds(definition.span))
