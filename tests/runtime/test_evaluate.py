from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convc
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.runtime.data import Split
from convc.runtime.evaluate import evaluate, label_ranks
from convc.runtime.nonfinite import find_origin
from convc.runtime.predict import predict, softmax

Compile = Callable[..., "convc.Program"]

NET = "net eight { input 1x4x4 -> fc 8 -> loss softmax smooth=0.1 }\ntrain { batch 7 }"
COLOUR = "net colour { input 3x4x4 mean=[0.1, 0.2, 0.3] -> fc 6 -> loss softmax }"


@pytest.fixture
def split() -> Split:
    random = np.random.default_rng(2)
    return Split(random.integers(0, 256, (25, 1, 4, 4), np.uint8), random.integers(0, 8, 25).astype(np.int32))


def test_every_image_counts_once(compile_text: Compile, split: Split) -> None:
    """25 images in batches of 7, against one run of the reference over all of them."""
    program = compile_text(NET, mode="infer", seed=3)
    forward = _forward(NET)
    images, labels = split.batch(np.arange(25))
    arrays = {name: array.astype(np.float64) for name, array in program.params.items()}
    expected = run_reference(forward, {"x": images.astype(np.float64), "labels": labels, **arrays})
    found = evaluate(program, split)
    assert found["count"] == 25
    assert found["accuracy"] == pytest.approx(float(expected["correct"]) / 25)
    assert found["loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)
    order = np.argsort(-expected["logits"], 1, kind="stable")[:, :5]
    assert found["top5"] == pytest.approx((order == labels[:, None]).any(1).mean())


def test_ranks_break_ties_as_argmax_does() -> None:
    logits = np.float32([[1, 3, 3, 0], [1, 3, 3, 0], [0, 0, 0, 0], [np.nan, 0, 0, 0]])
    assert label_ranks(logits, np.int32([1, 2, 3, 0])).tolist() == [0, 1, 3, 4]


def test_ranks_of_pixels() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.random((2, 3, 4, 5)), random.integers(0, 3, (2, 4, 5))
    assert ((label_ranks(logits, labels) == 0) == (logits.argmax(1) == labels)).all()


def test_what_cannot_be_evaluated(compile_text: Compile, split: Split) -> None:
    with pytest.raises(CompileError, match="compiled for inference"):
        evaluate(compile_text(NET), split)
    with pytest.raises(CompileError, match="label 9 is out of range"):
        evaluate(compile_text(NET, mode="infer"), Split(split.images, np.full(25, 9, np.int32)))


def test_predictions(compile_text: Compile, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    pixels = random.integers(0, 256, (5, 4, 4, 3), np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    program = compile_text(COLOUR, mode="infer", batch=2, seed=1)
    names = ["ant", "bee", "cat", "dog", "elk", "fox"]
    predictions = predict(program, paths, names)
    assert [prediction.path for prediction in predictions] == [str(path) for path in paths]
    for prediction, image in zip(predictions, pixels, strict=True):
        row = softmax(program((image.transpose(2, 0, 1)[None] / 255).astype(np.float32)))[0]
        assert [guess.label for guess in prediction.guesses] == np.argsort(-row)[:5].tolist()
        assert [guess.name for guess in prediction.guesses] == [names[guess.label] for guess in prediction.guesses]
        np.testing.assert_allclose([guess.probability for guess in prediction.guesses], np.sort(row)[::-1][:5], 1e-5)
    assert softmax(np.float32([[1000, 0]])).tolist() == [[1, 0]]


def test_images_are_brought_to_the_nets_size_and_channels(compile_text: Compile, tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((40, 60), 128, np.uint8)).save(path)
    program = compile_text(COLOUR, mode="infer", seed=1)
    (prediction,) = predict(program, [path])
    row = softmax(program(np.full((1, 3, 4, 4), 128 / 255, np.float32)))[0]
    assert prediction.guesses[0].label == row.argmax()
    assert prediction.guesses[0].name == str(row.argmax())


def test_all_unreadable_images_are_named(compile_text: Compile, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(CompileError) as error:
        predict(compile_text(COLOUR, mode="infer"), [tmp_path / "bad.png", tmp_path / "none.png"])
    assert len(error.value.diagnostics) == 2
    assert "none.png: there is no such file" in str(error.value)


def test_the_origin_of_a_value_that_is_not_finite() -> None:
    graph = _forward("net n { input 1x2x2 -> fc 3 -> relu -> fc 2 -> loss softmax }")
    arrays = {name: np.ones(p.value.shape, np.float32) for name, p in graph.parameters.items()}
    inputs = {"x": np.ones((25, 1, 2, 2), np.float32), "labels": np.zeros(25, np.int32)}
    assert find_origin(graph, {**arrays, **inputs}) is None
    arrays["fc2.weight"] = np.full((2, 3), 3e38, np.float32)
    origin = find_origin(graph, {**arrays, **inputs})
    assert origin is not None
    assert str(origin) == "linear of fc2"
    assert origin.node is not None
    assert origin.node.span is not None
    arrays["fc1.bias"] = np.float32([0, np.nan, 0])
    origin = find_origin(graph, {**arrays, **inputs})
    assert str(origin) == "fc1.bias itself"


def _forward(text: str) -> Graph:
    from convc.frontend import loads

    return loads(text).graph(25)
