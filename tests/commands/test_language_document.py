"""What the language server knows about unfinished texts: any text at all is answered, and places stay inside it."""

from __future__ import annotations

import random

import pytest
from lsprotocol import types

from convc.commands.language_server.answers import completion_at, definition_at, diagnostics_of, symbols_of
from convc.commands.language_server.document import Document
from convc.commands.language_server.hover import hover_at
from convc.commands.language_server.positions import Places
from convc.ir.span import Span

TEXT = """\
use "blocks.cnn"  # 😀
let widths = [8, 16]
block basic(c, s=1) {
  residual { conv c k=3 s=s pad=1 bias=no -> bn } skip auto -> relu
}
net n(classes = 10) {
  input 3x32x32 mean=[125, 123, 114]
  for c, i in [(8, 0), (16, 1)] { basic(c) as skip[i] }
  concat { branch { pool max 2 s=1 pad=same } branch { conv widths[0] k=1 } }
  if in > 3 { shared tower { conv in k=1 name=stem } -> reuse tower } else { relu }
  assert in > 4 "got {in} 日本 \\"é\\""
  aux { pool avg global -> fc classes -> loss softmax weight=0.3 }
  from skip[1] -> mul skip[1] -> add skip[1] -> flatten -> fc classes
  loss softmax smooth=0.1
}
train {
  data folder "photos/" split=0.9
  schedule 0.1 for 80e, 0.01
  augment { pad 4 -> crop 32 -> flip h }
}
search random 30 { optim.lr in log(1e-4, 1e-1) } refine 2
"""


def ask_everything(text: str, place: tuple[int, int]) -> None:
    """Every question about a place. Positions of all answers lie in the text."""
    document = Document("/absent/n.cnn", text)
    places = document.places
    end = places.whole.end
    for found in diagnostics_of(document):
        assert found.range.start <= found.range.end
        assert (found.range.end.line, found.range.end.character) <= (end.line, end.character)
    for item in completion_at(document, *place):
        assert item.label
    definition = definition_at(document, *place)
    assert definition is None or definition.range.start.line <= end.line
    for symbol in symbols_of(document):
        assert symbol.range.start <= symbol.selection_range.start
        assert symbol.selection_range.end <= symbol.range.end
    hovered = hover_at(document, *place)
    assert hovered is None or hovered[0]


def test_the_text_is_sound() -> None:
    # The used file is absent, and nothing else is wrong.
    errors = [
        d for d in diagnostics_of(Document("/absent/n.cnn", TEXT)) if d.severity == types.DiagnosticSeverity.Error
    ]
    assert [error.code for error in errors] == ["file-missing"], errors


@pytest.mark.parametrize("part", range(4))
def test_every_beginning_of_a_text_is_answered(part: int) -> None:
    for end in range(part, len(TEXT), 4 * 5):
        text = TEXT[:end]
        ask_everything(text, (text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_texts_are_answered(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(30):
        characters = list(TEXT)
        for _ in range(generator.randint(1, 6)):
            index = generator.randrange(len(characters))
            characters[index] = generator.choice(
                ["", "{", "}", "(", ")", '"', "\n", " -> ", "=", "😀", "\t", "\r", "0"]
            )
        text = "".join(characters)
        lines = text.splitlines() or [""]
        line = generator.randint(1, len(lines) + 1)
        ask_everything(text, (line, generator.randint(1, 80)))


def test_places_of_all_line_ends_and_encodings() -> None:
    text = "a\r\nb\u2028c\rdé😀f\n"
    places = Places(text)
    assert places.lines == ["a", "b\u2028c", "dé😀f", ""]
    assert places.position(3, 5) == types.Position(2, 5)  # behind the emoji: 1 + 1 + 2 units, and the f
    assert places.place(types.Position(2, 4)) == (3, 4)
    assert places.place(types.Position(2, 99)) == (3, 5)
    assert places.place(types.Position(99, 0)) == (4, 1)
    assert Places(text, "utf-8").position(3, 4).character == 1 + 2 + 4
    assert Places(text, "utf-32").position(3, 4).character == 3
    # A span that a shorter text no longer has stays inside it.
    assert places.range(Span("n", 9, 1, 9, 3)).end.line == 3


@pytest.mark.parametrize("column", range(1, 6))
def test_places_go_there_and_back(column: int) -> None:
    for encoding in ("utf-8", "utf-16", "utf-32"):
        places = Places("dé😀f\n", encoding)
        assert places.place(places.position(1, column)) == (1, column)


def test_an_offset_counts_line_feeds_only() -> None:
    places = Places("ab\r\ncd\rx")
    assert places.plain[places.offset(2, 2)] == "d"
    assert places.plain[places.offset(3, 1)] == "x"


def test_edits_are_not_kept() -> None:
    """A document knows the last readable one before it, that its own one, and nothing older."""
    document = None
    for number in range(20):
        document = Document("/absent/n.cnn", TEXT + f"# {number}\n" + "}" * (number % 3 == 2), older=document)
    count = 0
    while document is not None:
        document, count = document.older, count + 1
    assert count <= 3
