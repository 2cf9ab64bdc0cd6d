"""Work is refused before it is done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convc.frontend import Limits, loads
from convc.frontend.load import inspect
from convc.frontend.source import Source
from convc.ir import diagnostic
from convc.ir.diagnostic import Diagnostic, source_lines

HEAD = "net n { input 1x8x8\n"


REFUSED = [
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
    # Lists that double, lists in lists, and what is done with long ones.
    ("let a0 = [1, 1]\n" + "".join(f"let a{i} = [a{i - 1}, a{i - 1}]\n" for i in range(1, 60)) + HEAD + "fc a59 }",
     "budget-work"),
    ("let a0 = [1]\n" + "".join(f"let a{i} = [a{i - 1}]\n" for i in range(1, 3000)) + HEAD + "fc a2999 }",
     "value-range"),
    ("let a = [" + "1," * 20_000 + "]\n" + HEAD + "repeat 1000 { let b = max(a) } }", "budget-work"),
    ("let a = [" + "1," * 20_000 + "]\n" + HEAD + "repeat 1000 { let b = a == a } }", "budget-work"),
    # Operations that one statement asks for, names that grow with every call, long names and strings.
    (HEAD + "relu as x -> repeat 9000 { add " + ", ".join(["x"] * 300) + " } }", "budget-work"),
    (HEAD + "relu as x -> repeat 9000 { concat { " + "branch { } " * 300 + "} -> from x } }", "budget-work"),
    ("block " + "b" * 100 + "(n) { if n > 0 { " + "b" * 100 + "(n - 1) } else { repeat 9000 { relu } } }\n"
     + HEAD + "b" * 100 + "(490) }", "budget-work"),
    (HEAD + "a" * 900_000 + " }", "syntax-budget"),
    (HEAD + 'assert no "' + "a" * 900_000 + '" }', "syntax-budget"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code"), REFUSED)
def test_refused(problems: Callable[..., list[Diagnostic]], text: str, code: str) -> None:
    limits = Limits(parameter_elements=1 << 32)
    assert code in [error.code for error in problems(text, limits=limits)]


def test_a_doubling_concat_stops_early(problems: Callable[..., list[Diagnostic]]) -> None:
    found = problems(HEAD + "repeat 1000 { concat { branch { linear } branch { linear } } } }")
    assert "budget-size" in [error.code for error in found]


PROGRAM = """
import resource, sys
from convc.frontend import loads
from convc.ir.diagnostic import CompileError
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for text in sys.stdin.read().split("\\0"):
    try:
        loads(text)
    except CompileError as error:
        assert len(str(error)) < 20_000, len(str(error))
    else:
        raise SystemExit("taken: " + text[:200])
# `ru_maxrss` would begin with what the process that started this one had.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of its memory from Linux")
def test_refusing_takes_little_memory() -> None:
    """All of them together in one process, whose peak is that of the worst: within 200 MB."""
    texts = "\0".join(text for text, _ in REFUSED)
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=texts, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) < 200


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


def test_so_are_those_of_settings(problems: Callable[..., list[Diagnostic]]) -> None:
    text = HEAD + "fc 2 -> loss softmax }\ntrain {\n" + "batch 2\n" * 500 + "}"
    assert len(problems(text)) == Limits().errors
    assert len(inspect(Source("n.cnn", text)).diagnostics) == Limits().errors


def test_a_long_text_is_divided_once_for_all_its_diagnostics(monkeypatch: pytest.MonkeyPatch) -> None:
    divided: list[str] = []
    monkeypatch.setattr(diagnostic, "source_lines", lambda text: divided.append(text) or source_lines(text))
    text = HEAD + "".join(f"relu as a{i}\n" for i in range(30)) + "}"
    found = inspect(Source("n.cnn", text)).diagnostics
    assert len(found) == 30
    assert diagnostic.render(found, {"n.cnn": text}).count("relu as a") == 30
    assert len(divided) == 1


def test_a_long_chain_of_instantiations_is_summed_up(problems: Callable[..., list[Diagnostic]]) -> None:
    (error,) = problems("block a(n) { if n > 0 { a(n - 1) } else { cnv } }\n" + HEAD + "a(100) }")
    assert [note.message for note in error.notes] == [
        "in block `a`, called here (100 times)",
        "in block `a`, called here",
    ]
