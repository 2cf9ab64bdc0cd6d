"""A file with everything that it uses: definitions by name, constants of each file, and the checks across items."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import field

from convc.frontend import syntax
from convc.frontend.expressions import Budget, Constant, Evaluator, Scope, Unknown
from convc.frontend.layers import BY_WORD
from convc.frontend.limits import Limits, raised
from convc.frontend.naming import RESERVED
from convc.frontend.parser import ITEM_WORDS, parse
from convc.frontend.source import Source, read_source
from convc.frontend.statement_parser import STATEMENT_WORDS
from convc.ir.diagnostic import CompileError, Diagnostic, Note
from convc.lazy import dataclass

RESERVED_WORDS = frozenset((*BY_WORD, *STATEMENT_WORDS, *ITEM_WORDS, *RESERVED))


@dataclass
class Program:
    """The root file and the blocks and nets that it can see. `scopes` are the top-level constants per file."""

    root: syntax.File
    limits: Limits
    files: dict[str, syntax.File] = field(default_factory=dict[str, syntax.File])
    sources: dict[str, str] = field(default_factory=dict[str, str])
    blocks: dict[str, syntax.Definition] = field(default_factory=dict[str, syntax.Definition])
    nets: dict[str, syntax.Definition] = field(default_factory=dict[str, syntax.Definition])
    scopes: dict[str, Scope] = field(default_factory=dict[str, Scope])
    incomplete: bool = False  # a file that is used could not be read: nobody knows which blocks it has

    def scope_of(self, definition: syntax.Definition) -> Scope:
        """The top-level constants that a definition sees: those of its own file."""
        return self.scopes[definition.span.file]

    @property
    def own_nets(self) -> list[str]:
        """Nets defined in the root file itself."""
        return [name for name, net in self.nets.items() if net.span.file == self.root.name]


def read_program(source: Source, limits: Limits) -> tuple[Program, list[Diagnostic]]:
    """Parse a file and what it uses; returns what could be read and all errors found.

    Raises a `CompileError` only if the root file itself does not parse.
    """
    sources = {source.name: source.text}
    try:
        program = Program(parse(source, limits), limits, sources=sources)
    except CompileError as error:
        raise CompileError(error.diagnostics, sources) from None
    reader = _Reader(program)
    reader.add(program.root, _identity(source.name), ())
    return program, reader.errors


def _identity(name: str) -> str:
    return os.path.normcase(os.path.realpath(name))


class _Reader:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.errors: list[Diagnostic] = []
        self.done: set[str] = set()
        self.tokens = 0  # of the files that were used

    def add(self, file: syntax.File, identity: str, chain: tuple[tuple[str, syntax.Use], ...]) -> None:
        """Take over the items of a file; `chain` holds the files that led here, each with its `use`."""
        self.program.files[file.name] = file
        for use in file.uses:
            self._use(use, file, (*chain, (identity, use)))
        self.done.add(identity)
        self.program.scopes[file.name] = self._constants(file)
        for definition in file.definitions:
            self._define(definition)
        for items, word in ((file.trains, "train"), (file.searches, "search")):
            for surplus in items[1:]:
                notes = (Note("the first one is here", items[0].span),)
                self.errors.append(
                    Diagnostic("name-duplicate", f"a file has at most one `{word}` item", surplus.span, notes)
                )

    def _use(self, use: syntax.Use, file: syntax.File, chain: tuple[tuple[str, syntax.Use], ...]) -> None:
        before = len(self.errors)
        self._bring_in(use, file, chain)
        self.program.incomplete |= len(self.errors) > before

    def _bring_in(self, use: syntax.Use, file: syntax.File, chain: tuple[tuple[str, syntax.Use], ...]) -> None:
        path = os.path.join(os.path.dirname(file.name), use.path)
        identity = _identity(path) if "\0" not in path else path
        notes = tuple(Note(f"used from {link.span.file}", link.span) for _, link in reversed(chain[:-1]))
        if identity in (seen for seen, _ in chain):
            self.errors.append(
                Diagnostic("file-cycle", f'`use "{use.path}"` leads back to this file', use.path_span, notes)
            )
            return
        if identity in self.done:
            return
        if len(self.program.files) >= self.program.limits.files:
            message = f"more than {self.program.limits.files} files are used"
            self.errors.append(Diagnostic("budget-files", message, use.path_span, notes, raised("files")))
            return
        try:
            source = read_source(path, use.path_span, self.program.limits)
            self.program.sources[source.name] = source.text
            used = parse(source, self.program.limits)
        except CompileError as error:
            self.errors += [
                Diagnostic(d.code, d.message, d.span, (*d.notes, *notes), d.hint, d.severity) for d in error.diagnostics
            ]
            self.done.add(identity)
            return
        self.tokens += used.tokens
        if self.program.root.tokens + self.tokens > self.program.limits.tokens:
            message = f"the files have more than {self.program.limits.tokens:,} words, numbers and signs together"
            self.errors.append(Diagnostic("budget-files", message, use.path_span, notes, raised("tokens")))
            self.done.add(identity)
            return
        self.add(used, identity, chain)

    def _define(self, definition: syntax.Definition) -> None:
        kind, name, span = definition.kind, definition.name, definition.name_span
        table = self.program.blocks if kind == "block" else self.program.nets
        if name in table:
            notes = (Note("the first one is here", table[name].name_span),)
            self.errors.append(Diagnostic("name-duplicate", f"there are two {kind}s called `{name}`", span, notes))
            return
        if kind == "block" and name in RESERVED_WORDS:
            message = f"`{name}` is a word of the language and cannot name a block"
            self.errors.append(Diagnostic("name-reserved", message, span, hint=f"for example `my_{name}`"))
        seen: dict[str, syntax.Parameter] = {}
        for parameter in definition.parameters:
            if parameter.name in seen:
                notes = (Note("the first one is here", seen[parameter.name].span),)
                message = f"two parameters are called `{parameter.name}`"
                self.errors.append(Diagnostic("name-duplicate", message, parameter.span, notes))
            seen[parameter.name] = parameter
        table[name] = definition

    def _constants(self, file: syntax.File) -> Scope:
        """The top-level `let`s of a file, in whatever order they depend on each other."""
        scope = Scope()
        lets: dict[str, syntax.Let] = {}
        for let in file.lets:
            if let.name in lets:
                notes = (Note("the first one is here", lets[let.name].name_span),)
                message = f"there are two constants called `{let.name}`"
                self.errors.append(Diagnostic("name-duplicate", message, let.name_span, notes))
            else:
                lets[let.name] = let
        budget = Budget(self.program.limits)
        pending = list(reversed(list(lets.values())))
        entered: set[str] = set()
        while pending:
            let = pending[-1]
            if let.name in scope.constants:
                pending.pop()
                continue
            waiting = [lets[name] for name in names_in(let.value) if name in lets and name not in scope.constants]
            if waiting and let.name not in entered:
                entered.add(let.name)
                pending += waiting
                continue
            pending.pop()
            if waiting:
                # Seen before and still waiting: the definitions go in a circle.
                scope.constants[let.name] = None
                message = f"the definition of `{let.name}` depends on itself"
                self.errors.append(Diagnostic("name-cycle", message, let.value.span))
                continue
            scope.constants[let.name] = self._constant(let, scope, budget)
        return scope

    def _constant(self, let: syntax.Let, scope: Scope, budget: Budget) -> Constant | None:
        try:
            return Evaluator(scope, budget=budget).evaluate(let.value)
        except Unknown:
            return None
        except CompileError as error:
            self.errors += error.diagnostics
            return None


def names_in(tree: object) -> Iterator[str]:
    """Every constant that a piece of syntax mentions."""
    pending = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, syntax.Name):
            yield item.name
        elif isinstance(item, tuple):
            pending.extend(item)  # type: ignore[arg-type]
        elif isinstance(item, syntax.Node):
            pending.extend(getattr(item, name) for name in item.fields if not name.endswith("span"))


def called_blocks(program: Program, nets: Iterable[str] | None = None) -> set[str]:
    """Blocks that nets (by default all of the root file) call, directly or not, however their conditions turn out."""
    found: set[str] = set()
    pending: list[object] = [program.nets[name].body for name in (program.own_nets if nets is None else nets)]
    while pending:
        item = pending.pop()
        if isinstance(item, syntax.Apply):
            if item.word in program.blocks and item.word not in found:
                found.add(item.word)
                pending.append(program.blocks[item.word].body)
        elif isinstance(item, tuple):
            pending.extend(item)  # type: ignore[arg-type]
        elif isinstance(item, syntax.Node):
            pending.extend(getattr(item, name) for name in item.fields if not name.endswith("span"))
    return found
