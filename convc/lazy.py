"""Dataclasses that are made when they are first used.

A command needs a part of the vocabulary only: most ops, settings and kernel families stay unused. What `dataclass` adds
to a class takes 0.3 ms, more than all else in importing it, and done for all at once nearly a tenth of a second.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

_FIELDS, _INIT = "__dataclass_fields__", "__init__"
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
                dataclasses.dataclass(init=False, **options)(kind)
                # Only now, and at once: until then the old one has other threads wait.
                setattr(kind, _INIT, _initializer(kind, frozen=options.get("frozen", False)))

    def first(self: object, *arguments: object, **named: object) -> None:
        make()
        kind.__init__(self, *arguments, **named)  # type: ignore[misc]

    setattr(kind, _INIT, first)
    setattr(kind, _FIELDS, _Pending(make))


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
