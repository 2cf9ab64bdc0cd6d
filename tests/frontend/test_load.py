"""Files, `use`, the choice of a net, resolved texts, digests, `check`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convc.frontend import Limits, Net, check, load, loads, sources_of
from convc.ir.diagnostic import CompileError, Diagnostic, render

NETS = sorted((Path(__file__).parent / "nets").glob("*.cnn"))
COUNTS = {
    "alexnet": 61_100_840,
    "cifar_resnet20": 272_474,
    "deep": 123_552,
    "googlenet": 6_998_552,
    "lenet": 431_080,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "simple": 433_890,
    "vgg16": 138_357_544,
}


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_the_benchmark_nets(path: Path) -> None:
    net = load(path)
    assert sum(p.value.type.size for p in net.graph(1).parameters.values() if p.trainable) == COUNTS[path.stem]
    assert net.settings.optimizer is not None
    assert (net.settings.optimizer.lr, net.settings.optimizer.momentum) == (0.001, 0.9)
    again = loads(net.resolved())
    assert again.digest() == net.digest()
    assert again.resolved() == net.resolved()


# Files


def errors_of(path: Path | str) -> list[Diagnostic]:
    with pytest.raises(CompileError) as caught:
        load(path)
    return list(caught.value.diagnostics)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "lenet.cnn").write_text("net n { input 1x8x8 }")
    (tmp_path / "latin.cnn").write_bytes(b"# caf\xe9\nnet n { }")
    (tmp_path / "large.cnn").write_bytes(b" " * (Limits().source_bytes + 1))
    cases = {
        "lent.cnn": "file-missing",
        "": "file-directory",
        "latin.cnn": "file-encoding",
        "large.cnn": "file-too-large",
    }
    for name, code in cases.items():
        (error,) = errors_of(tmp_path / name)
        assert error.code == code
    assert errors_of(tmp_path / "lent.cnn")[0].hint == f"did you mean {tmp_path / 'lenet.cnn'}?"
    assert errors_of("a\0b")[0].code == "file-missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.cnn"
    path.write_text("")
    path.chmod(0)
    assert errors_of(path)[0].code == "file-unreadable"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_byte_order_mark(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.cnn"
    path.write_bytes(("\ufeffnet n {" + end + "input 1x8x8" + end + end + "conv 3 k=9" + end + "}").encode())
    (error,) = errors_of(path)
    assert error.span is not None
    assert (error.span.line, error.span.column) == (4, 8)
    assert "4 | conv 3 k=9\n    |        ^^^" in render([error], sources_of([error]))


# use


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.cnn"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_use_brings_blocks_and_nets(tmp_path: Path) -> None:
    write(
        tmp_path,
        main='use "lib/blocks.cnn"\nuse "lib/more.cnn"\nlet k = 5\nnet n { input 1x28x28 -> unit(4) -> wide -> fc k }',
        lib__blocks='use "more.cnn"\nlet k = 3\nlet width = k * 2\nblock unit(c, w=width) { conv c k=k -> conv w k=k }',
        lib__more="block wide() { conv in*2 k=1 }\ntrain { batch 7 }\nblock never() { relu }",
    )
    net = load(tmp_path / "main.cnn")
    assert [layer.output for layer in net.layers[1:]] == [(4, 26, 26), (6, 24, 24), (12, 24, 24), (5,)]
    assert net.settings.batch == 64
    again = loads(net.resolved(), file="elsewhere.cnn")
    assert again.digest() == net.digest()
    assert "use" not in again.text.split()
    assert list(again.graph(1).parameters) == list(net.graph(1).parameters)


def test_a_net_of_a_used_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        main='use "lib.cnn"\ntrain { batch 5 }',
        lib="let c = 3\nnet n(k=c, d=1) { input 1x8x8 -> conv c k=k -> repeat d { relu } }",
    )
    net = load(tmp_path / "main.cnn", set={"d": 2})
    assert (net.name, net.settings.batch, len(net.layers)) == ("n", 5, 4)
    assert loads(net.resolved()).digest() == net.digest()


def test_use_in_a_circle_shows_the_chain(tmp_path: Path) -> None:
    write(tmp_path, a='use "b.cnn"\nnet n { input 1x8x8 }', b='use "c.cnn"', c='use "a.cnn"')
    (error,) = errors_of(tmp_path / "a.cnn")
    assert error.code == "file-cycle"
    assert error.span is not None
    assert error.span.file.endswith("c.cnn")
    assert [note.span.file[-5:] for note in error.notes if note.span] == ["b.cnn", "a.cnn"]


def test_a_fault_in_a_used_file_is_told_with_the_way_there(tmp_path: Path) -> None:
    write(
        tmp_path,
        a='use "b.cnn"\nuse "gone.cnn"\nnet n { input 1x8x8 -> cnv 3 }',
        b="block x( { }\nblock y() { relu -> }",
    )
    found = errors_of(tmp_path / "a.cnn")
    assert [(error.code, error.span.file[-5:]) for error in found if error.span] == [
        ("file-missing", "a.cnn"),
        ("name-layer", "a.cnn"),
        ("syntax-unclosed", "b.cnn"),
    ]


def test_a_file_used_twice_is_read_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        a='use "b.cnn"\nuse "./b.cnn"\nuse "c.cnn"\nnet n { input 1x8x8 -> x }',
        b="block x() { relu }",
        c='use "b.cnn"',
    )
    assert len(load(tmp_path / "a.cnn").layers) == 2


def test_too_many_files(tmp_path: Path) -> None:
    for number in range(120):
        write(tmp_path, **{f"f{number}": f'use "f{number + 1}.cnn"\nnet n{number} {{ input 1x8x8 }}'})
    assert "budget-files" in [error.code for error in errors_of(tmp_path / "f0.cnn")]


# Nets of a file


def test_choice_of_the_net() -> None:
    text = "net a { input 1x8x8 }\nnet b { input 2x8x8 }\ntrain { batch 3 }"
    assert loads(text, net="b").input_shape == (2, 8, 8)
    with pytest.raises(CompileError, match="several nets: a, b"):
        loads(text)
    with pytest.raises(CompileError, match="has no net `c`"):
        loads(text, net="c")
    resolved = loads(text, net="b").resolved()
    assert loads(resolved).name == "b"


# Digest and resolved text


def test_the_digest_is_of_what_decides_a_training() -> None:
    base = loads("net n { input 1x8x8 -> conv 3 k=3 -> relu -> fc 2 -> loss softmax }")
    same = loads(
        "# another\nnet m { input 1x8x8\n conv 3 k=3\n repeat 1 { relu }\n fc 2\n loss softmax }\ntrain { batch 3 }"
    )
    assert base.digest() == same.digest()
    for other in (
        "conv 3 k=3 pad=1 -> relu",
        "conv 3 k=3 -> tanh",
        "conv 3 k=3 name=a -> relu",
        "conv 3 k=3 -> leaky 0.3",
        "conv 3 k=3 init=xavier -> relu",
        "conv 3 k=3 lr=2 -> relu",
        "conv 3 k=3 freeze=yes -> relu",
    ):
        assert loads(f"net n {{ input 1x8x8 -> {other} -> fc 2 -> loss softmax }}").digest() != base.digest()
    assert len(base.digest()) == 64


def test_resolved_text_keeps_comments_and_carries_values(tmp_path: Path) -> None:
    text = (
        "# mine\nnet n(depth, c=2) { # body\n  input 1x8x8 -> repeat depth { conv c k=1 } }\n"
        'train {\n  batch 3 accumulate=1 # three\n  data idx "d"\n}\n'
    )
    net = loads(text, file=str(tmp_path / "n.cnn"), set={"depth": 3, "train.batch": 4, "train.optim": "adam lr=0.1"})
    resolved = net.resolved()
    assert resolved == (
        "# resolved: net n; depth = 3\n"
        "# mine\nnet n(depth=3, c=2) { # body\n  input 1x8x8 -> repeat depth { conv c k=1 } }\n"
        f'train {{\n  batch 4 accumulate=1 # three\n  data idx "{tmp_path / "d"}"\n  optim adam lr=0.1\n}}\n'
    )
    again = loads(resolved, file="x.cnn")
    assert again.digest() == net.digest()
    assert again.resolved() == resolved.replace("; depth = 3", "")
    assert (again.settings.batch, again.settings.optimizer.lr) == (4, 0.1)  # type: ignore[union-attr]


def test_graphs_are_fresh(net: Callable[..., Net]) -> None:
    built = net("fc 3 -> loss softmax")
    assert built.graph(2) is not built.graph(2)
    with pytest.raises(CompileError):
        built.graph(0)


# Warnings and check


def test_strict_makes_errors_of_warnings() -> None:
    text = "block b() { relu }\nnet n { input 1x8x8 -> conv 3 k=3 -> bn as q }"
    assert {warning.code for warning in loads(text).warnings} == {"unused-block", "redundant-bias", "unused-value"}
    with pytest.raises(CompileError) as caught:
        loads(text, strict=True)
    assert {error.severity for error in caught.value.diagnostics} == {"error"}


def test_a_block_under_a_condition_is_used() -> None:
    text = """block b() { relu }
    block c() { b }
    net n(deep = no) { input 1x8x8 -> repeat 2 { if deep { c } else { tanh } } }"""
    assert not loads(text).warnings
    assert {warning.span.line for warning in loads("block d() { c }\n" + text).warnings if warning.span} == {1}


def test_check_reports_on_all_files_and_nets(tmp_path: Path) -> None:
    write(
        tmp_path,
        good="block b() { relu }",
        bad="net a { input 1x8x8 -> cnv 3 }\nnet b(n) { input 1x8x8 }\n"
        "net c { input 1x8x8 -> conv 3 k=9 }\ntrain { bach 3 }",
        broken="net a {",
        warned="net a { input 1x8x8 as x }\ntrain { batch 3 }",
    )
    found = check([tmp_path / f"{name}.cnn" for name in ("good", "bad", "broken", "warned", "gone")])
    assert [(error.code, error.severity) for error in found] == [
        ("name-layer", "error"),
        ("shape-conv", "error"),
        ("name-setting", "error"),
        ("syntax-unclosed", "error"),
        ("unused-value", "warning"),
        ("missing-loss", "warning"),
        ("file-missing", "error"),
    ]
    assert {error.severity for error in check([tmp_path / "warned.cnn"], strict=True)} == {"error"}


def test_nothing_heavy_is_imported() -> None:
    heavy = ("lark", "llvmlite", "networkx", "matplotlib", "PIL", "rich", "unicodedata", "difflib")
    code = f"import sys, convc.frontend; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_constant_may_be_made_of_its_namesake_outside() -> None:
    text = """let c = 4
block unit(c = c + 1) { conv c k=1 }
net n(c = c + 2) { input 1x8x8
  conv c k=1 -> unit
  repeat 2 { let c = c + 1 -> conv c k=1 }
  for c in [c, 2 * c] { conv c k=1 }
}"""
    filters = [layer.output[0] for layer in loads(text).layers[1:] if layer.output]
    assert filters == [6, 5, 7, 7, 6, 12]
