"""Rewritten texts, to the letter, and what they compute: `rewriting.test` has the texts before and after.

Every replacement there is exact (all ranks are full ones), so old and new nets give the same outputs.
`CONVC_UPDATE_GOLDEN=1 pytest tests/frontend/test_rewriting.py` writes the expected parts anew; read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from convc.frontend import load, loads
from convc.frontend.formatter import format_text
from convc.frontend.rewriting.rewrite import Rewritten, editable, rewrite
from convc.frontend.rewriting.tracing import trace
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.matching import choose_targets
from convc.passes.rewriting.table import parse_request
from convc.runtime.rewriting.conversion import substitute
from tests.frontend.rewriting import rewritten

GOLDEN = Path(__file__).with_name("rewriting.test")
_CASE = re.compile(
    r"^\[case (\w+)\]\n\[rules ([^\n]*)\]\n(.*?)^\[out\]\n(.*?)(?=^\[case |\Z)", re.MULTILINE | re.DOTALL
)
CASES = {name: (rules, text, out) for name, rules, text, out in _CASE.findall(GOLDEN.read_text(encoding="utf-8"))}


def shown(result: Rewritten) -> str:
    lines = [result.text.rstrip("\n"), *(f"# {action}" for action in result.actions)]
    lines += [f"# dropped of {path}: {', '.join(dropped)}" for path, dropped in result.dropped.items()]
    lines += [f"# {old} is {new}" for old, new in result.names.renamed.items()]
    return "\n".join(lines)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    rules, text, expected = CASES[name]
    result, _ = rewritten(loads(text, file="n.cnn"), rules)
    actual = shown(result)
    if os.environ.get("CONVC_UPDATE_GOLDEN"):
        golden = GOLDEN.read_text(encoding="utf-8")
        old = f"[case {name}]\n[rules {rules}]\n{text}[out]\n{expected}"
        assert golden.count(old) == 1
        new = f"[case {name}]\n[rules {rules}]\n{text}[out]\n{actual}\n\n"
        GOLDEN.write_text(golden.replace(old, new), encoding="utf-8")
        return
    assert actual == expected.strip("\n")
    if format_text(text) == text:
        assert format_text(result.text) == result.text


def test_all_cases_are_found() -> None:
    assert len(CASES) == GOLDEN.read_text(encoding="utf-8").count("[case ") >= 20


@pytest.mark.parametrize("name", ["resnet", "googlenet", "mobilenet_v2", "unet"])
def test_examples(name: str, repository: Path) -> None:
    net = load(repository / "examples" / f"{name}.cnn")
    traced = trace(net)
    targets, _ = choose_targets(traced.graph, [parse_request("bottleneck")], editable(traced), lambda path, layer: None)
    substitutes = {t.path: substitute(t.layer, t.request.rule.form(t.layer), t.request.rule) for t in targets}
    result = rewrite(net, substitutes)
    assert format_text(result.text) == result.text
    assert len(result.net.layers) == len(net.layers) + 2 * sum(layer.name in substitutes for layer in net.layers)


def test_spacing_and_line_ends_stay() -> None:
    text = "net n {\r\n  input 1x8x8\r\n  conv  4   k=3 ->relu # wide\r\n\r\n\r\n  fc 2 }\r\n"
    result, _ = rewritten(loads(text), "factorize:conv1:rank=99")
    assert result.text == text.replace("conv  4   k=3 ->", "conv 3 k=1x3 bias=no -> conv 4 k=3x1 ->")


def test_a_block_of_another_file_is_copied_with_its_constants(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/blocks.cnn").write_text(
        "let width = 4\nblock wide(c = width) { conv c k=3 -> relu -> inner }\nblock inner { conv width k=3 }\n"
    )
    (tmp_path / "n.cnn").write_text(
        'use "parts/blocks.cnn"\n\nnet n { input 1x9x9 -> wide -> wide(2) -> fc 2 -> loss softmax }\n\n'
        'train {\n  data npz "images.npz"\n  init "weights.safetensors"\n}\n'
    )
    out = tmp_path / "elsewhere" / "new.cnn"
    out.parent.mkdir()
    result, _ = rewritten(load(tmp_path / "n.cnn"), "factorize:wide2.inner1:rank=99", str(out))
    assert result.text.replace(str(tmp_path), "") == (
        'use "../parts/blocks.cnn"\n\n'
        "# wide with other layers: wide2.inner1.conv1\n"
        "block wide_factorize(c = (4)) { conv c k=3 -> relu -> inner_factorize }\n\n"
        "# inner with other layers: wide2.inner1.conv1\n"
        "block inner_factorize {\n  let width = 4\n  conv 6 k=1x3 bias=no -> conv width k=3x1\n}\n\n"
        "net n { input 1x9x9 -> wide -> wide_factorize(2) -> fc 2 -> loss softmax }\n\n"
        'train {\n  data npz "../images.npz"\n  init "../weights.safetensors"\n}\n'
    )
    out.write_text(result.text)
    assert load(out).digest() == result.net.digest()


def test_a_net_of_another_file_is_copied(tmp_path: Path) -> None:
    (tmp_path / "nets.cnn").write_text("let classes = 2\nnet small(k = 3) { input 1x8x8 -> conv 2 k=k -> fc classes }")
    (tmp_path / "n.cnn").write_text('use "nets.cnn"\n')
    result, _ = rewritten(load(tmp_path / "n.cnn", set={"k": 5}), "factorize:rank=99")
    assert "net small_rewritten(k = 5)" in result.text
    assert result.net.name == "small_rewritten"


def test_a_block_that_another_net_needs_is_copied() -> None:
    text = "block unit { conv 2 k=3 }\nnet a { input 1x8x8 -> unit }\nnet b { input 1x8x8 -> unit -> fc 2 }\n"
    result, _ = rewritten(loads(text, net="b"), "factorize:rank=99")
    assert result.text == (
        "block unit { conv 2 k=3 }\n\n# unit with other layers: unit1.conv1\n"
        "block unit_factorize { conv 3 k=1x3 bias=no -> conv 2 k=3x1 }\n"
        "net a { input 1x8x8 -> unit }\nnet b { input 1x8x8 -> unit_factorize -> fc 2 }\n"
    )


def test_values_that_were_given_become_defaults() -> None:
    net = loads("net n(c = 2, f = 3) { input 1x8x8 -> conv c k=3 -> fc f }", set={"c": 4})
    result, _ = rewritten(net, "low-rank:fc1:rank=99")
    assert result.text == "net n(c = 4, f = 3) { input 1x8x8 -> conv c k=3 -> fc 3 bias=no -> fc f }"


FROZEN = """net n {{
  input 1x8x8
  conv 2 k=3 -> relu -> conv 2 k=3 -> relu
  fc 2
  loss softmax
}}

train {{
  init "old.safetensors" freeze={}
}}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"conv*"', '"conv*"'),
        ('"conv2"', '"conv3"'),
        ('["conv1", "fc1.bias"]', '["conv1", "conv2", "fc1.bias"]'),
        ('"conv2.bias"', '"conv3.bias"'),
    ],
)
def test_what_was_frozen_stays_so(before: str, after: str) -> None:
    result, _ = rewritten(loads(FROZEN.format(before)), "factorize:conv1:rank=99")
    assert re.search(r"freeze=(.*)\n", result.text)[1] == after  # type: ignore[index]


def test_init_names_the_new_weights(tmp_path: Path) -> None:
    net = loads(FROZEN.format('"conv*"'), file=str(tmp_path / "n.cnn"))
    (layer,) = (layer for layer in net.layers if layer.name == "conv1")
    rule = parse_request("factorize").rule
    old = Layer.of(next(node for node in net.graph(1).nodes if node.label == layer.name))
    pair = str(tmp_path / "old.safetensors"), str(tmp_path / "new" / "w.safetensors")
    result = rewrite(
        net, {"conv1": substitute(old, rule.form(old), rule)}, path=str(tmp_path / "new/n.cnn"), weights=pair
    )
    assert 'init "w.safetensors" freeze' in result.text
