"""The words of the language with all that is known of them, for `convc docs`: from the tables of the checker."""

from __future__ import annotations

from collections.abc import Sequence

from convc.frontend.arguments import REQUIRED, Parameter
from convc.frontend.constructs import (
    FUNCTIONS,
    ITEMS,
    LAYER_EXAMPLES,
    LAYER_NOTES,
    SETTING_EXAMPLES,
    STATEMENTS,
    STEP_EXAMPLES,
    Construct,
)
from convc.frontend.kinds import InitialValue
from convc.frontend.layers import COMMON, LAYERS
from convc.frontend.setting_kinds import PIPELINES, SETTINGS
from convc.frontend.settings import waits
from convc.lazy import dataclass


@dataclass(frozen=True)
class Argument:
    """`name` as it is written, capitals where there is no key; `default` is None where it must be given."""

    name: str
    long: str | None
    takes: str
    default: str | None
    doc: str


@dataclass(frozen=True)
class Entry:
    """One word: `kind` is layer, setting, step, statement, item or function; `common` what all of its kind take."""

    kind: str
    title: str
    signature: str
    doc: str
    example: str
    arguments: tuple[Argument, ...] = ()
    common: tuple[Argument, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What finds it: `pool max`, `pool`; `augment crop`, `crop`."""
        parts = self.title.split()
        near = parts[-1] if self.kind == "step" else parts[0]
        return (self.title, near) if near != self.title else (self.title,)


# Settings whose form is not one of arguments.
_RATES = Entry(
    "setting",
    "schedule",
    "schedule RATE for DURATION, …, RATE",
    "absolute rates, one after the other, in place of the optimiser's `lr`",
    SETTING_EXAMPLES["schedule"],
    notes=("80e are 80 epochs, 500s are 500 steps.",),
)


def entries() -> list[Entry]:
    """All words, in the order of the tables."""
    common = _arguments(COMMON)
    found = [_construct("item", item) for item in ITEMS]
    found += [
        Entry(
            "layer",
            kind.title,
            _signature(kind.title, kind.parameters),
            kind.doc,
            LAYER_EXAMPLES[kind.title],
            _arguments(kind.parameters),
            common,
            LAYER_NOTES.get(kind.title, ()),
        )
        for kind in LAYERS
    ]
    found += [_construct("statement", statement) for statement in STATEMENTS]
    found += [_construct("function", function) for function in FUNCTIONS]
    found += [
        Entry(
            "setting",
            kind.title,
            _signature(kind.title, kind.parameters),
            kind.doc,
            SETTING_EXAMPLES[kind.title],
            _arguments(kind.parameters),
            notes=_state(kind.word, kind.variant),
        )
        for kind in SETTINGS
    ]
    found.append(_RATES)
    for word, steps in PIPELINES.items():
        names = ", ".join(step.title for step in steps)
        doc = _PIPELINE_DOCS[word]
        form = f"{word} {{ STEP -> … }}"
        found.append(
            Entry("setting", word, form, doc, SETTING_EXAMPLES[word], notes=(f"Steps: {names}.", *_state(word)))
        )
        for step in steps:
            title = f"{word} {step.title}"
            example = f"{word} {{ {STEP_EXAMPLES[word, step.title]} }}"
            form = _signature(step.title, step.parameters)
            notes = _state(word, step.word)
            found.append(Entry("step", title, form, step.doc, example, _arguments(step.parameters), notes=notes))
    return found


_PIPELINE_DOCS = {
    "augment": "what is done to training images, anew in every epoch",
    "test": "what is done to images when a trained net is tested",
}


def find(words: Sequence[str]) -> list[Entry]:
    """The entries that `pool`, `pool max` or `augment crop` may mean; none if there is no such word."""
    wanted = " ".join(words)
    return [entry for entry in entries() if wanted in entry.words]


def known_words() -> list[str]:
    """Everything that `find` knows."""
    return list(dict.fromkeys(word for entry in entries() for word in entry.words))


def _construct(kind: str, construct: Construct) -> Entry:
    notes = (*construct.notes, *_state(construct.word))
    return Entry(kind, construct.word, construct.form, construct.doc, construct.example, notes=notes)


def _state(word: str, variant: str | None = None) -> tuple[str, ...]:
    """What has to be said of words that nothing is done about yet."""
    return ("Read and checked, but not carried out by this version.",) if waits(word, variant) else ()


def _arguments(parameters: Sequence[Parameter]) -> tuple[Argument, ...]:
    return tuple(
        Argument(
            _name(parameter),
            parameter.long,
            parameter.kind.description,
            None if parameter.default is REQUIRED else shown_default(parameter.default),
            parameter.doc,
        )
        for parameter in parameters
    )


def _name(parameter: Parameter) -> str:
    return parameter.key if parameter.keyword else parameter.key.upper()


def _signature(title: str, parameters: Sequence[Parameter]) -> str:
    words = [title]
    for parameter in parameters:
        required = parameter.default is REQUIRED
        if parameter.positional:
            words.append(parameter.key.upper() if required else f"[{parameter.key.upper()}]")
        else:
            text = f"{parameter.key}={'' if required else shown_default(parameter.default)}"
            words.append(text if required else f"[{text}]")
    return " ".join(words)


def shown_default(value: object) -> str:
    """A default as it would be written; the empty text for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, InitialValue):
        return value.kind
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        # All sides alike are written as one number.
        items: list[str] = [shown_default(item) for item in value]
        return items[0] if items and len(set(items)) == 1 else f"({', '.join(items)})" if items else ""
    return str(value)
