"""Training from the first epoch to the test: what it prints, writes, refuses."""

from __future__ import annotations

import csv
import errno
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
from convc.runtime import atomic
from convc.runtime.algorithms import record
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.data import DataSet, Split
from convc.runtime.trainer import FitResult
from tests.runtime.deaths import through_deaths

NET = """\
net tiny(classes = 4) {
  input 1x6x6 mean=0.5
  conv 3 k=3 -> bn -> relu -> pool max 2
  fc 8 -> relu -> dropout 0.25
  fc classes
  loss softmax
}

train {
  data npz "data.npz" val=30
  batch 16
  epochs 3
  optim adam lr=0.02
  seed 5
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a net and 150 + 40 images that can be learned; it is the working directory."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 190)
    images = random.random((190, 6, 6)) * 0.3
    for image, label in zip(images, labels, strict=True):
        image[3 * (label // 2) : 3 * (label // 2) + 3, 3 * (label % 2) : 3 * (label % 2) + 3] += 0.6
    pixels = (255 * images).astype(np.uint8)
    arrays = {"x_train": pixels[:150], "y_train": labels[:150], "x_test": pixels[150:], "y_test": labels[150:]}
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "net.cnn").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fit(folder: Path, target: str) -> Callable[..., FitResult]:
    def train(text: str | None = None, **options: Any) -> FitResult:
        return convc.fit(load(folder, text), target=target, **options)

    return train


Fit = Callable[..., FitResult]


def load(folder: Path, text: str | None = None) -> Net:
    if text is not None:
        (folder / "other.cnn").write_text(text)
    return convc.load(folder / ("net.cnn" if text is None else "other.cnn"))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(CompileError) as error:
        call()
    return error.value.diagnostics[0].code


def tensors(path: Path) -> dict[str, list[Any]]:
    return {name: array.tolist() for name, array in read_checkpoint(path).tensors.items()}


# A whole run


def test_a_run_and_its_folder(fit: Fit, folder: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit()
    assert result.folder == Path("runs/tiny-1")
    assert sorted(os.listdir(result.folder)) == [
        ".lock", "best.safetensors", *(["choices.json"] if target == "cpu" else []), "curves.png",
        "environment.json", "last.safetensors", "log.txt", "metrics.csv",
        "metrics.jsonl", "model.cnn", "result.json", "settings.json", "state.safetensors",
    ]  # fmt: skip
    assert (result.epochs, result.steps) == (3, 24)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == "run folder runs/tiny-1"
    assert lines[-2] == f"test accuracy {100 * result.test_accuracy:.2f} %"
    assert sum(line.startswith("epoch ") for line in lines) == 3
    log = (result.folder / "log.txt").read_text().splitlines()
    said = [line.split("  ", 1)[1] for line in log]
    # The log tells of the memory, too, which is printed where somebody has asked for a bound on it.
    assert [line for line in said if not line.startswith("  memory ")] == lines
    assert any(line.startswith("  memory ") for line in said) == (target == "cpu")

    with open(result.folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["train_loss"]) == result.history[2].train_loss
    records = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["validation_accuracy"] for record in records] == [r.validation_accuracy for r in result.history]
    assert (result.folder / "curves.png").read_bytes().startswith(b"\x89PNG")

    best = max(result.history, key=lambda r: (r.validation_accuracy, -(r.validation_loss or 0)))
    assert result.best_epoch == best.epoch
    about = read_checkpoint(result.folder / "best.safetensors").metadata
    assert about["net"] == "tiny"
    assert json.loads(about["classes"]) == ["0", "1", "2", "3"]
    assert json.loads(about["normalisation"])["mean"] == [0.5]
    assert about["epoch"] == str(best.epoch)
    assert about["convc"] == convc.__version__
    settings = json.loads((result.folder / "settings.json").read_text())
    assert (settings["batch"], settings["epochs"], settings["seed"], settings["target"]) == (16, 3, 5, target)


def test_the_reported_accuracy_is_that_of_the_best_weights(fit: Fit, folder: Path, target: str) -> None:
    from convc.runtime.evaluate import evaluate

    result = fit(report="quiet")
    archive = np.load(folder / "data.npz")
    split = Split(np.ascontiguousarray(archive["x_test"][:, None]), archive["y_test"].astype(np.int32))
    with convc.compile(load(folder), target=target) as program:
        program.load_params(result.folder / "best.safetensors")
        evaluation = evaluate(program, split)
        logits = np.concatenate([program(split.batch(np.arange(i, min(i + 16, 40)))[0]) for i in range(0, 40, 16)])
    assert evaluation["count"] == 40
    assert evaluation["accuracy"] == result.test_accuracy == (logits.argmax(1) == split.labels).mean()
    assert evaluation["top5"] == 1
    log_p = logits - np.log(np.exp(logits.astype(float)).sum(1, keepdims=True))
    assert evaluation["loss"] == pytest.approx(-log_p[np.arange(40), split.labels].mean(), rel=1e-5)


def test_the_resolved_net_repeats_the_run(fit: Fit, folder: Path, target: str) -> None:
    first = fit(out="a", epochs=2, seed=9, batch=10)
    os.rename(folder / "net.cnn", folder / "gone.cnn")
    second = convc.fit(convc.load("a/model.cnn"), target=target, out="b")
    assert tensors(first.folder / "last.safetensors") == tensors(second.folder / "last.safetensors")
    assert (first.folder / "last.safetensors").read_bytes() == (second.folder / "last.safetensors").read_bytes()
    assert first.test_accuracy == second.test_accuracy


def test_what_nobody_said_is_chosen_and_told(fit: Fit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = NET[: NET.index("train {")] + 'train { data npz "data.npz" -> epochs 1 }'
    result = fit(text)
    out = capsys.readouterr().out
    for expected in ("  batch 64: ", "  seed 0: ", "  optimiser adam lr=0.001", "  validation none: "):
        assert expected in out
    assert "epochs 1: " not in out
    assert result.weights.name == "best.safetensors"
    assert result.best_epoch == 1
    model = (result.folder / "model.cnn").read_text()
    for expected in ("batch 64", "seed 0", "optim adam lr=0.001", f'"{folder}/data.npz"'):
        assert expected in model


def test_json_events(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(report="json")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0] == {"schema": 1, "event": "folder", "folder": str(result.folder)}
    kinds = [event["event"] for event in events]
    assert kinds.count("epoch") == 3
    assert kinds[-2:] == ["test", "end"]
    assert events[-2]["accuracy"] == result.test_accuracy


def test_quiet(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(report="quiet")
    assert result.test_accuracy is not None
    assert capsys.readouterr().out.splitlines() == [
        "run folder runs/tiny-1",
        f"test accuracy {100 * result.test_accuracy:.2f} %",
        "run folder runs/tiny-1",
    ]


def test_a_bar_is_drawn(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit(report="bar")
    assert "test accuracy" in capsys.readouterr().out


def test_data_from_memory(fit: Fit, folder: Path) -> None:
    random = np.random.default_rng(1)
    split = Split(random.random((20, 1, 6, 6)).astype(np.float32), np.arange(20, dtype=np.int32) % 4)
    result = fit(data=DataSet("memory", ("a", "b", "c", "d"), split), epochs=1)
    assert result.test_accuracy is None
    assert json.loads(read_checkpoint(result.weights).metadata["classes"]) == ["a", "b", "c", "d"]


def test_two_runs_give_the_same_bits(fit: Fit) -> None:
    first, second = fit(), fit(threads=1)
    assert (first.folder.name, second.folder.name) == ("tiny-1", "tiny-2")
    for name in ("last.safetensors", "best.safetensors"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_starting_from_weights(fit: Fit, folder: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = fit(epochs=1)
    text = NET.replace("fc classes", "fc 6 -> relu -> fc classes").replace("lr=0.02", "lr=1e-30")
    second = fit(text, init=first.folder / "last.safetensors", epochs=1)
    old, new = (tensors(result.folder / "last.safetensors") for result in (first, second))
    assert new["conv1.weight"] == old["conv1.weight"]
    assert new["fc1.bias"] == old["fc1.bias"]
    out = capsys.readouterr().out
    assert "8 of 12 parameters come from" in out
    assert "fc2.weight: 6x8 in the net, 4x8 in the file" in out
    assert "fc3.bias: 4 in the net, not in the file" in out


# Going on


def test_more_epochs_are_the_same_as_all_at_once(fit: Fit) -> None:
    whole = fit(epochs=3)
    part = fit(epochs=1, out="part")
    rest = fit(epochs=3, out="part", resume=True)
    assert tensors(whole.folder / "state.safetensors") == tensors(rest.folder / "state.safetensors")
    assert [r.train_loss for r in rest.history] == [r.train_loss for r in whole.history]
    assert (part.steps, rest.steps) == (8, 24)
    assert rest.test_accuracy == whole.test_accuracy


def test_resuming_a_finished_run_says_what_it_reached(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    first = fit()
    before = (first.folder / "state.safetensors").read_bytes()
    capsys.readouterr()
    second = fit(resume=True)
    assert second == first
    assert capsys.readouterr().out.splitlines()[-2] == f"test accuracy {100 * (first.test_accuracy or 0):.2f} %"
    assert (first.folder / "state.safetensors").read_bytes() == before
    # Also after a crash between the last epoch and the result.
    (first.folder / "result.json").unlink()
    assert fit(resume=True) == first


def test_resume_without_a_run_starts_afresh(fit: Fit) -> None:
    assert fit(resume=True, epochs=1).epochs == 1
    assert fit(resume=True, epochs=1, out="elsewhere").epochs == 1


def test_other_settings_cannot_go_on(fit: Fit, folder: Path) -> None:
    fit(epochs=1, out="run")
    before = {name: (folder / "run" / name).read_bytes() for name in os.listdir("run")}

    def resume(text: str | None = None, **options: Any) -> None:
        with pytest.raises(CompileError) as error:
            fit(text, out="run", resume=True, **{"epochs": 2, **options})
        assert error.value.diagnostics[0].code == "checkpoint-settings"
        messages.append([note.message for note in error.value.diagnostics[0].notes])

    messages: list[list[str]] = []
    resume(batch=8)
    resume(seed=6)
    resume(NET.replace("adam lr=0.02", "adam lr=0.03"))
    resume(NET.replace("seed 5", "seed 5\n  decay l2=0.1"))
    resume(NET.replace("fc 8", "fc 9"))
    resume(data='npz "data.npz" val=20')
    betas = "beta1=0.9 beta2=0.999 eps=1e-08"
    assert messages == [
        ["batch: 16 in the run, 8 now"],
        ["the training data is not what it was", "seed: 5 in the run, 6 now"],  # the seed divides the data, too
        [
            f"optimizer: adam lr=0.02 {betas} in the run, adam lr=0.03 {betas} now",
        ],
        ["decay: l2=0 l1=0 bias=no in the run, l2=0.1 l1=0 bias=no now"],
        ["the net is not what it was"],
        ["the training data is not what it was"],
    ]
    assert {name: (folder / "run" / name).read_bytes() for name in os.listdir("run")} == before
    # Comments and lay-out may change.
    assert fit("# better\n" + NET, out="run", resume=True, epochs=2).epochs == 2


def test_a_damaged_state(fit: Fit, folder: Path) -> None:
    fit(epochs=1, out="run")
    state = folder / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    assert refusal(lambda: fit(epochs=2, out="run", resume=True)) == "checkpoint-unreadable"
    (folder / "run" / "best.safetensors").replace(state)
    assert refusal(lambda: fit(epochs=2, out="run", resume=True)) == "checkpoint-unreadable"


# Mistakes: each refused before anything is written, or with everything kept


def test_an_existing_run_is_not_overwritten(fit: Fit, folder: Path) -> None:
    fit(epochs=1, out="run")
    before = (folder / "run" / "state.safetensors").read_bytes()
    assert refusal(lambda: fit(epochs=1, out="run")) == "file-folder"
    assert (folder / "run" / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"batch": 1000}, "data-batch"),
        ({"data": "mnist"}, "data-shape"),
        ({"data": 'npz "none.npz"'}, "data-missing"),
        ({"data": 'npz "data.npz" val=1000'}, "data-too-few"),
        ({"data": "nothing"}, "data-kind"),
        ({"epochs": 0}, "value-range"),
        ({"seed": -1}, "value-range"),
        ({"precision": "fp8"}, "unavailable-precision"),
        ({"target": "tpu"}, "unavailable-target"),
        ({"arch": "sm_90"}, "value-architecture"),
        ({"report": "loud"}, "value-report"),
        ({"threads": 0}, "value-range"),
    ],
)
def test_bad_arguments(folder: Path, options: dict[str, Any], code: str) -> None:
    found = refusal(lambda: convc.fit(load(folder), **{"target": "reference", **options}))
    assert found == code
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("classes = 4", "classes = 3", "data-label-range"),
        ("1x6x6", "1x7x7", "data-shape"),
        ("seed 5", "seed 5\n  ensemble 3", "unavailable-setting"),
        ("adam lr=0.02", "lbfgs", "unavailable-setting"),
        ("  loss softmax\n", "", "value-loss"),
    ],
)
def test_bad_files(folder: Path, old: str, new: str, code: str) -> None:
    net = load(folder, NET.replace(old, new))
    found = refusal(lambda: convc.fit(net, target="reference"))
    assert found == code
    assert not (folder / "runs").exists()


def test_foreign_weights_to_start_from(fit: Fit, folder: Path) -> None:
    (folder / "w.safetensors").write_bytes(b"PK\x03\x04")
    assert refusal(lambda: fit(init="w.safetensors")) == "checkpoint-unreadable"
    assert refusal(lambda: fit(init="missing.safetensors")) == "checkpoint-missing"
    assert not (folder / "runs").exists()


def test_a_disk_that_fills_up(fit: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first epoch nothing can be written; what was written stays, and the run can go on later."""
    replace = atomic.os.replace

    def full(source: Path, destination: Path) -> None:
        if Path(destination).name == "last.safetensors" and (folder / "run" / "state.safetensors").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, destination)

    whole = fit(out="whole")
    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(CompileError, match="No space left") as error:
        fit(out="run")
    assert error.value.diagnostics[0].code == "file-write"
    assert "the disk is full" in (error.value.diagnostics[0].hint or "")
    monkeypatch.undo()
    os.chdir(folder)
    assert read_checkpoint(folder / "run" / "last.safetensors").metadata["epoch"] == "1"
    assert "No space left" in (folder / "run" / "log.txt").read_text()
    rest = fit(out="run", resume=True)
    assert tensors(rest.folder / "last.safetensors") == tensors(whole.folder / "last.safetensors")


def test_curves_that_cannot_be_drawn_do_no_harm(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("convc.runtime.curves._draw", broken)
    assert fit(epochs=1).epochs == 1
    assert "curves.png could not be drawn: no fonts" in capsys.readouterr().out


# Losses that are no numbers


def test_a_loss_that_explodes_in_the_forward_pass(fit: Fit, folder: Path) -> None:
    fit(epochs=1, out="run")
    kept = {name: (folder / "run" / name).read_bytes() for name in ("best.safetensors", "last.safetensors")}
    text = NET.replace("adam lr=0.02", "sgd lr=1e25").replace("-> bn ", "")
    with pytest.raises(CompileError) as error:
        fit(text, epochs=2, out="other")
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "train-not-finite"
    assert "in step 2 (epoch 1, batch 2)" in diagnostic.message
    assert diagnostic.span is not None
    assert "learning rate" in (diagnostic.hint or "")
    assert "|" in str(error.value)  # the line of the net is shown
    assert not (folder / "other" / "last.safetensors").exists()
    assert {name: (folder / "run" / name).read_bytes() for name in kept} == kept


def test_an_update_that_overflows(fit: Fit, folder: Path) -> None:
    """Step 1 makes parameters infinite though its loss is a number: that step and that op are named."""
    with pytest.raises(CompileError, match=r"in step 1 .* sgd_update of") as error:
        fit(NET.replace("adam lr=0.02", "sgd lr=3e38 momentum=0.9").replace("-> bn ", ""), epochs=2)
    assert error.value.diagnostics[0].code == "train-not-finite"


def test_the_last_good_state_is_kept(fit: Fit, folder: Path) -> None:
    """Two good epochs, then a rate that no training survives."""
    text = (
        NET.replace("adam lr=0.02", "sgd")
        .replace("seed 5", "seed 5\n  schedule 0.01 for 2e, 1e30")
        .replace("-> bn ", "")
    )
    with pytest.raises(CompileError, match=r"epoch 3") as error:
        fit(text, epochs=4, out="run")
    assert "the last good state is kept" in str(error.value)
    for name in ("state.safetensors", "last.safetensors", "best.safetensors"):
        checkpoint = read_checkpoint(folder / "run" / name)
        assert all(np.isfinite(array).all() for array in checkpoint.tensors.values())
    assert read_checkpoint(folder / "run" / "last.safetensors").metadata["epoch"] == "2"
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_images_that_are_not_finite(fit: Fit, folder: Path) -> None:
    images = np.zeros((32, 1, 6, 6), np.float32)
    images[20, 0, 2, 2] = np.nan
    dataset = DataSet("bad", ("a", "b", "c", "d"), Split(images, np.arange(32, dtype=np.int32) % 4))
    with pytest.raises(CompileError, match="the images of that batch are not finite"):
        fit(data=dataset, epochs=1)


# States within epochs


@pytest.mark.slow
def test_states_within_an_epoch_continue_bit_by_bit(fit: Fit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that stops dead after every single step gives the same bits as one that runs through."""
    whole = fit(epochs=2)

    result, deaths = through_deaths(monkeypatch, lambda: fit(epochs=2, out="run", resume=True))
    assert deaths >= 16
    assert tensors(result.folder / "state.safetensors") == tensors(whole.folder / "state.safetensors")
    assert [(r.train_loss, r.train_accuracy, r.best) for r in result.history] == [
        (r.train_loss, r.train_accuracy, r.best) for r in whole.history
    ]
    assert (result.folder / "best.safetensors").read_bytes() == (whole.folder / "best.safetensors").read_bytes()


def test_algorithms_are_recorded_and_taken_again(fit: Fit, target: str) -> None:
    """A run goes on with the algorithms that it has begun with, whatever would be chosen today."""
    if target != "cpu":
        pytest.skip("the interpreter computes by the definition")
    seen: list[dict[str, str]] = []
    result = fit(epochs=1, inspect=lambda program: seen.append(record(program.reports)))
    kept = json.loads((result.folder / "choices.json").read_text())
    assert kept["train"] == seen[0]
    assert set(kept["infer"]) == {key for key in kept["train"] if key.endswith(" forward")}
    other = dict.fromkeys(kept["train"], "winograd_f2x3")
    assert other != kept["train"]
    (result.folder / "choices.json").write_text(json.dumps({**kept, "train": other}))
    fit(epochs=2, resume=True, inspect=lambda program: seen.append(record(program.reports)))
    assert seen[1] == other
    # What is asked for is part of what makes the bits.
    with pytest.raises(CompileError, match="checkpoint-settings"):
        fit(epochs=3, resume=True, algo="direct")
