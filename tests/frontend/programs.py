"""Hypothesis strategies for whole programs: valid syntax with every construct of the language, oddly spaced.

A program is first made of pieces with marks between them that say what white space may stand there; `spaced` then puts
blanks, line ends and comments in their places.
"""

from __future__ import annotations

import random
import re

from hypothesis import strategies as st

# Marks: a blank is needed; one may stand there; an arrow; the end of a statement; the inside of a brace; between items.
NEEDED, FREE, ARROW, NEXT, EDGE, ITEM = "\ue000\ue001\ue002\ue003\ue004\ue005"
_MARKS = re.compile(f"[{NEEDED}-{ITEM}]")
_COMMENTS = ("#", "# a", "#a -> b {", '# "x', "#  # é\u2028", "# end  ", "#\t(")

# Words of the language are names, too, where nothing else is meant.
_NAMES = ("x", "n", "c", "width", "_1", "same", "h", "k", "add", "let", "skip", "branch", "train", "repeat", "refine")
_BLOCKS = ("basic", "unit", "b", "conv", "pool", "fc", "bn", "relu", "loss", "input", "refine_", "schedule")
_KEYS = ("k", "s", "pad", "kernel", "groups", "name", "weight", "lr", "skip", "repeat")
_FUNCTIONS = ("min", "max", "len", "log", "gauss", "unknown")
_SYMBOLS = ("+", "-", "*", "/", "//", "%", "**")
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_NUMBERS = ("0", "3", "64", "0.5", ".5", "1e-4", "2.50", "1E5", ".0625", "10000000000000000000000")
_STRINGS = ('"s"', '"a b/c.npz"', r'"\"\\"', '"#"', '"-> { ("')

names = st.sampled_from(_NAMES)
numbers = st.sampled_from(_NUMBERS)
durations = st.sampled_from(("80e", "500s", "0.5e", ".5e"))
dimensions = st.sampled_from(("3x1", "1x28x28"))
strings = st.sampled_from(_STRINGS)


def _join(separator: str, parts: st.SearchStrategy[str], most: int = 3, least: int = 1) -> st.SearchStrategy[str]:
    return st.lists(parts, min_size=least, max_size=most).map(separator.join)


def _bracketed(
    opener: str, parts: st.SearchStrategy[str], closer: str, least: int = 0, trailing: bool = True
) -> st.SearchStrategy[str]:
    """Parts with commas between them; with `trailing` also a comma behind the last one."""

    def build(found: list[str], comma: bool) -> str:
        inside = f"{FREE},{FREE}".join(found) + (f"{FREE}," if comma and found and trailing else "")
        return f"{opener}{FREE}{inside}{FREE}{closer}"

    return st.builds(build, st.lists(parts, min_size=least, max_size=3), st.booleans())


def _operation(left: str, operator: str, right: str) -> str:
    return f"({FREE}{left}{FREE}{operator}{FREE}{right}{FREE})"


def _extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(_operation, inner, st.sampled_from((*_SYMBOLS, *_COMPARISONS)), inner),
        st.builds(f"({{}}{FREE}-{{}})".format, inner, inner),
        st.builds(f"({{}}{NEEDED}and{NEEDED}not{NEEDED}{{}}{NEEDED}or{NEEDED}{{}})".format, inner, inner, inner),
        st.builds(f"({{}}{NEEDED}if{NEEDED}{{}}{NEEDED}else{NEEDED}{{}})".format, inner, inner, inner),
        st.builds("{}{}".format, st.sampled_from(_FUNCTIONS), _bracketed("(", inner, ")")),
        _bracketed("(", inner, ")", least=2),
        _bracketed("[", inner, "]"),
        inner.map(f"({FREE}{{}}{FREE},{FREE})".format),
        st.builds(f"{{}}[{FREE}{{}}{FREE}]".format, names, inner),
        inner.map(f"-{FREE}{{}}".format),
        inner.map(f"in[{FREE}{{}}]".format),
    )


atoms = st.one_of(numbers, names, st.sampled_from(("in", "yes", "no", "()", "[]")), durations, dimensions, strings)
closed = st.recursive(atoms, _extend, max_leaves=4)
# Also without parentheses around it.
expressions = st.one_of(
    closed,
    st.builds(f"{{}}{FREE}{{}}{FREE}{{}}".format, closed, st.sampled_from(_SYMBOLS), closed),
    st.builds(f"{{}}{FREE}{{}}{FREE}{{}}".format, atoms, st.sampled_from(_COMPARISONS), closed),
    st.builds(f"{{}}{NEEDED}if{NEEDED}{{}}{NEEDED}else{NEEDED}{{}}".format, closed, closed, closed),
    closed.map(f"not{NEEDED}{{}}".format),
)
keyed = st.builds(f"{{}}{FREE}={FREE}{{}}".format, st.sampled_from(_KEYS), expressions)
arguments = st.one_of(keyed, expressions)
references = st.one_of(names, st.builds(f"{{}}[{FREE}{{}}]".format, names, closed))

_words = st.sampled_from(_BLOCKS)
spaced_layers = st.builds(lambda word, found: NEEDED.join([word, *found]), _words, st.lists(arguments, max_size=3))
layers = st.one_of(spaced_layers, st.builds("{}{}".format, _words, _bracketed("(", arguments, ")")))
joins = st.builds(
    lambda word, sources, keys: NEEDED.join([f"{word}{NEEDED}{sources}", *keys]),
    st.sampled_from(("add", "mul", "concat")),
    _join(f"{FREE},{FREE}", references),
    st.lists(keyed, max_size=2),
)
lets = st.builds(f"let{NEEDED}{{}}{FREE}={FREE}{{}}".format, names, expressions)
simple = st.one_of(
    layers,
    layers,
    layers,
    joins,
    lets,
    st.builds(f"assert{NEEDED}{{}}{NEEDED}{{}}".format, closed, st.just('"{in} is not {x + 1}"')),
    closed.map(f"assert{NEEDED}{{}}".format),
    references.map(f"as{NEEDED}{{}}".format),
    references.map(f"from{NEEDED}{{}}".format),
    names.map(f"reuse{NEEDED}{{}}".format),
    st.builds(f"{{}}{NEEDED}as{NEEDED}{{}}".format, layers, references),
)


def body(statements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Statements between braces."""
    separated = st.lists(st.tuples(statements, st.sampled_from((ARROW, NEXT))), max_size=3)

    def build(found: list[tuple[str, str]]) -> str:
        inside = "".join(text + mark for text, mark in found)[:-1]
        return f"{FREE}{{{EDGE}{inside}{EDGE}}}"

    return separated.map(build)


def _loops(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one, several = names, _join(f"{FREE},{FREE}", names, 2)
    pattern = st.one_of(one, several, several.map(f"({FREE}{{}}{FREE})".format))
    values = st.one_of(closed, st.builds(f"{{}}{FREE}..{FREE}{{}}".format, closed, closed))
    return st.builds(f"for{NEEDED}{{}}{NEEDED}in{NEEDED}{{}}{{}}".format, pattern, values, body(inner))


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    inside = body(inner)
    skips = st.one_of(
        st.just(""),
        st.sampled_from((f"{FREE}skip{NEEDED}auto", f"{FREE}skip{NEEDED}identity")),
        inside.map(f"{EDGE}skip{{}}".format),
    )
    others = _join("", st.builds(f"{EDGE}else{NEEDED}if{NEEDED}{{}}{{}}".format, closed, inside), 2, 0)
    finals = st.one_of(st.just(""), inside.map(f"{EDGE}else{{}}".format))
    branches = _join(EDGE, inside.map("branch{}".format))
    return st.one_of(
        st.builds(f"repeat{NEEDED}{{}}{{}}".format, closed, inside),
        _loops(inner),
        st.builds(f"if{NEEDED}{{}}{{}}{{}}{{}}".format, closed, inside, others, finals),
        st.builds("residual{}{}".format, inside, skips),
        branches.map(f"concat{FREE}{{{{{EDGE}{{}}{EDGE}}}}}".format),
        st.builds(f"concat{FREE}{{{{{EDGE}{{}}{EDGE}}}}}{NEEDED}as{NEEDED}{{}}".format, branches, references),
        inside.map("aux{}".format),
        st.builds(f"shared{NEEDED}{{}}{{}}".format, names, inside),
    )


statements = st.recursive(simple, _nested, max_leaves=5)
parameters = st.one_of(names, st.builds(f"{{}}{FREE}={FREE}{{}}".format, names, expressions))
definitions = st.builds(
    f"{{}}{NEEDED}{{}}{{}}{{}}".format,
    st.sampled_from(("net", "block")),
    names,
    st.one_of(st.just(""), _bracketed(FREE + "(", parameters, ")")),
    body(statements),
)
segments = st.one_of(closed, st.builds(f"{{}}{NEEDED}for{NEEDED}{{}}".format, closed, closed))
# A schedule that begins with a word is one of the named ones.
rates = st.builds(
    f"schedule{NEEDED}{{}}{{}}".format,
    st.sampled_from((f"0.1{NEEDED}for{NEEDED}80e", ".01", "(1)", f"2{FREE}*{FREE}3")),
    st.lists(segments, max_size=2).map(lambda found: "".join(f"{FREE},{FREE}{segment}" for segment in found)),
)
SETTINGS = (
    'data mnist', 'data folder "photos/" split=0.9', 'data idx "d" train=5 val=6 test=7', "batch 128 accumulate=2",
    "epochs 160", "seed 7", "optim sgd lr=0.1 momentum=0.9 nesterov=yes", "optim adam beta1=.9", "schedule constant",
    "schedule cosine warmup=5e", "schedule step every=30e gamma=0.1", "schedule poly power=1",
    "schedule onecycle max=0.1",
    "schedule plateau factor=0.1 patience=5", "decay l2=5e-4 l1=0", "clip 1.0", "maxnorm 3.0", "class_weights balanced",
    "precision fp16 loss_scale=dynamic rounding=stochastic", "early_stop val_loss patience=10",
    'init "pretrained.safetensors" freeze="conv*"', "ensemble 5 mode=bagging", "checkpoint every=1e keep=3", "schedule",
)  # fmt: skip
plain_settings = st.sampled_from(SETTINGS).map(lambda text: text.replace(" ", NEEDED))
steps = st.sampled_from(
    ("pad 4", "crop 32", "flip h", "jitter 0.4", "pca 0.1", "rotate 10", "shift 2", "scale (0.8,1.2)", "shear 5",
     "elastic 8", "noise 0.05", "cutout 8", "resize [224,256]", "ten_crop 224", "average")
).map(lambda text: text.replace(" ", NEEDED))  # fmt: skip
pipelines = st.builds("{}{}".format, st.sampled_from(("augment", "test")), body(steps))
settings = st.one_of(plain_settings, rates, pipelines, spaced_layers.filter(lambda text: "schedule" not in text))
trains = body(settings).map("train{}".format)
axes = st.builds(
    f"{{}}{NEEDED}in{NEEDED}{{}}".format, st.sampled_from(("optim.lr", "decay.l2", "batch", "a . b.c")), closed
)
searches = st.builds(
    f"search{NEEDED}{{}}{FREE}{{{{{EDGE}{{}}{EDGE}}}}}{{}}".format,
    st.sampled_from(("grid", f"random{NEEDED}30", f"bayes{NEEDED}2{FREE}*{FREE}n")),
    _join(ITEM, axes, least=0),
    st.sampled_from(("", f"{EDGE}refine{NEEDED}2", f"{FREE}refine{NEEDED}n{FREE}+{FREE}1")),
)
uses = strings.map(f"use{NEEDED}{{}}".format)
items = st.one_of(definitions, definitions, trains, searches, lets, uses)


@st.composite
def programs(draw: st.DrawFn) -> str:
    """The text of a whole file."""
    marked = ITEM + ITEM.join(draw(st.lists(items, max_size=3))) + ITEM
    return spaced(marked, draw(st.integers(0, 1 << 32)))


def spaced(marked: str, seed: int) -> str:
    """A marked text with white space of all sorts; with seed 0, next to none."""
    rng = random.Random(seed)
    # Simple texts are more telling when a test fails.
    odd = 0.0 if seed == 0 else rng.choice((0.0, 0.1, 0.5))
    end = "\n" if seed == 0 else rng.choice(("\n", "\n", "\r\n", "\r"))
    found: list[str] = [] if seed == 0 or rng.random() < 0.9 else ["\ufeff"]
    depth = 0
    for piece in re.findall(rf'{_MARKS.pattern}|"(?:\\.|[^"\\])*"|.', marked):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(piece, 0)
        if _MARKS.fullmatch(piece):
            # `80e-3` would be a number, `80e-80e` nothing at all.
            behind_duration = re.search(r"[0-9][es]$", "".join(found[-2:]))
            piece = _white(piece, depth > 0, rng, odd, end) or (" " if behind_duration else "")
        found.append(piece)
    return "".join(found)


def _white(mark: str, inside: bool, rng: random.Random, odd: float, end: str) -> str:
    blank = rng.choice((" ", "  ", "\t", " \f ")) if rng.random() < odd else " "

    def comment() -> str:
        return rng.choice(("", " ", "   ")) + rng.choice(_COMMENTS) + end if rng.random() < odd else ""

    def lines() -> str:
        """Line ends with comments and empty lines between them."""
        found = comment() or end
        while rng.random() < odd:
            found += rng.choice((end, blank + end, "   " + comment()))
        return found + rng.choice(("", " ", "    ", "\t"))

    if mark in (NEEDED, FREE) and inside:
        if rng.random() < odd / 2:
            return lines()
        return blank if mark == NEEDED or rng.random() < 0.5 else ""
    if mark == FREE:
        return blank if rng.random() < 0.5 else ""
    if mark == NEEDED:
        return blank
    if mark == ARROW:
        before = lines() if rng.random() < odd / 2 else rng.choice(("", blank))
        after = lines() if rng.random() < odd / 2 else rng.choice(("", blank))
        return f"{before}->{after}"
    if mark == EDGE:
        return lines() if rng.random() < 0.4 else blank
    return lines()


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A program with a piece of it gone, repeated, moved or replaced."""
    text = draw(programs())
    start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    end = min(end, start + draw(st.sampled_from((0, 1, 5, 1 << 20))))
    piece = draw(
        st.sampled_from(("", text[start:end] * 2, *'{}()[]"#=,.->\n\r\0\ufeffé', "->", "3e", "as", "in", "\\"))
    )
    return text[:start] + piece + text[end:]
