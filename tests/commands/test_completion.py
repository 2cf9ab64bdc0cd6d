"""Completion scripts, run by the shells that are there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from convc.cli import main
from convc.commands import VERBS
from convc.commands.command_lines import command_line
from convc.commands.new import templates

Capture = pytest.CaptureFixture[str]
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def scripts(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scripts, some files, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        output, errors = capsys.readouterr()
        assert errors == ""
        (tmp_path / f"script.{shell}").write_text(output)
    for name in ("lenet.cnn", "a b.cnn", "seven.png"):
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir()
    return tmp_path


def shell(name: str, program: str) -> list[str]:
    """The lines that a program of a shell prints."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    done = subprocess.run([path, *plain, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def complete(name: str, words: list[str]) -> list[str]:
    """What a shell proposes for the last of `words`."""
    if name == "fish":
        line = " ".join(words)
        return [found.split("\t")[0] for found in shell(name, f"source script.fish; complete -C '{line}'")]
    quoted = " ".join(f"'{word}'" for word in words)
    line = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}"
    program = f'source script.bash; {line}; _convc; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return [line for line in shell(name, program) if line]


CASES = [
    (["convc", "summ"], ["summary"]),
    (["convc", "new", "x", "--like", "l"], ["lenet"]),
    (["convc", "train", "--targ"], ["--target"]),
    (["convc", "train", "--target", ""], ["cpu", "cuda", "reference"]),
    (["convc", "check", "le"], ["lenet.cnn"]),
    (["convc", "predict", "se"], ["seven.png"]),
    (["convc", "docs", "resid"], ["residual"]),
    (["convc", "completion", "z"], ["zsh"]),
]


@pytest.mark.parametrize("name", ["bash", "fish"])
@pytest.mark.parametrize(("words", "expected"), CASES, ids=lambda case: " ".join(case))
@pytest.mark.usefixtures("scripts")
def test_proposals(name: str, words: list[str], expected: list[str]) -> None:
    assert complete(name, words) == expected


@pytest.mark.usefixtures("scripts")
def test_bash_takes_files_with_spaces_folders_and_values_behind_equals_signs() -> None:
    assert sorted(complete("bash", ["convc", "check", ""])) == ["a b.cnn", "lenet.cnn", "runs"]
    assert complete("bash", ["convc", "train", "--out", ""]) == ["runs"]
    assert complete("bash", ["convc", "new", "x", "--like", "=", "res"]) == ["resnet"]
    assert complete("bash", ["convc", "new", "x", "--like", "="]) == templates()
    assert set(complete("bash", ["convc", ""])) == {*VERBS, "help", "--help", "--version"}
    assert complete("bash", ["convc", "help", "docs"]) == ["docs"]
    assert complete("bash", ["convc", "unknown", ""]) == []


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.usefixtures("scripts")
def test_scripts_are_sound(name: str) -> None:
    assert shell(name, f"{name} -n script.{name}") == []


@pytest.mark.usefixtures("scripts")
def test_zsh_hands_the_options_of_the_verb_to_its_own_completion() -> None:
    stubs = (
        "compdef() { :; }; _describe() { print -rl -- ${(P)4}; };"
        '_arguments() { print -rl -- $words[1] $CURRENT "$@"; };'
        "source script.zsh;"
    )
    verbs = shell("zsh", stubs + "words=(convc t); CURRENT=2; _convc")
    assert [line.split(":")[0] for line in verbs] == list(VERBS)
    found = shell("zsh", stubs + "words=(convc new x --like r); CURRENT=5; _convc")
    assert found[:3] == ["new", "4", "-S"]
    assert [line for line in found if line.startswith("--like[")] == [
        line for line in found if line.endswith(f":KIND:({' '.join(templates())})")
    ]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("scripts")
def test_every_option_is_in_every_script(verb: str) -> None:
    line = command_line(verb)
    assert any("--help" in option.names for option in line.options)
    texts = {name: Path(f"script.{name}").read_text() for name in SHELLS}
    for option in line.options:
        for name in option.names:
            assert name in texts["bash"]
            assert f"{name}[" in texts["zsh"]
            assert f"{'-l' if name.startswith('--') else '-s'} {name.lstrip('-')} " in texts["fish"]


def test_help_tells_how_to_install_it(capsys: Capture) -> None:
    assert main(["completion", "--help"]) == 0
    output = capsys.readouterr().out
    assert "~/.bashrc" in output
    assert "~/.zshrc" in output
    assert "~/.config/fish/completions/convc.fish" in output
    assert main(["completion", "fsh"]) == 2
    assert "did you mean fish?" in capsys.readouterr().err
