"""Passes by name: options as text, and what is said of them."""

from __future__ import annotations

import pytest

import convc
from convc.frontend import loads
from convc.ir.ops.update import SgdUpdate
from convc.passes.base import Mode
from convc.passes.options import options_of
from convc.passes.pipeline import pipeline
from convc.passes.registry import ALL_PASSES, PASSES, PLAN_PASSES, explanation, parse_pass
from convc.passes.specialize import Specialize
from convc.passes.training import Training


def test_names_and_options() -> None:
    assert parse_pass("specialize") == Specialize()
    assert parse_pass("specialize:mode=train,accumulate=yes") == Specialize("train", accumulate=True)
    assert parse_pass(" training: clip=2.5, decay_bias=no ") == Training(clip=2.5)


def test_options_of_the_usual_order_hold() -> None:
    usual = pipeline("train", SgdUpdate(momentum=0.9))
    assert parse_pass("training:clip=1", usual) == Training(SgdUpdate(momentum=0.9), clip=1.0)
    assert parse_pass("specialize", usual) == Specialize("train")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("specialise", "name-pass", "did you mean `specialize`?"),
        ("", "name-pass", "there are"),
        ("specialize:mod=train", "name-pass-option", "did you mean `mode`?"),
        ("specialize:mode", "name-pass-option", "has no option"),
        ("dead-code:x=1", "name-pass-option", "`dead-code` has no options"),
        ("specialize:mode=test", "value-pass-option", "takes infer or train, not `test`"),
        ("specialize:accumulate=1", "value-pass-option", "takes yes or no, not `1`"),
        ("training:clip=much", "value-pass-option", "takes a number, not `much`"),
        ("training:optimizer=sgd", "value-pass-option", "cannot be given here"),
    ],
)
def test_mistakes(text: str, code: str, words: str) -> None:
    with pytest.raises(convc.CompileError) as error:
        parse_pass(text)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == code
    assert words in f"{diagnostic.message} {diagnostic.hint}"


@pytest.mark.parametrize("name", ALL_PASSES)
def test_every_pass_explains_itself(name: str) -> None:
    sentence, example = explanation(ALL_PASSES[name])
    assert sentence.endswith(".")
    assert "→" in example
    assert all(option.name for option in options_of(ALL_PASSES[name]))


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_figures_are_explained(mode: Mode) -> None:
    net = loads("net n { input 3x9x9 -> conv 4 k=3 -> bn freeze=yes -> relu -> fc 3 -> loss softmax }")
    with convc.compile(net, batch=2, mode=mode) as program:
        for report in program.reports:
            assert report.log.metrics.keys() <= ALL_PASSES[report.name].metrics.keys()
    assert all(kind.metrics for kind in PLAN_PASSES.values())


def test_every_pass_of_the_usual_order_has_a_name() -> None:
    assert {type(step) for mode in ("infer", "train") for step in pipeline(mode)} <= set(PASSES.values())  # type: ignore[arg-type]
