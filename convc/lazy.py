"""Dataclasses that are made when they are first used.

A command needs a part of the vocabulary only: most ops, settings and kernel families stay unused. What `dataclass` adds
to a class takes 0.3 ms, more than all else in importing it, and done for all at once nearly a tenth of a second. Most
of that is methods that are written as text and compiled; here only `__init__` is, which is called often enough.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, cast

_FIELDS, _INIT, _PARAMETERS = "__dataclass_fields__", "__init__", "__dataclass_params__"
# Reentrant, because making a class makes its bases.
_making = threading.RLock()


class _Pending:
    """Stands where the fields of a class will be; whoever looks there has the class made."""

    def __init__(self, make: Callable[[], None]) -> None:
        self._make = make

    def __get__(self, instance: object, owner: type) -> object:
        self._make()
        return getattr(owner, _FIELDS)


def _put_off(kind: type, options: dict[str, bool]) -> None:
    """Have `dataclass(**options)` complete the class at its first instance, subclass or look at its fields."""

    def make() -> None:
        with _making:
            if isinstance(vars(kind).get(_FIELDS), _Pending):
                _complete(kind, **options)
                # Only now, and at once: until then the old one has other threads wait.
                setattr(kind, _INIT, _initializer(kind, frozen=options.get("frozen", False)))

    def first(self: object, *arguments: object, **named: object) -> None:
        make()
        kind.__init__(self, *arguments, **named)  # type: ignore[misc]

    setattr(kind, _INIT, first)
    setattr(kind, _FIELDS, _Pending(make))


def _complete(kind: type, *, frozen: bool = False, eq: bool = True, **others: bool) -> None:
    """What `dataclass(init=False)` does to a class, with methods that need not be compiled."""
    bases = [base for base in kind.__mro__[1:] if dataclasses.is_dataclass(base)]
    settings = [vars(base)[_PARAMETERS] for base in bases if getattr(base, _FIELDS) and _PARAMETERS in vars(base)]
    known = vars(kind)
    if others or "__setattr__" in known or any(base.frozen is not frozen for base in settings):
        dataclasses.dataclass(init=False, frozen=frozen, eq=eq, **others)(kind)
        return
    # A class that is not frozen has no frozen bases, and only a frozen one has methods compiled for that.
    for base in settings:
        base.frozen = False
    try:
        dataclasses.dataclass(init=False, repr=False, eq=False)(kind)
    finally:
        for one in (*settings, known[_PARAMETERS]):
            one.frozen = frozen
    every = dataclasses.fields(kind)
    if "__repr__" not in known:
        kind.__repr__ = _shows([each.name for each in every if each.repr])  # type: ignore[method-assign,assignment]
    if eq:
        given = _getter([each.name for each in every if each.compare])
        hashed = _getter([each.name for each in every if (each.compare if each.hash is None else each.hash)])
        if known.get("__hash__") is None:
            kind.__hash__ = (lambda self: hash(hashed(self))) if frozen else None  # type: ignore[method-assign,assignment]
        if "__eq__" not in known:
            kind.__eq__ = _equals(given)  # type: ignore[method-assign,assignment]
    if frozen:
        _freeze(kind, frozenset(each.name for each in every))


def _getter(names: Sequence[str]) -> Callable[[object], tuple[object, ...]]:
    """Gives the values of some fields."""
    if len(names) > 1:
        return attrgetter(*names)
    return (lambda self: (getattr(self, names[0]),)) if names else (lambda self: ())


def _equals(given: Callable[[object], tuple[object, ...]]) -> Callable[[object, object], bool]:
    def equals(self: object, other: object) -> bool:
        return given(self) == given(other) if other.__class__ is self.__class__ else NotImplemented

    return equals


def _shows(names: Sequence[str]) -> Callable[[object], str]:
    @recursive_repr()
    def shows(self: object) -> str:
        return f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return shows


def _freeze(kind: type, names: frozenset[str]) -> None:
    """Have instances refuse that fields are set or deleted; of instances of `kind` itself, anything."""

    def set_it(self: object, name: str, value: object) -> None:
        if type(self) is kind or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(kind, self).__setattr__(name, value)

    def delete_it(self: object, name: str) -> None:
        if type(self) is kind or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(kind, self).__delattr__(name)

    kind.__setattr__, kind.__delattr__ = set_it, delete_it  # type: ignore[method-assign,assignment]


def _initializer(kind: type, frozen: bool) -> Callable[..., None]:
    """`__init__` as `dataclass` would write it; it would not replace one that is there."""
    known: dict[str, object] = {"_set": object.__setattr__, "_absent": object()}
    parameters, named_only, body = ["self"], list[str](), list[str]()
    for each in dataclasses.fields(kind):
        name, value = each.name, each.name
        if each.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = each.default_factory
            value = f"_make_{name}()" if not each.init else f"_make_{name}() if {name} is _absent else {name}"
            default = "=_absent"
        elif each.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = each.default
            default = f"=_default_{name}"
        else:
            default = ""
        if each.init:
            (named_only if each.kw_only else parameters).append(f"{name}{default}")
        elif each.default_factory is dataclasses.MISSING:
            continue  # the class has its default, if any
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(kind, "__post_init__"):
        body.append("self.__post_init__()")
    every = ", ".join([*parameters, *(["*", *named_only] if named_only else [])])
    lines = "".join(f"\n    {line}" for line in body or ["pass"])
    exec(f"def {_INIT}({every}):{lines}", known)
    made = cast("Callable[..., None]", known[_INIT])
    made.__qualname__ = f"{kind.__qualname__}.{_INIT}"
    return made


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(kind=None, /, **options):
        """`dataclasses.dataclass`, put off until it matters. A class with an `__init__` or slots cannot wait."""
        if kind is None:
            return lambda kind: dataclass(kind, **options)
        if _INIT in vars(kind) or options.get("slots"):
            return dataclasses.dataclass(**options)(kind)
        _put_off(kind, options)
        return kind
