"""docs/tutorial.md: its programs compile without a warning, and its figures are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import convc
from convc.frontend import loads, unsupported
from convc.passes.summary import layer_rows, summarize

TEXT = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```cnn\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def program(name: str) -> str:
    (text,) = (text for text in PROGRAMS if f"net {name}" in text)
    return text


@pytest.mark.parametrize("text", PROGRAMS)
def test_program_compiles(text: str) -> None:
    net = loads(text, strict=True)
    assert unsupported(net.settings) == []
    with convc.compile(net, batch=2, target="reference"):
        pass


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 7


def test_what_it_says_about_lenet() -> None:
    graph = loads(program("lenet")).graph(1)
    layers = {layer.name: layer for layer in layer_rows(graph)}
    total = summarize(graph)
    assert (layers["fc1"].params, total.params) == (400_500, 431_080)
    convolutions = layers["conv1"].macs + layers["conv2"].macs
    assert (round(convolutions / 1e6, 1), round(total.macs / 1e6, 1)) == (1.9, 2.3)
    field = layers["pool2"].receptive_field
    assert field is not None
    assert field.size == (16, 16)


def test_what_it_says_about_resnet() -> None:
    text = program("resnet")
    assert summarize(loads(text).graph(1)).params == 77_754
    assert loads(text, set={"depth": 20}).graph(1)
    with pytest.raises(convc.CompileError, match="the depth is 6n\\+2, not 21"):
        loads(text, set={"depth": 21})


def test_names_of_parameters() -> None:
    names = loads(program("vgg")).graph(1).parameters
    assert {"stage3.conv2.weight", "stage3.conv2.bias"} <= set(names)
