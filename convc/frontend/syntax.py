"""The syntax tree of a `.cnn` file: what was written, with the place of every piece, and nothing resolved yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from convc.ir.span import Span

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**options: bool) -> Any:
        """What type checkers read; at run time it does nothing."""
        return lambda node: node


@dataclass_transform(frozen_default=True, eq_default=False)
class Node:
    """A frozen dataclass in all but cost: made by the real decorator, these classes would take 25 ms of every start."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.fields = tuple(cls.__annotations__)

    def __init__(self, *values: object, **named: object) -> None:
        self.__dict__.update(zip(self.fields, values), **named)  # noqa: B905 - fields with defaults may be left out

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.fields if not name.endswith("span"))
        return f"{type(self).__name__}({shown})"


# Expressions


class Number(Node):
    """`3`, `0.5`, `1e-4`; whole literals are integers."""

    value: int | float
    span: Span


class Duration(Node):
    """`80e` (epochs) or `500s` (steps)."""

    value: int | float
    unit: str
    span: Span


class Dimensions(Node):
    """`3x224x224`, a tuple of integers."""

    values: tuple[int, ...]
    span: Span


class Text(Node):
    """A string; `parts` differ from the plain text only in the message of an `assert`, where `{expr}` is allowed."""

    value: str
    span: Span
    parts: tuple[str | Expression, ...] = ()


class Boolean(Node):
    """`yes` or `no`."""

    value: bool
    span: Span


class Name(Node):
    """A constant, or an argument word such as `same`: the argument decides."""

    name: str
    span: Span


class Channels(Node):
    """`in`, the current number of channels."""

    span: Span


class Call(Node):
    """`min(a, b)`."""

    function: str
    arguments: tuple[Expression, ...]
    span: Span
    function_span: Span


class Index(Node):
    """`xs[i]`."""

    base: Expression
    index: Expression
    span: Span


class Unary(Node):
    """`-x`, `+x`, `not x`."""

    operator: str
    operand: Expression
    span: Span


class Binary(Node):
    """Arithmetic, comparison, `and`, `or`."""

    operator: str
    left: Expression
    right: Expression
    span: Span
    operator_span: Span


class Conditional(Node):
    """`a if c else b`."""

    condition: Expression
    then: Expression
    otherwise: Expression
    span: Span


class Sequence(Node):
    """A tuple `(a, b)` or a list `[a, b]`."""

    items: tuple[Expression, ...]
    span: Span


Expression = (
    Number
    | Duration
    | Dimensions
    | Text
    | Boolean
    | Name
    | Channels
    | Call
    | Index
    | Unary
    | Binary
    | Conditional
    | Sequence
)


# Statements


class Argument(Node):
    """A positional argument (`key` is None) or `key=value`."""

    key: str | None
    value: Expression
    span: Span


class Reference(Node):
    """A named value, `x` or `skip[i]`."""

    name: str
    index: Expression | None
    span: Span


class Apply(Node):
    """A layer or a block applied to the current value."""

    word: str
    arguments: tuple[Argument, ...]
    span: Span
    word_span: Span


class Let(Node):
    name: str
    value: Expression
    span: Span
    name_span: Span


class Assert(Node):
    condition: Expression
    message: Text | None
    span: Span


class Body(Node):
    """Statements between braces."""

    statements: tuple[Statement, ...]
    span: Span


class Repeat(Node):
    count: Expression
    body: Body
    span: Span


class For(Node):
    """`for c, n in …`; with `stop` the values are the integers from `values` to before `stop`."""

    names: tuple[Name, ...]
    values: Expression
    stop: Expression | None
    body: Body
    span: Span


class If(Node):
    """`branches` are (condition, body); a chain of `else if` is one statement."""

    branches: tuple[tuple[Expression, Body], ...]
    otherwise: Body | None
    span: Span


class As(Node):
    """`as NAME` standing alone, or after the statement whose result it names."""

    target: Reference
    span: Span


class From(Node):
    source: Reference
    span: Span


class Join(Node):
    """`add`, `mul` or `concat` of named values with the current one."""

    word: str
    sources: tuple[Reference, ...]
    arguments: tuple[Argument, ...]
    span: Span
    word_span: Span


class Residual(Node):
    """`skip` is "identity", "auto" or a body."""

    body: Body
    skip: Body | str
    span: Span
    word_span: Span


class Concat(Node):
    """`concat { branch { … } … }`."""

    branches: tuple[Body, ...]
    span: Span
    word_span: Span


class Aux(Node):
    body: Body
    span: Span
    word_span: Span


class Shared(Node):
    name: str
    body: Body
    span: Span
    name_span: Span


class Reuse(Node):
    name: str
    span: Span
    name_span: Span


Statement = Apply | Let | Assert | Repeat | For | If | As | From | Join | Residual | Concat | Aux | Shared | Reuse


# Items of a file


class Parameter(Node):
    """A parameter of a net or block."""

    name: str
    default: Expression | None
    span: Span


class Definition(Node):
    """A `net` or a `block`."""

    kind: str
    name: str
    parameters: tuple[Parameter, ...]
    body: Body
    span: Span
    name_span: Span


class Use(Node):
    path: str
    span: Span
    path_span: Span


class Segment(Node):
    """`0.1 for 80e`, a piece of a schedule of absolute rates."""

    rate: Expression
    duration: Expression | None
    span: Span


class Setting(Node):
    """One line of `train`: arguments, or the segments of a schedule, or the steps of a pipeline."""

    word: str
    arguments: tuple[Argument, ...]
    segments: tuple[Segment, ...]
    steps: tuple[Apply, ...] | None
    span: Span
    word_span: Span


class Train(Node):
    settings: tuple[Setting, ...]
    span: Span


class Axis(Node):
    """`optim.lr in log(1e-4, 1e-1)`."""

    path: str
    values: Expression
    span: Span
    path_span: Span


class Search(Node):
    method: Name
    count: Expression | None
    axes: tuple[Axis, ...]
    refine: Expression | None
    span: Span


class File(Node):
    """All items of one file, in the order of the text."""

    name: str
    uses: tuple[Use, ...]
    lets: tuple[Let, ...]
    definitions: tuple[Definition, ...]
    trains: tuple[Train, ...]
    searches: tuple[Search, ...]
    tokens: int = 0  # how many there are, the measure of its size


Item = Use | Let | Definition | Train | Search


def same_syntax(one: File, other: File) -> bool:
    """Whether two files say the same, wherever in their texts, and whatever they are called."""
    pending: list[tuple[object, object]] = [
        (getattr(one, name), getattr(other, name)) for name in File.fields if name not in ("name", "tokens")
    ]
    while pending:
        left, right = pending.pop()
        if type(left) is not type(right):
            return False
        if isinstance(left, tuple) and isinstance(right, tuple):
            if len(left) != len(right):
                return False
            pending.extend(zip(left, right, strict=True))
        elif isinstance(left, Node):
            names = [name for name in left.fields if not name.endswith("span")]
            pending.extend((getattr(left, name), getattr(right, name)) for name in names)
        elif left != right:
            return False
    return True
