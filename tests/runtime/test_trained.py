"""Nets with weights: what a run folder and a foreign file of weights give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convc.frontend import load
from convc.ir.diagnostic import CompileError
from convc.runtime.checkpoint import write_checkpoint
from convc.runtime.initial import initial_value
from convc.runtime.trained import evaluation_data, open_trained

NET = """\
net small {
  input 1x4x4
  fc 3
  loss softmax
}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that holds a net and two sets of weights: zeros are the best, the initial ones the last."""
    (tmp_path / "model.cnn").write_text(NET)
    parameters = load(tmp_path / "model.cnn").graph(1).parameters
    last = {name: initial_value(parameter, 1) for name, parameter in parameters.items()}
    best = {name: np.zeros_like(array) for name, array in last.items()}
    names = {"classes": json.dumps(["cat", "dog", "axolotl"])}
    write_checkpoint(tmp_path / "last.safetensors", last, names)
    write_checkpoint(tmp_path / "best.safetensors", best, names)
    return tmp_path


def test_a_run_gives_its_best_weights(run: Path) -> None:
    trained = open_trained(run)
    assert trained.checkpoint.path == run / "best.safetensors"
    assert trained.classes == ("cat", "dog", "axolotl")
    with trained.program(batch=2, target="reference") as program:
        assert not program(np.ones((2, 1, 4, 4), np.float32)).any()


def test_the_last_weights_serve_where_there_are_no_best_ones(run: Path) -> None:
    (run / "best.safetensors").unlink()
    assert open_trained(run).checkpoint.path == run / "last.safetensors"
    (run / "last.safetensors").unlink()
    with pytest.raises(CompileError, match="has not saved any weights yet"):
        open_trained(run)


@pytest.mark.parametrize("text", ["no json", "[1, 2, 3]", '{"a": 1}', "null"])
def test_class_names_of_a_foreign_file_are_passed_over(run: Path, text: str) -> None:
    weights = open_trained(run).checkpoint.weights
    write_checkpoint(run / "best.safetensors", weights, {"classes": text})
    assert open_trained(run).classes == ()


def test_weights_of_another_net_are_listed(run: Path) -> None:
    (run / "model.cnn").write_text(NET.replace("fc 3", "fc 4"))
    with pytest.raises(CompileError, match=r"fc1.weight: 4x16 in the net, 3x16 in the file"):
        open_trained(run).program(target="reference")


def test_data_for_an_evaluation(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = np.zeros((12, 1, 4, 4), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    net = open_trained(run).net
    with pytest.raises(CompileError, match="nothing says what small is to be evaluated on"):
        evaluation_data(net)
    monkeypatch.chdir(tmp_path)
    for options, expected in (("", ("train", 12)), (" val=4", ("validation", 4)), (" val=4 test=2", ("test", 2))):
        _, part, split = evaluation_data(net, f'npz "d.npz"{options}')
        assert (part, len(split)) == expected
