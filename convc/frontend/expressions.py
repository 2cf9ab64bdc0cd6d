"""The values of expressions. Integers stay exact, a whole-valued quotient is an integer, and every error has a place.

Tuples and lists are one kind of value (a Python tuple). Work and sizes are budgeted: see `limits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import NoReturn, TypeGuard, Union

from convc.frontend import syntax
from convc.frontend.hints import did_you_mean, shape_text
from convc.frontend.limits import DEFAULT_LIMITS, Limits, raised
from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.ir.span import Span
from convc.lazy import dataclass


@dataclass(frozen=True)
class Quantity:
    """A duration: `80e` is 80 epochs, `500s` are 500 steps."""

    value: int | float
    unit: str

    def __str__(self) -> str:
        return f"{self.value}{self.unit}"


Number = int | float
Constant = Union[int, float, bool, str, Quantity, "tuple[Constant, ...]"]


class Unknown(Exception):
    """The value depends on something that has failed already, and been reported."""


@dataclass
class Budget:
    """Counts the work of one elaboration; raises `OverBudget` when a limit is passed."""

    limits: Limits = DEFAULT_LIMITS
    steps: int = 0
    evaluations: int = 0

    def step(self, span: Span, count: int = 1) -> None:
        """Account for `count` statements that are about to be carried out."""
        self.steps += count
        if self.steps > self.limits.steps:
            raise OverBudget("steps", f"more than {self.limits.steps:,} statements would be carried out", span)

    def evaluate(self, span: Span, count: int = 1) -> None:
        """Account for `count` operators, operands or items of lists."""
        self.evaluations += count
        if self.evaluations > self.limits.evaluations:
            raise OverBudget("evaluations", f"more than {self.limits.evaluations:,} operations in expressions", span)


class OverBudget(CompileError):
    """The file asks for more work than the limit of this name allows; elaboration ends here."""

    def __init__(self, limit: str, message: str, span: Span) -> None:
        super().__init__([Diagnostic("budget-work", message, span, hint=_endless(limit))])


def _endless(limit: str) -> str:
    if limit in ("steps", "depth", "evaluations"):
        return f"the limit guards against endless loops and recursion; `--limit {limit}=N` changes it"
    return raised(limit)


class Scope:
    """Constants by name, those of inner bodies first; `None` as a value means that its definition failed."""

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.constants: dict[str, Constant | None] = {}

    def find(self, name: str) -> Constant | None:
        """The constant; raises KeyError where there is none, `Unknown` where its definition failed."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.constants:
                value = scope.constants[name]
                if value is None:
                    raise Unknown
                return value
            scope = scope.parent
        raise KeyError(name)

    def names(self) -> list[str]:
        """All constants in sight."""
        return list(self.constants) + (self.parent.names() if self.parent else [])


def no_channels(span: Span) -> int:
    """What `in` means where there is no current value."""
    fail("name-channels", "`in` is the number of channels of the current value; there is none here", span)


@dataclass
class Evaluator:
    """Evaluates expressions in a scope; `channels` gives the meaning of `in`."""

    scope: Scope = field(default_factory=Scope)
    channels: Callable[[Span], int] = no_channels
    budget: Budget = field(default_factory=Budget)

    def evaluate(self, expression: syntax.Expression) -> Constant:
        """The value of an expression; raises `CompileError`, or `Unknown` after an error reported before."""
        self.budget.evaluate(expression.span)
        match expression:
            case syntax.Number() | syntax.Boolean() | syntax.Text():
                return expression.value
            case syntax.Name():
                return self._name(expression)
            case syntax.Binary():
                return self._binary(expression)
            case syntax.Unary():
                return self._unary(expression)
            case syntax.Channels():
                return self.channels(expression.span)
            case syntax.Call():
                return self._call(expression)
            case syntax.Dimensions():
                return expression.values
            case syntax.Duration():
                return Quantity(expression.value, expression.unit)
            case syntax.Sequence():
                return self._sequence(expression)
            case syntax.Index():
                return self._index(expression)
            case syntax.Conditional():
                return self.evaluate(expression.then if self.truth(expression.condition) else expression.otherwise)

    def truth(self, expression: syntax.Expression) -> bool:
        """The value of a condition."""
        value = self.evaluate(expression)
        if not isinstance(value, bool):
            fail(
                "type-condition",
                f"a condition is yes or no, not {show(value)}",
                expression.span,
                hint="compare it: n > 0",
            )
        return value

    def number(self, expression: syntax.Expression) -> Number:
        value = self.evaluate(expression)
        if not is_number(value):
            fail("type-number", f"a number is needed here, not {show(value)}", expression.span)
        return value

    def whole(self, expression: syntax.Expression, what: str) -> int:
        """A whole number; `what` names it in the error."""
        value = self.evaluate(expression)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        fail("type-number", f"{what} is a whole number, not {show(value)}", expression.span)

    def _name(self, expression: syntax.Name) -> Constant:
        try:
            value = self.scope.find(expression.name)
        except KeyError:
            hint = did_you_mean(expression.name, [*self.scope.names(), *FUNCTIONS])
            if expression.name in FUNCTIONS:
                hint = f"{expression.name} is a function: {expression.name}(…)"
            fail("name-constant", f"`{expression.name}` is not defined here", expression.span, hint=hint)
        assert value is not None
        return value

    def _unary(self, expression: syntax.Unary) -> Constant:
        if expression.operator == "not":
            return not self.truth(expression.operand)
        value = self.number(expression.operand)
        return -value if expression.operator == "-" else value

    def _binary(self, expression: syntax.Binary) -> Constant:
        # The left spine is walked, not recursed into: `1 + 1 + …` may be long, though never deep.
        spine = [expression]
        while isinstance(spine[-1].left, syntax.Binary):
            spine.append(spine[-1].left)
            self.budget.evaluate(expression.span)
        left = self.evaluate(spine[-1].left)
        while spine:
            node = spine.pop()
            left = self._apply(node, left)
        return left

    def _apply(self, node: syntax.Binary, left: Constant) -> Constant:
        operator = node.operator
        if operator in ("and", "or"):
            if not isinstance(left, bool):
                fail("type-condition", f"`{operator}` joins conditions, not {show(left)}", node.left.span)
            return self.truth(node.right) if left == (operator == "and") else left
        right = self.evaluate(node.right)
        if operator in ("==", "!="):
            if isinstance(left, tuple):
                self.budget.evaluate(node.span, extent_of(left)[0])
            return _equal(left, right) == (operator == "==")
        if not is_number(left) or not is_number(right):
            wrong = node.right if is_number(left) else node.left
            value = right if is_number(left) else left
            fail("type-number", f"`{operator}` needs numbers, not {show(value)}", wrong.span)
        if operator in _ORDER:
            return _ORDER[operator](left, right)
        return self._arithmetic(node, left, right)

    def _arithmetic(self, node: syntax.Binary, left: Number, right: Number) -> Number:
        operator, bits = node.operator, self.budget.limits.integer_bits
        if right == 0 and operator in ("/", "//", "%"):
            fail("value-division", "division by zero", node.operator_span)
        try:
            if operator == "/":
                return quotient(left, right)
            if operator == "**":
                return _power(left, right, bits, node.span)
            result = _ARITHMETIC[operator](left, right)
        except (OverflowError, ZeroDivisionError):
            _out_of_range(node.span)
        return _in_range(result, bits, node.span)

    def _sequence(self, expression: syntax.Sequence) -> Constant:
        """A list or tuple. What is in it counts as work: lists of lists grow faster than the text that makes them."""
        items = tuple(self.evaluate(item) for item in expression.items)
        size, depth = extent_of(items)
        self.budget.evaluate(expression.span, size)
        if depth > self.budget.limits.nesting:
            fail("value-range", f"lists are nested deeper than {self.budget.limits.nesting}", expression.span)
        return items

    def _call(self, expression: syntax.Call) -> Constant:
        function = FUNCTIONS.get(expression.function)
        if function is None:
            hint = did_you_mean(expression.function, FUNCTIONS, "functions are")
            fail("name-function", f"there is no function `{expression.function}`", expression.function_span, hint=hint)
        values = [self.evaluate(argument) for argument in expression.arguments]
        self.budget.evaluate(expression.span, sum(len(value) for value in values if isinstance(value, tuple)))
        try:
            result = function(values)
        except (ValueError, OverflowError, TypeError) as error:
            message = f"{expression.function}({', '.join(map(show, values))}): {error}"
            fail("value-function", message, expression.span)
        return _in_range(result, self.budget.limits.integer_bits, expression.span) if is_number(result) else result

    def _index(self, expression: syntax.Index) -> Constant:
        base = self.evaluate(expression.base)
        if not isinstance(base, tuple):
            fail("type-index", f"only a list or a tuple can be indexed, not {show(base)}", expression.base.span)
        index = self.whole(expression.index, "an index")
        if not -len(base) <= index < len(base):
            fail(
                "value-index",
                f"index {index} is outside of {show(base)}, which has {len(base)} items",
                expression.index.span,
            )
        return base[index]

    def message(self, text: syntax.Text) -> str:
        """The message of an `assert`, its `{expr}` replaced by values."""
        parts = [part if isinstance(part, str) else plain(self.evaluate(part)) for part in text.parts]
        return "".join(parts)


def is_number(value: object) -> TypeGuard[Number]:
    """Integers and floats; booleans are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def quotient(left: Number, right: Number) -> Number:
    """left / right, exact as an integer where it is whole."""
    if isinstance(left, int) and isinstance(right, int):
        return left // right if left % right == 0 else left / right
    result = left / right
    return int(result) if math.isfinite(result) and result.is_integer() else result


def plain(value: Constant) -> str:
    """A value as the text of a message, strings without quotes."""
    return value if isinstance(value, str) else show(value)


def extent_of(value: tuple[Constant, ...]) -> tuple[int, int]:
    """How many items a list has, those of lists in it included, and how deep these are nested."""
    size, depth = 0, 0
    pending: list[tuple[tuple[Constant, ...], int]] = [(value, 1)]
    while pending:
        items, level = pending.pop()
        size, depth = size + len(items), max(depth, level)
        pending += [(item, level + 1) for item in items if isinstance(item, tuple)]
    return size, depth


def show(value: Constant) -> str:
    """A value as it would be written in the language, long ones shortened."""
    if isinstance(value, str):
        return _quoted(value if len(value) <= 80 else value[:80] + "…")
    if isinstance(value, tuple):
        if len(value) == 1:
            return f"[{show(value[0])}]"
        most = 20 if extent_of(value)[0] <= 100 else 3
        items = [show(item) if most == 20 or not isinstance(item, tuple) else "(…)" for item in value[:most]]
        return f"({', '.join(items + ['…'] * (len(value) > most))})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(value: Constant) -> str:
    """A value as text that reads as the same value."""
    if isinstance(value, tuple):
        if len(value) >= 2 and all(
            isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
        ):
            return shape_text(item for item in value if isinstance(item, int))
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        return _quoted(value)
    return str(value) if is_number(value) else show(value)


def _equal(left: Constant, right: Constant) -> bool:
    # In Python True == 1; here a condition is never a number.
    return isinstance(left, bool) == isinstance(right, bool) and left == right


_ORDER: dict[str, Callable[[Number, Number], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[Number, Number], Number]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}


def _power(base: Number, exponent: Number, bits: int, span: Span) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if abs(base) > 1 and base.bit_length() * exponent > bits + exponent:
            _out_of_range(span)
        return _in_range(base**exponent, bits, span)
    if base == 0 and exponent < 0:
        fail("value-division", "zero has no negative power", span)
    result = float(base) ** exponent
    if isinstance(result, complex):
        fail("value-range", f"{show(base)} has no power {show(exponent)}", span)
    return _in_range(result, bits, span)


def _in_range(value: Constant, bits: int, span: Span) -> Number:
    assert isinstance(value, (int, float))
    if (isinstance(value, int) and value.bit_length() > bits) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        _out_of_range(span)
    return value


def _out_of_range(span: Span) -> NoReturn:
    fail("value-range", "the result is beyond the range of numbers", span)


# Functions


def _numbers(values: list[Constant]) -> list[Number]:
    items = values[0] if len(values) == 1 and isinstance(values[0], tuple) else values
    numbers = [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]
    if not numbers or len(numbers) != len(items):
        raise ValueError("it takes numbers")
    return numbers


def _one(values: list[Constant]) -> Number:
    if len(values) != 1 or isinstance(values[0], tuple):
        raise ValueError("it takes one number")
    return _numbers(values)[0]


def _length(values: list[Constant]) -> int:
    if len(values) != 1 or not isinstance(values[0], (tuple, str)):
        raise ValueError("it takes a list or a tuple")
    return len(values[0])


def _logarithm(values: list[Constant]) -> float:
    value = _one(values)
    if value <= 0:
        raise ValueError("only positive numbers have a logarithm")
    return math.log(value)


def _root(values: list[Constant]) -> Number:
    value = _one(values)
    if value < 0:
        raise ValueError("negative numbers have no root")
    root = math.sqrt(value)
    return int(root) if root.is_integer() and int(root) ** 2 == value else root


FUNCTIONS: dict[str, Callable[[list[Constant]], Constant]] = {
    "min": lambda values: min(_numbers(values)),
    "max": lambda values: max(_numbers(values)),
    "ceil": lambda values: math.ceil(_one(values)),
    "floor": lambda values: math.floor(_one(values)),
    "round": lambda values: round(_one(values)),
    "log": _logarithm,
    "sqrt": _root,
    "len": _length,
}
