"""What an editor shows under the mouse: the checker's own words about a layer, its shapes and its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from convc.commands.language_server.document import Document, Instance
from convc.frontend import syntax
from convc.frontend.arguments import Parameter
from convc.frontend.bindings import Binding, covers, matched, variant_of
from convc.frontend.completion import argument_text
from convc.frontend.hints import plural, shape_text
from convc.frontend.layers import BY_WORD, LayerKind
from convc.frontend.setting_kinds import BY_WORD as SETTINGS
from convc.frontend.setting_kinds import PIPELINES, SettingKind
from convc.ir.span import Span

_SHAPES = 6  # instances that are listed


def hover_at(document: Document, line: int, column: int) -> tuple[str, Span] | None:
    """Markdown about what stands at a place, and the stretch of text that it is about."""
    binding = document.bindings.at(line, column)
    if binding is not None:
        return _name(document, binding, line, column)
    for statement in document.statements():
        if isinstance(statement, syntax.Apply) and covers(statement.span, line, column):
            variants = BY_WORD.get(statement.word)
            if variants is not None:
                return _applied(document, statement, variants, line, column)
        elif isinstance(statement, (syntax.Join, syntax.Residual, syntax.Concat)) and covers(
            statement.word_span, line, column
        ):
            instances = [*document.instances.get(statement.span, ()), *document.instances.get(statement.word_span, ())]
            return "\n\n".join([f"**{_word(statement)}**", *_counts(instances)]), statement.word_span
    return _setting(document, line, column)


def _word(statement: syntax.Join | syntax.Residual | syntax.Concat) -> str:
    return statement.word if isinstance(statement, syntax.Join) else type(statement).__name__.lower()


def _name(document: Document, binding: Binding, line: int, column: int) -> tuple[str, Span]:
    spans = (binding.span, *document.bindings.uses_of(binding))
    span = next(span for span in spans if covers(span, line, column))
    node = binding.node
    if isinstance(node, syntax.Definition):
        everything = [instance for found in document.instances.values() for instance in found]
        text = [f"```cnn\n{node.kind} {node.name}{_signature(document, node)}\n```"]
        if node.kind == "net":
            text += _counts([instance for instance in everything if instance.net == node.name], whole=True)
        else:
            own = [instance for instance in everything if _inside(instance.layer.span, node.span)]
            text += [f"Its own layers, in all calls: {count}" for count in _counts(own, whole=True)]
        return "\n\n".join(text), span
    shown = _line_of(document, binding.span)
    value = _value(document, binding)
    text = [f"**{binding.name}**: {_KINDS[binding.kind]}{value}"]
    return "\n\n".join([*text, *([f"```cnn\n{shown.strip()}\n```"] if shown else [])]), span


_KINDS = {
    "let": "constant",
    "parameter": "parameter",
    "loop": "loop variable",
    "value": "named value",
    "shared": "shared part",
    "block": "block",
    "net": "net",
}


def _value(document: Document, binding: Binding) -> str:
    """The value of a constant of the file, or of a parameter of a net."""
    from convc.frontend.expressions import show

    program = document.inspection.program
    if program is None:
        return ""
    if binding.kind == "let" and binding.owner is None:
        value = program.scopes[program.root.name].constants.get(binding.name)
        return f" = `{show(value)}`" if value is not None else ""
    if binding.kind == "parameter" and binding.owner is not None:
        for result in document.inspection.results:
            if result.graph.name == binding.owner.name and binding.owner.kind == "net":
                value = result.parameters.get(binding.name)
                return f" = `{show(value)}` by default" if value is not None else ""
        return f" of {binding.owner.kind} {binding.owner.name}"
    return ""


def _signature(document: Document, node: syntax.Definition) -> str:
    """The parameters as written, where the text is at hand."""
    if not node.parameters:
        return ""
    parts: list[str] = []
    for parameter in node.parameters:
        text = _slice(document, parameter.span)
        parts.append(text or parameter.name)
    return f"({', '.join(parts)})"


def _line_of(document: Document, span: Span) -> str:
    lines = document.places.lines
    return lines[span.line - 1] if span.file == document.path and span.line <= len(lines) else ""


def _slice(document: Document, span: Span) -> str:
    line = _line_of(document, span)
    return line[span.column - 1 : span.end_column - 1] if span.line == span.end_line else ""


def _inside(span: Span, around: Span) -> bool:
    return (
        span.file == around.file
        and (around.line, around.column) <= (span.line, span.column)
        and (
            span.end_line,
            span.end_column,
        )
        <= (around.end_line, around.end_column)
    )


# Layers


def _applied(
    document: Document, statement: syntax.Apply, variants: Mapping[str | None, LayerKind], line: int, column: int
) -> tuple[str, Span]:
    variant = variant_of(statement.arguments, variants)
    kind = variants.get(variant)
    arguments = statement.arguments[1:] if variant is not None else statement.arguments
    if kind is not None:
        found = _argument(kind.signature, arguments, line, column)
        if found is not None:
            return found
    counts = _counts(document.instances.get(statement.span, ()))
    others = [
        i
        for span, found in document.instances.items()
        if span.file == document.path and span.line == statement.span.line and span != statement.span
        for i in found
    ]
    if others:
        everything = [*document.instances.get(statement.span, ()), *others]
        counts.append(f"This line: {_total(everything)}.")
    return _about(statement.word, variants.values() if kind is None else [kind], counts), statement.span


def _about(word: str, kinds: Iterable[LayerKind | SettingKind], counts: Sequence[str] = ()) -> str:
    """The documentation of a layer or setting, all variants where none is chosen; `counts` come before arguments."""
    parts: list[str] = []
    for kind in kinds:
        head = " ".join([kind.title, *(p.key.upper() for p in kind.parameters if p.positional)])
        lines = [f"- `{p.key}`: {argument_text(p)}" for p in kind.parameters]
        parts += [f"**{head}**: {kind.doc}", *counts, *(["\n".join(lines)] if lines else [])]
    return "\n\n".join(parts) or f"**{word}**"


def _argument(
    parameters: Sequence[Parameter], arguments: Sequence[syntax.Argument], line: int, column: int
) -> tuple[str, Span] | None:
    """The documentation of the argument at a place, if its key is there."""
    for parameter, argument in matched(arguments, parameters):
        if parameter is not None and argument.key is not None and covers(argument.span, line, column):
            return f"**{parameter.key}**: {argument_text(parameter)}", argument.span
    return None


def _counts(instances: Sequence[Instance], whole: bool = False) -> list[str]:
    """Shapes and sums of a layer, one line for each way in which it is used."""
    if not instances:
        return []
    text: list[str] = []
    if not whole:
        shapes: dict[str, int] = {}
        for instance in instances:
            layer = instance.layer
            shape = " → ".join(shape_text(s) for s in (layer.input, layer.output) if s is not None)
            shapes[shape] = shapes.get(shape, 0) + 1
        lines = [f"`{shape}`" + (f" ({count} times)" if count > 1 else "") for shape, count in shapes.items()]
        more = [f"… {len(lines) - _SHAPES} more"] if len(lines) > _SHAPES else []
        text.append("  \n".join([*lines[:_SHAPES], *more]))
    uses = f" in {len(instances)} uses" if len(instances) > 1 and not whole else ""
    text.append(_total(instances) + uses)
    return text


def _total(instances: Iterable[Instance]) -> str:
    instances = list(instances)
    params, macs = sum(i.params for i in instances), sum(i.macs for i in instances)
    return f"{plural_count(params, 'parameter')}, {plural_count(macs, 'multiply-add')} per image"


def plural_count(count: int, noun: str) -> str:
    """`1,000 parameters`; `no parameters`."""
    return plural(count, noun).replace(str(count), f"{count:,}" if count else "no", 1)


# Settings


def _setting(document: Document, line: int, column: int) -> tuple[str, Span] | None:
    for train in document.file.trains if document.file is not None else ():
        for setting in train.settings:
            if covers(setting.span, line, column):
                return _inside_setting(setting, line, column)
    return None


def _inside_setting(setting: syntax.Setting, line: int, column: int) -> tuple[str, Span] | None:
    steps = {kind.word: kind for kind in PIPELINES.get(setting.word, ())}
    for step in setting.steps or ():
        if covers(step.span, line, column) and step.word in steps:
            return _about(step.word, [steps[step.word]]), step.span
    variants = SETTINGS.get(setting.word, {})
    variant = variant_of(setting.arguments, variants)
    kind = variants.get(variant)
    if kind is not None:
        arguments = setting.arguments[1:] if variant is not None else setting.arguments
        found = _argument(kind.parameters, arguments, line, column)
        return found or (_about(setting.word, [kind]), setting.span)
    text = _about(setting.word, variants.values()) if variants else f"**{setting.word}** {{ … }}"
    return text, setting.word_span
