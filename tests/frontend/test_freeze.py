"""What the patterns of `freeze=` mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convc.frontend import loads
from convc.frontend.freeze import frozen_names
from convc.ir.diagnostic import Diagnostic
from convc.ir.ops.norm import BatchNorm

NET = """\
block basic(c) { conv c k=3 pad=1 bias=no -> bn -> relu }
net n {
  input 1x8x8
  conv 4 k=3
  basic(4) -> basic(4)
  fc 10 -> loss softmax
}
"""


def frozen(patterns: str) -> list[str]:
    net = loads(NET + f'train {{ init "w.safetensors" freeze={patterns} }}')
    return [name for name, parameter in net.graph(2).parameters.items() if parameter.frozen]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ('"conv*"', ["conv1.weight", "conv1.bias"]),
        ('"conv1"', ["conv1.weight", "conv1.bias"]),
        ('"conv1.weight"', ["conv1.weight"]),
        ('"conv?.b*"', ["conv1.bias"]),
        ('"basic1.conv1"', ["basic1.conv1.weight"]),
        ('"*.conv1"', ["basic1.conv1.weight", "basic2.conv1.weight"]),
        ('"basic[2-9]"', ["basic2.conv1.weight"] + [f"basic2.bn1.{role}" for role in ("gamma", "beta", "mean", "var")]),
        ('["fc1.bias", "conv1.bias"]', ["conv1.bias", "fc1.bias"]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert frozen(pattern) == expected


def test_statistics_are_frozen_with_their_layer() -> None:
    """As `freeze=yes` does; a `bn` of which one of gamma and beta is trained goes on with its statistics."""

    def statistics(pattern: str) -> dict[str, bool]:
        net = loads(NET + f'train {{ init "w" freeze={pattern} }}')
        graph = net.graph(2)
        return {
            node.label: node.op.frozen and graph.parameters[f"{node.label}.var"].frozen
            for node in graph.nodes
            if isinstance(node.op, BatchNorm)
        }

    assert statistics('"basic1.bn1"') == {"basic1.bn1": True, "basic2.bn1": False}
    assert statistics('["*.gamma", "*.beta"]') == {"basic1.bn1": True, "basic2.bn1": True}
    assert statistics('"*.gamma"') == {"basic1.bn1": False, "basic2.bn1": False}
    assert statistics('"basic2.bn1.mean"') == {"basic1.bn1": False, "basic2.bn1": True}


def test_the_same_graph_as_freeze_in_the_layer() -> None:
    text = "net n {{ input 1x4x4 -> conv 2 k=3 {0} -> bn {0} -> fc 3 -> loss softmax }}\n"
    one = loads(text.format("freeze=yes"))
    other = loads(text.format("") + 'train { init "w" freeze=["conv1", "bn1"] }')
    assert one.digest() == other.digest()
    assert one.digest() != loads(text.format("")).digest()


def test_shared_layers() -> None:
    text = """
net n {
  input 2x4x4 -> shared part { conv 2 k=3 pad=1 bias=no -> bn } -> reuse part -> fc 3 -> loss softmax
}
train { init "w" freeze="part.bn1" }
"""
    graph = loads(text).graph(1)
    assert [node.op.frozen for node in graph.nodes if isinstance(node.op, BatchNorm)] == [True, True]
    assert frozen_names(graph.parameters, ["part"]) == [name for name in graph.parameters if name.startswith("part")]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ('"cnov*"', "did you mean `conv*`?"),
        ('"conv2"', "did you mean `conv1`?"),
        ('"basic1.cnv1"', "did you mean `basic1.conv1`?"),
        ('"Conv*"', "did you mean `conv*`?"),
        ('"zzz"', "layers with parameters are conv1, basic1, basic2, fc1"),
    ],
)
def test_a_pattern_that_means_nothing(problems: Callable[..., list[Diagnostic]], pattern: str, hint: str) -> None:
    (found,) = problems(NET + f'train {{\n  init "w" freeze=[{pattern}, "fc1"]\n}}')
    assert (found.code, found.hint) == ("name-parameter", hint)
    assert found.span is not None
    assert found.span.line == 9
    assert pattern.strip('"') in found.message


def test_check_says_so_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    from convc.frontend import check

    path = tmp_path_factory.mktemp("check") / "n.cnn"
    path.write_text(NET + 'train { init "w" freeze="fx*" }')
    assert [found.code for found in check([path])] == ["name-parameter"]
    # A pattern may be meant for another net of the file.
    path.write_text(NET + 'net m { input 1x2x2 -> fc 3 name=fx -> loss softmax }\ntrain { init "w" freeze="fx*" }')
    assert check([path]) == []
