"""What a loss compares with: numbers for `mse`, labels per pixel, classes that weigh more than others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.ir.diagnostic import CompileError
from convc.runtime.configuration import balanced_weights

Compile = Callable[..., "convc.Program"]

REGRESSION = """\
net line { input 3x1x1 -> fc 2 -> loss mse }
train { batch 16 -> optim sgd lr=0.5 momentum=0.5 }
"""
PIXELS = """\
net dense {
  input 2x6x5
  conv 8 k=3 pad=1 -> relu -> conv 3 k=1
  loss LOSS
}
train { batch 4 -> optim adam lr=0.05 }
"""


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(CompileError) as error:
        call()
    diagnostic = error.value.diagnostics[0]
    return diagnostic.code, f"{diagnostic.message} {diagnostic.hint}"


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# Numbers


def test_regression_finds_a_linear_function(compile_text: Compile) -> None:
    random = np.random.default_rng(1)
    weights, bias = random.standard_normal((2, 3)), random.standard_normal(2)
    program = compile_text(REGRESSION)
    for _ in range(150):
        x = random.standard_normal((16, 3, 1, 1))
        loss = program.step(x, x[:, :, 0, 0] @ weights.T + bias)
    assert loss < 1e-8
    assert program.params["fc1.weight"] == pytest.approx(weights, abs=1e-3)
    assert program.params["fc1.bias"] == pytest.approx(bias, abs=1e-3)


def test_mse_is_the_mean_over_all_elements(compile_text: Compile) -> None:
    program = compile_text(REGRESSION)
    random = np.random.default_rng(1)
    x, y = random.standard_normal((5, 3, 1, 1)).astype(np.float32), random.standard_normal((5, 2))
    difference = program(x) - y
    loss, gradients = program.value_and_grad(x, y)
    assert loss == pytest.approx((difference**2).mean(), rel=1e-5)
    assert gradients["fc1.bias"] == pytest.approx(2 * difference.sum(0) / difference.size, rel=1e-4, abs=1e-6)
    assert program.step(x, y.astype(np.float16)) == pytest.approx(loss, rel=1e-2)


def test_whole_labels_of_mse_are_one_hot(compile_text: Compile) -> None:
    for text, shape in ((REGRESSION, (3, 1, 1)), (PIXELS.replace("LOSS", "mse"), (2, 6, 5))):
        program = compile_text(text)
        random = np.random.default_rng(1)
        x = random.standard_normal((4, *shape)).astype(np.float32)
        labels = random.integers(0, 2, (4, *program(x).shape[2:]))
        numbers = np.moveaxis(np.eye(program.classes)[labels], -1, 1)
        assert program.value_and_grad(x, labels)[0] == program.value_and_grad(x, numbers)[0]
        for left, right in zip(
            program.value_and_grad(x, labels)[1].values(), program.value_and_grad(x, numbers)[1].values(), strict=True
        ):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        (np.zeros((4, 3)), "value-shape", ["float64 [4, 3]", "[4, 2]", "[4]"]),
        (np.zeros(4), "value-shape", ["float64 [4]", "[4, 2]"]),
        (np.zeros((3, 2)), "value-shape", ["[3, 2]", "[4, 2]"]),
        (np.zeros((4, 2), int), "value-shape", ["int64 [4, 2]", "astype(np.float32)"]),
        (np.array([0, 1, 2, 0]), "value-label-range", ["label 2"]),
        (np.array([0, 1, -1, 0]), "value-label-range", ["label -1"]),
        (np.array(["a"] * 4), "value-dtype", ["<U1"]),
        (np.zeros(4, complex), "value-dtype", ["complex128"]),
    ],
)
def test_targets_that_do_not_fit(compile_text: Compile, labels: np.ndarray, code: str, words: list[str]) -> None:
    program = compile_text(REGRESSION)
    found, message = refusal(lambda: program.step(np.zeros((4, 3, 1, 1), np.float32), labels))
    assert found == code
    assert all(word in message for word in words), message


def test_class_numbers_are_whole_where_a_soft_max_reads_them(compile_text: Compile) -> None:
    text = "net two { input 1x2x2 -> fc 3 as y -> aux { linear -> loss mse } -> loss softmax }"
    program = compile_text(f"{text}\ntrain {{ batch 2 -> optim sgd }}\n")
    x = np.zeros((2, 1, 2, 2), np.float32)
    assert refusal(lambda: program.step(x, np.zeros((2, 3))))[0] == "value-dtype"
    assert program.step(x, [0, 2]) > 0


# Labels per pixel


@pytest.mark.parametrize("loss", ["softmax smooth=0.1", "hinge margin=0.5"])
def test_losses_are_means_over_pixels(compile_text: Compile, loss: str) -> None:
    program = compile_text(PIXELS.replace("LOSS", loss))
    random = np.random.default_rng(2)
    x, labels = random.random((3, 2, 6, 5), np.float32), random.integers(0, 3, (3, 6, 5))
    logits = program(x)
    onehot = np.moveaxis(np.eye(3)[labels], -1, 1)
    if loss.startswith("softmax"):
        expected = -((0.9 * onehot + 0.1 / 3) * np.log(softmax(logits))).sum(1).mean()
    else:
        right = (logits * onehot).sum(1, keepdims=True)
        expected = (np.maximum(0.5 + logits - right, 0) * (1 - onehot)).sum(1).mean()
    assert program.value_and_grad(x, labels)[0] == pytest.approx(expected, rel=1e-5)
    assert refusal(lambda: program.step(x, labels[:, 0, 0]))[0] == "value-shape"
    assert refusal(lambda: program.step(x, labels + 1))[0] == "value-label-range"


UNET = """\
net unet(widths = [6, 8]) {
  input 1x12x12
  for c, i in [(widths[0], 0), (widths[1], 1)] {
    conv c k=3 pad=1 -> bn -> relu as skip[i]
    pool max 2
  }
  conv 12 k=3 pad=1 -> bn -> relu
  for c, i in [(widths[1], 1), (widths[0], 0)] {
    deconv c k=2 s=2 -> concat skip[i]
    conv c k=3 pad=1 -> bn -> relu
  }
  conv 3 k=1
  loss softmax
}
train { batch 8 -> optim adam lr=0.02 }
"""


def test_a_unet_learns_where_things_are(compile_text: Compile) -> None:
    """Background, bright squares, and dark ones: an easy task, learned within a few steps."""
    random = np.random.default_rng(3)

    def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
        x, labels = 0.1 * random.standard_normal((count, 1, 12, 12)), np.zeros((count, 12, 12), int)
        for row in range(count):
            for kind, level in ((1, 1.0), (2, -1.0)):
                top, left = random.integers(0, 8, 2)
                x[row, 0, top : top + 4, left : left + 4] += level - x[row, 0, top : top + 4, left : left + 4]
                labels[row, top : top + 4, left : left + 4] = kind
        return x.astype(np.float32), labels

    program = compile_text(UNET)
    first = program.step(*pictures(8))
    for _ in range(25):
        last = program.step(*pictures(8))
    x, labels = pictures(8)
    assert last < 0.25 * first
    assert (program(x).argmax(1) == labels).mean() > 0.95


# Class weights

WEIGHTED = """\
net weighted { input 1x3x3 -> fc 3 -> loss softmax smooth=0.2 }
train { batch 6 -> optim sgd -> class_weights [0.5, 2, 4] }
"""


def test_class_weights_are_factors_of_the_rows(compile_text: Compile) -> None:
    program = compile_text(WEIGHTED)
    random = np.random.default_rng(2)
    x, labels = random.random((5, 1, 3, 3), np.float32), np.array([0, 1, 2, 2, 1])
    p, weights = softmax(program(x)), np.array([0.5, 2.0, 4.0])[labels]
    targets = 0.8 * np.eye(3)[labels] + 0.2 / 3
    loss, gradients = program.value_and_grad(x, labels)
    assert loss == pytest.approx((weights * -(targets * np.log(p)).sum(1)).mean(), rel=1e-5)
    expected = (weights[:, None] * (p - targets)).sum(0) / 5
    assert gradients["fc1.bias"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[0.5, 2, 4]", "[0.5, 2]", ["2 class weights", "3 classes"]),
        ("[0.5, 2, 4]", "balanced", ["balanced", "list"]),
        ("softmax smooth=0.2", "hinge", ["loss softmax"]),
    ],
)
def test_class_weights_that_do_not_fit(compile_text: Compile, old: str, new: str, words: list[str]) -> None:
    code, message = refusal(lambda: compile_text(WEIGHTED.replace(old, new)))
    assert code == "value-class-weights"
    assert all(word in message for word in words)


def test_balanced_weights_come_from_the_training_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([0] * 20 + [1] * 8 + [2] * 4)
    np.savez(tmp_path / "data.npz", x_train=np.zeros((32, 3, 3), np.uint8), y_train=labels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convc.runtime.curves._draw", lambda *_: None)
    text = WEIGHTED.replace("[0.5, 2, 4]", "balanced -> epochs 1").replace("batch 6", 'data npz "data.npz" -> batch 32')
    Path("net.cnn").write_text(text)
    result = convc.fit(convc.load("net.cnn"), out="run", report="quiet", threads=1)
    # The images are black, so all logits are 0 and every row's loss is log 3 times its weight: the weights' mean is 1.
    assert result.history[0].train_loss == pytest.approx(np.log(3), rel=1e-5)
    assert "class_weights 0.5333 1.333 2.667: balanced" in Path("run/log.txt").read_text()


def test_maps_are_not_trained_on_labels_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "data.npz", x_train=np.zeros((8, 2, 6, 5), np.float32), y_train=np.arange(8) % 3)
    monkeypatch.chdir(tmp_path)
    Path("net.cnn").write_text(PIXELS.replace("LOSS", "softmax").replace("train {", 'train { data npz "data.npz" ->'))
    code, message = refusal(lambda: convc.fit(convc.load("net.cnn"), out="run", report="quiet", threads=1))
    assert code == "data-labels"
    assert "6x5 pixels" in message
    assert not Path("run").exists()


def test_balanced_weights_make_all_classes_count_alike() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(labels, 4)
    assert weights == pytest.approx((10 / 24, 10 / 12, 0.0, 10 / 4))
    assert {round(w * (labels == k).sum(), 6) for k, w in enumerate(weights) if w} == {2.5}
