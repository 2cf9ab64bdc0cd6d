"""Arguments against a signature: positional ones first, then `key=value`, each given once and of the right kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from convc.frontend import syntax
from convc.frontend.expressions import FUNCTIONS, Constant, Evaluator, OverBudget, Unknown, show
from convc.frontend.hints import did_you_mean, plural
from convc.frontend.kinds import TEXT, Kind, Plain, TooLarge
from convc.frontend.statement_parser import SEPARATOR_HINT
from convc.ir.diagnostic import CompileError, Diagnostic, Note
from convc.ir.span import Span
from convc.lazy import dataclass


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class Parameter:
    """One argument that a layer or a setting takes. Positional ones come in the order of their signature."""

    key: str
    kind: Kind
    default: Plain = REQUIRED
    doc: str = ""
    positional: bool = False
    keyword: bool = True  # whether `key=value` is allowed
    long: str | None = None  # a second, longer spelling of the key


@dataclass(frozen=True)
class Bound:
    """Arguments by key, defaults filled in; `spans` holds those that were given."""

    values: Mapping[str, Plain]
    spans: Mapping[str, Span] = field(default_factory=dict[str, Span])


Report = Callable[[Diagnostic], None]


def bind(
    title: str,
    parameters: Sequence[Parameter],
    arguments: Sequence[syntax.Argument],
    place: Span,
    evaluator: Evaluator,
    report: Report,
    separable: Callable[[str], bool],
) -> Bound | None:
    """Match arguments with parameters. All errors are reported; None if a needed value is missing or unknown.

    `title` is what messages call the layer, `place` where it stands; `separable(word)` tells whether a surplus word
    looks like the beginning of the next statement.
    """
    return _Binder(title, parameters, place, evaluator, report, separable).bind(arguments)


# What a number behind a word probably means, to those who know another framework.
_MEANT = {"linear": "the fully connected layer is `fc N`; `linear` is the identity"}


class _Binder:
    def __init__(
        self,
        title: str,
        parameters: Sequence[Parameter],
        place: Span,
        evaluator: Evaluator,
        report: Report,
        separable: Callable[[str], bool],
    ) -> None:
        self.title = title
        self.place = place
        self.evaluator = evaluator
        self.report = report
        self.separable = separable
        self.parameters = parameters
        self.positional = [parameter for parameter in parameters if parameter.positional]
        self.keys = {key: p for p in parameters if p.keyword for key in (p.key, p.long) if key is not None}
        self.values: dict[str, Plain] = {}
        self.spans: dict[str, Span] = {}
        self.failed = False
        self.misplaced = False  # an argument was given that belongs nowhere: it may be the one that is missing

    def bind(self, arguments: Sequence[syntax.Argument]) -> Bound | None:
        count = 0
        keyword_seen = False
        for argument in arguments:
            if argument.key is not None:
                keyword_seen = True
                self._keyword(argument)
            elif keyword_seen or count >= len(self.positional) or self._begins_a_setting(argument, count):
                self._surplus(argument, keyword_seen and count < len(self.positional))
                break  # what follows belongs to the forgotten statement
            else:
                self._take(self.positional[count], argument)
                count += 1
        for parameter in self.parameters:
            if parameter.key not in self.values and parameter.key not in self.spans:
                if parameter.default is REQUIRED:
                    self._missing(parameter)
                self.values[parameter.key] = parameter.default
        return None if self.failed else Bound(self.values, self.spans)

    def _error(
        self, code: str, message: str, span: Span, hint: str | None = None, notes: tuple[Note, ...] = ()
    ) -> None:
        self.report(Diagnostic(code, message, span, notes, hint))

    def _keyword(self, argument: syntax.Argument) -> None:
        key = str(argument.key)
        parameter = self.keys.get(key)
        if parameter is None:
            self.misplaced = True
            shown = [p.key for p in self.keys.values()]
            hint = did_you_mean(key, self.keys, "it takes" if shown else None)
            self._error("name-argument", f"{self.title} has no argument `{key}`", argument.span, hint)
        else:
            self._take(parameter, argument)

    def _take(self, parameter: Parameter, argument: syntax.Argument) -> None:
        first = self.spans.get(parameter.key)
        if first is not None:
            notes = (Note("given here before", first),)
            self._error("name-repeated", f"{self.title} is given `{parameter.key}` twice", argument.span, notes=notes)
            return
        self.spans[parameter.key] = argument.span
        try:
            self.values[parameter.key] = self._value(parameter, argument)
        except Unknown:
            self.failed = True
        except OverBudget:
            raise
        except CompileError as error:
            self.failed = True
            for diagnostic in error.diagnostics:
                self.report(diagnostic)

    def _value(self, parameter: Parameter, argument: syntax.Argument) -> Plain:
        kind, expression = parameter.kind, argument.value
        try:
            if isinstance(expression, syntax.Name) and (kind.identifier or expression.name in kind.words):
                return kind.convert(expression.name)
            if isinstance(expression, syntax.Call) and expression.function in kind.calls:
                return kind.calls[expression.function](tuple(map(self.evaluator.evaluate, expression.arguments)))
        except ValueError:
            raise self._mismatch(parameter, argument, None) from None
        value = self._evaluated(parameter, argument)
        try:
            return kind.convert(value)
        except ValueError as error:
            remark = str(error) if isinstance(error, TooLarge) else ""
            raise self._mismatch(parameter, argument, value, remark) from None

    def _evaluated(self, parameter: Parameter, argument: syntax.Argument) -> Constant:
        kind, expression = parameter.kind, argument.value
        if isinstance(expression, syntax.Name) and (kind.words or kind is TEXT):
            try:
                value = self.evaluator.scope.find(expression.name)
            except KeyError:
                hint = SEPARATOR_HINT if self.separable(expression.name) else did_you_mean(expression.name, kind.words)
                hint = f'"{expression.name}"' if kind is TEXT else hint
                message = f"{self._label(parameter, argument)} takes {kind.description}, not `{expression.name}`"
                raise CompileError([Diagnostic("type-argument", message, argument.span, hint=hint)]) from None
            assert value is not None
            return value
        if isinstance(expression, syntax.Call) and kind.calls and expression.function not in FUNCTIONS:
            hint = did_you_mean(expression.function, (*kind.words, *kind.calls))
            message = f"{self._label(parameter, argument)} takes {kind.description}, not `{expression.function}`"
            raise CompileError([Diagnostic("type-argument", message, expression.function_span, hint=hint)])
        # `pool max -2` reads as a subtraction, `pool max(3, 3)` as a call.
        leading = expression
        while isinstance(leading, syntax.Binary):
            leading = leading.left
        if isinstance(leading, (syntax.Name, syntax.Call)):
            word = leading.name if isinstance(leading, syntax.Name) else leading.function
            if (word in kind.words and leading is not expression) or (
                word in kind.words and isinstance(leading, syntax.Call)
            ):
                message = f"{self._label(parameter, argument)} takes {kind.description}; this reads as a calculation"
                hint = f"put a space after `{word}`, and no sign before what follows"
                raise CompileError([Diagnostic("type-argument", message, argument.span, hint=hint)])
        return self.evaluator.evaluate(expression)

    def _label(self, parameter: Parameter, argument: syntax.Argument) -> str:
        if argument.key is not None:
            return f"`{argument.key}` of {self.title}"
        return self.title if len(self.positional) == 1 else f"{self.title} ({parameter.doc or parameter.key})"

    def _mismatch(
        self, parameter: Parameter, argument: syntax.Argument, value: Constant | None, remark: str = ""
    ) -> CompileError:
        shown = f", not {show(value)}" if value is not None else ""
        message = f"{self._label(parameter, argument)} takes {parameter.kind.description}{shown}{remark}"
        return CompileError([Diagnostic("type-argument", message, argument.span)])

    def _surplus(self, argument: syntax.Argument, late: bool) -> None:
        expression = argument.value
        word = expression.name if isinstance(expression, syntax.Name) else None
        if isinstance(expression, syntax.Call):
            word = expression.function
        if word is not None and self.separable(word):
            message = f"{self.title} takes no `{word}`"
            self._error("name-surplus", message, argument.span, SEPARATOR_HINT.replace("it", f"`{word}`"))
        elif late:
            self.misplaced = True
            self._error("name-surplus", "positional arguments stand before key=value", argument.span)
        else:
            takes = plural(len(self.positional), "positional argument") if self.positional else "no positional argument"
            keys = [p.key for p in self.parameters if p.keyword and not p.positional]
            hint = f"write key=value: {', '.join(keys[:8])}" if keys else None
            hint = _MEANT.get(self.title, hint)
            self._error("name-surplus", f"{self.title} takes {takes}; this is one too many", argument.span, hint)

    def _begins_a_setting(self, argument: syntax.Argument, count: int) -> bool:
        """Whether a bare word stands where a path in quotes may be left out: `data mnist batch 64`."""
        optional = self.positional[count].default is not REQUIRED and self.positional[count].kind is TEXT
        return optional and isinstance(argument.value, syntax.Name) and self.separable(argument.value.name)

    def _missing(self, parameter: Parameter) -> None:
        self.failed = True
        if self.misplaced:
            return
        if parameter.positional:
            what = parameter.doc or f"a value for `{parameter.key}`"
        else:
            what = f"`{parameter.key}=`: {parameter.doc}"
        self._error("name-missing", f"{self.title} needs {what}", self.place)
