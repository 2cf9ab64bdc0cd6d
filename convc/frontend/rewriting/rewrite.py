"""`rewrite`: the text of a net with some of its layers replaced.

    net n { input 3x32x32                          net n { input 3x32x32
      conv 16 k=5 pad=2 -> relu  # wide    →         conv 16 k=3 pad=1 -> conv 16 k=3 pad=1 -> relu  # wide

What is not replaced stays as it was written, comments and spacing included. Where a layer stands in a block or a loop,
the block or loop is edited if all its runs are to have the same new layers; else the block gets a twin, and the loop is
unrolled as far as needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from convc.frontend import syntax
from convc.frontend.elaborate import elaborate
from convc.frontend.expressions import literal
from convc.frontend.formatter import format_text
from convc.frontend.freeze import frozen_names
from convc.frontend.lexer import normalise
from convc.frontend.load import loads
from convc.frontend.program import called_blocks, read_program
from convc.frontend.rewriting.decisions import Edit, Plan, decide
from convc.frontend.rewriting.frames import Loop, LoopRuns, frames
from convc.frontend.rewriting.loops import head
from convc.frontend.rewriting.names import Names, correspondence
from convc.frontend.rewriting.report import Action, actions, layer_list
from convc.frontend.rewriting.statements import Run as LayerRun
from convc.frontend.rewriting.statements import statements
from convc.frontend.rewriting.substitute import Substitute
from convc.frontend.rewriting.surroundings import init_argument, patterns_text, relocate
from convc.frontend.rewriting.tracing import Execution, Trace, trace
from convc.frontend.rewriting.twins import Twins, name_groups
from convc.frontend.rewriting.writing import Writer
from convc.frontend.source import Source
from convc.frontend.text_editor import Editor
from convc.frontend.transplant import supply_constants
from convc.ir.diagnostic import CompileError
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.frontend.net import Net


@dataclass(frozen=True)
class Rewritten:
    """The new text and its net, what parameters and layers are called in it, and what was done to the text.

    `dropped` are arguments of old layers that the new ones could not keep, by the layer's name.
    """

    text: str
    net: Net
    names: Names
    actions: tuple[Action, ...]
    dropped: Mapping[str, tuple[str, ...]]


def rewrite(
    net: Net,
    substitutes: Mapping[str, Substitute],
    *,
    path: str | None = None,
    weights: tuple[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
) -> Rewritten:
    """Replace layers of `net` by their paths; each of them has a statement of its own (see `editable`).

    `path` is where the text will be: what it says of other files is told anew from there (None: in the place of the old
    one). `weights` are a file that `init` may name, and the one to name in its place. Values that were given to
    parameters of the net become their defaults; `settings` (`train.…`) are those of the returned net, not of the text.
    """
    return _Rewriting(net, substitutes, path, weights).run(settings or {})


def editable(traced: Trace) -> frozenset[str]:
    """Paths of the layers that have a statement of their own; those that `skip auto` inserts have none."""
    return frozenset(execution.path for execution in traced.executions)


class _Rewriting:
    def __init__(
        self, net: Net, substitutes: Mapping[str, Substitute], path: str | None, weights: tuple[str, str] | None
    ) -> None:
        self.net, self.substitutes, self.weights = net, substitutes, weights
        self.origin = net.origin
        self.root = self.origin.program.root
        self.path = self.root.name if path is None else path
        self.sources = {name: normalise(text) for name, text in net.sources.items()}
        self.words = set(re.findall(r"\w+", "\n".join(self.sources.values())))
        self.writer = Writer(self.sources, {})
        self.dropped: dict[str, tuple[str, ...]] = {}

    def run(self, settings: Mapping[str, object]) -> Rewritten:
        old = trace(self.net)
        tree = frames(self.origin.definition, self.origin.program.blocks, old.executions)
        plan = decide(tree, self._edits(old.executions), self._head)
        twins = name_groups(plan, self._is_fixed, self._is_free)
        self.writer = Writer(self.sources, twins.names)
        text = self._text(plan, twins, None)
        names = self._names(old, text)
        freeze = self._freeze(old, text, names)
        if freeze is not None:
            text = self._text(plan, twins, freeze)
        net = loads(text, file=self.path, net=self._net_name, set=settings, limits=self.net.limits)
        done = actions(plan, twins, tree.net, self.origin.definition)
        return Rewritten(self._spelled(text), net, names, done, self.dropped)

    # Statements

    def _edits(self, executions: tuple[Execution, ...]) -> dict[int, Edit]:
        """The new text of every run of a replaced statement, the same one for as many as possible."""
        by_statement: dict[syntax.Apply, list[Execution]] = {}
        for execution in executions:
            if execution.path in self.substitutes:
                by_statement.setdefault(execution.statement, []).append(execution)
        found: dict[int, Edit] = {}
        for runs in by_statement.values():
            alike: dict[str, list[Execution]] = {}
            for execution in runs:
                alike.setdefault(self._form(execution), []).append(execution)
            clusters: list[list[list[Execution]]] = []
            for members in alike.values():
                for cluster in clusters:
                    if self._statements([*cluster, members]) is not None:
                        cluster.append(members)
                        break
                else:
                    clusters.append([members])
            for cluster in clusters:
                self._enter(cluster, found)
        return found

    def _form(self, execution: Execution) -> str:
        """Equal for runs that are no different as far as their statement goes."""
        substitute = self.substitutes[execution.path]
        return repr((sorted(execution.values.items()), substitute))

    def _statements(self, cluster: list[list[Execution]]) -> tuple[str, tuple[str, ...]] | None:
        runs: list[LayerRun] = [(members[0], self.substitutes[members[0].path]) for members in cluster]
        result = statements(runs, self.writer.slice, self._is_free)
        return None if result is None else (result.text, result.dropped)

    def _enter(self, cluster: list[list[Execution]], found: dict[int, Edit]) -> None:
        result = self._statements(cluster)
        assert result is not None, "a single run can always be written"
        for execution in (execution for members in cluster for execution in members):
            found[id(execution)] = Edit(result[0], self.substitutes[execution.path].adjective)
            if result[1]:
                self.dropped[execution.path] = result[1]

    def _head(self, loop: Loop, runs: LoopRuns, start: int, stop: int | None) -> str | None:
        return head(loop, runs, start, stop, self.writer.slice)

    def _is_free(self, name: str) -> bool:
        return name not in self.words

    # Definitions

    @property
    def _net_name(self) -> str:
        """A net of another file is copied, and must not be taken for the one that is used from there."""
        name = self.origin.definition.name
        return name if self._is_own(self.origin.definition) else f"{name}_rewritten"

    def _is_own(self, definition: syntax.Definition) -> bool:
        return definition.span.file == self.root.name

    def _is_fixed(self, block: syntax.Definition) -> bool:
        return not self._is_own(block) or block.name in self._used_elsewhere

    @cached_property
    def _used_elsewhere(self) -> set[str]:
        program, own = self.origin.program, self.origin.definition
        return called_blocks(program, [net for net in program.own_nets if program.nets[net] is not own])

    def _text(self, plan: Plan, twins: Twins, freeze: list[str] | None) -> str:
        definition = self.origin.definition
        editor = self.writer.editor(self.root.name)
        self._surroundings(editor, freeze)
        for group in twins.in_place:
            self.writer.edit(editor, plan.groups[group])
        copies: dict[syntax.Definition, list[str]] = {}
        for group in twins.copies:
            own = self._copy_editor(group.block)
            text = self.writer.twin(group.block, twins.names[group], own, plan.groups[group])
            remark = f"# {group.block.name} with other layers: {layer_list(plan.runs[group], self.substitutes)}"
            copies.setdefault(group.block, []).append(f"{remark}\n{text}")
        foreign = [text for block, texts in copies.items() if not self._is_own(block) for text in texts]
        for block, texts in copies.items():
            if self._is_own(block):
                editor.insert(editor.bounds(block.span)[1], "".join(f"\n\n{text}" for text in texts))
        if self._is_own(definition):
            self._give_defaults(editor)
            self.writer.edit(editor, plan.net)
            editor.insert(editor.bounds(definition.span)[0], "".join(f"{text}\n\n" for text in foreign))
            return editor.result()
        own = self._copy_editor(definition)
        self._give_defaults(own)
        foreign.append(self.writer.twin(definition, self._net_name, own, plan.net))
        return "\n\n".join([editor.result().rstrip("\n"), *foreign]) + "\n"

    def _copy_editor(self, definition: syntax.Definition) -> Editor:
        editor = self.writer.editor(definition.span.file)
        if not self._is_own(definition):
            given = self.origin.given if definition is self.origin.definition else {}
            supply_constants(editor, definition, self.origin.program.scope_of(definition).constants, given)
        return editor

    def _give_defaults(self, editor: Editor) -> None:
        for parameter in self.origin.definition.parameters:
            if parameter.name in self.origin.given:
                editor.replace(parameter.span, f"{parameter.name} = {literal(self.origin.given[parameter.name])}")

    # What stands around the net

    def _surroundings(self, editor: Editor, freeze: list[str] | None) -> None:
        folder, base = os.path.dirname(self.path), os.path.dirname(self.root.name)
        init = init_argument(self.root, None)
        relocate(editor, self.root, folder)
        if self.weights is not None and init is not None and isinstance(init.value, syntax.Text):
            old, new = self.weights
            if os.path.realpath(os.path.join(base, init.value.value)) == os.path.realpath(old):
                place = editor.bounds(init.span)
                editor.edits = [edit for edit in editor.edits if edit[:2] != place]
                editor.replace(init.span, literal(os.path.relpath(new, folder or ".")))
        frozen = init_argument(self.root, "freeze")
        if freeze is not None and frozen is not None:
            editor.replace(frozen.span, f"freeze={patterns_text(freeze)}" if freeze else "")

    def _names(self, old: Trace, text: str) -> Names:
        program, errors = read_program(Source(self.path, text), self.net.limits)
        definition = program.nets.get(self._net_name)
        if errors or definition is None:
            raise CompileError(errors, program.sources)
        result = elaborate(program, definition, {}, 1)
        if result.errors:
            raise CompileError(result.errors, program.sources)
        return correspondence(old.layers, result.layers, self.substitutes)

    def _freeze(self, old: Trace, text: str, names: Names) -> list[str] | None:
        """Patterns that freeze what was frozen; None if those of the file still do."""
        settings = self.net.settings.init
        if settings is None or not settings.freeze:
            return None
        frozen = set(frozen_names(old.graph.parameters, settings.freeze))
        layers = {layer.name: layer.parameters for layer in old.layers}
        wanted = {names.parameters[name] for name in frozen if name in names.parameters}
        for path, parts in names.layers.items():
            if frozen.issuperset(layers[path]):
                wanted.update(name for part in parts for name in part.parameters)
        every = [name for layer in names.net for name in layer.parameters]
        if set(frozen_names(every, settings.freeze)) == wanted:
            return None
        patterns: dict[str, None] = {}
        for layer in names.net:
            own = [name for name in layer.parameters if name in wanted]
            patterns.update(dict.fromkeys([layer.name] if own and len(own) == len(layer.parameters) else own))
        return list(patterns)

    def _spelled(self, text: str) -> str:
        """In canonical spelling if the file had it, and with the line ends of the file."""
        original = self.net.text
        if format_text(original) == self.sources[self.root.name]:
            text = format_text(text)
        return text.replace("\n", "\r\n") if "\r\n" in original else text
