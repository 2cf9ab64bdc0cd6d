"""The table of algorithms, and what the language and the back end know of it."""

from __future__ import annotations

from convc.codegen.llvm.algorithms.table import DIRECTIONS, TABLE
from convc.ir.ops.conv import ALGORITHM_FAMILIES
from convc.passes.algorithms.table import ALGORITHMS, BY_NAME


def test_names_are_those_of_the_ir() -> None:
    known = [(family, name) for family, names in ALGORITHM_FAMILIES.items() for name in names]
    assert [(algorithm.family, algorithm.name) for algorithm in ALGORITHMS] == known


def test_every_algorithm_has_a_lowering_in_every_direction() -> None:
    assert set(TABLE) == {"auto", *BY_NAME}
    for lowerings in TABLE.values():
        assert set(lowerings) == set(DIRECTIONS)
