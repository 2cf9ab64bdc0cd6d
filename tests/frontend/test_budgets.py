"""Work is refused before it is done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convc.frontend import Limits, loads
from convc.ir.diagnostic import Diagnostic

HEAD = "net n { input 1x8x8\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (HEAD + "repeat 1000000000 { relu } }", "budget-work"),
        (HEAD + "repeat 10**30 { } }", "budget-work"),
        (HEAD + "for i in 0..10**18 { relu } }", "budget-work"),
        (HEAD + "repeat 1000 { repeat 1000 { repeat 1000 { relu } } } }", "budget-work"),
        ("block a(n) { relu -> a(n + 1) }\n" + HEAD + "a(0) }", "budget-work"),
        ("block a(n) { if n > 0 { a(n - 1) -> a(n - 1) } }\n" + HEAD + "a(60) }", "budget-work"),
        (HEAD + "shared s { reuse s } }", "budget-work"),
        (HEAD + "repeat 1000 { let b = " + "+".join(["in"] * 1000) + " } }", "budget-work"),
        (HEAD + " -> ".join(["relu"] * 100_000) + "}", "syntax-budget"),
        (HEAD + "let a = " + "(" * 1000 + "1" + ")" * 1000 + " }", "syntax-budget"),
        (HEAD + "let a = " + "not " * 1000 + "yes }", "syntax-budget"),
        (HEAD + "let a = " + "-" * 1000 + "1 }", "syntax-budget"),
        (HEAD + "let a = " + "**".join(["2"] * 1000) + " }", "syntax-budget"),
        (HEAD + "let a = " + "1 if yes else " * 1000 + "2 }", "syntax-budget"),
        (HEAD + "let a = x" + "[0]" * 1000 + " }", "syntax-budget"),
        (HEAD + "repeat 1 { " * 1000 + "}" * 1000 + "}", "syntax-budget"),
        (HEAD + "let a = " + "1" * 100_000 + " }", "syntax-number"),
        (HEAD + "conv 2**63 k=1 }", "type-argument"),
        (HEAD + "conv 1 k=1 pad=2**40 }", "type-argument"),
        (HEAD + "conv 1 k=1 pad=2**30 }", "budget-size"),
        (HEAD + "conv 2**31 - 1 k=8 }", "budget-size"),
        (HEAD + "fc 2**31 - 1 }", "budget-size"),
        (HEAD + "repeat 10 { fc 2**15 - 1 } }", "budget-size"),
        ("net n { input 100000x100000x100000 }", "budget-size"),
    ],
)  # fmt: skip
def test_refused(problems: Callable[..., list[Diagnostic]], text: str, code: str) -> None:
    limits = Limits(parameter_elements=1 << 32)
    assert code in [error.code for error in problems(text, limits=limits)]


def test_a_doubling_concat_stops_early(problems: Callable[..., list[Diagnostic]]) -> None:
    found = problems(HEAD + "repeat 1000 { concat { branch { linear } branch { linear } } } }")
    assert "budget-size" in [error.code for error in found]


def test_limits_are_options() -> None:
    text = HEAD + "repeat 100 { relu } }"
    assert len(loads(text, limits=Limits(steps=202)).layers) == 101
    with pytest.raises(Exception, match="at least 100 statements"):
        loads(text, limits=Limits(steps=50))


def test_depth_is_no_matter_of_the_stack_of_python() -> None:
    net = loads("block a(n) { relu -> if n > 1 { a(n - 1) } }\n" + HEAD + "a(490) }")
    assert len(net.layers) == 491


def test_many_errors_are_cut_off(problems: Callable[..., list[Diagnostic]]) -> None:
    assert len(problems(HEAD + "".join(f"cnv{i}\n" for i in range(500)) + "}")) == Limits().errors


def test_a_long_chain_of_instantiations_is_summed_up(problems: Callable[..., list[Diagnostic]]) -> None:
    (error,) = problems("block a(n) { if n > 0 { a(n - 1) } else { cnv } }\n" + HEAD + "a(100) }")
    assert [note.message for note in error.notes] == [
        "in block `a`, called here (100 times)",
        "in block `a`, called here",
    ]
