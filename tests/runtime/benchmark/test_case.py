"""What contestants are given: the net, its weights, the update, and the net without its draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convc.ir.parser import parse_ir
from convc.runtime.benchmark.case import Case, draws, write_material
from convc.runtime.benchmark.task import read_task

NET = """net n {
  input 2x6x6
  conv 4 k=3 -> bn -> relu -> dropout 0.4 -> noise 0.1
  fc 3
  loss softmax
}
"""


def write(folder: Path, train: str = "") -> Path:
    (path := folder / "n.cnn").write_text(NET + train)
    return path


def test_a_task_comes_back_as_it_was(tmp_path: Path) -> None:
    task = write_material(Case(write(tmp_path), "train", 5, 1), tmp_path / "work", model=False)
    assert read_task(task.write()) == task
    assert task.images().shape == (5, 2, 6, 6)
    assert task.targets().shape == (5,)
    assert task.targets().max() < 3
    assert not (tmp_path / "work" / "model.onnx").exists()


def test_without_an_optimiser_there_is_one(tmp_path: Path) -> None:
    task = write_material(Case(write(tmp_path), "train", 1, 1), tmp_path / "work", model=False)
    assert task.optimizer["kind"] == "sgd"
    assert task.optimizer["momentum"] == 0.9
    assert task.optimizer["refused"] == []


def test_what_peers_do_not_have_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "train { optim adam lr=0.1\n decay l2=0.01 l1=0.1\n clip 1 }")
    task = write_material(Case(file, "train", 1, 1), tmp_path / "work", model=False)
    assert task.optimizer["kind"] == "adam"
    assert task.optimizer["l2"] == 0.01
    assert task.optimizer["refused"] == ["clip", "decay l1"]
    assert task.optimizer["decayed_roles"] == ["weight", "slope"]


def test_a_still_net_is_the_net_without_draws(tmp_path: Path) -> None:
    case = Case(write(tmp_path), "train", 2, 1)
    assert draws(case.open().graph(1))
    still = write_material(case, tmp_path / "still", model=False, still=True)
    graph = parse_ir(still.path("net.ir").read_text())
    rates = {node.op.name: node.op for node in graph.nodes if node.op.name in ("dropout", "noise")}
    assert rates["dropout"].rate == 0  # type: ignore[attr-defined]
    assert rates["noise"].std == 0  # type: ignore[attr-defined]


def test_a_net_that_onnx_cannot_express_is_left_to_others(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    file = tmp_path / "n.cnn"
    file.write_text("net n { input 2x4x4 -> conv 2 k=1 -> fc 3 -> loss softmax }")
    work = tmp_path / "work"
    task = write_material(Case(file, "infer", 2, 1), work, model=True)
    assert task.model().exists()
    assert np.isfinite(task.images()).all()
