"""The `train` and `search` items, from syntax to `TrainSettings`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any

from convc.frontend import syntax
from convc.frontend.arguments import Bound, bind
from convc.frontend.expressions import Budget, Constant, Evaluator, Quantity, Scope, Unknown, is_number, show
from convc.frontend.hints import did_you_mean
from convc.frontend.kinds import duration, real
from convc.frontend.limits import Limits
from convc.frontend.schedule import Schedule, Segment
from convc.frontend.setting_kinds import BY_WORD, PIPELINES, SettingKind
from convc.frontend.settings import (
    Checkpoint,
    DataSetting,
    Decay,
    EarlyStop,
    Ensemble,
    InitialWeights,
    OptimizerSetting,
    Precision,
    Search,
    SearchAxis,
    Step,
    TrainSettings,
)
from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail
from convc.ir.span import Span
from convc.lazy import dataclass

WORDS = (*BY_WORD, *PIPELINES)
# What comes from the command line has a "file" that begins with two dashes; paths in it are relative to the working
# folder.
COMMAND_LINE = "--set"


def train_settings(
    train: syntax.Train | None, search: syntax.Search | None, scope: Scope, limits: Limits
) -> tuple[TrainSettings, list[Diagnostic]]:
    """The settings and all errors and warnings about them; after errors the settings are of no use."""
    checker = _Checker(scope, limits)
    return checker.settings(train, search), checker.found


def data_setting(setting: syntax.Setting, scope: Scope, limits: Limits) -> DataSetting:
    """A single `data` item. Raises a `CompileError`."""
    settings, found = train_settings(syntax.Train((setting,), setting.span), None, scope, limits)
    if found or settings.data is None:
        raise CompileError(found)
    return settings.data


@dataclass
class _Checker:
    scope: Scope
    limits: Limits
    found: list[Diagnostic] = field(default_factory=list[Diagnostic])
    spans: dict[str, Span] = field(default_factory=dict[str, Span])

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.scope, budget=Budget(self.limits))

    def settings(self, train: syntax.Train | None, search: syntax.Search | None) -> TrainSettings:
        fields: dict[str, Any] = {}
        for setting in train.settings if train else ():
            try:
                self._setting(setting, fields)
            except Unknown:
                continue
            except CompileError as error:
                self.found += error.diagnostics
        if search is not None:
            fields["search"] = self._search(search)
            self.spans["search"] = search.span
        self._combine(fields)
        return TrainSettings(**fields, spans=self.spans)

    def _setting(self, setting: syntax.Setting, fields: dict[str, Any]) -> None:
        word = setting.word
        if word not in WORDS:
            hint = did_you_mean(word, WORDS, "settings are")
            fail("name-setting", f"there is no setting `{word}`", setting.word_span, hint=hint)
        if word in self.spans:
            notes = (Note("given here before", self.spans[word]),)
            fail("name-repeated", f"`{word}` is set twice", setting.word_span, notes=notes)
        self.spans[word] = setting.span
        if word in PIPELINES:
            fields[word] = self._pipeline(setting)
        elif setting.steps is not None:
            fail("syntax-setting", f"`{word}` has no body in braces", setting.span)
        elif setting.segments:
            fields["schedule"] = Schedule("rates", segments=self._segments(setting), span=setting.span)
        else:
            kind, arguments = _choose(setting)
            bound = self._bind(kind, arguments, setting.word_span)
            if bound is not None:
                self.spans.update({f"{word}.{key}": span for key, span in bound.spans.items()})
                name, fields_value = _BUILDERS[word](kind, bound, setting.span)
                fields[name] = fields_value
                if word == "batch":
                    fields["accumulate"] = bound.values["accumulate"]

    def _bind(self, kind: SettingKind, arguments: tuple[syntax.Argument, ...], place: Span) -> Bound | None:
        def separable(word: str) -> bool:
            return word in WORDS

        return bind(f"`{kind.title}`", kind.parameters, arguments, place, self.evaluator, self.found.append, separable)

    def _pipeline(self, setting: syntax.Setting) -> tuple[Step, ...]:
        if setting.steps is None:
            example = (
                "augment { pad 4 -> crop 32 -> flip h }"
                if setting.word == "augment"
                else "test { ten_crop 224 -> average }"
            )
            fail("syntax-setting", f"`{setting.word}` is followed by steps in braces", setting.span, hint=example)
        kinds = {kind.word: kind for kind in PIPELINES[setting.word]}
        steps: list[Step] = []
        for step in setting.steps:
            kind = kinds.get(step.word)
            if kind is None:
                hint = did_you_mean(step.word, kinds, "steps are")
                message = f"`{setting.word}` has no step `{step.word}`"
                self.found.append(Diagnostic("name-step", message, step.word_span, hint=hint))
                continue
            bound = self._bind(kind, step.arguments, step.word_span)
            if bound is not None:
                steps.append(Step(step.word, dict(bound.values), step.span))
        return tuple(steps)

    # Schedules

    def _segments(self, setting: syntax.Setting) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for number, segment in enumerate(setting.segments, 1):
            rate = self._converted(segment.rate, real(0.0).convert, "a learning rate of at least 0")
            holds = None
            if segment.duration is not None:
                kind = duration()
                holds = self._converted(segment.duration, kind.convert, kind.description)
            elif number < len(setting.segments):
                fail(
                    "value-schedule",
                    "only the last rate of a schedule may lack its duration",
                    segment.span,
                    hint=f"{show(self.evaluator.evaluate(segment.rate))} for 30e",
                )
            assert isinstance(rate, float)
            assert holds is None or isinstance(holds, Quantity)
            segments.append(Segment(rate, holds))
        return tuple(segments)

    def _converted(self, expression: syntax.Expression, convert: Callable[[Constant], object], what: str) -> object:
        value = self.evaluator.evaluate(expression)
        try:
            return convert(value)
        except ValueError:
            fail("type-argument", f"a schedule takes {what} here, not {show(value)}", expression.span)

    # What concerns several settings

    def _combine(self, fields: dict[str, Any]) -> None:
        optimizer: OptimizerSetting | None = fields.get("optimizer")
        schedule: Schedule = fields.get("schedule", Schedule())
        if schedule.absolute and "optim.lr" in self.spans:
            notes = (Note("the learning rate is given here", self.spans["optim.lr"]),)
            message = "a schedule of absolute rates replaces `lr=`; both are given"
            self.found.append(
                Diagnostic(
                    "value-conflict",
                    message,
                    self.spans["schedule"],
                    notes,
                    "leave out `lr=`, or scale it by another schedule",
                )
            )
        if optimizer is not None:
            if optimizer.nesterov and not optimizer.momentum:
                span = self.spans.get("optim.nesterov")
                self.found.append(
                    Diagnostic("value-conflict", "`nesterov` needs a momentum", span, hint="momentum=0.9 nesterov=yes")
                )
            if not schedule.absolute:
                fields["schedule"] = replace(schedule, base=optimizer.lr)
        data: DataSetting | None = fields.get("data")
        if data is not None and "val" in data.options and "split" in data.options:
            notes = (Note("the other one is here", self.spans["data.split"]),)
            message = "`val=` and `split=` both set images aside for validation; one of them is enough"
            self.found.append(Diagnostic("value-conflict", message, self.spans["data.val"], notes))

    # Search

    def _search(self, search: syntax.Search) -> Search | None:
        methods = ("grid", "random", "bayes")
        before = len(self.found)
        method = search.method.name
        if method not in methods:
            message = f"a search is grid, random or bayes, not `{method}`"
            self.found.append(
                Diagnostic("name-search", message, search.method.span, hint=did_you_mean(method, methods))
            )
        count = self._search_count(search.count, "the number of trials")
        refine = self._search_count(search.refine, "the number of refinements")
        if method == "grid" and search.count is not None:
            self.found.append(
                Diagnostic("type-search", "a grid has no number of trials: its axes give it", search.count.span)
            )
        if method in ("random", "bayes") and search.count is None:
            message = f"`search {method}` needs the number of trials"
            self.found.append(
                Diagnostic("name-missing", message, search.method.span, hint=f"search {method} 30 {{ … }}")
            )
        if not search.axes:
            self.found.append(
                Diagnostic(
                    "name-missing", "a search needs at least one axis", search.span, hint="optim.lr in log(1e-4, 1e-1)"
                )
            )
        axes: list[SearchAxis] = []
        for axis in search.axes:
            try:
                axes.append(self._axis(axis, method))
            except Unknown:
                continue
            except CompileError as error:
                self.found += error.diagnostics
        if len(self.found) > before:
            return None
        return Search(method, count, tuple(axes), refine or 0, search.span)  # type: ignore[arg-type]

    def _search_count(self, expression: syntax.Expression | None, what: str) -> int | None:
        if expression is None:
            return None
        try:
            count = self.evaluator.whole(expression, what)
            if count < 1:
                fail("value-count", f"{what} is at least 1, not {count}", expression.span)
            return count
        except Unknown:
            return None
        except CompileError as error:
            self.found += error.diagnostics
            return None

    def _axis(self, axis: syntax.Axis, method: str) -> SearchAxis:
        check_path(axis.path, axis.path_span)
        expression = axis.values
        if isinstance(expression, syntax.Call) and expression.function in ("log", "uniform"):
            values = tuple(self.evaluator.evaluate(argument) for argument in expression.arguments)
            low, high = (*values, None, None)[:2]
            if len(values) != 2 or not is_number(low) or not is_number(high) or not low < high:  # type: ignore[operator]
                fail("type-search", f"`{expression.function}` takes two bounds, the lower one first", expression.span)
            if expression.function == "log" and low <= 0:  # type: ignore[operator]
                fail("type-search", "a logarithmic axis needs bounds above 0", expression.span)
            if method == "grid":
                fail(
                    "type-search", "a grid needs a list of values on every axis", expression.span, "[1e-3, 1e-2, 1e-1]"
                )
            return SearchAxis(axis.path, "log" if expression.function == "log" else "uniform", values, axis.span)
        if isinstance(expression, syntax.Sequence):
            items = tuple(_word_or_value(item, self.evaluator) for item in expression.items)
        else:
            value = self.evaluator.evaluate(expression)
            items = value if isinstance(value, tuple) else ()
        if not items:
            hint = f"{axis.path} in [0.1, 0.01] or {axis.path} in log(1e-4, 1e-1)"
            fail(
                "type-search",
                "an axis takes a list of values, log(low, high) or uniform(low, high)",
                expression.span,
                hint,
            )
        return SearchAxis(axis.path, "list", items, axis.span)


def _word_or_value(expression: syntax.Expression, evaluator: Evaluator) -> Constant:
    """An item of an axis: a value, or a word such as `adam`."""
    if isinstance(expression, syntax.Name):
        try:
            value = evaluator.scope.find(expression.name)
        except KeyError:
            return expression.name
        assert value is not None
        return value
    return evaluator.evaluate(expression)


def check_path(path: str, span: Span) -> None:
    """Refuse a path that is no setting: `optim.lr`, `batch`."""
    word, _, key = path.partition(".")
    if word not in WORDS:
        fail("name-setting", f"there is no setting `{word}`", span, hint=did_you_mean(word, WORDS, "settings are"))
    keys = {
        parameter.key for kind in BY_WORD.get(word, {}).values() for parameter in kind.parameters if parameter.keyword
    }
    if key and key not in keys:
        hint = did_you_mean(key, sorted(keys), "it has" if keys else None)
        fail("name-setting", f"`{word}` has no argument `{key}`", span, hint=hint)


def _choose(setting: syntax.Setting) -> tuple[SettingKind, tuple[syntax.Argument, ...]]:
    variants = BY_WORD[setting.word]
    if None in variants:
        return variants[None], setting.arguments
    words = [str(word) for word in variants]
    first = setting.arguments[0] if setting.arguments else None
    expression = first.value if first is not None and first.key is None else None
    if isinstance(expression, syntax.Name) and expression.name in variants:
        return variants[expression.name], setting.arguments[1:]
    wanted = f"{', '.join(words[:-1])} or {words[-1]}"
    if expression is None:
        fail("name-variant", f"`{setting.word}` is followed by {wanted}", setting.word_span)
    word = expression.name if isinstance(expression, syntax.Name) else ""
    hint = did_you_mean(word, words) if word else None
    code = "data-kind" if setting.word == "data" else "name-variant"
    shown = f", not `{word}`" if word else ""
    fail(code, f"`{setting.word}` is followed by {wanted}{shown}", expression.span, hint=hint)


# From bound arguments to the fields of TrainSettings

Built = tuple[str, object]


def _data(kind: SettingKind, bound: Bound, span: Span) -> Built:
    given = {key: bound.values[key] for key in bound.spans if key != "path"}
    path = bound.values.get("path")
    assert path is None or isinstance(path, str)
    return "data", DataSetting(str(kind.variant), path, given, _base(bound.spans.get("path", span)), span)


def _initial_weights(kind: SettingKind, bound: Bound, span: Span) -> Built:
    return "init", InitialWeights(**bound.values, base=_base(bound.spans["path"]), span=span)  # type: ignore[arg-type]


def _base(span: Span) -> str:
    return "" if span.file.startswith("--") else os.path.dirname(span.file)


def _optimizer(kind: SettingKind, bound: Bound, span: Span) -> Built:
    return "optimizer", OptimizerSetting(kind.variant, **bound.values, span=span)  # type: ignore[arg-type]


def _schedule(kind: SettingKind, bound: Bound, span: Span) -> Built:
    values = dict(bound.values)
    for key, name in (("max", "maximum"), ("min", "floor")):
        if key in values:
            values[name] = values.pop(key)
    return "schedule", Schedule(kind.variant, **values, span=span)  # type: ignore[arg-type]


def _of(name: str, build: Callable[..., object]) -> Callable[[SettingKind, Bound, Span], Built]:
    def built(kind: SettingKind, bound: Bound, span: Span) -> Built:
        return name, build(**bound.values, span=span)

    return built


def _only(name: str, key: str) -> Callable[[SettingKind, Bound, Span], Built]:
    def built(kind: SettingKind, bound: Bound, span: Span) -> Built:
        return name, bound.values[key]

    return built


_BUILDERS: Mapping[str, Callable[[SettingKind, Bound, Span], Built]] = {
    "data": _data,
    "batch": _only("batch", "size"),
    "epochs": _only("epochs", "count"),
    "seed": _only("seed", "value"),
    "optim": _optimizer,
    "schedule": _schedule,
    "decay": _of("decay", Decay),
    "clip": _only("clip", "norm"),
    "maxnorm": _only("maxnorm", "norm"),
    "class_weights": _only("class_weights", "weights"),
    "precision": _of("precision", Precision),
    "early_stop": _of("early_stop", EarlyStop),
    "init": _initial_weights,
    "ensemble": _of("ensemble", Ensemble),
    "checkpoint": _of("checkpoint", Checkpoint),
}
