"""`convc lsp` through the protocol, as an editor speaks it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convc.cli import main
from convc.frontend.formatter import format_text
from tests.commands.language_client import LanguageClient

NET = """\
let width = 8
block basic(c, s=1) {
  residual { conv c k=3 s=s pad=1 bias=no -> bn } skip auto
}
net n(classes = 10) {
  input 3x32x32
  conv width k=3 pad=1 bias=no -> bn as stem
  repeat 3 { basic(width) }
  basic(2*width, s=2)
  from stem
  pool avg global -> fc classes
  loss softmax
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageClient]:
    """One server for all tests: starting it takes a second."""
    client = LanguageClient(tmp_path_factory.mktemp("server"))
    client.start()
    yield client
    assert client.stop() == 0
    assert client.process.stderr is not None
    assert client.process.stderr.read() == b""


@pytest.fixture
def editor(server: LanguageClient, tmp_path: Path) -> Iterator[LanguageClient]:
    """The server with no open file, in a folder of its own."""
    server.folder = tmp_path
    yield server
    server.close_all()
    assert server.logged() == []
    server.kept.clear()


def labels(items: list[dict[str, Any]]) -> set[str]:
    return {item["label"] for item in items}


def test_what_the_server_can_do(tmp_path: Path) -> None:
    client = LanguageClient(tmp_path)
    answer = client.start()
    assert answer["serverInfo"]["name"] == "convc"
    abilities = answer["capabilities"]
    assert abilities["positionEncoding"] == "utf-16"
    for ability in ("hoverProvider", "definitionProvider", "documentSymbolProvider", "documentFormattingProvider"):
        assert abilities[ability]
    assert client.stop() == 0


def test_diagnostics_while_typing(editor: LanguageClient) -> None:
    editor.open("n.cnn", "net n {\n  input 1x8x8\n  cnv 3 k=3\n  fc 10 bais=no\n}\n")
    first, second = editor.diagnostics("n.cnn")
    assert (first["code"], first["severity"], first["source"]) == ("name-layer", 1, "convc")
    assert first["message"] == "there is no layer or block `cnv`\nhint: did you mean `conv`?"
    assert first["range"] == {"start": {"line": 2, "character": 2}, "end": {"line": 2, "character": 5}}
    assert second["code"] == "name-argument"
    editor.change("n.cnn", "net n {\n  input 1x8x8\n  conv 3 k=3 -> bn\n", 2)
    assert [item["code"] for item in editor.diagnostics("n.cnn")] == ["syntax-unclosed"]
    editor.change("n.cnn", "net n {\n  input 1x8x8\n  conv 3 k=3 -> bn\n}\n", 3)
    (warning,) = editor.diagnostics("n.cnn")
    assert (warning["code"], warning["severity"], warning["tags"]) == ("redundant-bias", 2, [1])
    editor.notify("textDocument/didSave", {"textDocument": {"uri": editor.uri("n.cnn")}})
    assert [item["code"] for item in editor.diagnostics("n.cnn")] == ["redundant-bias"]
    editor.notify("textDocument/didClose", {"textDocument": {"uri": editor.uri("n.cnn")}})
    assert editor.diagnostics("n.cnn") == []


def test_the_shape_trace_becomes_related_places(editor: LanguageClient) -> None:
    editor.open("n.cnn", "net n {\n  input 1x8x8\n  conv 3 k=3\n  conv 3 k=9\n}\n")
    (error,) = editor.diagnostics("n.cnn")
    related = [(item["message"], item["location"]["range"]["start"]["line"]) for item in error["relatedInformation"]]
    assert related == [("input1: 1x8x8", 1), ("conv1: 1x8x8 -> 3x6x6", 2)]


def test_characters_beyond_the_basic_plane_count_twice(editor: LanguageClient) -> None:
    line = '  assert in == 1 "😀é" -> cnv 3'
    editor.open("n.cnn", f"net n {{\n  input 1x8x8\n{line}\n}}\n")
    (error,) = editor.diagnostics("n.cnn")
    units = len(line[: line.index("cnv")].encode("utf-16-le")) // 2
    assert units == line.index("cnv") + 1
    assert error["range"]["start"] == {"line": 2, "character": units}
    assert error["range"]["end"] == {"line": 2, "character": units + 3}
    # And the other way: completion behind the emoji knows that this is a layer's place.
    editor.change("n.cnn", f"net n {{\n  input 1x8x8\n{line[:-5]}pool m\n}}\n", 2)
    editor.diagnostics("n.cnn")
    assert labels(editor.at("completion", "n.cnn", 2, units + 6)) == {"max", "avg"}


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", 24), ("utf-32", 21)])
def test_an_editor_may_choose_another_encoding(tmp_path: Path, encoding: str, column: int) -> None:
    client = LanguageClient(tmp_path)
    assert client.start([encoding])["capabilities"]["positionEncoding"] == encoding
    client.open("n.cnn", 'net n {\n  input 1x8x8\n  assert in == 1 "😀" -> cnv 3\n}\n')
    (error,) = client.diagnostics("n.cnn")
    assert error["range"]["start"]["character"] == column + 3
    assert client.stop() == 0


def test_hover_shows_shapes_and_weights(editor: LanguageClient) -> None:
    editor.open("n.cnn", NET)

    def hover(line: int, word: str) -> str:
        return editor.at("hover", "n.cnn", line - 1, NET.splitlines()[line - 1].index(word))["contents"]["value"]

    # 4 uses: three of 8 channels (8·8·9 weights each), one to 16 (8·16·9).
    text = hover(3, "conv c")
    assert "`8x32x32 → 8x32x32` (3 times)" in text
    assert "`8x32x32 → 16x16x16`" in text
    weights = 3 * 8 * 8 * 9 + 8 * 16 * 9
    work = 3 * 8 * 8 * 9 * 32 * 32 + 8 * 16 * 9 * 16 * 16
    assert f"{weights:,} parameters, {work:,} multiply-adds per image in 4 uses" in text
    assert "`k`: the kernel size" in text
    assert "This line: " in text
    fc = hover(11, "fc")
    assert "`8x1x1 → 10`" in fc
    assert "90 parameters, 80 multiply-adds per image" in fc
    assert hover(3, "s=s") == "**s**: stride; a whole number of at least 1 or a pair (h, w), by default 1"
    assert "block basic(c, s=1)" in hover(8, "basic")
    assert "constant = `8`" in hover(8, "width")
    assert "parameter = `10` by default" in hover(11, "classes")
    assert editor.at("hover", "n.cnn", 12, 1) is None


def test_hover_over_settings(editor: LanguageClient) -> None:
    text = "net n { input 1x8x8 -> fc 10 -> loss softmax }\ntrain {\n  optim sgd lr=0.1\n  augment { flip h }\n}\n"
    editor.open("n.cnn", text)
    assert "stochastic gradient descent" in editor.at("hover", "n.cnn", 2, 3)["contents"]["value"]
    assert "the learning rate" in editor.at("hover", "n.cnn", 2, 13)["contents"]["value"]
    assert "mirrors" in editor.at("hover", "n.cnn", 3, 13)["contents"]["value"]


@pytest.mark.parametrize(
    ("typed", "some", "none"),
    [
        ("", {"conv", "pool", "residual", "basic", "let"}, {"net", "optim", "width"}),
        ("conv 8 ", {"k", "pad", "bias", "width", "classes"}, {"conv", "data"}),
        ("conv 8 k=3 ", {"pad"}, {"k"}),
        ("conv 8 k=3 pad=", {"same", "width"}, {"bias", "identity"}),
        ("conv 8 k=3 bias=", {"yes", "no"}, {"bias"}),
        ("conv 8 init=", {"he", "gauss"}, {"yes"}),
        ("conv 8 k=3 bits=", {"1", "32"}, {"yes", "bits"}),
        ("relu -> pool ", {"max", "avg"}, {"conv"}),
        ("pool max ", {"global", "s"}, {"avg"}),
        ("basic ", {"c", "s", "width"}, {"k", "stem"}),
        ("from ", {"stem"}, {"width", "conv"}),
        ("add stem, ", {"stem"}, {"width"}),
        ("residual { relu } skip ", {"identity", "auto"}, {"conv"}),
        ("concat { ", {"branch"}, {"conv"}),
        ("reuse ", set[str](), {"stem"}),
        ("repeat ", {"width", "max"}, {"conv"}),
        ("# conv ", set[str](), {"k"}),
        ('assert no "conv ', set[str](), {"k"}),
    ],
)
def test_completion(editor: LanguageClient, typed: str, some: set[str], none: set[str]) -> None:
    before, after = NET.split("  from stem\n")
    editor.open("n.cnn", f"{before}  {typed}\n{after}")
    found = labels(editor.at("completion", "n.cnn", before.count("\n"), 2 + len(typed)))
    assert some <= found
    assert not none & found


@pytest.mark.parametrize(
    ("typed", "some"),
    [
        ("", {"net", "block", "train", "use", "let", "search"}),
        ("train {\n  ", {"optim", "data", "augment"}),
        ("train {\n  optim ", {"adam", "sgd"}),
        ("train {\n  optim adam ", {"lr", "beta1"}),
        ("train { data folder ", {"split", "train"}),
        ("train { augment { ", {"flip", "crop"}),
        ("train { augment { pad 4 -> flip ", {"h", "v"}),
        ("search ", {"grid", "random", "bayes"}),
        ("search grid {\n  ", {"optim.lr", "batch"}),
    ],
)
def test_completion_outside_of_nets(editor: LanguageClient, typed: str, some: set[str]) -> None:
    editor.open("n.cnn", NET + typed)
    lines = (NET + typed).split("\n")
    assert some <= labels(editor.at("completion", "n.cnn", len(lines) - 1, len(lines[-1])))


def test_files_are_completed(editor: LanguageClient, tmp_path: Path) -> None:
    (tmp_path / "blocks.cnn").write_text("block b { relu }")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "parts").mkdir()
    editor.open("n.cnn", 'use "')
    assert labels(editor.at("completion", "n.cnn", 0, 5)) == {"blocks.cnn", "parts/"}


def test_definitions(editor: LanguageClient, tmp_path: Path) -> None:
    (tmp_path / "blocks.cnn").write_text("# parts\nblock far { relu }\n")
    text = NET.replace("  from stem\n", "  from stem -> far -> shared part { relu } -> reuse part\n")
    text = 'use "blocks.cnn"\n' + text
    editor.open("n.cnn", text)

    def target(word: str, offset: int = 0) -> tuple[str, int, int]:
        index = text.index(word) + offset
        line = text.count("\n", 0, index)
        found = editor.at("definition", "n.cnn", line, index - (text.rfind("\n", 0, index) + 1))
        start = found["range"]["start"]
        return found["uri"].rsplit("/", 1)[-1], start["line"], start["character"]

    assert target("basic(width)") == ("n.cnn", 2, 6)
    assert target("width)") == ("n.cnn", 1, 4)
    assert target("classes\n") == ("n.cnn", 5, 6)
    assert target("c k=3 s=s") == ("n.cnn", 2, 12)
    assert target("from stem", 5) == ("n.cnn", 7, 40)
    assert target("reuse part", 6) == ("n.cnn", 10, text.splitlines()[10].index("part {"))
    assert target("-> far", 3) == ("blocks.cnn", 1, 6)
    assert target('"blocks.cnn"', 2) == ("blocks.cnn", 0, 0)
    assert editor.at("definition", "n.cnn", 6, 3) is None


def test_names_survive_a_missing_bracket(editor: LanguageClient) -> None:
    editor.open("n.cnn", NET)
    editor.diagnostics("n.cnn")
    broken = NET.replace("  from stem\n", "  residual { from \n")
    editor.change("n.cnn", broken, 2)
    editor.diagnostics("n.cnn")
    line = broken.splitlines().index("  residual { from ")
    assert labels(editor.at("completion", "n.cnn", line, 18)) == {"stem"}


def test_outline(editor: LanguageClient) -> None:
    editor.open("n.cnn", NET + "train { batch 8 }\n")
    found = editor.request("textDocument/documentSymbol", {"textDocument": {"uri": editor.uri("n.cnn")}})
    assert [item["name"] for item in found] == ["width", "basic", "n", "train"]
    assert [item["name"] for item in found[2]["children"]] == ["stem"]
    assert found[1]["range"]["end"] == {"line": 3, "character": 1}


def test_formatting(editor: LanguageClient) -> None:
    messy = NET.replace("2*width", "2  *width").replace("  input", "input")
    editor.open("n.cnn", messy)
    options = {"textDocument": {"uri": editor.uri("n.cnn")}, "options": {"tabSize": 2, "insertSpaces": True}}
    (edit,) = editor.request("textDocument/formatting", options)
    assert edit["newText"] == format_text(messy)
    assert edit["range"] == {"start": {"line": 0, "character": 0}, "end": {"line": 13, "character": 0}}
    editor.change("n.cnn", edit["newText"], 2)
    assert editor.request("textDocument/formatting", options) == []
    editor.change("n.cnn", "net n {", 3)
    assert editor.request("textDocument/formatting", options) == []


def test_unsaved_text_of_a_used_file_counts(editor: LanguageClient, tmp_path: Path) -> None:
    (tmp_path / "blocks.cnn").write_text("block far { relu }\n")
    editor.open("n.cnn", 'use "blocks.cnn"\nnet n { input 1x8x8 -> far -> fc 10 }\n')
    assert editor.diagnostics("n.cnn") == []
    editor.open("blocks.cnn", "block far { conv 3 k=9 }\n")
    assert editor.diagnostics("blocks.cnn") == []
    (error,) = editor.diagnostics("n.cnn")
    assert error["code"] == "shape-conv"
    assert "blocks.cnn:1:20: kernel 9x9" in error["message"]
    assert error["range"]["start"] == {"line": 1, "character": 23}
    editor.change("blocks.cnn", "block far { relu }\n", 2)
    assert editor.diagnostics("n.cnn") == []


def test_a_file_that_is_not_open_has_no_answers(editor: LanguageClient) -> None:
    assert editor.at("hover", "absent.cnn", 3, 3) is None
    assert editor.at("completion", "absent.cnn", 3, 3) == []
    assert editor.at("definition", "absent.cnn", 3, 3) is None


@pytest.mark.parametrize("uri", ["file:///absent/%00n.cnn", "untitled:Untitled-1", "file:///a%ZZ.cnn", ""])
def test_odd_addresses(editor: LanguageClient, uri: str) -> None:
    document = {"uri": uri, "languageId": "cnn", "version": 1, "text": 'use "a.cnn"\nnet n { input 1x8x8 -> relu }'}
    editor.notify("textDocument/didOpen", {"textDocument": document})
    editor.opened.add(uri)
    assert editor.request("textDocument/documentSymbol", {"textDocument": {"uri": uri}})
    assert editor.logged() == []


def test_nonsense_does_not_stop_the_server(editor: LanguageClient) -> None:
    for version, text in enumerate(["\x00", "}}}}", '"', "net n {" * 500, "a" * 50_000, "\n" * 1000, ""]):
        editor.open("n.cnn", text) if version == 0 else editor.change("n.cnn", text, version)
        editor.notify("textDocument/didSave", {"textDocument": {"uri": editor.uri("n.cnn")}})
        editor.diagnostics("n.cnn")
        for line, character in ((0, 0), (0, 3), (5, 1_000_000), (2_000_000, 0)):
            for method in ("hover", "completion", "definition"):
                editor.at(method, "n.cnn", line, character)


def test_without_pygls_there_is_one_clear_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["lsp"]) == 1
    errors = capsys.readouterr().err
    assert "error[missing-package]: `convc lsp` needs the package pygls" in errors
    assert "pip install 'convc[lsp]'" in errors


@pytest.mark.parametrize("text", ["0", "65536", "-1", "x"])
def test_ports_are_checked(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lsp", f"--tcp={text}"]) == 2
    assert "convc lsp: " in capsys.readouterr().err


def test_control_c_ends_the_server_at_once(tmp_path: Path) -> None:
    client = LanguageClient(tmp_path)
    client.start()
    client.process.send_signal(signal.SIGINT)
    assert client.process.wait(60) == 130
    assert client.process.stderr is not None
    assert client.process.stderr.read() == b"\ninterrupted\n"


def test_bytes_that_are_no_protocol_are_survived(tmp_path: Path) -> None:
    client = LanguageClient(tmp_path)
    assert client.process.stdin is not None
    client.process.stdin.write(b"nonsense\r\n\r\nContent-Length: 5\r\n\r\n{{{{{")
    client.start()
    assert client.stop() == 0
    assert client.process.stderr is not None
    assert client.process.stderr.read() == b""


def test_over_a_port(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "convc", "lsp", f"--tcp={number}"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", number))
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with connection:
        params = '"params": {"processId": null, "rootUri": null, "capabilities": {}}'
        for message in (
            f'{{"jsonrpc": "2.0", "id": 1, "method": "initialize", {params}}}',
            '{"jsonrpc": "2.0", "id": 2, "method": "shutdown"}',
        ):
            connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(message), message.encode()))
            answer = b""
            while b"jsonrpc" not in answer:
                answer += connection.recv(1 << 16)
        message = '{"jsonrpc": "2.0", "method": "exit"}'
        connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(message), message.encode()))
        assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_an_editor_that_goes_away_ends_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convc", "lsp"]
    ended = subprocess.run(command, input=b"", capture_output=True, cwd=tmp_path, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"")
