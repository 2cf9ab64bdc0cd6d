"""The catalogue of planted faults keeps up with the code: each applies, once, and changes what the file means."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import DoesNotApply, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_applies(mutant: Mutant) -> None:
    """One that does not has to follow the code that it edits: see `tests/mutants/catalogue`."""
    original = (ROOT / "convc" / mutant.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(mutant.applied(ROOT))) != ast.dump(ast.parse(original))
    assert mutant.tests
    for test in mutant.tests:
        assert (ROOT / test).exists(), test


def test_there_are_enough_of_them() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40


def test_text_that_is_gone_is_an_error() -> None:
    gone = Mutant("gone", "ir/graph.py", "no such text", "", "nothing", ("tests/ir",))
    with pytest.raises(DoesNotApply, match="gone: its text stands 0 times in convc"):
        gone.applied(ROOT)
    twice = Mutant("twice", "ir/graph.py", "self", "", "everything", ("tests/ir",))
    with pytest.raises(DoesNotApply, match="not once"):
        twice.applied(ROOT)
