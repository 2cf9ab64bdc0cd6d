"""Training, evaluation and prediction with a class for every pixel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convc
from convc.cli import main
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.runtime.configuration import balanced_weights
from convc.runtime.data import Split
from convc.runtime.evaluate import evaluate
from convc.runtime.predict import predict
from convc.runtime.trained import evaluation_data, open_trained
from convc.runtime.trainer import FitResult
from tests.runtime.deaths import through_deaths

NET = """\
net cells(classes = 3) {
  input 1x8x6 mean=0.5
  conv 6 k=3 pad=1 -> relu as fine
  pool max 2 -> conv 6 k=3 pad=1 -> relu
  deconv 6 k=2 s=2 -> concat fine
  conv classes k=1
  loss softmax
}

train {
  data npz "cells.npz" val=12 test=9
  augment { flip h -> flip v -> noise 0.01 }
  batch 8
  epochs 3
  optim adam lr=0.03
  seed 5
}
"""
STEPS = "  augment { flip h -> flip v -> noise 0.01 }\n"

Fit = Callable[..., FitResult]


def cells(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a bright and a dark patch on grey ground, and the class of each pixel."""
    random = np.random.default_rng(3)
    images, labels = random.integers(110, 140, (count, 8, 6)), np.zeros((count, 8, 6), np.uint8)
    for image, label in zip(images, labels, strict=True):
        for kind, shade in ((1, 230), (2, 20)):
            row, column = random.integers(0, 5), random.integers(0, 3)
            image[row : row + 4, column : column + 4] = shade
            label[row : row + 4, column : column + 4] = kind
    return images.astype(np.uint8), labels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with 61 labelled images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convc.runtime.curves._draw", lambda *_: None)
    images, labels = cells(61)
    np.savez("cells.npz", x=images, y=labels)
    return tmp_path


@pytest.fixture
def fit(folder: Path, target: str) -> Fit:
    def train(text: str = NET, **options: Any) -> FitResult:
        (folder / "net.cnn").write_text(text)
        return convc.fit(convc.load(folder / "net.cnn"), target=target, **{"report": "quiet", **options})

    return train


def refusal(call: Callable[[], object]) -> Diagnostic:
    with pytest.raises(CompileError) as error:
        call()
    return error.value.diagnostics[0]


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))


def loss_of(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.take_along_axis(log_probabilities(logits), labels[:, None].astype(int), 1).mean())


# Training


def test_pixels_are_learned(fit: Fit, target: str) -> None:
    result = fit(epochs=6)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.85  # of all pixels; less than 0.6 are ground
    with open_trained(result.folder).program(target=target) as program:
        dataset, part, split = evaluation_data(open_trained(result.folder).net)
        assert (part, len(split), split.label_shape) == ("test", 9, (8, 6))
        images, labels = split.batch(np.arange(9))
        logits = np.concatenate([program(images[:8]), program(images[8:])])
        found = evaluate(program, split)
    assert found["count"] == 9
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean(), rel=1e-12)
    assert found["accuracy"] == result.test_accuracy
    assert found["loss"] == pytest.approx(loss_of(logits, labels), rel=1e-5)
    assert found["loss"] == result.test_loss
    assert found["top5"] == 1
    assert dataset.classes == ("0", "1", "2")


def test_training_accuracy_is_the_share_of_pixels(fit: Fit, target: str) -> None:
    """At a rate of next to nothing the weights stay as they are drawn: what is added up can be had at once."""
    text = NET.replace(STEPS, "").replace("adam lr=0.03", "sgd lr=1e-30").replace("batch 8", "batch 8 accumulate=2")
    result = fit(text, epochs=1)
    dataset = evaluation_data(convc.load("net.cnn"))[0]
    images, labels = dataset.train.batch(np.arange(40))
    with convc.compile(convc.load("net.cnn"), mode="train", batch=40, target=target) as program:
        logits = program(images)
    (record,) = result.history
    assert record.train_accuracy == pytest.approx((logits.argmax(1) == labels).mean(), rel=1e-12)
    assert record.train_loss == pytest.approx(loss_of(logits, labels), rel=1e-5)


@pytest.mark.parametrize("loss", ["hinge", "mse"])
def test_other_losses(fit: Fit, loss: str) -> None:
    result = fit(NET.replace("softmax", loss), epochs=4)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.75


def test_accuracy_of_a_run_that_is_killed_after_every_batch(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(epochs=2)

    rest, deaths = through_deaths(monkeypatch, lambda: fit(epochs=2, out="run", resume=True))
    assert deaths >= 10
    assert [r.train_accuracy for r in rest.history] == [r.train_accuracy for r in whole.history]
    assert (rest.folder / "last.safetensors").read_bytes() == (whole.folder / "last.safetensors").read_bytes()


def test_balanced_weights_count_pixels(fit: Fit, folder: Path) -> None:
    fit(NET.replace("seed 5", "seed 5 -> class_weights balanced"), epochs=1, out="run")
    labels = evaluation_data(convc.load("net.cnn"))[0].train.labels
    counts = [int((labels == label).sum()) for label in range(3)]
    shown = " ".join(f"{labels.size / (3 * count):.4g}" for count in counts)
    assert f"class_weights {shown}: balanced" in (folder / "run" / "log.txt").read_text()


def test_balanced_weights_of_many_pixels() -> None:
    """More than are counted at a time."""
    labels = np.zeros((3, 1000, 500), np.int32)
    labels[2, :100] = 1
    assert balanced_weights(labels, 2) == pytest.approx((1.5e6 / (2 * 1.45e6), 1.5e6 / (2 * 5e4)))


def test_a_loss_that_explodes_is_traced(fit: Fit) -> None:
    error = refusal(lambda: fit(NET.replace("adam lr=0.03", "sgd lr=1e25")))
    assert error.code == "train-not-finite"
    assert "in step 2 (epoch 1, batch 2)" in error.message
    assert error.span is not None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("flip v", "rotate 5", ["`rotate 5` makes pixels that have no label"]),
        ("conv classes k=1", "conv classes k=1 -> pool avg global", ["a label for each of 8x6 pixels"]),
        ("conv classes k=1", "conv classes k=3", ["maps of 8x6", "maps of 6x4"]),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_all_else(
    fit: Fit, folder: Path, old: str, new: str, words: list[str]
) -> None:
    error = refusal(lambda: fit(NET.replace(old, new), out="run"))
    assert error.code == "data-labels"
    assert all(word in error.message for word in words), error.message
    assert error.span is not None
    assert not (folder / "run").exists()
    # An evaluation says the same.
    again = refusal(lambda: evaluation_data(convc.load("net.cnn")))
    assert again.message.replace(str(folder / "cells.npz"), "cells.npz") == error.message.replace(
        str(folder / "cells.npz"), "cells.npz"
    )


def test_more_classes_than_outputs(fit: Fit) -> None:
    error = refusal(lambda: fit(NET.replace("classes = 3", "classes = 2")))
    assert error.code == "data-label-range"
    assert "label 2 (train image 0, row" in error.message


def test_larger_images_are_cut_with_their_labels(fit: Fit, folder: Path) -> None:
    """Training sees random parts of 8x6, the test the centre."""
    images, labels = (np.pad(array, ((0, 0), (2, 2), (1, 1)), mode="edge") for array in cells(61))
    np.savez("large.npz", x=images, y=labels)
    result = fit(NET.replace("cells.npz", "large.npz").replace("flip h", "crop (8, 6)"), epochs=6)
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.8
    split = evaluation_data(convc.load("net.cnn"))[2]
    assert (split.shape, split.label_shape) == ((1, 8, 6), (8, 6))
    whole = {image.tobytes(): label for image, label in zip(*cells(61), strict=True)}
    for image, label in zip(split.images, split.labels, strict=True):
        np.testing.assert_array_equal(whole[image.tobytes()], label)


# Evaluation and prediction


def test_one_prediction_may_be_a_map_of_one_pixel(folder: Path, target: str) -> None:
    """A net without a loss keeps its last map, and labels are those of images."""
    Path("net.cnn").write_text("net one { input 1x8x6 -> conv 3 k=3 -> pool avg global }")
    split = Split(cells(9)[0][:, None], np.arange(9, dtype=np.int32) % 3)
    with convc.compile(convc.load("net.cnn"), target=target) as program:
        logits = program(split.batch(np.arange(9))[0])
        assert logits.shape == (9, 3, 1, 1)
        assert evaluate(program, split)["accuracy"] == pytest.approx(
            (logits[:, :, 0, 0].argmax(1) == split.labels).mean()
        )
        Image.fromarray(split.images[0, 0]).save("a.png")
        (prediction,) = predict(program, ["a.png"])
    assert not prediction.per_pixel
    assert prediction.guesses[0].label == logits[0].argmax()


def test_the_command_line(fit: Fit, folder: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = fit(epochs=6, out="run")
    capsys.readouterr()
    assert main(["eval", "run", "--json", "--target", target]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["count"], found["accuracy"], found["loss"]) == (9, result.test_accuracy, result.test_loss)

    images = cells(61)[0]
    Image.fromarray(images[0]).save("a.png")
    Image.fromarray(np.full((8, 6), 125, np.uint8)).save("grey.png")
    with open_trained("run").program(target=target) as program:
        logits = program(images[:1, None].astype(np.float32) / np.float32(255))
    shares = np.bincount(logits.argmax(1).reshape(-1), minlength=3) / 48
    assert main(["predict", "run", "a.png", "grey.png", "--json", "--target", target]) == 0
    first, second = json.loads(capsys.readouterr().out)["predictions"]
    assert [each["label"] for each in first["classes"]] == np.argsort(-shares, kind="stable").tolist()
    assert {each["label"]: each["share"] for each in first["classes"]} == dict(enumerate(shares))
    assert second["classes"] == [{"name": "0", "label": 0, "share": 1.0}]  # classes without pixels are left out
    assert main(["predict", "run", "grey.png", "--target", target]) == 0
    assert capsys.readouterr().out == "grey.png\n  100.00 % of the pixels  0\n"
