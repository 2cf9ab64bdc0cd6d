"""The page on a compilation: whole, self-contained, every link leads somewhere, a browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import convc
from convc.cli import main
from convc.commands.page.charts import Bar, Dot, roofline, steps, timeline
from convc.commands.page.page import page
from convc.commands.page.report import Report

NET = """# <script>alert("a comment")</script>
block twice(c) {
  conv c k=3 pad=1 -> bn -> relu
  conv c k=3 pad=1 -> relu -> relu
}
net small(classes = 3) {
  input 2x8x8
  twice 4
  pool max 2
  fc classes
  loss softmax
}
train {
  batch 4
  optim sgd lr=0.1
}
"""
_VOID = ("meta",)


class Outline(HTMLParser):
    """Checks that tags are nested, and collects ids, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            elif key == "href":
                self.links.append(value or "")
            elif key == "src":
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def outline(text: str) -> Outline:
    found = Outline()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


@pytest.fixture(scope="module", params=["train", "infer"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    file = tmp_path_factory.mktemp("page") / "small.cnn"
    file.write_text(NET)
    net = convc.load(file)
    with convc.compile(net, mode=request.param, threads=1) as program:
        return Report.of(net, program, 1)


def test_every_part_is_there_and_every_link_leads_somewhere(report: Report) -> None:
    found = outline(page(report))
    for part in ("network", "source", "passes", "algorithms", "memory", "kernels"):
        assert part in found.ids
    assert len(found.ids) == len(set(found.ids))
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)


def test_it_needs_nothing_from_elsewhere(report: Report) -> None:
    text = page(report)
    found = outline(text)
    assert found.addresses == []
    assert not {"script", "link", "iframe", "img"} & set(found.tags)
    assert "url(http" not in text
    assert "@import" not in text


def test_every_change_and_every_miss_is_told(report: Report) -> None:
    words = "".join(outline(page(report)).words)
    for item in report.passes:
        for entry in item.log.entries:
            assert entry.why in words
    for choice in report.choices:
        for candidate in choice.decision.candidates:
            assert candidate.reason in words
    assert report.kernels
    assert report.memory is not None
    assert len(report.memory.timeline) == len(report.kernels)
    assert max(report.memory.timeline) == report.memory.bound_bytes


def test_lines_of_the_source_lead_to_what_passes_say(report: Report) -> None:
    noted = report.notes()
    assert noted
    found = outline(page(report))
    for notes in noted.values():
        for note in notes:
            assert note.anchor in found.ids


def test_the_interpreter_has_no_kernels(tmp_path: Path) -> None:
    (tmp_path / "small.cnn").write_text(NET)
    out = tmp_path / "page.html"
    assert main(["compile", str(tmp_path / "small.cnn"), "--target", "reference", "--html", str(out)]) == 0
    assert "kernels" not in outline(out.read_text()).ids


def test_it_does_not_replace_the_source(tmp_path: Path) -> None:
    file = tmp_path / "small.cnn"
    file.write_text(NET)
    assert main(["compile", str(file), "--html", str(file)]) == 2
    assert file.read_text() == NET


def test_charts_of_nothing() -> None:
    """Empty lists, and kernels that no time was measured of."""
    for chart in (
        timeline([], "ms"),
        timeline([Bar("a", 0.0, "", "a")], "ms"),
        steps([], [], 0, ("", ""), 0),
        roofline([], 100.0, 10.0),
        roofline([Dot(0.0, 0.0, 0.0, "", "none"), Dot(1e-9, 1e-9, 1.0, "", "tiny")], 100.0, 10.0),
    ):
        assert "nan" not in chart
        outline(chart)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it(report: Report, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page(report))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    picture = tmp_path / "page.png"
    for wanted in ([f"--screenshot={picture}", "--window-size=1200,3000"], ["--dump-dom"]):
        done = subprocess.run(
            [*command, *wanted, (tmp_path / "page.html").as_uri()], capture_output=True, timeout=120, check=True
        )
    from PIL import Image

    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    # Text, boxes, bars and dots: not a page that is blank, or only text.
    assert len(colours) > 50
    dom = outline(done.stdout.decode())
    assert {"network", "kernels"} <= set(dom.ids)
    assert any("small" in word for word in dom.words)
