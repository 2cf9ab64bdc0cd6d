"""`convc new`: every template is sound, and nothing is ever replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import convc
from convc.cli import main
from convc.commands.new import templates
from convc.frontend import check, loads, unsupported

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_templates(capsys: Capture) -> None:
    assert templates() == ["inception", "lenet", "mlp", "mobilenet", "resnet", "unet", "vgg"]
    assert main(["new", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(templates()) in text


@pytest.mark.parametrize("kind", templates())
def test_template(kind: str, capsys: Capture) -> None:
    assert main(["new", "mine", "--like", kind]) == 0
    assert capsys.readouterr() == ("mine.cnn written; go on with: convc train mine.cnn\n", "")
    text = Path("mine.cnn").read_text()
    assert text.startswith("# ")
    assert "NAME" not in text
    assert "convc train mine.cnn" in text
    assert check(["mine.cnn"], strict=True) == []
    net = convc.load("mine.cnn", strict=True)
    assert net.name == "mine"
    assert unsupported(net.settings) == []
    assert main(["fmt", "--check", "mine.cnn"]) == 0


def test_the_default_is_lenet(capsys: Capture) -> None:
    assert main(["new", "digits.cnn"]) == 0
    assert capsys.readouterr().out.startswith("digits.cnn written")
    net = convc.load("digits.cnn")
    assert (net.name, net.classes, net.input_shape) == ("digits", 10, (1, 28, 28))


def test_files_are_never_replaced(capsys: Capture) -> None:
    Path("a.cnn").write_text("precious")
    assert main(["new", "a"]) == 1
    assert "error[file-exists]: a.cnn exists already" in capsys.readouterr().err
    assert Path("a.cnn").read_text() == "precious"
    Path("b.cnn").symlink_to("nowhere")
    assert main(["new", "b"]) == 1
    assert os.listdir() == ["b.cnn", "a.cnn"] or sorted(os.listdir()) == ["a.cnn", "b.cnn"]


@pytest.mark.parametrize("name", ["sub/other", "odd name", "3d", "in", "été", "a\nb", "-"])
def test_names_that_cannot_name_a_net(name: str) -> None:
    Path("sub").mkdir()
    assert main(["new", name]) == 0
    (path,) = [path for path in Path().rglob("*.cnn") if path.is_file()]
    assert path == Path(name + ".cnn")
    net = loads(path.read_text(encoding="utf-8"), strict=True)
    assert net.name == ("other" if name == "sub/other" else "lenet")


@pytest.mark.parametrize("name", ["", ".cnn", "none/here", "sub/", "a\0b", "x" * 300])
def test_names_of_no_file(name: str, capsys: Capture) -> None:
    assert main(["new", name]) == 1
    assert "error[file-write]" in capsys.readouterr().err
    assert os.listdir() == []


def test_wrong_kind(capsys: Capture) -> None:
    assert main(["new", "a", "--like", "resnt"]) == 2
    assert "did you mean resnet?" in capsys.readouterr().err
    assert os.listdir() == []
