"""Values of expressions: exact integers, precedence, functions."""

from __future__ import annotations

import pytest

from convc.frontend.expressions import Evaluator, Quantity, Scope, literal
from convc.frontend.parser import parse_expression
from convc.frontend.source import Source
from convc.ir.diagnostic import CompileError


def value(text: str, **constants: object) -> object:
    scope = Scope()
    scope.constants.update(constants)
    return Evaluator(scope, lambda span: 16).evaluate(parse_expression(Source("e", text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("- 3 + 5", 2),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("7 % 3", 1),
        ("6 / 3", 2),
        ("7 / 2", 3.5),
        ("7.0 / 3.5", 2),
        ("1e3", 1000.0),
        (".5 + 0.5", 1.0),
        ("10 ** 20", 10**20),
        ("in // 2", 8),
        ("in * 2 == 32", True),
        ("1 < 2 and not 2 < 1", True),
        ("no or yes", True),
        ("1 == 1.0", True),
        ("yes == 1", False),
        ('"a" == "a"', True),
        ("3 if 2 > 1 else 4", 3),
        ("1 if no else 2 if no else 3", 3),
        ("[1, 2, 3][1]", 2),
        ("(1, 2)[-1]", 2),
        ("[(1, 2), (3, 4)][1][0]", 3),
        ("3x224x224", (3, 224, 224)),
        ("(3,)", (3,)),
        ("80e", Quantity(80, "e")),
        ("500s", Quantity(500, "s")),
        ("min(3, 1, 2)", 1),
        ("max([1, 5])", 5),
        ("ceil(3 / 2)", 2),
        ("floor(-1.5)", -2),
        ("round(2.6)", 3),
        ("len([1, 2])", 2),
        ("sqrt(16)", 4),
        ("log(1)", 0.0),
        ("n + 1", 4),
    ],
)
def test_value(text: str, expected: object) -> None:
    result = value(text, n=3)
    assert result == expected
    assert type(result) is type(expected)


def test_and_or_do_not_look_further_than_needed() -> None:
    assert value("no and 1 / 0 == 1") is False
    assert value("yes or 1 / 0 == 1") is True


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1 / 0", "value-division"),
        ("1 % 0", "value-division"),
        ("0 ** -1", "value-division"),
        ("10 ** 100", "value-range"),
        ("2 ** 100000000000", "value-range"),
        ("1e308 * 10", "value-range"),
        ("1e999", "value-range"),
        ("(-8) ** 0.5", "value-range"),
        ("1 + yes", "type-number"),
        ('"a" + 1', "type-number"),
        ("[1] < 2", "type-number"),
        ("1 and yes", "type-condition"),
        ("not 1", "type-condition"),
        ("3[0]", "type-index"),
        ("[1][1]", "value-index"),
        ("[1][0.5]", "type-number"),
        ("nothing", "name-constant"),
        ("nothing(1)", "name-function"),
        ("log(0)", "value-function"),
        ("min()", "value-function"),
        ("len(3)", "value-function"),
        ("-yes", "type-number"),
        ("1 if 2 else 3", "type-condition"),
    ],
)
def test_error(text: str, code: str) -> None:
    with pytest.raises(CompileError) as caught:
        value(text)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert diagnostic.span is not None
    assert 1 <= diagnostic.span.column <= len(text)


@pytest.mark.parametrize(
    "constant", [3, -3, 0.1, 1e-05, True, 'a\\b"c', (1, 2), (1, 2.5), (-1, 2), (3,), (), (("a", 1),)]
)
def test_literals_read_as_the_same_value(constant: object) -> None:
    assert value(literal(constant)) == constant


def test_long_sums_do_not_recurse() -> None:
    assert value("+".join(["1"] * 5000)) == 5000
