"""Parts to statements: names of layers are settled, and what a block's layers have in common moves to its calls.

A layer gets `name=` only where its automatic number would not give its own name, and only if the name matters. Where a
name cannot be had (it is no word, or taken), the layer is called by its number; the caller maps the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from convc.frontend.decompiling import statements as s
from convc.frontend.decompiling.parts import Part
from convc.frontend.decompiling.steps import PLAIN, Step, number_text
from convc.frontend.emission import Modifiers
from convc.frontend.limits import DEFAULT_LIMITS
from convc.frontend.naming import Naming, numbered

_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_OPERATORS = ("and", "or", "not", "if", "else", "in", "yes", "no", "as", "for")
_PADDING_LIMIT = 8  # empty concats that stand in for what left no trace in the graph


class Writer:
    """Bodies to statements. Blocks inside have to have their `call`."""

    def __init__(self, keep_names: bool) -> None:
        self.keep_names = keep_names

    def body(self, parts: Sequence[Part], outer: Modifiers = PLAIN) -> s.Body:
        """The statements of a body; `outer` are the modifiers that calls around it give already."""
        found: list[s.Statement] = []
        for part, name, padding in self._named(parts):
            found += [s.Concat(((),))] * padding
            statement = self._statement(part, name, outer)
            if statement is not None:
                found.append(statement)
            if part.alias is not None:
                found.append(s.Alias(part.alias))
        return tuple(found)

    def _statement(self, part: Part, name: str | None, outer: Modifiers) -> s.Statement | None:
        extra = (("name", name),) if name else ()
        match part.kind:
            case "start":
                return None
            case "layer":
                assert part.step is not None
                own = () if part.step.modifiers == outer else modifier_texts(part.step.modifiers)
                return s.Apply(part.step.title, tuple(part.step.arguments.items()), extra + own)
            case "block":
                assert part.call is not None
                own = () if part.modifiers == outer else modifier_texts(part.modifiers)
                return s.Call(*part.call, extra + own)
            case "join":
                return s.Join(part.word, tuple(str(source.alias) for source in part.sources))
            case "from":
                return s.From(str(part.sources[0].alias))
            case "residual":
                return self._residual(part, outer)
            case "concat":
                return s.Concat(tuple(self.body(body, outer) for body in part.bodies))
            case "aux":
                return s.Aux(self.body(part.bodies[0], outer))
            case "shared":
                return s.Shared(part.component, self.body(part.bodies[0], outer))
            case "reuse":
                return s.Reuse(part.component)

    def _residual(self, part: Part, outer: Modifiers) -> s.Statement:
        main, side = (self.body(body, outer) for body in part.bodies)
        if not side:
            return s.Residual(main, "identity")
        automatic = part.projects and all(isinstance(x, s.Apply) and not x.extra for x in side)
        return s.Residual(main, "auto" if automatic else side)

    # Names

    def _named(self, parts: Sequence[Part]) -> Iterator[tuple[Part, str | None, int]]:
        """Each part with its `name=`, and how many empty concats stand before it."""
        naming, padding = Naming(), dict[Part, int]()
        automatic: dict[Part, str] = {}
        fixed: set[str] = set()
        for part in parts:
            word = counted_word(part)
            if word is None:
                if part.kind == "shared":
                    fixed.add(part.component)
                continue
            number = naming.number(word)
            if part.kind == "concat" and self.keep_names:
                padding[part] = self._missing(part.component, number)
                number += padding[part]
                naming.counts[word] = number
            automatic[part] = numbered(word, number)
            if part.kind in ("residual", "concat", "aux"):
                fixed |= {automatic[part], f"skip{number}"} if part.kind == "residual" else {automatic[part]}
        names = self._names(parts, automatic, fixed)
        for part in parts:
            yield part, names.get(part), padding.get(part, 0)

    def _missing(self, component: str, number: int) -> int:
        match = re.fullmatch(r"concat([1-9][0-9]{0,6})", component)
        gap = int(match[1]) - number if match else 0
        return gap if 0 < gap <= _PADDING_LIMIT else 0

    def _names(self, parts: Sequence[Part], automatic: dict[Part, str], fixed: set[str]) -> dict[Part, str]:
        names: dict[Part, str] = {}
        taken = set(fixed)
        free = [part for part in automatic if part.kind in ("layer", "block")]
        for part in free:
            wanted = self._wanted(part)
            if wanted is not None and wanted not in taken:
                taken.add(wanted)
                names[part] = wanted
        for part in free:
            if names.get(part) == automatic[part]:
                del names[part]
            elif part not in names:
                name = automatic[part]
                while name in taken:
                    name += "_"
                taken.add(name)
                if name != automatic[part]:
                    names[part] = name
        return names

    def _wanted(self, part: Part) -> str | None:
        """The name that a part should have, if it matters and is possible."""
        matters = part.step.keep if part.step else True
        if not self.keep_names or not matters or not part.component:
            return None
        name = re.sub(r"\W", "_", part.component, flags=re.ASCII)
        if name in _OPERATORS or not _WORD.fullmatch(name):
            name = f"_{name}"
        return name if len(name) <= DEFAULT_LIMITS.name_characters else None


def counted_word(part: Part) -> str | None:
    """The word under which a body counts a part; None where it does not."""
    match part.kind:
        case "layer":
            assert part.step is not None
            return part.step.word
        case "block":
            assert part.call is not None
            return part.call[0]
        case "residual":
            return "res"
        case "concat" | "aux":
            return part.kind
        case _:
            return None


def modifier_texts(modifiers: Modifiers) -> tuple[tuple[str, str], ...]:
    found = [("freeze", "yes")] if modifiers.frozen else []
    for key in ("lr", "decay"):
        value = getattr(modifiers, key)
        if value != 1.0:
            found.append((key, number_text(value)))
    return tuple(found)


def layers_of(parts: Sequence[Part]) -> Iterator[Step]:
    """The layers with parameters in a body, those of inner bodies included."""
    pending = list(parts)
    while pending:
        part = pending.pop()
        if part.kind == "layer" and part.step is not None and part.step.parameters:
            yield part.step
        for body in part.bodies:
            pending += body


def hoist(parts: Sequence[Part], outer: Modifiers = PLAIN) -> None:
    """Give blocks the modifiers that all of their layers share, so that frozen and other ones read alike."""
    for part in parts:
        inner = outer
        if part.kind == "block":
            found = {step.modifiers for step in layers_of(part.bodies[0])}
            inner = found.pop() if len(found) == 1 else outer
            part.modifiers = replace(inner)
        for body in part.bodies:
            hoist(body, inner)
