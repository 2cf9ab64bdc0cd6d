"""Drawings: what is a box, what is a group, and that nothing lies on top of something else."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from convc.cli import main
from convc.commands.drawing.diagram import Box, Group, diagram
from convc.commands.drawing.layout import Layout, layout
from convc.commands.drawing.svg import svg
from convc.frontend import loads
from convc.passes.summary import layer_rows

INCEPTION = """
block inception(a, b) {
  concat {
    branch { conv a k=1 -> relu }
    branch { conv b k=1 -> relu -> conv b k=3 pad=1 -> relu }
    branch { pool max k=3 s=1 pad=1 -> conv b k=1 -> relu }
  }
}
"""
NETS = {
    "chain": "net n { input 1x28x28 \n conv 4 k=5 -> bn -> relu -> pool max 2 \n fc 10 \n loss softmax }",
    "inception": INCEPTION
    + """block twice(a) { inception(a, 3) -> inception(a, 2) }
net n {
  input 3x16x16 mean=10 std=20
  twice(4) -> pool max 2
  aux { fc 5 -> loss softmax weight=0.3 }
  inception(8, 6)
  fc 5 -> loss softmax
}""",
    "unet": """
block pair(c) { conv c k=3 pad=1 -> relu -> conv c k=3 pad=1 -> relu }
net n {
  input 1x16x16
  for i in 0..2 { pair(4) as skip[i] -> pool max 2 }
  pair(8)
  for i in 0..2 { deconv 4 k=2 s=2 -> concat skip[1 - i] -> pair(4) }
  conv 2 k=1
}""",
    "residual": """
block basic(c, s=1) { residual { conv c k=3 s=s pad=1 -> bn -> relu -> conv c k=3 pad=1 -> bn } skip auto -> relu }
net n {
  input 3x8x8
  shared s { conv 3 k=1 -> relu }
  basic 4 s=2 -> basic 4 -> conv 3 k=1
  reuse s
  add s
}""",
}
# A value of the shared part is joined with itself through a name.
NETS["residual"] = NETS["residual"].replace("reuse s\n  add s", "as y\n  reuse s\n  add y")


def drawn(text: str, depth: int | None = None) -> Group:
    net = loads(text)
    graph = net.graph(1)
    kinds = {layer.name: layer.kind.split()[0] for layer in net.layers}
    return diagram(graph, layer_rows(graph, kinds), depth)


def outline(group: Group) -> list[Any]:
    return [(item.title, outline(item)) if isinstance(item, Group) else " ".join(item.lines) for item in group.items]


def test_what_only_changes_values_shares_a_box() -> None:
    assert outline(drawn(NETS["chain"])) == [
        "input 1x28x28", "conv1  4 5x5 bn1 relu1", "pool1  max 2x2 /2", "fc1  10", "loss1",
    ]  # fmt: skip


def test_blocks_are_groups_and_bodies_of_statements_are_not() -> None:
    module = ["conv1  4 1x1 relu1", "conv1  3 1x1 relu1", "conv2  3 3x3 relu2", "pool1  max 3x3", "conv1  3 1x1 relu1"]
    found = outline(drawn(NETS["inception"]))
    assert found[0] == "input 3x16x16"
    twice = found[1]
    assert isinstance(twice, tuple)
    assert twice[0] == "twice1"
    assert twice[1][0] == ("inception1", [*module, "concat1"])
    assert [item if isinstance(item, str) else item[0] for item in found] == [
        "input 3x16x16", "twice1", "pool1  max 2x2 /2", "aux1", "inception1", "fc1  5", "loss1",
    ]  # fmt: skip


def test_deep_groups_can_be_drawn_as_boxes() -> None:
    assert outline(drawn(NETS["inception"], depth=1))[1] == ("twice1", ["inception1", "inception2"])
    assert outline(drawn(NETS["inception"], depth=0))[1] == "twice1"


def test_a_shared_part_is_there_once_per_use() -> None:
    groups = [item for item in drawn(NETS["residual"]).items if isinstance(item, Group)]
    assert [group.title for group in groups] == ["s", "basic1", "basic2", "s"]
    assert outline(groups[0]) == outline(groups[-1]) == ["conv1  3 1x1 relu1"]


@pytest.mark.parametrize("name", NETS)
def test_every_layer_is_in_one_box(name: str) -> None:
    net = loads(NETS[name])

    def layers(group: Group) -> list[str]:
        return [
            row
            for item in group.items
            for row in (layers(item) if isinstance(item, Group) else [row.name for row in item.layers])
        ]

    assert sorted(layers(drawn(NETS[name]))) == sorted(layer.name for layer in net.layers)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("depth", [None, 0])
def test_nothing_overlaps_and_lines_lead_down(name: str, depth: int | None) -> None:
    def check(layout: Layout) -> None:
        for a, b in combinations(layout.items, 2):
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
            assert apart, (a, b)
        for placed in layout.items:
            assert placed.x >= 0
            assert placed.y >= 0
            assert placed.x + placed.width <= layout.width
            assert placed.y + placed.height <= layout.height
            if placed.inside:
                check(placed.inside)
        places = {placed.item: placed for placed in layout.items}
        for line, (start, end) in zip(layout.lines, layout.group.edges, strict=True):
            assert [y for _, y in line] == sorted(y for _, y in line)
            assert line[0][1] == (places[start].y + places[start].height if start else 0)
            assert line[-1][1] == (places[end].y if end else layout.height)
            for end_point, item in ((line[0], start), (line[-1], end)):
                if item:
                    assert places[item].x < end_point[0] < places[item].x + places[item].width

    check(layout(drawn(NETS[name], depth)))


def test_branches_of_equal_length_stand_side_by_side() -> None:
    module = next(
        item for item in drawn(NETS["inception"]).items if isinstance(item, Group) and item.title == "inception1"
    )
    placed = {" ".join(p.item.lines): p for p in layout(module).items if isinstance(p.item, Box)}
    assert placed["conv1  8 1x1 relu1"].y == placed["pool1  max 3x3"].y < placed["conv2  6 3x3 relu2"].y


def test_the_drawing_is_well_formed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "n.cnn", tmp_path / "n.svg"
    file.write_text(NETS["inception"])
    assert main(["graph", str(file), "-o", str(out)]) == 0
    root = ElementTree.parse(out).getroot()
    space = "{http://www.w3.org/2000/svg}"
    groups = [element for element in root.iter(f"{space}g") if element.get("class") == "group"]
    assert len(groups) == 5
    tips = "\n".join(element.text or "" for element in root.iter(f"{space}title"))
    assert "twice1.inception1.concat1.branch1.conv1 (line 4): 3x16x16 to 4x16x16, 16 parameters" in tips
    capsys.readouterr()
    assert main(["graph", str(file)]) == 0
    assert capsys.readouterr().out == out.read_text()


def test_names_are_escaped() -> None:
    group = Group("a<b>&c", [Box(["<x>"], "conv", (1,))])
    text = svg(layout(group), '"1" < 2')
    ElementTree.fromstring(text)
    assert "a&lt;b&gt;&amp;c" in text


def test_only_svg_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "n.cnn"
    file.write_text(NETS["chain"])
    assert main(["graph", str(file), "-o", str(tmp_path / "n.png")]) == 2
    assert "drawn as SVG, not .png" in capsys.readouterr().err
    assert not (tmp_path / "n.png").exists()
