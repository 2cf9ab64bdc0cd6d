"""`--set K=V`: values for the parameters of a net (`depth=50`) and for settings (`train.optim.lr=0.01`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from convc.frontend import syntax
from convc.frontend.expressions import Constant, Evaluator, Scope, literal
from convc.frontend.hints import did_you_mean
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.parser import parse_expression, parse_setting
from convc.frontend.setting_kinds import BY_WORD
from convc.frontend.source import Source
from convc.frontend.train_item import COMMAND_LINE, WORDS, check_path
from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.ir.span import Span
from convc.lazy import dataclass


@dataclass
class Overrides:
    """What remains of a `set=` mapping once it is read: `parameters` by name, and the changed `train` item."""

    parameters: dict[str, Constant] = field(default_factory=dict[str, Constant])
    train: syntax.Train | None = None
    sources: dict[str, str] = field(default_factory=dict[str, str])
    errors: list[Diagnostic] = field(default_factory=list[Diagnostic])


def parse_assignments(items: Iterable[str]) -> dict[str, str]:
    """`["depth=50", "train.batch=256"]` as a mapping for `set=`; of two values for one key the later one counts."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            fail(
                "value-assignment",
                f"`{item}` is not of the form KEY=VALUE",
                hint="for example depth=50 or train.optim.lr=0.01",
            )
        found[key.strip()] = value.strip()
    return found


def text_of(value: object) -> str:
    """A Python value as text of the language; strings are such text already."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return literal(_constant(value))
    if isinstance(value, (bool, int, float)):
        return literal(value)
    # numpy's scalars
    item = getattr(value, "item", None)
    if callable(item):
        return text_of(item())
    fail(
        "value-assignment",
        f"a value of type {type(value).__name__} cannot be set",
        hint="numbers, strings, lists and tuples can",
    )


def _constant(value: object) -> Constant:
    if isinstance(value, (list, tuple)):
        return tuple(_constant(item) for item in value)
    if isinstance(value, (bool, int, float, str)):
        return value
    fail(
        "value-assignment",
        f"a value of type {type(value).__name__} cannot be set",
        hint="numbers, strings, lists and tuples can",
    )


def apply_overrides(
    given: Mapping[str, object],
    net: syntax.Definition | None,
    train: syntax.Train | None,
    scope: Scope,
    limits: Limits = DEFAULT_LIMITS,
) -> Overrides:
    """Read every assignment; all errors are collected. `scope` holds the constants that values may mention."""
    result = Overrides(train=train)
    # Whole settings first, so that `train.optim.lr` refines `train.optim` in whatever order they come.
    for key in sorted(given, key=lambda key: key.count(".") if key.startswith("train.") else 0):
        place = f"{COMMAND_LINE} {key}"
        try:
            text = " ".join(text_of(given[key]).split("\n"))
            if key.startswith("train.") or key == "train":
                _set_setting(result, key, text, place, limits)
            elif net is not None:
                _set_parameter(result, key, text, place, net, scope, limits)
        except CompileError as error:
            result.errors += error.diagnostics
            result.sources |= error.sources
    return result


def _set_parameter(
    result: Overrides, key: str, text: str, place: str, net: syntax.Definition, scope: Scope, limits: Limits
) -> None:
    names = [parameter.name for parameter in net.parameters]
    if key not in names:
        word = key.split(".")[0]
        hint = f"settings are addressed as train.{key}" if word in WORDS else did_you_mean(key, names, "it has")
        message = f"net `{net.name}` has no parameter `{key}`"
        result.errors.append(Diagnostic("name-parameter", message, None, hint=hint))
        return
    result.sources[place] = text
    expression = parse_expression(Source(place, text), limits)
    evaluator = Evaluator(scope)
    if isinstance(expression, syntax.Name) and expression.name not in scope.names():
        result.parameters[key] = expression.name  # a plain word, such as `max`
    else:
        result.parameters[key] = evaluator.evaluate(expression)


def _set_setting(result: Overrides, key: str, text: str, place: str, limits: Limits) -> None:
    path = key.removeprefix("train").removeprefix(".")
    word, _, argument = path.partition(".")
    line = f"{word} {argument}={text}" if argument else f"{word} {text}"
    result.sources[place] = line
    check_path(path, Span(place, 1, 1, 1, 1 + len(word)))
    setting = parse_setting(Source(place, line), limits)
    old = next((item for item in result.train.settings if item.word == word), None) if result.train else None
    if old is not None:
        setting = _merge(old, setting, argument or None)
    settings = result.train.settings if result.train else ()
    settings = (*(item for item in settings if item is not old), setting)
    span = result.train.span if result.train else setting.span
    result.train = syntax.Train(settings, span)


def _merge(old: syntax.Setting, new: syntax.Setting, key: str | None) -> syntax.Setting:
    if key is not None:
        kept = [argument for argument in old.arguments if argument.key != key]
        return _with_arguments(new, (*kept, *new.arguments))
    plain = None in BY_WORD.get(new.word, {}) and len(new.arguments) == 1 and new.arguments[0].key is None
    if plain:
        # `train.batch=32` leaves `accumulate=4` alone.
        return _with_arguments(new, (*new.arguments, *(a for a in old.arguments if a.key is not None)))
    return new


def _with_arguments(setting: syntax.Setting, arguments: tuple[syntax.Argument, ...]) -> syntax.Setting:
    return syntax.Setting(setting.word, arguments, (), None, setting.span, setting.word_span)


def setting_of(text: str, name: str = "--data") -> tuple[syntax.Setting, dict[str, str]]:
    """`mnist` or `idx "dir/"` as a `data` setting, with the source under which diagnostics show it."""
    line = f"data {text}"
    return parse_setting(Source(name, line)), {name: line}
