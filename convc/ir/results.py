"""What a graph gives back: values by name, and which names a value has without a search for them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convc.ir.graph import Value


class Results(MutableMapping[str, "Value"]):
    """A dictionary from names to values, in the order in which the names came, that also knows the way back."""

    def __init__(self, entries: Mapping[str, Value] | Iterable[tuple[str, Value]] = ()) -> None:
        self._values: dict[str, Value] = {}
        self._names: dict[Value, dict[str, None]] = {}
        self.update(entries)

    def names_of(self, value: Value) -> tuple[str, ...]:
        """The names under which a value is given back; none for most."""
        return tuple(self._names.get(value, ()))

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __setitem__(self, name: str, value: Value) -> None:
        if name in self._values:
            self._forget(name)
        self._values[name] = value
        self._names.setdefault(value, {})[name] = None

    def __delitem__(self, name: str) -> None:
        self._forget(name)
        del self._values[name]

    def _forget(self, name: str) -> None:
        value = self._values[name]
        names = self._names[value]
        del names[name]
        if not names:
            del self._names[value]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> ValuesView[Value]:
        return self._values.values()

    def items(self) -> ItemsView[str, Value]:
        return self._values.items()

    def __or__(self, other: Mapping[str, Value]) -> Results:
        return Results({**self._values, **other})

    def __ior__(self, other: Mapping[str, Value]) -> Results:
        self.update(other)
        return self

    def __repr__(self) -> str:
        return repr(self._values)
