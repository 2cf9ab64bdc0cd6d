"""Rules that break the text of a kernel's file, each in one place at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# From where to where of a text, and what stands there afterwards.
Edit = tuple[int, int, str]
Rule = Callable[[str], Iterator[Edit]]


@dataclass(frozen=True)
class KernelMutant:
    """A file of `kernels/` with one place changed; `line` is where.

    Its name is made of the rule and the text of the line, so that it outlives edits of other lines.
    """

    file: str
    rule: str
    name: str
    text: str
    line: int

    def __str__(self) -> str:
        return self.name


def mutants_of(file: str, text: str) -> list[KernelMutant]:
    """All mutants that the rules make of a file, in the order of the rules and the lines."""
    # Rules do not see comments, which stay as long as they are.
    code = re.sub(r"//.*", lambda found: " " * len(found[0]), text)
    made: list[KernelMutant] = []
    names = Counter[str]()
    for rule, edits in RULES.items():
        for start, end, by in edits(code):
            line = text.count("\n", 0, start)
            name = f"{file}: {rule}: {' '.join(text.splitlines()[line].split())}"
            names[name] += 1
            if names[name] > 1:
                name = f"{name} #{names[name]}"
            made.append(KernelMutant(file, rule, name, text[:start] + by + text[end:], line + 1))
    return made


def _replacing(*pairs: tuple[str, str]) -> Rule:
    """A rule that replaces each place that a pattern matches by what belongs to the pattern."""

    def edits(code: str) -> Iterator[Edit]:
        for pattern, by in pairs:
            for found in re.finditer(pattern, code, re.MULTILINE):
                yield found.start(), found.end(), found.expand(by)

    return edits


def _in_code(*pairs: tuple[str, str]) -> Rule:
    """`_replacing`, but for lines that the compiler evaluates."""
    replacing = _replacing(*pairs)

    def edits(code: str) -> Iterator[Edit]:
        for start, end, by in replacing(code):
            if not _NO_CODE.search(code[code.rfind("\n", 0, start) + 1 : start]):
                yield start, end, by

    return edits


# What the compiler evaluates, or `static_assert`s hold, says nothing about runs.
_NO_CODE = re.compile(r"template|typedef|constexpr|static_assert|^\s*#|__launch_bounds__|__builtin_assume|\boperator\b")
_LOOP = re.compile(r"\bfor \(")


def _bounds(code: str) -> Iterator[Edit]:
    """A bound that is checked one too far: `<=` for `<`, `>` for `>=`. Heads of loops have rules of their own."""
    for found in re.finditer(r" (<|>=) ", code):
        line = code[code.rfind("\n", 0, found.start()) + 1 : found.start()]
        if not (_NO_CODE.search(line) or _LOOP.search(line) or _is_minimum(code, found.start())):
            yield found.start(1), found.end(1), "<=" if found[1] == "<" else ">"


def _is_minimum(code: str, place: int) -> bool:
    """Whether ` < ` at a place belongs to `a < b ? a : b`, where equality makes no difference."""
    found = re.match(r" < (.+?) \? (.+?) : (.+?)[;,)]", code[place:])
    return found is not None and found[1].endswith(found[3]) and code[:place].endswith(found[2])


def _conditions(code: str) -> Iterator[Edit]:
    """One of several conditions left out."""
    for found in re.finditer(r" && ?\n? *", code):
        line = code[code.rfind("\n", 0, found.start()) + 1 : found.start()]
        if _NO_CODE.search(line):
            continue
        yield found.start(), _condition_after(code, found.end()), ""
        start = _condition_before(code, found.start())
        # The middle one of three is what follows the first `&&` already.
        if not code[:start].rstrip().endswith("&&"):
            yield start, found.end(), ""


def _condition_after(code: str, place: int) -> int:
    depth = 0
    while depth or not re.match(r" && | \|\| | \? |[,;)\]}]", code[place:]):
        depth += (code[place] in "([{") - (code[place] in ")]}")
        place += 1
    return place


def _condition_before(code: str, place: int) -> int:
    depth = 0
    while depth or not re.search(r"(?: &&\s+| \|\|\s+| = |return |[,;?:] |[(\[{!])$", code[:place]):
        place -= 1
        depth += (code[place] in ")]}") - (code[place] in "([{")
    return place


_HEAD = re.compile(
    r"for \([^;\n]*;(?: [^;\n]* &&)? [\w.]+ (?P<sign><) (?P<bound>[^;&\n]+)(?: &&[^;\n]*)?; (?P<step>[^\n]*?)\)"
)


def _loops(code: str) -> Iterator[tuple[re.Match[str], bool]]:
    """Heads of loops that count up to a bound, and whether they are unrolled: then they count registers."""
    for found in _HEAD.finditer(code):
        before = code[: code.rfind("\n", 0, found.start())]
        if not _NO_CODE.search(code[code.rfind("\n", 0, found.start()) + 1 : found.start()]):
            yield found, before.endswith("#pragma unroll")


def _one_more(code: str) -> Iterator[Edit]:
    """A loop that goes on for one more round. What there is beyond an array in registers, the compiler makes up."""
    for found, unrolled in _loops(code):
        if not unrolled:
            yield found.start("sign"), found.end("sign"), "<="


def _one_less(code: str) -> Iterator[Edit]:
    """A loop that ends one round early."""
    for found, _ in _loops(code):
        step = re.search(r"\+= ([\w.:]+|\([^)]*\)[\w.* ]+)", found["step"])
        yield found.end("bound"), found.end("bound"), f" - {step[1] if step else 1}"


RULES: dict[str, Rule] = {
    "no barrier": _replacing((r"__sync(?:threads|warp)\(\)", "static_cast<void>(0)")),
    "weak wait": _replacing(
        (r"await_copies<STAGES - 2>", "await_copies<STAGES - 1>"), (r'"n"\(PENDING\)', '"n"(PENDING + 1)')
    ),
    "no wait": _replacing((r"cp\.async\.wait_all;", "")),
    "no commit": _replacing((r"cp\.async\.commit_group;", "")),
    "not filled": _replacing((r"\binside \? 16 : 0", "16")),
    "bound": _bounds,
    "no condition": _conditions,
    "one more": _one_more,
    "one less": _one_less,
    "same stage": _replacing(
        (r"\bnow \^= 1", "now ^= 0"),
        (r"\bnow \^ 1", "now"),
        (r"\b1 - stage\b", "stage"),
        (r"\bSTAGE_FLOATS - stage\b", "stage"),
        (r"\(chunk \+ 1\) % 2", "chunk % 2"),
        (r"\btiles = next;", ";"),
    ),
    "other stage": _replacing(
        (r"\bwriting = STAGES - 1\b", "writing = STAGES - 2"), (r"\breading \+ 1 == STAGES\b", "false")
    ),
    "other step": _replacing(
        (r"(?<=\w\()step \+ 1\)", "step)"), (r"(?<=, )step \+ 1\)", "step)"), (r"\(d \+ DEPTH\)", "(d)")
    ),
    "no swizzle": _replacing((r"(?<=\w) \^ (?:vector \* \(32 / VECTORS\)|\(line / [^)]*\)|half\([^()]*\) \* 4)", "")),
    "other stride": _in_code(
        (r"\* ([A-Z]+_STORED|STORED|OW|W|PIXELS|TILE_[MNK]|LINES|LENGTH|BLOCK_\w+|V_ROW)\b", r"* (\1 - 1)")
    ),
    "not zero": _replacing(
        (r"(?<= : )0\.0f(?=[;,)])", "1.0f"),
        (r"(?<=\] = )0\.0f(?=;)", "1.0f"),
        (r"make_uint4\(0, 0, 0, 0\)", "make_uint4(0x3c003c00u, 0, 0, 0)"),
    ),
    "not stored": _replacing((r"(?<= )(?:\w+\.)?(?:deposit|store|fill)(?:<\w+>)?\([^;\n{]*\);", ";")),
    "no partner": _replacing((r"\b(distance|half) /= 2", r"\1 /= 4")),
}
