"""Code that would take minutes to translate is refused while it is being written."""

from __future__ import annotations

from pathlib import Path

import pytest

import convc
from convc.cli import main
from convc.codegen.llvm.lowering import generate, scratch_bytes
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.target import host_target
from convc.frontend import Limits, loads
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.passes.planning import make_plan

NET = "net n {\n  input 3x20x20\n  conv 8 k=3 -> relu\n  conv 8 k=5 -> pool max 2\n  fc 10\n  loss softmax\n}\n"


def test_a_net_within_the_limit() -> None:
    with convc.compile(loads(NET), batch=1) as program:
        assert program.graph.nodes


@pytest.mark.parametrize("limit", [1, 300, 4_000])
def test_the_layer_at_which_it_grows_too_long_is_named(limit: int) -> None:
    net = loads(NET, limits=Limits(instructions=limit), file="n.cnn")
    with pytest.raises(convc.CompileError, match=f"the code grows beyond {limit:,} instructions") as error:
        convc.compile(net, batch=1, mode="train")
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "budget-code"
    assert diagnostic.span is not None
    assert diagnostic.span.line in (3, 4, 5)


def longest(depth: int) -> int:
    """Instructions of a net of so many equal layers: the least limit that lets it pass."""
    text = f"net n {{\n input 8x9x9\n repeat {depth} {{ conv 8 k=3 pad=1 -> relu }}\n fc 3\n}}"
    graph = loads(text).graph(1)
    PassManager(pipeline("infer")).run(graph)
    plan = make_plan(graph, machine_of(host_target()), scratch_bytes)
    low, high = 1, 1 << 17
    while low < high:
        middle = (low + high) // 2
        try:
            generate(plan, "fma", middle)
            high = middle
        except convc.CompileError:
            low = middle + 1
    return low


def test_equal_kernels_count_once() -> None:
    assert 1_000 < longest(2) == longest(6) < 100_000


def test_it_is_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "n.cnn"
    file.write_text(NET)
    assert main(["compile", str(file), "--limit", "instructions=300"]) == 1
    assert "`--limit instructions=N` changes the limit" in capsys.readouterr().err
