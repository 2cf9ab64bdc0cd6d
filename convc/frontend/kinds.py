"""Kinds of argument: what a value must be, in words and as a check. Layers and settings draw on the same list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from convc.frontend.expressions import Constant, Quantity, is_number
from convc.frontend.limits import DEFAULT_LIMITS
from convc.ir.window import Pair, Sides
from convc.lazy import dataclass

Plain = object  # what an argument becomes: int, float, str, tuple, Quantity, InitialValue …


@dataclass(frozen=True)
class InitialValue:
    """An initialiser as written: `he`, `gauss(0.01)`."""

    kind: str
    value: float = 0.0


@dataclass(frozen=True)
class Kind:
    """`description` completes "takes …". `words` win over constants, `calls` are functions of this argument only.

    `convert` raises ValueError for a value that does not fit; it is given words as strings. `identifier`: any bare word
    is taken as it is. `numbers`: the only ones that fit, where they are few.
    """

    description: str
    convert: Callable[[Constant], Plain]
    words: tuple[str, ...] = ()
    calls: Mapping[str, Callable[[tuple[Constant, ...]], Plain]] = field(
        default_factory=dict[str, "Callable[[tuple[Constant, ...]], Plain]"]
    )
    identifier: bool = False
    numbers: tuple[int, ...] = ()


class TooLarge(ValueError):
    """A whole number beyond what any layer or setting can hold."""

    def __init__(self, maximum: int) -> None:
        super().__init__(f"; {maximum:,} is the most" if maximum >= DEFAULT_LIMITS.extent else "")


def _whole(value: Constant, minimum: int, maximum: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError
    if value > maximum:
        raise TooLarge(maximum)
    return value


def whole(minimum: int = 1, maximum: int = DEFAULT_LIMITS.extent) -> Kind:
    """A whole number (a float with a whole value will do)."""
    bound = f" of at least {minimum}" if maximum >= DEFAULT_LIMITS.extent else f" from {minimum} to {maximum}"
    return Kind(f"a whole number{bound}", lambda value: _whole(value, minimum, maximum))


def real(
    minimum: float | None = None, maximum: float | None = None, *, above: bool = False, below: bool = False
) -> Kind:
    """A number within bounds; `above` and `below` exclude the bound itself."""
    limits: list[str] = []
    if minimum is not None:
        limits.append(f"{'above' if above else 'of at least'} {minimum:g}")
    if maximum is not None:
        limits.append(f"{'below' if below else 'at most'} {maximum:g}")
    text = " and ".join(limits)

    def convert(value: Constant) -> float:
        return _real(value, minimum, maximum, above, below)

    return Kind(f"a number {text}" if text else "a number", convert)


def _real(value: Constant, minimum: float | None, maximum: float | None, above: bool, below: bool) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError
    number = float(value)
    too_small = minimum is not None and (number <= minimum if above else number < minimum)
    too_large = maximum is not None and (number >= maximum if below else number > maximum)
    if too_small or too_large:
        raise ValueError
    return number


def pair(minimum: int = 1) -> Kind:
    """One number or a pair (vertical, horizontal)."""

    def convert(value: Constant) -> Pair:
        items = value if isinstance(value, tuple) else (value, value)
        if len(items) != 2:
            raise ValueError
        return _whole(items[0], minimum, _EXTENT), _whole(items[1], minimum, _EXTENT)

    return Kind(f"a whole number of at least {minimum} or a pair (h, w)", convert)


def _padding(value: Constant) -> Sides:
    items = value if isinstance(value, tuple) else (value, value)
    if len(items) == 2:
        items = (*items, *items)
    if len(items) != 4:
        raise ValueError
    top, left, bottom, right = (_whole(item, 0, _EXTENT) for item in items)
    return top, left, bottom, right


def _boolean(value: Constant) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def choice(*words: str) -> Kind:
    """One of a few words; a constant may hold it as a string."""

    def convert(value: Constant) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError
        return value

    return Kind(_alternatives(words), convert, words)


def one_of(*numbers: int) -> Kind:
    """One of a few whole numbers."""

    def convert(value: Constant) -> int:
        number = _whole(value, min(numbers), max(numbers))
        if number not in numbers:
            raise ValueError
        return number

    return Kind(_alternatives(tuple(map(str, numbers))), convert, numbers=numbers)


def number_or(kind: Kind, *words: str) -> Kind:
    """What `kind` takes, or one of the words."""

    def convert(value: Constant) -> Plain:
        return value if isinstance(value, str) and value in words else kind.convert(value)

    return Kind(f"{kind.description}, or {_alternatives(words)}", convert, (*kind.words, *words), kind.calls)


def _alternatives(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _text(value: Constant) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _numbers(value: Constant) -> tuple[float, ...]:
    items = value if isinstance(value, tuple) else (value,)
    numbers = tuple(float(item) for item in items if isinstance(item, (int, float)) and not isinstance(item, bool))
    if not numbers or len(numbers) != len(items):
        raise ValueError
    return numbers


def numbers(minimum: float | None = None, *, above: bool = False) -> Kind:
    """A number or a list of numbers; the result is always a tuple."""
    bound = "" if minimum is None else f" {'above' if above else 'of at least'} {minimum:g}"

    def convert(value: Constant) -> tuple[float, ...]:
        return tuple(_real(item, minimum, None, above, False) for item in _numbers(value))

    return Kind(f"a number or a list of numbers{bound}", convert)


def _shape(value: Constant) -> tuple[int, int, int]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise ValueError
    channels, height, width = (_whole(item, 1, _EXTENT) for item in value)
    return channels, height, width


def duration(minimum: int = 1) -> Kind:
    """`30e`, `500s`; a plain number counts epochs."""

    def convert(value: Constant) -> Quantity:
        quantity = value if isinstance(value, Quantity) else Quantity(_whole(value, minimum, _EXTENT), "e")
        if quantity.value < minimum and not (quantity.unit == "e" and quantity.value > 0):
            raise ValueError
        return quantity

    return Kind("a duration such as 30e (epochs) or 500s (steps)", convert)


def _range(value: Constant) -> tuple[float, float]:
    items = value if isinstance(value, tuple) else (value, value)
    if len(items) != 2 or not all(map(is_number, items)):
        raise ValueError
    low, high = _numbers(items)
    if not 0 < low <= high:
        raise ValueError
    return low, high


def _initial_call(kind: str, minimum: float | None) -> Callable[[tuple[Constant, ...]], InitialValue]:
    def build(values: tuple[Constant, ...]) -> InitialValue:
        if len(values) != 1:
            raise ValueError
        return InitialValue(kind, _real(values[0], minimum, None, False, False))

    return build


def _no_value(value: Constant) -> InitialValue:
    if isinstance(value, str) and value in _INITIAL_WORDS:
        return InitialValue(value)
    raise ValueError


_EXTENT = DEFAULT_LIMITS.extent
_INITIAL_WORDS = ("he", "xavier", "zeros", "orthogonal")

BOOLEAN = Kind("yes or no", _boolean)
TEXT = Kind("a string in double quotes", _text)
PADDING = number_or(Kind("a number, a pair (h, w), (top, left, bottom, right)", _padding), "same")
SHAPE = Kind("a shape CxHxW such as 1x28x28", _shape)
RANGE = Kind("a number above 0 or a pair (low, high)", _range)
IDENTIFIER = Kind("a name", _text, identifier=True)
INITIAL = Kind(
    "he, xavier, zeros, orthogonal, const(v), gauss(std) or uniform(a)",
    _no_value,
    _INITIAL_WORDS,
    {
        "const": _initial_call("const", None),
        "gauss": _initial_call("gauss", 0.0),
        "uniform": _initial_call("uniform", 0.0),
    },
)
