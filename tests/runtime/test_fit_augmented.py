"""Training with `augment`: what is changed and what is not, to the bit, and what is refused before all else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convc
from convc.cli import main
from convc.ir.diagnostic import CompileError
from convc.runtime import training_images
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.cores import ThreadChoice
from convc.runtime.evaluate import evaluate
from convc.runtime.interrupt import Interrupted
from convc.runtime.predict import predict
from convc.runtime.trained import evaluation_data, open_trained
from convc.runtime.trainer import FitResult
from tests.runtime.conftest import TARGETS
from tests.runtime.deaths import through_deaths

NET = """\
net tiny(classes = 4) {
  input 1x6x6 mean=0.5
  conv 3 k=3 -> bn -> relu -> pool max 2
  fc classes
  loss softmax
}

train {
  data npz "data.npz" val=30
  augment { pad 1 -> crop 6 -> rotate 10 -> scale (0.9, 1.1) -> noise 0.02 -> cutout 2 }
  batch 16
  epochs 3
  optim adam lr=0.02
  seed 5
}
"""
STEPS = NET[NET.index("augment {") : NET.index("}\n  batch") + 1]

Fit = Callable[..., FitResult]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with 150 + 40 images of 8x8, whose centres of 6x6 can be learned."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 190)
    images = random.random((190, 8, 8)) * 0.3
    for image, label in zip(images, labels, strict=True):
        image[1 + 3 * (label // 2) : 4 + 3 * (label // 2), 1 + 3 * (label % 2) : 4 + 3 * (label % 2)] += 0.6
    pixels = (255 * images).astype(np.uint8)
    for name, shown in (("large", pixels), ("data", pixels[:, 1:7, 1:7])):
        arrays = {"x_train": shown[:150], "y_train": labels[:150], "x_test": shown[150:], "y_test": labels[150:]}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def target() -> str:
    """What delivers images knows nothing of what computes with them: one back end will do, most of the time."""
    return "reference"


@pytest.fixture
def fit(folder: Path, target: str) -> Fit:
    def train(text: str = NET, **options: Any) -> FitResult:
        (folder / "net.cnn").write_text(text)
        return convc.fit(convc.load(folder / "net.cnn"), target=target, **{"report": "quiet", **options})

    return train


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(CompileError) as error:
        call()
    return error.value.diagnostics[0].code


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "convc-loader"]


def weights(result: FitResult) -> bytes:
    return (result.folder / "last.safetensors").read_bytes()


# What is changed


def test_training_images_are_changed_and_no_others(fit: Fit, target: str) -> None:
    plain, changed = fit(NET.replace(STEPS, "")), fit()
    assert weights(plain) != weights(changed)
    assert changed.test_accuracy is not None
    assert changed.test_accuracy > 0.5
    with open_trained(changed.folder).program(target=target) as program:
        archive = np.load("data.npz")
        images = archive["x_test"][:, None].astype(np.float32) / np.float32(255)
        logits = np.concatenate([program(images[k : k + 16]) for k in range(0, 40, 16)])
    assert changed.test_accuracy == (logits.argmax(1) == archive["y_test"]).mean()


def test_the_same_bits_on_any_number_of_threads(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit()
    for threads in (2, 4):
        monkeypatch.setattr(training_images, "loader_threads", lambda n=threads: ThreadChoice(n, "a test"))
        assert weights(fit()) == weights(first)


def test_what_is_chosen_is_told(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit(report="lines", epochs=1)
    assert "  loader threads " in capsys.readouterr().out
    fit(NET.replace(STEPS, ""), report="lines", epochs=1)
    assert "loader threads" not in capsys.readouterr().out


def test_larger_images_are_cut(fit: Fit, target: str) -> None:
    """Training sees random parts of 8x8, validation and test the centre of 6x6, which is the other data set."""
    result = fit(NET.replace("pad 1 -> ", "").replace("data.npz", "large.npz"))
    net = open_trained(result.folder).net
    dataset, part, split = evaluation_data(net)
    assert (dataset.shape, part, split.shape) == ((1, 8, 8), "test", (1, 6, 6))
    np.testing.assert_array_equal(split.images[:, 0], np.load("data.npz")["x_test"])
    with open_trained(result.folder).program(target=target) as program:
        assert evaluate(program, split)["accuracy"] == result.test_accuracy
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.5


@pytest.mark.slow
def test_digits_are_learned(tmp_path: Path) -> None:
    text = """
net digits {
  input 1x8x8
  conv 16 k=3 pad=1 -> relu -> conv 32 k=3 pad=1 -> relu -> pool max 2 -> fc 64 -> relu -> fc 10
  loss softmax
}
train {
  data digits val=200 test=300
  augment { pad 1 -> crop 8 -> rotate 10 -> shift 1 -> scale (0.9, 1.1) -> noise 0.05 -> cutout 2 }
  batch 32
  epochs 8
  optim adam lr=0.004
  schedule cosine
}
"""
    (tmp_path / "digits.cnn").write_text(text)
    result = convc.fit(convc.load(tmp_path / "digits.cnn"), out=tmp_path / "run", report="quiet")
    assert result.test_accuracy is not None
    assert result.test_accuracy >= 0.9
    # Changed images are the harder ones.
    assert result.history[-1].train_accuracy is not None
    assert result.history[-1].train_accuracy < result.test_accuracy


# Folders of images


@pytest.fixture
def photos(folder: Path) -> Path:
    """Three classes of images of different sizes: where the bright half is, or none."""
    random = np.random.default_rng(8)
    for part, count in (("train", 24), ("test", 9)):
        for number in range(count):
            label = number % 3
            height, width = random.integers(40, 70, 2)
            image = random.integers(0, 90, (height, width, 3))
            if label:
                image[:, : width // 2] += 160 if label == 1 else 0
                image[:, width // 2 :] += 160 if label == 2 else 0
            path = folder / "photos" / part / "abc"[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(path)
    return folder / "photos"


FOLDER = (
    NET.replace('npz "data.npz" val=30', 'folder "photos"')
    .replace("1x6x6", "3x28x28")
    .replace("tiny(classes = 4)", "tiny(classes = 3)")
)


@pytest.mark.parametrize(
    ("data", "steps", "stored"),
    [
        ("", "crop 28 -> shift 2", (32, 32)),
        ("size=40", "crop 28 -> noise 0.01", (40, 40)),
        ("", "rotate 5 -> pad 2", (24, 24)),
        ("", "pad 2 -> crop 28", (28, 28)),
    ],
)
def test_a_folder(
    fit: Fit, photos: Path, target: str, capsys: pytest.CaptureFixture[str], data: str, steps: str, stored: object
) -> None:
    text = FOLDER.replace(STEPS, f"augment {{ {steps} }}").replace('"photos"', f'"photos" {data}')
    result = fit(text, report="lines", batch=8, epochs=2)
    height, width = stored  # type: ignore[misc]
    told = f"  image size {height}x{width}: " in capsys.readouterr().out
    assert told == (height != 28 and not data)
    trained = open_trained(result.folder)
    dataset, part, split = evaluation_data(trained.net)
    assert (dataset.shape, part, split.shape) == ((3, height, width), "test", (3, 28, 28))
    paths = sorted((photos / "test").rglob("*.png"))
    assert trained.image_size == stored
    with trained.program(target=target) as program:
        evaluation = evaluate(program, split)
        predictions = predict(program, paths, trained.classes, trained.image_size)
    assert evaluation["accuracy"] == result.test_accuracy
    right = [guess.guesses[0].name == path.parent.name for guess, path in zip(predictions, paths, strict=True)]
    assert sum(right) / len(right) == pytest.approx(result.test_accuracy)


def test_predict_on_the_command_line(fit: Fit, photos: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = FOLDER.replace(STEPS, "augment { crop 28 -> flip v }")
    result = fit(text, batch=8, epochs=1)
    path = next((photos / "test").rglob("*.png"))
    assert main(["predict", str(result.folder), str(path), "--target", target]) == 0
    assert str(path) in capsys.readouterr().out


def test_a_folder_is_not_read_for_nothing(fit: Fit) -> None:
    """What sizes tell is told before the first image is read: here there is not even a folder."""
    assert refusal(lambda: fit(FOLDER.replace(STEPS, "augment { crop 28 -> crop 27 }"))) == "shape-augment"
    assert refusal(lambda: fit(FOLDER.replace(STEPS, "augment { crop 28 }"))) == "data-missing"


# Refused


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ("crop 7", "shape-augment"),
        ("pad 1", "shape-augment"),
        ("shift 6", "shape-augment"),
        ("flip h -> jitter 0.1", "unavailable-setting"),
        ("elastic 3", "unavailable-setting"),
    ],
)
def test_pipelines_that_cannot_be(fit: Fit, folder: Path, steps: str, code: str) -> None:
    assert refusal(lambda: fit(NET.replace(STEPS, f"augment {{ {steps} }}"))) == code
    assert not (folder / "runs").exists()


def test_evaluation_wants_images_that_fit(fit: Fit) -> None:
    result = fit(epochs=1)
    net = open_trained(result.folder).net
    np.savez("wide.npz", x_train=np.zeros((8, 6, 9), np.uint8), y_train=np.zeros(8, int))
    np.savez("small.npz", x_train=np.zeros((8, 3, 3), np.uint8), y_train=np.zeros(8, int))
    assert evaluation_data(net, 'npz "large.npz"')[2].shape == (1, 6, 6)
    assert evaluation_data(net, 'npz "wide.npz"')[2].shape == (1, 6, 6)
    assert refusal(lambda: evaluation_data(net, 'npz "small.npz"')) == "shape-augment"
    assert refusal(lambda: evaluation_data(net, "mnist train=100 test=100 val=1 seed=1 split=0.5")) != "shape-augment"


# Going on


def test_resuming_with_another_pipeline(fit: Fit) -> None:
    fit(out="run", epochs=1)
    for other in (NET.replace("rotate 10", "rotate 11"), NET.replace(STEPS, "")):
        with pytest.raises(CompileError, match="augment") as error:
            fit(other, out="run", resume=True)
        assert error.value.diagnostics[0].code == "checkpoint-settings"
    spaced = NET.replace("pad 1 -> crop 6", "pad 1\n    crop (6, 6)").replace("0.02 ->", "0.020 ->")
    assert fit(spaced, out="run", resume=True).epochs == 3


def test_the_resolved_net_goes_on(fit: Fit, target: str) -> None:
    whole = fit(out="whole")
    fit(out="run", epochs=1)
    net = convc.load("run/model.cnn")
    assert [step.word for step in net.settings.augment] == ["pad", "crop", "rotate", "scale", "noise", "cutout"]
    rest = convc.fit(net, target=target, out="run", resume=True, epochs=3, report="quiet")
    assert weights(rest) == weights(whole)


@pytest.mark.slow
def test_states_within_an_epoch_continue_bit_by_bit(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that stops dead after every single step gives the same bits as one that runs through."""
    whole = fit(epochs=2)

    def no_threads() -> None:
        assert not loader_threads()

    rest, deaths = through_deaths(monkeypatch, lambda: fit(epochs=2, out="run", resume=True), no_threads)
    assert deaths >= 14
    assert weights(rest) == weights(whole)
    assert [r.train_loss for r in rest.history] == [r.train_loss for r in whole.history]


def test_a_loss_that_explodes_is_traced_through_the_same_images(fit: Fit) -> None:
    text = NET.replace("optim adam lr=0.02", "optim sgd lr=1e25").replace("-> bn ", "")
    with pytest.raises(CompileError, match=r"in step 2 \(epoch 1, batch 2\)") as error:
        fit(text)
    assert error.value.diagnostics[0].code == "train-not-finite"
    assert error.value.diagnostics[0].span is not None
    assert not loader_threads()


# Stopped


@pytest.mark.parametrize("target", TARGETS)
def test_ctrl_c_leaves_no_threads(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes in the middle of an epoch, while four threads change images."""
    monkeypatch.setattr(training_images, "loader_threads", lambda: ThreadChoice(4, "a test"))
    whole = fit()
    step = convc.Program.train_batch
    seen: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        seen.append(len(loader_threads()))
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments, **options)

    monkeypatch.setattr(convc.Program, "train_batch", interrupted)
    with pytest.raises(Interrupted):
        fit(out="run")
    assert max(seen) == 4
    assert not loader_threads()
    assert len(seen) < 24
    monkeypatch.setattr(convc.Program, "train_batch", step)
    assert weights(fit(out="run", resume=True)) == weights(whole)
    assert read_checkpoint("run/last.safetensors").metadata["epoch"] == "3"


def test_a_second_signal_leaves_no_threads(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def aborted(*_: Any, **__: Any) -> Any:
        raise Interrupted("aborted")

    monkeypatch.setattr(convc.Program, "train_batch", aborted)
    with pytest.raises(Interrupted):
        fit(out="run")
    assert not loader_threads()
