"""Which name means what, read from the syntax alone: for warnings about dead names, and for editors.

Nothing is carried out here, so this also works on nets with errors, on blocks that nobody calls and on branches of an
`if` that are not taken. Where a value has one name in several places (`as x` in both branches of an `if`), a use means
the one before it in the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Literal

from convc.frontend import syntax
from convc.frontend.arguments import Parameter
from convc.frontend.layers import BY_WORD, COMMON
from convc.frontend.setting_kinds import BY_WORD as SETTINGS
from convc.frontend.setting_kinds import PIPELINES
from convc.ir.span import Span
from convc.lazy import dataclass

NameKind = Literal["let", "parameter", "loop", "value", "shared", "block", "net"]


@dataclass(frozen=True, eq=False)
class Binding:
    """A name of the file's own. `span` is the name where it is introduced, `scope` where it can be seen (None: in the
    whole file); `node` is the statement, parameter or definition behind it, `owner` the net or block around it."""

    kind: NameKind
    name: str
    span: Span
    scope: Span | None
    node: syntax.Node
    owner: syntax.Definition | None

    def visible_at(self, line: int, column: int) -> bool:
        """Whether a name typed at this place could mean it."""
        place = (line, column)
        if self.scope is None:
            return True
        inside = (self.scope.line, self.scope.column) <= place <= (self.scope.end_line, self.scope.end_column)
        return inside and (self.kind != "let" or place >= (self.span.end_line, self.span.end_column))


@dataclass
class Bindings:
    """All names that a file introduces, and all places that use one; `uses` has None for what nothing introduces."""

    introduced: list[Binding] = field(default_factory=list[Binding])
    uses: list[tuple[Span, Binding]] = field(default_factory=list[tuple[Span, Binding]])

    def at(self, line: int, column: int) -> Binding | None:
        """What the name at a place means, whether it is introduced or used there."""
        places = [*self.uses, *((binding.span, binding) for binding in self.introduced)]
        return next((binding for span, binding in places if covers(span, line, column)), None)

    def uses_of(self, binding: Binding) -> list[Span]:
        return [span for span, used in self.uses if used is binding]


def covers(span: Span, line: int, column: int) -> bool:
    """Whether a place lies in a span or right behind it, where a cursor stands after a word was typed."""
    return (span.line, span.column) <= (line, column) <= (span.end_line, span.end_column)


def bindings_of(file: syntax.File, blocks: Mapping[str, syntax.Definition] | None = None) -> Bindings:
    """The names of a file. `blocks` are those that `use` brings in besides the file's own."""
    walker = _Walker(file, blocks or {})
    walker.run()
    return walker.found


class _Names:
    """Names of one body on top of those around it."""

    def __init__(self, around: _Names | None = None) -> None:
        self.around = around
        self.table: dict[str, Binding] = {}

    def find(self, name: str) -> Binding | None:
        names: _Names | None = self
        while names is not None:
            if name in names.table:
                return names.table[name]
            names = names.around
        return None


@dataclass
class _View:
    """What a statement sees: constants, and named values with the body that they end with."""

    constants: _Names
    values: _Names
    values_scope: Span


class _Walker:
    def __init__(self, file: syntax.File, blocks: Mapping[str, syntax.Definition]) -> None:
        self.file = file
        self.found = Bindings()
        self.top = _Names()
        self.owner: syntax.Definition | None = None
        self.blocks = {name: self._definition(block) for name, block in blocks.items() if block.span.file != file.name}
        self.shared: dict[str, Binding] = {}

    @staticmethod
    def _definition(node: syntax.Definition) -> Binding:
        return Binding("net" if node.kind == "net" else "block", node.name, node.name_span, None, node, None)

    def run(self) -> None:
        for definition in self.file.definitions:
            binding = self._definition(definition)
            self.found.introduced.append(binding)
            if definition.kind == "block":
                self.blocks.setdefault(definition.name, binding)
        for let in self.file.lets:
            self._introduce(self.top, Binding("let", let.name, let.name_span, None, let, None))
        for let in self.file.lets:
            self._expression(let.value, self.top)
        for definition in self.file.definitions:
            self.owner = definition
            self._enter(definition)
        self.owner = None
        for train in self.file.trains:
            for setting in train.settings:
                self._setting(setting)
        for search in self.file.searches:
            self._expression((search.count, search.refine, search.axes), self.top)

    def _introduce(self, names: _Names, binding: Binding) -> None:
        self.found.introduced.append(binding)
        names.table[binding.name] = binding

    # Nets and blocks

    def _enter(self, definition: syntax.Definition) -> None:
        constants = _Names(self.top)
        for parameter in definition.parameters:
            self._expression(parameter.default, constants)
            span = parameter.span
            name = Span(span.file, span.line, span.column, span.line, span.column + len(parameter.name))
            binding = Binding("parameter", parameter.name, name, definition.span, parameter, definition)
            self._introduce(constants, binding)
        # A part may be run again before the text that defines it, in a loop.
        self.shared = {}
        for statement in statements_in(definition.body):
            if isinstance(statement, syntax.Shared) and statement.name not in self.shared:
                scope = definition.body.span
                binding = Binding("shared", statement.name, statement.name_span, scope, statement, definition)
                self.found.introduced.append(binding)
                self.shared[statement.name] = binding
        self._body(definition.body, _View(_Names(constants), _Names(), definition.body.span))

    def _body(self, body: syntax.Body, view: _View) -> None:
        for statement in body.statements:
            self._statement(statement, body, view)

    def _inside(self, body: syntax.Body, view: _View) -> None:
        """A body with values of its own, of a residual or a branch."""
        self._body(body, _View(_Names(view.constants), _Names(view.values), body.span))

    def _nested(self, body: syntax.Body, view: _View, loop: Sequence[syntax.Name] = ()) -> None:
        """The body of a loop or an `if`: only its constants end with it."""
        constants = _Names(view.constants)
        for name in loop:
            self._introduce(constants, Binding("loop", name.name, name.span, body.span, name, self.owner))
        self._body(body, _View(_Names(constants), view.values, view.values_scope))

    def _statement(self, statement: syntax.Statement, body: syntax.Body, view: _View) -> None:
        match statement:
            case syntax.Apply():
                self._apply(statement, view)
            case syntax.Let():
                self._expression(statement.value, view.constants)
                binding = Binding("let", statement.name, statement.name_span, body.span, statement, self.owner)
                self._introduce(view.constants, binding)
            case syntax.Assert():
                self._expression((statement.condition, statement.message), view.constants)
            case syntax.Repeat():
                self._expression(statement.count, view.constants)
                self._nested(statement.body, view)
            case syntax.For():
                self._expression((statement.values, statement.stop), view.constants)
                self._nested(statement.body, view, statement.names)
            case syntax.If():
                for condition, branch in statement.branches:
                    self._expression(condition, view.constants)
                    self._nested(branch, view)
                if statement.otherwise is not None:
                    self._nested(statement.otherwise, view)
            case syntax.As():
                self._expression(statement.target.index, view.constants)
                span = _name_of(statement.target)
                name = statement.target.name
                self._introduce(view.values, Binding("value", name, span, view.values_scope, statement, self.owner))
            case syntax.From():
                self._reference(statement.source, view)
            case syntax.Join():
                for source in statement.sources:
                    self._reference(source, view)
                self._arguments(statement.arguments, COMMON, view.constants)
            case syntax.Residual():
                self._inside(statement.body, view)
                if isinstance(statement.skip, syntax.Body):
                    self._inside(statement.skip, view)
            case syntax.Concat():
                for branch in statement.branches:
                    self._inside(branch, view)
            case syntax.Aux() | syntax.Shared():
                self._inside(statement.body, view)
            case syntax.Reuse():
                if statement.name in self.shared:
                    self.found.uses.append((statement.name_span, self.shared[statement.name]))

    def _reference(self, reference: syntax.Reference, view: _View) -> None:
        self._expression(reference.index, view.constants)
        binding = view.values.find(reference.name)
        if binding is not None:
            self.found.uses.append((_name_of(reference), binding))

    # Arguments and expressions

    def _apply(self, statement: syntax.Apply, view: _View) -> None:
        if statement.word in BY_WORD:
            variant = variant_of(statement.arguments, BY_WORD[statement.word])
            kind = BY_WORD[statement.word].get(variant)
            arguments = statement.arguments[1:] if variant is not None else statement.arguments
            self._arguments(arguments, kind.signature if kind else (), view.constants)
            return
        block = self.blocks.get(statement.word)
        if block is not None:
            self.found.uses.append((statement.word_span, block))
        self._arguments(statement.arguments, COMMON, view.constants)

    def _setting(self, setting: syntax.Setting) -> None:
        variants = SETTINGS.get(setting.word, {})
        variant = variant_of(setting.arguments, variants)
        kind = variants.get(variant)
        arguments = setting.arguments[1:] if variant is not None else setting.arguments
        self._arguments(arguments, kind.parameters if kind else (), self.top)
        self._expression(setting.segments, self.top)
        steps = {step.word: step for step in PIPELINES.get(setting.word, ())}
        for step in setting.steps or ():
            known = steps.get(step.word)
            self._arguments(step.arguments, known.parameters if known else (), self.top)

    def _arguments(
        self, arguments: Sequence[syntax.Argument], parameters: Sequence[Parameter], constants: _Names
    ) -> None:
        for parameter, argument in matched(arguments, parameters):
            kind = parameter.kind if parameter else None
            value = argument.value
            # The argument's own words win over constants: `pad=same`, `name=stem`.
            if kind and isinstance(value, syntax.Name) and (kind.identifier or value.name in kind.words):
                continue
            self._expression(value, constants)

    def _expression(self, tree: object, constants: _Names) -> None:
        """Every constant in a piece of syntax; None and texts have none."""
        pending = [tree]
        while pending:
            item = pending.pop()
            if isinstance(item, syntax.Name):
                binding = constants.find(item.name)
                if binding is not None:
                    self.found.uses.append((item.span, binding))
            elif isinstance(item, tuple):
                pending.extend(item)  # type: ignore[arg-type]
            elif isinstance(item, syntax.Node):
                pending.extend(getattr(item, name) for name in item.fields if not name.endswith("span"))


def variant_of(arguments: Sequence[syntax.Argument], variants: Mapping[str | None, object]) -> str | None:
    """The variant that the first argument names: `max` of `pool max 2`; None for words that have none."""
    first = arguments[0] if arguments else None
    if None in variants or first is None or first.key is not None or not isinstance(first.value, syntax.Name):
        return None
    return first.value.name if first.value.name in variants else None


def matched(
    arguments: Sequence[syntax.Argument], parameters: Sequence[Parameter]
) -> Iterator[tuple[Parameter | None, syntax.Argument]]:
    """Arguments with the parameters that they belong to, as far as that can be told."""
    positional = iter([parameter for parameter in parameters if parameter.positional])
    keys = {key: parameter for parameter in parameters for key in (parameter.key, parameter.long) if key is not None}
    for argument in arguments:
        yield (next(positional, None) if argument.key is None else keys.get(argument.key)), argument


def statements_in(body: syntax.Body) -> Iterator[syntax.Statement]:
    """All statements of a body and of the bodies in it, in the order of the text."""
    pending: list[syntax.Statement] = list(reversed(body.statements))
    while pending:
        statement = pending.pop()
        yield statement
        for inner in reversed(bodies_of(statement)):
            pending += reversed(inner.statements)


def bodies_of(statement: syntax.Statement) -> list[syntax.Body]:
    """The bodies right inside a statement."""
    match statement:
        case syntax.Repeat() | syntax.For() | syntax.Aux() | syntax.Shared():
            return [statement.body]
        case syntax.If():
            otherwise = [] if statement.otherwise is None else [statement.otherwise]
            return [body for _, body in statement.branches] + otherwise
        case syntax.Residual():
            return [statement.body] + ([statement.skip] if isinstance(statement.skip, syntax.Body) else [])
        case syntax.Concat():
            return list(statement.branches)
        case _:
            return []


def _name_of(reference: syntax.Reference) -> Span:
    """The name of a reference without its index."""
    span = reference.span
    return Span(span.file, span.line, span.column, span.line, span.column + len(reference.name))
