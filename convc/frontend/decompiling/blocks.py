"""Bodies to blocks: those that say the same are one block, those that differ in numbers one block with parameters.

conv 64 k=3 -> conv 256 k=1            block bottleneck(c, s=1) {
conv 128 k=3 s=2 -> conv 512 k=1         conv c k=3 s=s -> conv 4 * c k=1
                                       }
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from convc.frontend.decompiling import statements as s
from convc.frontend.decompiling.parts import Part
from convc.frontend.decompiling.steps import default_text, kind_of
from convc.frontend.decompiling.writing import Writer
from convc.frontend.layers import BY_WORD, COMMON
from convc.frontend.naming import RESERVED, numbered
from convc.frontend.statement_parser import STATEMENT_WORDS

_NUMBER = re.compile(r"\d+(\.\d+)?|\d+x\d+")
_NAMES = {"filters": "c", "outputs": "n", "groups": "g"}  # of parameters, where the argument's own is long
_MOST = 12  # parameters of a block; bodies that differ in more are blocks of their own
_TAKEN = frozenset(
    (*BY_WORD, *STATEMENT_WORDS, *RESERVED, "skip", "branch", "and", "or", "not", "in", "yes", "no", "identity", "auto")
)


def define(parts: Sequence[Part], writer: Writer, net: str) -> list[s.Block]:
    """Give every block part of a net its call; returns the definitions, inner ones first."""
    by_height: dict[int, list[Part]] = {}
    _collect(parts, by_height)
    definer = _Definer(writer, net)
    for height in sorted(by_height):
        definer.level(by_height[height])
    return definer.blocks


def _collect(parts: Sequence[Part], found: dict[int, list[Part]]) -> int:
    """How deep blocks nest in a body; all of them by that number."""
    deepest = 0
    for part in parts:
        inner = max((_collect(body, found) for body in part.bodies), default=0)
        if part.kind == "block":
            found.setdefault(inner, []).append(part)
            inner += 1
        deepest = max(deepest, inner)
    return deepest


class _Definer:
    def __init__(self, writer: Writer, net: str) -> None:
        self.writer = writer
        self.names = {net, *_TAKEN}
        self.blocks: list[s.Block] = []

    def level(self, parts: list[Part]) -> None:
        """Blocks that contain none but defined ones."""
        clusters: dict[object, list[tuple[Part, s.Body]]] = {}
        words: dict[object, str] = {}
        by_shape: dict[object, object] = {}
        bodies = [(part, self.writer.body(part.bodies[0], part.modifiers)) for part in parts]
        # Numbered ones first: an instance called by `name=` belongs to the block that it looks like.
        for part, body in sorted(bodies, key=lambda item: _word(item[0].component) is None):
            shape = _shape(body)
            word = _word(part.component)
            key = (word, shape) if word is not None else by_shape.get(shape, (part.component, shape))
            by_shape.setdefault(shape, key)
            words.setdefault(key, word or part.component)
            clusters.setdefault(key, []).append((part, body))
        order = {part: number for number, part in enumerate(parts)}
        # The commonest form of a word has its plain name.
        for key, members in sorted(clusters.items(), key=lambda item: -len(item[1])):
            members.sort(key=lambda item: order[item[0]])
            self._cluster(words[key], members)

    def _cluster(self, word: str, members: list[tuple[Part, s.Body]]) -> None:
        rows = _align([body for _, body in members])
        block = _generalise(rows)
        if block is None:  # too many differences: only equal bodies are one block
            same: dict[s.Body, list[tuple[Part, s.Body]]] = {}
            for part, body in members:
                same.setdefault(body, []).append((part, body))
            for equal in same.values():
                self._cluster(word, equal)
            return
        parameters, body, values = block
        name = self._name(word)
        self.blocks.append(s.Block(name, parameters, body))
        for (part, _), row in zip(members, values, strict=True):
            given = tuple((key, text, default) for (key, default), text in zip(parameters, row, strict=True))
            part.call = (name, given)

    def _name(self, word: str) -> str:
        name, number = re.sub(r"\W", "_", word, flags=re.ASCII)[:60], 1
        base = f"{name}_" if name[-1].isdigit() else name
        while name in self.names:
            number += 1
            name = f"{base}_{'abcdefghijklmnopqrstuvwxyz'[(number - 1) % 26]}" + str(number // 27 or "")
        self.names.add(name)
        return name


def _word(component: str) -> str | None:
    """The block whose instances are numbered like this: `basic2`, `stage2_1`; None for another name."""
    for pattern in (r"(.*[0-9])_([1-9][0-9]*)", r"(.*[^0-9])([1-9][0-9]*)"):
        match = re.fullmatch(pattern, component)
        if match is not None and numbered(match[1], int(match[2])) == component:
            return match[1]
    return None


# Anti-unification: what bodies have in common, and where they differ

Visit = Callable[[str, "str | None"], "str | None"]


def _map(body: s.Body, visit: Visit, skip: Callable[[s.Residual], object]) -> s.Body:
    """A body with every argument replaced by what `visit(key, text)` gives, and every plain skip by `skip`."""
    return tuple(_map_one(statement, visit, skip) for statement in body)


def _map_one(statement: s.Statement, visit: Visit, skip: Callable[[s.Residual], object]) -> s.Statement:
    match statement:
        case s.Apply():
            return replace(statement, arguments=tuple((key, visit(key, text)) for key, text in statement.arguments))
        case s.Call():
            given = tuple((key, str(visit(key, text)), default) for key, text, default in statement.arguments)
            return replace(statement, arguments=given)
        case s.Residual(body, side):
            inner = _map(body, visit, skip)
            plain = skip(statement) if isinstance(side, str) else _map(side, visit, skip)
            return s.Residual(inner, plain)  # type: ignore[arg-type]
        case s.Concat(branches):
            return s.Concat(tuple(_map(branch, visit, skip) for branch in branches))
        case s.Aux(body):
            return s.Aux(_map(body, visit, skip))
        case s.Shared(name, body):
            return s.Shared(name, _map(body, visit, skip))
        case _:
            return statement


def _shape(body: s.Body) -> s.Body:
    """What is left of a body without its numbers; `skip auto` counts as the identity, which it is for equal shapes."""
    return _map(body, lambda key, text: "#" if _is_number(text) else text, lambda residual: "auto")


def _is_number(text: str | None) -> bool:
    return text is not None and _NUMBER.fullmatch(text) is not None


def _align(bodies: Sequence[s.Body]) -> list[s.Body]:
    """The bodies of a cluster, with `skip auto` wherever one of them has it."""
    columns = zip(*(_skips(body) for body in bodies), strict=True)
    skips = ["auto" if "auto" in column else "identity" for column in columns]

    def aligned(body: s.Body) -> s.Body:
        rest = iter(skips)
        return _map(body, lambda key, text: text, lambda residual: next(rest))

    return list(map(aligned, bodies))


def _skips(body: s.Body) -> Iterator[str]:
    found: list[str] = []

    def skip(residual: s.Residual) -> object:
        found.append(str(residual.skip))
        return residual.skip

    _map(body, lambda key, text: text, skip)
    yield from found


def _generalise(
    rows: list[s.Body],
) -> tuple[tuple[tuple[str, str | None], ...], s.Body, list[list[str]]] | None:
    """Parameters, body and the parameters' values for each of the rows; None if there were too many."""
    columns = list(zip(*(_numbers(row) for row in rows), strict=True))
    parameters = _Parameters()
    texts: list[str] = []
    defaults = _default_texts(rows[0])
    for column, default in zip(columns, defaults, strict=True):
        key, values = column[0][0], tuple(text for _, text in column)
        texts.append(values[0] if len(set(values)) == 1 else parameters.text(key, values, default))
    if len(parameters.columns) > _MOST:
        return None
    replacements = iter(texts)
    body = _map(rows[0], lambda key, text: next(replacements) if _is_number(text) else text, lambda r: r.skip)
    ordered = sorted(parameters.columns, key=lambda name: parameters.defaults[name] is not None)
    values = [[parameters.columns[name][row] for name in ordered] for row in range(len(rows))]
    return tuple((name, parameters.defaults[name]) for name in ordered), body, values


def _numbers(body: s.Body) -> list[tuple[str, str]]:
    """All numbers of a body with the keys of their arguments, in order."""
    found: list[tuple[str, str]] = []

    def visit(key: str, text: str | None) -> str | None:
        if text is not None and _is_number(text):
            found.append((key, text))
        return text

    _map(body, visit, lambda residual: residual.skip)
    return found


def _default_texts(body: s.Body) -> list[str | None]:
    """For each number of a body, the default of its argument."""
    found: list[str | None] = []
    pending: list[s.Statement] = list(reversed(body))
    while pending:
        statement = pending.pop()
        match statement:
            case s.Apply():
                known = {p.key: default_text(p) for p in kind_of(statement.title).parameters if p.keyword}
                found += [known.get(key) for key, text in statement.arguments if _is_number(text)]
            case s.Call():
                found += [default for _, text, default in statement.arguments if _is_number(text)]
            case s.Residual(inner, side):
                pending += reversed(side if isinstance(side, tuple) else ())
                pending += reversed(inner)
            case s.Concat(branches):
                pending += reversed([x for branch in branches for x in branch])
            case s.Aux(inner) | s.Shared(_, inner):
                pending += reversed(inner)
            case _:
                pass
    return found


class _Parameters:
    """The columns of numbers in which instances differ, each once."""

    def __init__(self) -> None:
        self.columns: dict[str, tuple[str, ...]] = {}
        self.defaults: dict[str, str | None] = {}
        self.keys: dict[str, str] = {}

    def text(self, key: str, values: tuple[str, ...], default: str | None) -> str:
        """The expression for a column: a parameter, or a multiple of one."""
        for name, known in self.columns.items():
            if known == values and (self.keys[name] == key or default is None):
                return name
        if key in ("filters", "outputs"):
            for name, known in self.columns.items():
                factor = _factor(known, values)
                if factor is not None and self.keys[name] == key:
                    return f"{factor} * {name}"
        base = _NAMES.get(key, key)
        if base in (parameter.key for parameter in COMMON) or base in _TAKEN:
            base += "_"
        name, number = base, 1
        while name in self.columns:
            number += 1
            name = f"{base}{number}"
        self.columns[name], self.keys[name] = values, key
        self.defaults[name] = default if default in values else None
        return name


def _factor(known: tuple[str, ...], values: tuple[str, ...]) -> int | None:
    """The whole number that makes each of one column's numbers into the other's."""
    if not all(text.isdigit() for text in (*known, *values)) or len(set(known)) < 2:
        return None
    factors = {int(b) / int(a) for a, b in zip(known, values, strict=True)}
    factor = factors.pop()
    return int(factor) if not factors and factor.is_integer() else None
