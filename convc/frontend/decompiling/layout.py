"""Statements to text as a person would lay it out: a line for what belongs together, equal lines as `repeat`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convc.frontend.decompiling import statements as s
from convc.frontend.decompiling.steps import default_text, kind_of

WIDTH = 100
_LONGEST_PERIOD = 12  # statements that a `repeat` may hold
_OPENERS = ("conv", "deconv", "fc", "loss", "input", "flatten", "upsample")  # layers that begin a line


def text(name: str, blocks: Sequence[s.Block], body: s.Body) -> str:
    """The file: blocks, then the net."""
    items = [*(_definition("block", block.name, block.parameters, block.body) for block in blocks)]
    return "\n".join([*items, _definition("net", name, (), body)])


def _definition(kind: str, name: str, parameters: Sequence[tuple[str, str | None]], body: s.Body) -> str:
    shown = ", ".join(key if default is None else f"{key}={default}" for key, default in parameters)
    signature = f"({shown})" if parameters else ""
    lines = [f"{kind} {name}{signature} {{", *_lines(fold(body), 1), "}"]
    return "\n".join(lines) + "\n"


# Repetition


def fold(body: s.Body) -> s.Body:
    """Statements that follow themselves as `repeat`; `as` belongs to what it names and is never repeated."""
    result: list[s.Statement] = []
    position = 0
    while position < len(body):
        period, count = _repetition(body, position)
        if count > 1:
            result.append(s.Repeat(count, fold(body[position : position + period])))
        else:
            result += fold_inside(body[position : position + 1])
        position += period * count
    return tuple(result)


def fold_inside(body: s.Body) -> s.Body:
    return tuple(_fold_one(statement) for statement in body)


def _fold_one(statement: s.Statement) -> s.Statement:
    match statement:
        case s.Residual(body, skip):
            return s.Residual(fold(body), fold(skip) if isinstance(skip, tuple) else skip)
        case s.Concat(branches):
            return s.Concat(tuple(map(fold, branches)))
        case s.Aux(body):
            return s.Aux(fold(body))
        case s.Shared(name, body):
            return s.Shared(name, fold(body))
        case _:
            return statement


def _repetition(body: s.Body, start: int) -> tuple[int, int]:
    """The period and the count that say most of what follows, (1, 1) where a loop would not be shorter."""
    best = (1, 1)
    saved = 0
    for period in range(1, min(_LONGEST_PERIOD, (len(body) - start) // 2) + 1):
        unit = body[start : start + period]
        if any(isinstance(statement, (s.Alias, s.From)) or not _repeatable(statement) for statement in unit):
            break
        count = 1
        while body[start + count * period : start + (count + 1) * period] == unit:
            count += 1
        weight = sum(_weight(statement) for statement in unit) * (count - 1)
        # What a name belongs to stays with it: `repeat 2 { relu } as a` has no place for it.
        end = start + count * period
        if end < len(body) and isinstance(body[end], s.Alias):
            weight -= sum(_weight(statement) for statement in unit)
            count -= 1
        # Two rounds that begin in the middle of a line are no loop that a person would see.
        if count >= (2 if _opens(body[start]) else 4) and weight > saved and weight >= 4:
            best, saved = (period, count), weight
    return best


def _repeatable(statement: s.Statement) -> bool:
    """Names are given once; shared parts and losses stand alone."""
    if isinstance(statement, (s.Apply, s.Call)):
        return all(key != "name" for key, _ in statement.extra) and getattr(statement, "title", "") != "input"
    return not isinstance(statement, (s.Shared, s.Aux))


def _opens(statement: s.Statement) -> bool:
    """Whether a person would begin a line, or a loop, with it."""
    if isinstance(statement, s.Apply):
        return statement.title.split()[0] in _OPENERS
    return not isinstance(statement, (s.Alias, s.Join))


def _weight(statement: s.Statement) -> int:
    match statement:
        case s.Call():
            return 2
        case s.Residual(body, skip):
            return 3 + sum(map(_weight, body)) + (sum(map(_weight, skip)) if isinstance(skip, tuple) else 0)
        case s.Concat(branches):
            return 3 + sum(_weight(x) for branch in branches for x in branch)
        case _:
            return 1


# Lines


def _lines(body: s.Body, depth: int) -> Iterator[str]:
    """The lines of a body, indented."""
    indent = "  " * depth
    for group in _groups(body):
        line = indent + " -> ".join(group.texts)
        if group.compound is None or (len(line) <= WIDTH and not group.long):
            yield from _wrapped(indent, group.texts, len(line))
        else:
            yield from _compound(group.compound, group.suffix, depth)


class _Group:
    """What stands on one line: texts to be joined by arrows, or one statement with bodies."""

    def __init__(self, compound: s.Statement | None = None) -> None:
        self.texts: list[str] = []
        self.compound = compound
        self.suffix = ""

    @property
    def long(self) -> bool:
        """Whether a statement with bodies reads better on several lines."""
        match self.compound:
            case s.Concat(branches):
                return sum(1 for branch in branches if branch) > 1
            case s.Repeat(_, body) | s.Shared(_, body):
                return any(isinstance(statement, (s.Residual, s.Concat)) for statement in body)
            case _:
                return False


def _wrapped(indent: str, texts: Sequence[str], length: int) -> Iterator[str]:
    if length <= WIDTH:
        yield indent + " -> ".join(texts)
        return
    line = indent + texts[0]
    for text in texts[1:]:
        if len(line) + 4 + len(text) > WIDTH:
            yield line
            line = indent + text
        else:
            line += f" -> {text}"
    yield line


def _groups(body: s.Body) -> list[_Group]:
    groups: list[_Group] = []
    opened = False
    for number, statement in enumerate(body):
        if isinstance(statement, s.Alias):
            if number == 0:
                groups.append(_Group())
                groups[-1].texts.append(f"as {statement.name}")
            else:
                groups[-1].texts[-1] += f" as {statement.name}"
                groups[-1].suffix = f" as {statement.name}"
            continue
        compound = isinstance(statement, (s.Residual, s.Concat, s.Aux, s.Shared, s.Repeat))
        before = body[number - 1] if number else None
        after_flatten = isinstance(before, s.Apply) and before.title in ("flatten", "pool avg")
        opens = compound or isinstance(statement, (s.Call, s.From, s.Reuse)) or _begins(statement, after_flatten)
        if opens or not opened or (groups and groups[-1].compound is not None):
            groups.append(_Group(statement if compound else None))
        groups[-1].texts.append(one_line(statement))
        opened = True
    return groups


def _begins(statement: s.Statement, after_flatten: bool) -> bool:
    if not isinstance(statement, s.Apply):
        return False
    word = statement.title.split()[0]
    if statement.title == "pool avg" and dict(statement.arguments)["k"] == "global":
        return True
    return word in _OPENERS and not (after_flatten and word in ("fc", "flatten"))


def _compound(statement: s.Statement, suffix: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    match statement:
        case s.Residual(body, skip):
            yield f"{indent}residual {{"
            yield from _lines(body, depth + 1)
            if isinstance(skip, str):
                yield f"{indent}}}{' skip auto' if skip == 'auto' else ''}{suffix}"
            elif len(short := f"{indent}}} skip {_braced(skip)}{suffix}") <= WIDTH:
                yield short
            else:
                yield f"{indent}}} skip {{"
                yield from _lines(skip, depth + 1)
                yield f"{indent}}}{suffix}"
        case s.Concat(branches):
            yield f"{indent}concat {{"
            for branch in branches:
                line = f"{indent}  branch {_braced(branch)}"
                if len(line) <= WIDTH:
                    yield line
                else:
                    yield f"{indent}  branch {{"
                    yield from _lines(branch, depth + 2)
                    yield f"{indent}  }}"
            yield f"{indent}}}{suffix}"
        case s.Aux(body) | s.Shared(_, body) | s.Repeat(_, body):
            yield f"{indent}{_head(statement)} {{"
            yield from _lines(body, depth + 1)
            yield f"{indent}}}{suffix}"
        case _:
            yield indent + one_line(statement) + suffix


def _head(statement: s.Statement) -> str:
    match statement:
        case s.Shared(name, _):
            return f"shared {name}"
        case s.Repeat(count, _):
            return f"repeat {count}"
        case _:
            return "aux"


def _braced(body: s.Body) -> str:
    if not body:
        return "{ }"
    texts: list[str] = []
    for statement in body:
        if isinstance(statement, s.Alias) and texts:
            texts[-1] += f" as {statement.name}"
        else:
            texts.append(one_line(statement))
    return f"{{ {' -> '.join(texts)} }}"


# Statements


def one_line(statement: s.Statement) -> str:
    """A statement on one line, however long."""
    match statement:
        case s.Apply():
            return _apply(statement)
        case s.Call(block, arguments, extra):
            given = [
                text if default is None else f"{key}={text}" for key, text, default in arguments if text != default
            ]
            return " ".join([block, *given, *(f"{key}={text}" for key, text in extra)])
        case s.Alias(name):
            return f"as {name}"
        case s.From(name):
            return f"from {name}"
        case s.Join(word, names):
            return f"{word} {', '.join(names)}"
        case s.Residual(body, skip):
            side = _braced(skip) if isinstance(skip, tuple) else skip
            return f"residual {_braced(body)}" + (f" skip {side}" if side != "identity" else "")
        case s.Concat(branches):
            return f"concat {{ {' '.join(f'branch {_braced(branch)}' for branch in branches)} }}"
        case s.Reuse(name):
            return f"reuse {name}"
        case s.Aux(body) | s.Shared(_, body) | s.Repeat(_, body):
            return f"{_head(statement)} {_braced(body)}"


def _apply(statement: s.Apply) -> str:
    words = [statement.title]
    values = dict(statement.arguments)
    for parameter in kind_of(statement.title).parameters:
        value = values.get(parameter.key)
        if value is None or value == default_text(parameter):
            continue
        words.append(value if parameter.positional else f"{parameter.key}={value}")
    return " ".join([*words, *(f"{key}={value}" for key, value in statement.extra)])
