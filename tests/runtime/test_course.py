"""The course of a training: learning rates step by step, plateau, early stop, numbered checkpoints."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.ir.diagnostic import CompileError
from convc.runtime import training_loop
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.program import Program
from convc.runtime.trainer import FitResult

NET = """\
net tiny {
  input 1x4x4
  fc 6 -> bn -> relu -> dropout 0.25 -> fc 3
  loss softmax
}
"""
# Four batches per epoch.
DATA = 'data npz "data.npz" val=20 -> batch 16 -> epochs 6'

Fit = Callable[..., FitResult]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with 64 images to train on, 20 for validation, 12 for the test, and nothing to be learned."""
    random = np.random.default_rng(3)
    pixels, labels = random.integers(0, 255, (96, 4, 4), np.uint8), random.integers(0, 3, 96)
    arrays: dict[str, Any] = {
        "x_train": pixels[:84],
        "y_train": labels[:84],
        "x_test": pixels[84:],
        "y_test": labels[84:],
    }
    np.savez(tmp_path / "data.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convc.runtime.curves._draw", lambda *_: None)  # it takes longer than all the rest
    return tmp_path


@pytest.fixture
def fit(folder: Path) -> Fit:
    def train(settings: str, data: str = DATA, **options: Any) -> FitResult:
        (folder / "net.cnn").write_text(f"{NET}\ntrain {{\n  {data}\n  {settings}\n}}\n")
        options.setdefault("threads", 1)
        return convc.fit(convc.load("net.cnn"), **options)

    return train


def refusal(call: Callable[[], object]) -> CompileError:
    with pytest.raises(CompileError) as error:
        call()
    return error.value


# Rates


@pytest.fixture
def rates(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[float]]:
    """The learning rates that the compiled step is called with, for six epochs of four steps."""

    def record(settings: str) -> list[float]:
        used: list[float] = []
        train_batch = Program.train_batch

        def spy(program: Program, images: np.ndarray, labels: np.ndarray, lr: float, **more: Any) -> Any:
            used.append(lr)
            return train_batch(program, images, labels, lr, **more)

        monkeypatch.setattr(Program, "train_batch", spy)
        result = fit(settings, report="quiet")
        assert [record.learning_rate for record in result.history] == used[3::4]
        return used

    return record


STEPS = range(24)
WARM = [min(1, (step + 1) / 9) for step in STEPS]  # two epochs or eight steps


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("optim sgd lr=0.5", [0.5] * 24),
        ("optim sgd lr=0.5\n  schedule constant warmup=2e", [0.5 * w for w in WARM]),
        ("optim sgd lr=0.5\n  schedule constant warmup=8s", [0.5 * w for w in WARM]),
        ("optim sgd\n  schedule 0.1 for 2e, 0.01 for 3e, 0.001", [0.1] * 8 + [0.01] * 12 + [0.001] * 4),
        ("optim sgd\n  schedule 0.1 for 5s, 0.01 for 1e, 0.001", [0.1] * 5 + [0.01] * 4 + [0.001] * 15),
        ("optim sgd\n  schedule 0.1 for 1e, 0.01 for 3s", [0.1] * 4 + [0.01] * 20),
        (
            "optim sgd lr=1\n  schedule step every=2e gamma=0.5 warmup=1e",
            [0.5 ** (s // 8) * min(1, (s + 1) / 5) for s in STEPS],
        ),
        ("optim sgd lr=1\n  schedule step every=5s gamma=0.5", [0.5 ** (s // 5) for s in STEPS]),
        (
            "optim sgd lr=1\n  schedule cosine min=0.2",
            [0.2 + 0.8 * (1 + math.cos(math.pi * s / 24)) / 2 for s in STEPS],
        ),
        (
            "optim sgd lr=1\n  schedule cosine warmup=2e",
            [w * (1 + math.cos(math.pi * max(0, s - 8) / 16)) / 2 for s, w in zip(STEPS, WARM, strict=True)],
        ),
        (
            "optim sgd lr=1\n  schedule poly power=2 warmup=8s",
            [w * (1 - max(0, s - 8) / 16) ** 2 for s, w in zip(STEPS, WARM, strict=True)],
        ),
        ("optim sgd lr=1\n  schedule poly min=0.5", [0.5 + 0.5 * (1 - s / 24) for s in STEPS]),
    ],
)
def test_schedules_step_by_step(rates: Callable[[str], list[float]], settings: str, expected: list[float]) -> None:
    assert rates(settings) == pytest.approx(expected, rel=1e-12)


def test_one_cycle_step_by_step(rates: Callable[[str], list[float]]) -> None:
    used = rates("optim sgd\n  schedule onecycle max=0.5")
    top = 0.3 * 24
    assert used[0] == pytest.approx(0.5 / 25)
    assert used[5] == pytest.approx(0.5 / 25 + (0.5 - 0.5 / 25) * (1 - math.cos(math.pi * 5 / top)) / 2)
    assert used[16] == pytest.approx(
        0.5 / 25e4 + (0.5 - 0.5 / 25e4) * (1 + math.cos(math.pi * (16 - top) / (24 - top))) / 2
    )
    assert max(used) == used[7]


# Plateau


def test_plateau(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate of next to nothing makes no progress, so that every epoch beyond the patience reduces it."""
    result = fit("optim sgd lr=0.01 -> schedule plateau factor=0.5 patience=1", report="json", epochs=7)
    losses = [record.validation_loss for record in result.history]
    best, bad, rate, expected = math.inf, 0, 0.01, []
    for loss in losses:
        assert loss is not None
        expected.append(rate)
        bad = 0 if loss < best * (1 - 1e-4) else bad + 1
        best = min(best, loss) if bad == 0 else best
        if bad > 1:
            rate, bad = rate * 0.5, 0
    assert rate < 0.01, "nothing was reduced: the test tests nothing"
    assert [record.learning_rate for record in result.history] == pytest.approx(expected, rel=1e-12)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    reductions = [event for event in events if event["event"] == "rate"]
    assert [event["epoch"] for event in reductions] == [r.epoch for r in result.history if r.note]
    assert reductions[0]["now"] == reductions[0]["before"] * 0.5 == 0.005
    notes = [record.note or "" for record in result.history]
    assert any("learning rate 0.01 -> 0.005: validation loss has not fallen below" in note for note in notes)
    with open(result.folder / "metrics.csv", newline="") as file:
        assert [row["note"] for row in csv.DictReader(file)] == notes


def test_plateau_without_validation_watches_the_training(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    data = 'data npz "data.npz" -> batch 16 -> epochs 8'
    result = fit("optim sgd lr=0.001 -> schedule plateau patience=0", data)
    out = capsys.readouterr().out
    assert "  plateau on the training loss: there is no validation part" in out
    assert "  schedule plateau factor=0.1: the default" in out
    assert "training loss has not fallen below" in out
    assert result.history[-1].learning_rate < 0.001


# Early stop

STALLED = "optim sgd lr=1e-9 -> early_stop val_loss patience=2 delta=0.001"


def test_early_stop(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(STALLED)
    assert (result.epochs, len(result.history), result.steps) == (3, 3, 12)
    reason = "validation loss has not fallen below "
    assert result.stopped is not None
    assert result.stopped.startswith(reason)
    assert result.history[2].note == f"stopped after epoch 3 of 6: {result.stopped}"
    out = capsys.readouterr().out
    assert f"stopped after epoch 3 of 6: {reason}" in out
    assert "by more than 0.001 for 2 epochs (patience 2)" in out
    content = json.loads((result.folder / "result.json").read_text())
    assert (content["finished"], content["stopped"], content["epochs"]) == (True, result.stopped, 3)
    assert result.test_accuracy is not None


def test_a_stopped_run_is_finished(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    first = fit(STALLED)
    before = (first.folder / "state.safetensors").read_bytes()
    capsys.readouterr()
    assert fit(STALLED, resume=True) == first
    assert "this run had finished after 3 epochs: validation loss has not" in capsys.readouterr().out
    assert fit(STALLED, resume=True, epochs=50) == first
    assert (first.folder / "state.safetensors").read_bytes() == before
    # A crash between the last epoch and the result.
    (first.folder / "result.json").unlink()
    assert fit(STALLED, resume=True) == first


def test_more_patience_goes_on(fit: Fit) -> None:
    assert fit(STALLED).epochs == 3
    more = fit(STALLED.replace("patience=2", "patience=4"), resume=True)
    assert (more.epochs, more.stopped is not None) == (5, True)
    rest = fit(STALLED.split(" -> ")[0], resume=True)
    assert (rest.epochs, rest.stopped) == (6, None)
    assert [record.epoch for record in rest.history] == [1, 2, 3, 4, 5, 6]


def test_early_stop_in_the_last_epoch_is_no_news(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(STALLED, epochs=3)
    assert (result.epochs, result.stopped) == (3, None)
    assert "stopped after" not in capsys.readouterr().out


def test_early_stop_on_accuracy_in_json(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit("optim sgd lr=1e-9 -> early_stop val_accuracy patience=1", report="json")
    events = {event["event"]: event for event in map(json.loads, capsys.readouterr().out.splitlines())}
    assert events["early-stop"]["epoch"] == result.epochs < 6
    assert events["end"]["finished"] is True
    assert events["end"]["stopped"] == result.stopped
    assert "validation accuracy has not risen above" in (result.stopped or "")


def test_early_stop_needs_a_validation_part(fit: Fit, folder: Path) -> None:
    error = refusal(lambda: fit(STALLED, 'data npz "data.npz" -> batch 16'))
    (diagnostic,) = error.diagnostics
    assert diagnostic.code == "data-validation"
    assert "early_stop val_loss" in diagnostic.message
    assert diagnostic.span is not None
    assert "val=N" in (diagnostic.hint or "")
    assert "^^^" in str(error)
    assert not (folder / "runs").exists()


def test_a_validation_loss_that_is_not_finite(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told, counts as no progress, and leaves files that can be read again."""
    evaluate = training_loop.evaluate
    monkeypatch.setattr(training_loop, "evaluate", lambda *a, **o: {**evaluate(*a, **o), "loss": math.inf})
    settings = "optim adam -> schedule plateau patience=0 -> early_stop val_loss patience=2"
    result = fit(settings, report="json")
    assert (result.epochs, result.history[1].validation_loss) == (2, None)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    warning = next(event for event in events if event["event"] == "warning")
    assert warning["message"].startswith("warning: the validation loss is inf")
    assert fit(settings, resume=True) == result
    assert "learning rate 0.001 -> 0.0001: validation loss has not fallen below inf" in (result.history[0].note or "")


# Numbered checkpoints


def checkpoints(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("checkpoint-"))


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ("checkpoint every=1e keep=3", [16, 20, 24]),
        ("checkpoint every=2e keep=9", [8, 16, 24]),
        ("checkpoint every=0.5e keep=4", [18, 20, 22, 24]),
        ("checkpoint every=7s keep=2", [14, 21]),
        ("checkpoint every=4s", [24]),
        ("checkpoint every=100s keep=3", []),
        ("checkpoint keep=2", [20, 24]),
    ],
)
def test_the_last_few_states_are_kept(fit: Fit, setting: str, steps: list[int]) -> None:
    result = fit(f"optim adam -> {setting}", report="quiet")
    assert checkpoints(result.folder) == [f"checkpoint-{step:08d}.safetensors" for step in steps]
    for name, step in zip(checkpoints(result.folder), steps, strict=True):
        assert read_checkpoint(result.folder / name).metadata["step"] == str(step)
    assert not [name for name in os.listdir(result.folder) if ".part-" in name]


def test_no_numbers_unless_asked_for(fit: Fit) -> None:
    assert checkpoints(fit("optim adam", epochs=1).folder) == []


def test_a_run_can_go_on_from_any_of_them(fit: Fit) -> None:
    settings = "optim adam lr=0.05 -> schedule plateau factor=0.5 patience=0 -> checkpoint every=5s keep=4"
    whole = fit(settings, out="whole")
    names = checkpoints(whole.folder)
    assert len(names) == 4
    for name in names:
        shutil.copytree("whole", "again")
        for old in ("state", "best", "last"):
            (Path("again") / f"{old}.safetensors").unlink()
        # Going back to the best of what was: copies of the file, as a user makes them.
        shutil.copy(f"whole/{name}", "again/state.safetensors")
        shutil.copy("whole/best.safetensors", "again/best.safetensors")
        again = fit(settings, out="again", resume=True)
        assert checkpoints(again.folder) == names
        for file in ("best.safetensors", "last.safetensors"):
            assert (again.folder / file).read_bytes() == (whole.folder / file).read_bytes()
        assert [r.train_loss for r in again.history] == [r.train_loss for r in whole.history]
        shutil.rmtree("again")


def test_a_lost_state_is_replaced_by_the_newest_checkpoint(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "optim adam -> checkpoint every=3s keep=2"
    whole = fit(settings, out="whole")
    fit(settings, out="run", epochs=4)
    Path("run/state.safetensors").unlink()
    capsys.readouterr()
    rest = fit(settings, out="run", resume=True)
    out = capsys.readouterr().out
    assert "there was no state.safetensors: it is now checkpoint-00000015.safetensors" in out
    assert "going on after step 15 (epoch 4, batch 3)" in out
    assert (rest.folder / "last.safetensors").read_bytes() == (whole.folder / "last.safetensors").read_bytes()


def test_only_our_own_files_are_removed(fit: Fit, folder: Path) -> None:
    settings = "optim adam -> checkpoint every=1e keep=1"
    run = fit(settings, out="run", epochs=1).folder
    (run / "checkpoint-00000001.safetensors").write_text("mine")
    os.symlink(run / "best.safetensors", run / "checkpoint-00000002.safetensors")
    shutil.copy(run / "best.safetensors", run / "checkpoint-00000003.safetensors")  # weights, no state
    (run / "checkpoint-best.safetensors").write_text("mine")
    fit(settings, out="run", resume=True, epochs=3)
    assert checkpoints(run) == [
        "checkpoint-00000001.safetensors",
        "checkpoint-00000002.safetensors",
        "checkpoint-00000003.safetensors",
        "checkpoint-00000012.safetensors",
        "checkpoint-best.safetensors",
    ]


def test_checkpoints_can_be_evaluated_and_started_from(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit("optim adam -> checkpoint every=1e keep=2")
    file = result.folder / checkpoints(result.folder)[0]
    with convc.compile(convc.load("net.cnn"), threads=1) as program:
        assert program.load_params(file, strict=False).missing == {}
    capsys.readouterr()
    fit("optim adam", init=file, epochs=1)
    assert "8 of 8 parameters come from" in capsys.readouterr().out


# Everything at once, stopped dead after every save

EVERYTHING = """optim adam lr=0.05
  schedule plateau factor=0.5 patience=0
  early_stop val_loss patience=4
  checkpoint every=3s keep=2
  init "start.safetensors" freeze=["fc1", "bn1"]"""


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["batch 16", "batch 8 accumulate=3 -> clip 0.5 -> augment { shift 1 -> noise 0.1 }"])
def test_killed_after_every_save_it_goes_on_bit_by_bit(
    fit: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    data = f'data npz "data.npz" val=20 -> {extra}'
    started = fit("optim sgd", epochs=1, report="quiet")
    shutil.copy(started.weights, "start.safetensors")
    whole = fit(EVERYTHING, data, out="whole", epochs=12, report="quiet")
    os.remove("start.safetensors")  # a run that goes on does not need it

    class Killed(Exception):
        pass

    save, alive = training_loop.save_state, 0

    def save_and_die(*arguments: Any) -> None:
        nonlocal alive
        save(*arguments)
        alive += 1
        if alive % 2:
            raise Killed

    shutil.copy(started.weights, "start.safetensors")
    monkeypatch.setattr(training_loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training_loop, "_SAVE_SHARE", 1e9)
    monkeypatch.setattr(training_loop, "save_state", save_and_die)
    for deaths in range(200):
        try:
            result = fit(EVERYTHING, data, out="run", epochs=12, resume=True, report="quiet")
            break
        except Killed:
            if deaths == 0:
                os.remove("start.safetensors")
    else:
        raise AssertionError("it never ended")
    assert deaths > 10
    assert whole.stopped is not None, "the test is to see an early stop"
    assert any(record.note and "learning rate" in record.note for record in whole.history)
    assert (result.epochs, result.stopped, result.test_loss) == (whole.epochs, whole.stopped, whole.test_loss)
    assert checkpoints(result.folder) == checkpoints(whole.folder)
    for name in ("best.safetensors", "last.safetensors"):
        assert (result.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    for name in ("state.safetensors", *checkpoints(whole.folder)):
        first, second = (read_checkpoint(run.folder / name).tensors for run in (result, whole))
        for key, array in first.items():
            np.testing.assert_array_equal(array, second[key], err_msg=key)
    for first, second in zip(result.history, whole.history, strict=True):
        assert (first.note, first.learning_rate, first.train_loss) == (
            second.note,
            second.learning_rate,
            second.train_loss,
        )


def test_other_extras_cannot_go_on(fit: Fit) -> None:
    fit("optim adam -> schedule plateau patience=3", out="run", epochs=1)
    error = refusal(lambda: fit("optim adam -> schedule plateau patience=2", out="run", resume=True))
    assert error.diagnostics[0].code == "checkpoint-settings"
    assert "schedule" in error.diagnostics[0].message
