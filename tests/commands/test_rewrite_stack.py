"""`convc rewrite -r stack3x3` as a user runs it: weights in, weights out, and what both nets compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.frontend import load
from convc.ir.interpreter import run_reference
from convc.ir.ops.conv import Conv2d
from convc.passes.rewriting.composition import relative
from convc.runtime.checkpoint import read_checkpoint
from tests.passes.rewriting.kernels import composition, planted

NET = """\
net large(classes = 4) {
  input 2x14x15
  conv 2 k=7 pad=3  # the large one
  relu -> fc classes
  loss softmax
}

train {
  data npz "data.npz" test=16
  batch 8
  optim sgd lr=0.02
  seed 3
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net whose 7x7 kernel is a composition of three, and smooth images."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 2, 14, 15))
    images = np.mean([np.roll(images, shift, (2, 3)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))], axis=0)
    np.savez(tmp_path / "data.npz", images=images.astype(np.uint8), labels=np.arange(40) % 4)
    (tmp_path / "large.cnn").write_text(NET)
    monkeypatch.chdir(tmp_path)
    with convc.compile(load("large.cnn"), target="reference") as program:
        program.set_params({"conv1.weight": composition(planted((2, 2, 2, 2), 5)).astype(np.float32)})
        program.save("w.safetensors")
    return tmp_path


def rewrite(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    files = "-o new.cnn --weights w.safetensors --out-weights v.safetensors"
    assert main(["rewrite", "large.cnn", *words, *files.split(), "--json"]) == 0
    (layer,) = json.loads(capsys.readouterr().out)["layers"]
    return layer["fit"]


def convolved(file: str, weights: str, images: np.ndarray) -> np.ndarray:
    """What the last convolution of a net gives, in float64."""
    graph = load(file).graph(len(images))
    graph.outputs = {"logits": list(graph.nodes_of(Conv2d))[-1].results[0]}
    arrays = {name: array.astype(np.float64) for name, array in read_checkpoint(weights).weights.items()}
    arrays |= {name: np.zeros(value.shape, np.int64) for name, value in graph.inputs.items() if name != "x"}
    return run_reference(graph, {"x": images, **arrays})["logits"]


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("options", ["relu=no", "relu=no:pad=first"])
def test_a_planted_composition_is_recovered(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit = rewrite(capsys, "-r", f"stack3x3:conv1:{options}", "--eval")
    assert fit["weight_error"] < 1e-5
    assert fit["output_error"]["interior"] < 1e-5
    text = "conv 2 k=3 pad=3 bias=no -> conv 2 k=3 bias=no -> conv 2 k=3"
    if options == "relu=no":
        text = "conv 2 k=3 pad=1 bias=no -> conv 2 k=3 pad=1 bias=no -> conv 2 k=3 pad=1"
    assert Path("new.cnn").read_text() == NET.replace("conv 2 k=7 pad=3", text)
    images = np.random.default_rng(1).standard_normal((2, 2, 14, 15))
    old, new = (convolved(*files, images) for files in (("large.cnn", "w.safetensors"), ("new.cnn", "v.safetensors")))
    assert relative(new[:, :, 3:-3, 3:-3], old[:, :, 3:-3, 3:-3]) < 1e-5
    assert (relative(new, old) < 1e-5) == ("pad=first" in options)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_relus_are_fitted_to_the_images(capsys: pytest.CaptureFixture[str]) -> None:
    """For a kernel that is no composition, as the initialiser made it."""
    Path("large.cnn").write_text(NET.replace("k=7 pad=3", "k=5 pad=2"))
    with convc.compile(load("large.cnn"), target="reference") as program:
        program.save("w.safetensors")
    words = "-r stack3x3:width=3 --eval --finetune 1 --run runs/fine"
    fit = rewrite(capsys, *words.split())
    tried = fit["tried"]
    assert fit["output_error"]["whole"] == pytest.approx(tried["the kernel, refined"])
    assert tried["the kernel, refined"] < 0.5 * tried["the kernel"]
    assert "ReLUs kept open" in tried
    assert fit["output_error_without_activations"]["whole"] > 0
    old, new = read_checkpoint("w.safetensors").weights, read_checkpoint("v.safetensors").weights
    assert set(new) == {f"{name}.{role}" for name in ("conv1", "conv2", "fc1") for role in ("weight", "bias")}
    assert new["conv1.weight"].shape == (3, 2, 3, 3)
    assert not np.array_equal(new["fc1.weight"], old["fc1.weight"])  # trained on
