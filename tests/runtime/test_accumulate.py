"""`accumulate=k`: several batches make one update, as one large batch would."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.ir.diagnostic import CompileError
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.interrupt import Interrupted
from convc.runtime.program import Program

Compile = Callable[..., "convc.Program"]

# Without batch norm: its statistics are those of a batch.
NET = """\
net drawn {{
  input 1x5x5 -> noise 0.05
  conv 3 k=3 -> relu -> dropout 0.25
  fc 8 dropconnect=0.25 -> relu -> dropout 0.5 -> fc 3
  loss softmax
}}
train {{ {} -> optim adam lr=0.01 -> decay l2=0.01 -> clip 0.5 -> seed 3 }}
"""


def images(rows: int, seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.random((rows, 1, 5, 5), np.float32), random.integers(0, 3, rows)


def assert_close(left: Program, right: Program) -> None:
    for name in left.params:
        # Adam divides by the size of the gradient: where that is nothing but rounding, its sign may differ.
        np.testing.assert_allclose(left.params[name], right.params[name], rtol=1e-4, atol=2e-5, err_msg=name)


def test_four_batches_are_one_large_batch(compile_text: Compile) -> None:
    """Also in what dropout, noise and dropconnect draw."""
    small, large = compile_text(NET.format("batch 4 accumulate=4")), compile_text(NET.format("batch 16"))
    for step in range(1, 4):
        x, labels = images(16, step)
        losses = [small.step(x[i : i + 4], labels[i : i + 4]) for i in range(0, 16, 4)]
        assert np.mean(losses) == pytest.approx(large.step(x, labels), rel=1e-5)
        assert (small.steps, large.steps) == (step, step)
        assert_close(small, large)


def test_rows_weigh_the_gradients_of_uneven_batches(compile_text: Compile) -> None:
    small, large = compile_text(NET.format("batch 7 accumulate=3")), compile_text(NET.format("batch 16"))
    x, labels = images(15)
    for start, stop in [(0, 7), (7, 9), (9, 15)]:
        small.step(x[start:stop], labels[start:stop])
    large.step(x, labels)
    assert_close(small, large)


def test_an_update_every_kth_call(compile_text: Compile) -> None:
    program = compile_text(NET.format("batch 4 accumulate=3"))
    x, labels = images(4)
    before = program.params["conv1.weight"]
    seen: list[tuple[int, tuple[int, int], bool]] = []
    for _ in range(4):
        program.step(x, labels)
        same = bool((program.params["conv1.weight"] == before).all())
        seen.append((program.steps, program.waiting, same))
    assert seen == [(0, (1, 4), True), (0, (2, 8), True), (1, (0, 0), False), (1, (1, 4), False)]


def test_an_update_when_asked_for(compile_text: Compile) -> None:
    one, several = compile_text(NET.format("batch 8")), compile_text(NET.format("batch 8 accumulate=5"))
    x, labels = images(8)
    one.step(x, labels)
    several.step(x, labels, update=True)
    assert (several.steps, several.waiting) == (1, (0, 0))
    for name, array in one.params.items():
        np.testing.assert_array_equal(several.params[name], array, err_msg=name)
    several.step(x, labels, update=False)
    assert several.waiting == (1, 8)


def test_value_and_grad_leaves_the_mean_alone(compile_text: Compile) -> None:
    program, twin = (compile_text(NET.format("batch 4 accumulate=2")) for _ in range(2))
    x, labels = images(8)
    for begin in (0, 4):
        program.step(x[begin : begin + 4], labels[begin : begin + 4])
        twin.step(x[begin : begin + 4], labels[begin : begin + 4])
        twin.value_and_grad(x[4:], labels[4:])
    for name, array in program.params.items():
        np.testing.assert_array_equal(array, twin.params[name])


def test_going_on_between_two_updates(compile_text: Compile) -> None:
    program, twin = (compile_text(NET.format("batch 4 accumulate=3")) for _ in range(2))
    x, labels = images(20)
    parts = [(x[i : i + 4], labels[i : i + 4]) for i in range(0, 20, 4)]
    for part in parts[:2]:
        program.step(*part)
    twin.step(*parts[4])
    twin.load_state_dict(program.state_dict())
    twin.steps, twin.waiting = program.steps, program.waiting
    assert {name for name in program.state_dict() if name.endswith(".accumulated")} <= set(program.state_names)
    assert "fc1.weight.accumulated" not in program.params
    for part in parts[2:]:
        assert program.step(*part) == twin.step(*part)
    for name, array in program.state_dict().items():
        np.testing.assert_array_equal(array, twin.state_dict()[name], err_msg=name)
    program.reset()
    assert program.waiting == (0, 0)


@pytest.mark.parametrize("value", [(3, 12), (-1, 0), (1, 0), (1, 5), (0, 4), (1.0, 4)])
def test_what_cannot_wait(compile_text: Compile, value: Any) -> None:
    program = compile_text(NET.format("batch 4 accumulate=3"))
    with pytest.raises(CompileError) as error:
        program.waiting = value
    assert error.value.diagnostics[0].code == "value-waiting"


# Training


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """50 images: seven batches of 8, the last one of 2."""
    x, labels = images(50, 9)
    np.savez(tmp_path / "data.npz", x_train=(x[:, 0] * 255).astype(np.uint8), y_train=labels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convc.runtime.curves._draw", lambda *_: None)
    return tmp_path


def train(settings: str, **options: Any) -> convc.FitResult:
    Path("net.cnn").write_text(NET.format(f'data npz "data.npz" -> {settings}'))
    return convc.fit(convc.load("net.cnn"), report="quiet", threads=1, **options)


def test_groups_end_with_the_epoch_and_schedules_count_updates(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[tuple[float, int]] = []
    run = Program.train_batch

    def spy(program: Program, x: np.ndarray, labels: np.ndarray, lr: float, **more: Any) -> Any:
        result = run(program, x, labels, lr, **more)
        rates.append((lr, program.steps))
        return result

    monkeypatch.setattr(Program, "train_batch", spy)
    result = train("batch 8 accumulate=3 -> epochs 2 -> schedule cosine", out="run")
    assert result.steps == 6
    assert [steps for _, steps in rates] == [0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6]
    per_update = [0.01 * (1 + np.cos(np.pi * number / 6)) / 2 for number in range(6)]
    used = [per_update[number] for number in (0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5)]
    assert [lr for lr, _ in rates] == pytest.approx(used)
    assert result.history[-1].learning_rate == pytest.approx(per_update[5])
    assert json.loads(Path("run/settings.json").read_text())["accumulate"] == 3


@pytest.mark.parametrize("stop", [2, 7, 11])
def test_a_run_stopped_anywhere_goes_on_to_the_bit(folder: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """Stopped within a group, at the end of an epoch, within a later group."""
    settings = "batch 8 accumulate=3 -> epochs 2"
    train(settings, out="whole")
    calls, run = [0], Program.train_batch

    def interrupt(program: Program, *arguments: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop:
            signal.raise_signal(signal.SIGINT)
        return run(program, *arguments, **more)

    monkeypatch.setattr(Program, "train_batch", interrupt)
    with pytest.raises(Interrupted):
        train(settings, out="parts")
    train(settings, out="parts", resume=True)
    whole, parts = (read_checkpoint(Path(name) / "state.safetensors").tensors for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)
