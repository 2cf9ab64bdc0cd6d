"""All passes by name, and how a command line asks for them: `fold`, `specialize:mode=train,accumulate=yes`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import Field, dataclass, fields
from inspect import cleandoc
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from convc.ir.diagnostic import fail, similar
from convc.passes.base import AnyPass, Pass, PlanPass
from convc.passes.canonicalize import Canonicalize
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.common_subexpressions import CommonSubexpressions
from convc.passes.dead_code import DeadCode
from convc.passes.fold_batch_norm import FoldBatchNorm
from convc.passes.fold_constants import FoldConstants
from convc.passes.fold_input_scale import FoldInputScale
from convc.passes.planning import PLANNING
from convc.passes.specialize import Specialize
from convc.passes.training import Training

# The first three make every program; the others are there for those who ask.
_KINDS: tuple[type[Pass], ...] = (
    Specialize,
    Training,
    DeadCode,
    Canonicalize,
    FoldConstants,
    CommonSubexpressions,
    FoldBatchNorm,
    FoldInputScale,
    ChooseAlgorithms,
)
PASSES: dict[str, type[Pass]] = {kind.name: kind for kind in _KINDS}
PLAN_PASSES: dict[str, type[PlanPass]] = {step.name: type(step) for step in PLANNING}
ALL_PASSES: dict[str, type[AnyPass]] = {**PASSES, **PLAN_PASSES}


@dataclass(frozen=True)
class Option:
    """A field of a pass. `takes` says what it is in words; None for what no command line can say."""

    name: str
    default: Any
    takes: str | None


def options_of(kind: type[AnyPass]) -> tuple[Option, ...]:
    """The options of a pass, in order."""
    hints = get_type_hints(kind)
    return tuple(Option(entry.name, entry.default, _words(hints[entry.name])) for entry in fields(kind))


def explanation(kind: type[AnyPass]) -> tuple[str, str]:
    """What a pass does, in a sentence, and the graph before and after: the docstring of its module."""
    sentence, _, rest = cleandoc(sys.modules[kind.__module__].__doc__ or "").partition("\n\n")
    return " ".join(sentence.split()), rest


def parse_pass(text: str, defaults: Iterable[AnyPass] = ()) -> AnyPass:
    """A pass from `NAME` or `NAME:option=value,option=value`.

    `defaults` are passes whose options hold where the text gives none, found by name: those of the usual order. Errors:
    `name-pass`, `name-pass-option`, `value-pass-option`.
    """
    name, _, rest = text.strip().partition(":")
    kind = ALL_PASSES.get(name)
    if kind is None:
        fail("name-pass", f"there is no pass `{name}`", hint=_known(name, ALL_PASSES))
    usual = next((step for step in defaults if step.name == name), None)
    values = dict(usual.options) if usual is not None else {}
    entries = {entry.name: entry for entry in fields(kind)}
    hints = get_type_hints(kind)
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in entries or not equals:
            hint = _known(key, entries) if entries else f"`{name}` has no options"
            fail("name-pass-option", f"the pass `{name}` has no option `{key}`", hint=hint)
        values[key] = _converted(name, entries[key], hints[key], value)
    return kind(**values)


def _converted(name: str, entry: Field[Any], hint: Any, text: str) -> Any:
    takes = _words(hint)
    if takes is None:
        fail("value-pass-option", f"the option `{entry.name}` of `{name}` cannot be given here")
    for kind in _alternatives(hint):
        try:
            return _READERS[kind](text) if kind in _READERS else _literal(kind, text)
        except ValueError:
            continue
    fail("value-pass-option", f"the option `{entry.name}` of `{name}` takes {takes}, not `{text}`")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have, without None: what is left out is None already."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for kind in get_args(hint) if kind is not type(None))
    return (hint,)


def _words(hint: Any) -> str | None:
    found: list[str] = []
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            found += [str(word) for word in get_args(kind)]
        elif kind in _TAKES:
            found.append(_TAKES[kind])
    return " or ".join(found) or None


def _literal(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal and text in get_args(kind):
        return text
    raise ValueError


def _boolean(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


_TAKES = {bool: "yes or no", int: "a whole number", float: "a number", str: "a word"}
_READERS: dict[Any, Any] = {bool: _boolean, int: int, float: float, str: str}


def _known(word: str, known: Iterable[str]) -> str:
    names = list(known)
    return similar(word, names) or f"there are {', '.join(names)}"
