"""What `convc docs` tells is complete, and every example compiles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convc.frontend import load, loads
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
from convc.frontend.expressions import FUNCTIONS as CALLABLE
from convc.frontend.formatter import format_text
from convc.frontend.layers import LAYERS
from convc.frontend.parser import ITEM_WORDS
from convc.frontend.reference import Entry, entries, find, known_words, shown_default
from convc.frontend.setting_kinds import PIPELINES, SETTINGS
from convc.frontend.statement_parser import STATEMENT_WORDS
from convc.ir.diagnostic import CompileError

NET = "net n {{\ninput 3x32x32\n{}\n}}\n"
TRAINED = "net n {{\ninput 3x32x32\nfc 10\nloss softmax\n}}\ntrain {{\n{}\n}}\n"
BLOCKS = "block unit(c, s = 1) { conv c k=3 s=s pad=1 }\n"


def test_every_word_has_an_example() -> None:
    pipelines = {(word, step.title) for word, steps in PIPELINES.items() for step in steps}
    assert set(LAYER_EXAMPLES) == {kind.title for kind in LAYERS}
    assert set(LAYER_NOTES) <= set(LAYER_EXAMPLES)
    assert set(SETTING_EXAMPLES) == {kind.title for kind in SETTINGS} | {*PIPELINES, "schedule"}
    assert set(STEP_EXAMPLES) == pipelines
    # Constants of a file are told of with those of a body.
    assert {construct.word for construct in STATEMENTS} == set(STATEMENT_WORDS)
    assert {construct.word for construct in ITEMS} == set(ITEM_WORDS) - {"let"}
    assert {construct.word for construct in FUNCTIONS} == {*CALLABLE, "in"}


def program(entry: Entry) -> str:
    if entry.kind in ("setting", "step"):
        return TRAINED.format(entry.example)
    if entry.kind == "item":
        return entry.example
    return NET.format(entry.example).replace("input 3x32x32\ninput", "input")


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.kind} {entry.title}")
def test_examples_compile(entry: Entry, tmp_path: Path) -> None:
    """Where an example uses what this version only checks, the message must say so, and nothing else."""
    (tmp_path / "blocks.cnn").write_text(BLOCKS)
    path = tmp_path / "n.cnn"
    path.write_text(program(entry))
    try:
        load(path)
    except CompileError as error:
        assert {diagnostic.code.split("-")[0] for diagnostic in error.diagnostics} == {"unavailable"}  # noqa: PT017


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.kind} {entry.title}")
def test_examples_show_their_word_in_canonical_spelling(entry: Entry) -> None:
    text = program(entry)
    assert re.search(rf"\b{entry.words[-1]}\b", entry.example)
    assert [line.strip() for line in format_text(text).splitlines()] == [line.strip() for line in text.splitlines()]


def test_a_layer_shows_its_table() -> None:
    (conv,) = find(["conv"])
    assert conv.signature.startswith("conv FILTERS k= [s=1] [pad=0]")
    names = {argument.name: argument for argument in conv.arguments}
    assert names["k"].default is None
    assert names["k"].long == "kernel"
    assert names["init"].default == "he"
    assert {argument.name for argument in conv.common} == {"name", "freeze", "lr", "decay", "precision"}
    for kind in LAYERS:
        (entry,) = find([kind.title]) if kind.variant else find([kind.word])[:1]
        assert [argument.doc for argument in entry.arguments] == [parameter.doc for parameter in kind.parameters]


def test_words_find_all_that_they_may_mean() -> None:
    assert [entry.title for entry in find(["pool"])] == ["pool max", "pool avg"]
    assert [entry.title for entry in find(["pool", "avg"])] == ["pool avg"]
    assert {entry.kind for entry in find(["noise"])} == {"layer", "step"}
    assert [entry.title for entry in find(["crop"])] == ["augment crop", "test crop"]
    assert find(["nothing"]) == []
    assert all(find(word.split()) for word in known_words())


@pytest.mark.parametrize(
    ("value", "text"), [((0, 0, 0, 0), "0"), ((1, 2), "(1, 2)"), (1e-5, "1e-05"), (None, ""), (True, "yes"), ((), "")]
)
def test_defaults_are_shown_as_they_are_written(value: object, text: str) -> None:
    assert shown_default(value) == text


def test_forms_of_constructs_begin_with_their_words() -> None:
    for construct in (*ITEMS, *STATEMENTS, *FUNCTIONS):
        assert isinstance(construct, Construct)
        assert construct.word in construct.form
    assert loads(NET.format("relu")).name == "n"
