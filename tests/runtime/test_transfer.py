"""Starting from trained weights and freezing some of them: `init "W" freeze=…`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.frontend.net import Net
from convc.ir.diagnostic import CompileError
from convc.runtime.checkpoint import read_checkpoint, write_checkpoint
from convc.runtime.trainer import FitResult

NET = """\
net tiny(classes=3) {
  input 1x6x6
  conv 4 k=3 bias=no -> bn -> relu
  conv 4 k=3 -> relu
  fc 6 -> relu -> fc classes
  loss softmax
}
"""
SETTINGS = 'data npz "data.npz" -> batch 16 -> epochs 2 -> optim adam lr=0.02 -> decay l2=0.1'
FIXED = ("conv1.weight", "bn1.gamma", "bn1.beta", "bn1.mean", "bn1.var")

Fit = Callable[..., FitResult]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data and, in old.safetensors, weights of a net that differs in its last layer."""
    random = np.random.default_rng(3)
    np.savez(tmp_path / "data.npz", x=random.random((48, 6, 6)).astype(np.float32), y=random.integers(0, 3, 48))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convc.runtime.curves._draw", lambda *_: None)  # it takes longer than all the rest
    net = load("", classes=5)
    with convc.compile(net, mode="infer", target="reference", seed=77) as program:
        weights = {name: array + np.float32(0.125) for name, array in program.params.items()}
    weights["head.weight"] = np.zeros((2, 2), np.float32)
    write_checkpoint(tmp_path / "old.safetensors", weights, {})
    return tmp_path


def load(settings: str, **given: object) -> Net:
    Path("net.cnn").write_text(f"{NET}\ntrain {{\n  {SETTINGS}\n  {settings}\n}}\n")
    return convc.load("net.cnn", set=given)


@pytest.fixture
def fit(folder: Path, target: str) -> Fit:
    def train(settings: str, **options: Any) -> FitResult:
        return convc.fit(load(settings), target=target, **options)

    return train


def weights(path: Path) -> dict[str, np.ndarray]:
    return read_checkpoint(path).weights


def refusal(call: Callable[[], object]) -> CompileError:
    with pytest.raises(CompileError) as error:
        call()
    return error.value


def test_what_matches_is_loaded_and_the_rest_is_told(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit('init "old.safetensors"', epochs=1)
    out = capsys.readouterr().out
    assert "9 of 11 parameters come from old.safetensors" in out
    assert "  fc2.weight: 3x6 in the net, 5x6 in the file" in out
    assert "  fc2.bias: 3 in the net, 5 in the file" in out
    assert "  head.weight: 2x2 in the file, not in the net" in out
    assert "frozen" not in out


def test_frozen_parameters_stay_bit_for_bit(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit('init "old.safetensors" freeze=["conv1", "bn*"]')
    old, new = weights(folder / "old.safetensors"), weights(result.folder / "last.safetensors")
    for name in FIXED:
        assert new[name].tobytes() == old[name].tobytes(), name
    for name in ("conv2.weight", "conv2.bias", "fc1.weight"):
        assert not np.array_equal(new[name], old[name]), name
    states = read_checkpoint(result.folder / "state.safetensors").states
    assert not {name for name in states if name.startswith(("conv1", "bn1"))}
    assert "trainable parameters, 44 of them frozen" in capsys.readouterr().out


def test_frozen_layers_cost_no_gradient(folder: Path, target: str) -> None:
    def gradients(settings: str) -> tuple[set[str], set[str]]:
        with convc.compile(load(settings), mode="train", target=target, batch=4) as program:
            labels = {node.label for node in program.graph.nodes if "backward" in node.op.name}
            return labels, {name.removeprefix("grad.") for name in program.graph.outputs if name.startswith("grad.")}

    assert gradients("")[0] >= {"conv1", "conv2"}
    labels, names = gradients('init "old.safetensors" freeze=["conv*", "bn1"]')
    assert not labels & {"conv1", "conv2", "bn1"}
    assert names == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_the_same_as_freeze_in_the_layer(fit: Fit, folder: Path, target: str) -> None:
    """Two ways to say one thing give the same bits."""
    one = fit('init "old.safetensors" freeze=["conv1", "bn1"]', out="one")
    text = Path("net.cnn").read_text().replace(' freeze=["conv1", "bn1"]', "")
    Path("net.cnn").write_text(text.replace("bias=no -> bn", "bias=no freeze=yes -> bn freeze=yes"))
    other = convc.fit(convc.load("net.cnn"), target=target, out="other")
    assert (one.folder / "last.safetensors").read_bytes() == (other.folder / "last.safetensors").read_bytes()


def test_the_command_line_replaces_the_file_and_keeps_freeze(fit: Fit, folder: Path) -> None:
    other = {name: array * 2 for name, array in weights(folder / "old.safetensors").items()}
    write_checkpoint(folder / "other.safetensors", other, {})
    result = fit('init "gone.safetensors" freeze="conv1"', init="other.safetensors", epochs=1)
    new = weights(result.folder / "last.safetensors")
    assert np.array_equal(new["conv1.weight"], other["conv1.weight"])
    model = (result.folder / "model.cnn").read_text()
    assert f'init "{folder}/other.safetensors" freeze="conv1"' in model
    # The folder's program repeats the run.
    again = convc.fit(convc.load(result.folder / "model.cnn"), out="again", target=fit_target(result))
    assert weights(again.folder / "last.safetensors")["fc1.weight"].tolist() == new["fc1.weight"].tolist()


def fit_target(result: FitResult) -> str:
    return json.loads((result.folder / "settings.json").read_text())["target"]


def test_frozen_at_random_is_worth_a_warning(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit('init "old.safetensors" freeze=["conv1", "fc2"]', epochs=1)
    out = capsys.readouterr().out
    assert "warning: frozen, though not from old.safetensors but drawn at random: fc2.weight, fc2.bias" in out


def test_a_run_goes_on_without_the_file_it_started_from(fit: Fit, folder: Path) -> None:
    settings = 'init "old.safetensors" freeze="conv*"'
    whole = fit(settings, out="whole")
    fit(settings, out="run", epochs=1)
    os.remove("old.safetensors")
    rest = fit(settings, out="run", resume=True)
    assert (rest.folder / "last.safetensors").read_bytes() == (whole.folder / "last.safetensors").read_bytes()
    # What is to be frozen cannot change.
    error = refusal(lambda: fit('init "old.safetensors" freeze="fc*"', out="run", resume=True, epochs=3))
    assert error.diagnostics[0].code == "checkpoint-settings"
    # Where there is nothing to go on with, the file is needed, and nothing is written without it.
    error = refusal(lambda: fit(settings, out="new", resume=True))
    assert error.diagnostics[0].code == "checkpoint-missing"
    assert os.listdir("new") == [".lock"]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ('init "gone.safetensors"', "checkpoint-missing"),
        ('init "data.npz"', "checkpoint-unreadable"),
        ('init "foreign.safetensors"', "checkpoint-mismatch"),
        ('init "infinite.safetensors"', "checkpoint-not-finite"),
        ('init "old.safetensors" freeze=["*"]', "value-frozen"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(folder: Path, settings: str, code: str) -> None:
    write_checkpoint(folder / "foreign.safetensors", {"a": np.zeros(3)}, {})
    content = bytearray((folder / "old.safetensors").read_bytes())
    place = content.index(weights(folder / "old.safetensors")["fc1.weight"].tobytes())
    content[place : place + 4] = np.float32(np.nan).tobytes()
    (folder / "infinite.safetensors").write_bytes(content)
    net = load(settings)
    error = refusal(lambda: convc.fit(net, target="reference"))
    assert error.diagnostics[0].code == code
    assert error.diagnostics[0].span is not None
    assert "net.cnn:11:" in str(error)
    assert not (folder / "runs").exists()


# From Python


def test_a_training_program_starts_from_the_file(folder: Path, target: str) -> None:
    old = weights(folder / "old.safetensors")
    net = load('init "old.safetensors" freeze="conv1"')
    with convc.compile(net, mode="train", target=target, batch=8) as program:
        assert np.array_equal(program.params["conv2.weight"], old["conv2.weight"])
        drawn = program.params["fc2.weight"]
        random = np.random.default_rng(1)
        images, labels = random.random((8, 1, 6, 6), np.float32), random.integers(0, 3, 8)
        program.step(images, labels)
        assert np.array_equal(program.params["conv1.weight"], old["conv1.weight"])
        assert not np.array_equal(program.params["conv2.weight"], old["conv2.weight"])
        program.reset()
        assert np.array_equal(program.params["conv2.weight"], old["conv2.weight"])
        assert np.array_equal(program.params["fc2.weight"], drawn)
        loss, gradients = program.value_and_grad(images, labels)
        assert np.isfinite(loss)
        assert "conv1.weight" not in gradients
    # The rest is drawn as without the file.
    with convc.compile(load(""), mode="train", target=target, batch=8) as program:
        assert np.array_equal(program.params["fc2.weight"], drawn)


def test_the_file_is_read_when_it_is_needed(folder: Path, target: str) -> None:
    net = load('init "gone.safetensors"')
    with convc.compile(net, mode="train", target=target, batch=8) as program:
        error = refusal(lambda: program.params["fc1.weight"])
        assert error.diagnostics[0].code == "checkpoint-missing"
        assert "net.cnn:11:3" in str(error)
        # Nothing is half done.
        assert refusal(lambda: program.params["fc1.weight"]).diagnostics[0].code == "checkpoint-missing"
    with convc.compile(net, mode="infer", target=target, batch=8) as program:
        assert program(np.zeros((1, 1, 6, 6), np.float32)).shape == (1, 3)
