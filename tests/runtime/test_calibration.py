"""Ranges, and programs in whole numbers: as accurate as float32 almost, the same bits everywhere, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.frontend.net import Net
from convc.ir.diagnostic import CompileError
from convc.ir.ops.quantize import on_grid
from convc.passes.quantization import grid_of
from convc.runtime.calibration import best_range, measured_ranges

TEXT = """net small(classes = 4) {
  input 3x12x12 mean=0.2 std=0.5
  conv 16 k=3 pad=1 bias=no -> bn -> relu
  pool max 2
  residual { conv 16 k=3 pad=1 -> relu -> conv 16 k=3 pad=1 } -> relu
  fc 20 -> relu
  fc classes
  loss softmax
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Net:
    (tmp_path / "net.cnn").write_text(TEXT)
    return convc.load(tmp_path / "net.cnn")


def pictures(count: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 12, 12), dtype=np.float32)


def test_a_program_is_close_to_float32_and_to_the_interpreter(net: Net) -> None:
    x = pictures()
    ranges = convc.calibrate(net, x)
    assert set(ranges) == {"input1", "relu1", "res1.relu1", "relu2", "relu3"}
    with (
        convc.compile(net, batch=12) as single,
        convc.compile(net, batch=12, precision="int8", ranges=ranges) as whole,
        convc.compile(net, batch=12, precision="int8", ranges=ranges, target="reference") as judge,
    ):
        exact, found, wanted = single(x), whole(x), judge(x)
    scale = np.abs(exact).max()
    assert 0 < np.abs(found - exact).max() < 0.05 * scale
    assert np.abs(found - wanted).max() < 0.02 * scale
    assert (found.argmax(1) == exact.argmax(1)).mean() >= 0.9


def test_threads_and_fewer_images_have_the_same_bits(net: Net) -> None:
    x, ranges = pictures(), convc.calibrate(net, pictures())
    results = []
    for threads in (1, 2):
        with convc.compile(net, batch=12, precision="int8", ranges=ranges, threads=threads) as program:
            results += [program(x), np.concatenate([program(x[:5]), program(x[5:])])]
    for result in results[1:]:
        np.testing.assert_array_equal(results[0], result)


def test_weights_may_be_set_later(net: Net) -> None:
    """Their steps follow from them; the ranges of images were measured with others and stay."""
    x, ranges = pictures(), convc.calibrate(net, pictures())
    with (
        convc.compile(net, batch=12, precision="int8", ranges=ranges) as program,
        convc.compile(net, batch=12) as single,
    ):
        for name in ("conv1.weight", "fc1.weight"):
            for one in (program, single):
                one.params[name] = 0.5 * np.array(one.params[name])
        assert np.abs(program(x) - single(x)).max() < 0.1 * np.abs(single(x)).max()


def test_ranges_are_the_same_for_any_batch_and_target(net: Net) -> None:
    x = pictures(6)
    first = convc.calibrate(net, x, batch=6)
    assert convc.calibrate(net, x, batch=6, threads=1) == first
    for name, (low, high) in convc.calibrate(net, x, batch=6, target="reference").items():
        np.testing.assert_allclose((low, high), first[name], rtol=1e-3, atol=1e-6)


def test_a_range_leaves_out_what_is_rare() -> None:
    numbers = np.abs(np.random.default_rng(0).standard_t(2, 50_000)).astype(np.float32)
    low, high = best_range(numbers)
    assert low == 0
    assert high < numbers.max()

    def error(top: float) -> float:
        return float(np.square(on_grid(numbers, grid_of(0.0, top)) - numbers).mean())

    assert error(high) < error(float(numbers.max()))
    assert best_range(np.zeros(3, np.float32)) == (0.0, 0.0)
    low, high = best_range(np.float32([-1, 1]))
    assert low == -high


def test_refusals(net: Net) -> None:
    x = pictures(3)
    with pytest.raises(CompileError, match=r"missing-ranges[^$]*convc\.calibrate"):
        convc.compile(net, precision="int8")
    with pytest.raises(CompileError, match=r"unavailable-precision.*int8 is for inference"):
        convc.compile(net, mode="train", precision="int8", ranges={})
    with pytest.raises(CompileError, match="value-images"):
        convc.calibrate(net, x[0])
    with pytest.raises(CompileError, match="value-images"):
        convc.calibrate(net, x[:0])
    with pytest.raises(CompileError, match="value-shape"):
        convc.calibrate(net, x[:, :2])
    with pytest.raises(CompileError, match="name-layer"):
        convc.calibrate(net, x, fp32=["nothing"])
    with pytest.raises(CompileError, match=r"value-range.*not finite"):
        convc.calibrate(net, np.full_like(x, 3e38), weights={"conv1.weight": np.full((16, 3, 3, 3), 3e38)})
    with pytest.raises(CompileError, match="checkpoint"):
        convc.calibrate(net, x, weights="nowhere.safetensors")


def test_without_data_random_images_are_taken(net: Net) -> None:
    assert measured_ranges(net).images == "16 images of random numbers, for want of data"


def test_commands(net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "net.cnn")
    words = ["compile", file, "--batch", "4", "--precision", "int8"]
    assert main([*words, "--report", "passes"]) == 0
    said = capsys.readouterr().out
    assert "ranges for int8: 16 images of random numbers" in said
    assert "quantize-products" in said
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == 4
    assert main([*words, "--emit", "ir"]) == 0
    assert "quantize_weights" in capsys.readouterr().out
    assert main([*words, "--verify-numerics"]) == 0
    assert "in float32 and int8" in capsys.readouterr().err
    assert main([*words, "--tune", "0.1"]) == 0
    assert main([*words, "--mode", "train"]) == 2
    assert "int8 is for inference" in capsys.readouterr().err
    assert main(["compile", file, "--calibrate", "mnist"]) == 2
    assert "--calibrate measures ranges for int8" in capsys.readouterr().err


def test_evaluation_beside_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images whose class is their brightest corner: a net of a few steps learns that, and int8 keeps it."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 256).astype(np.int64)
    images = (40 * random.random((256, 3, 12, 12))).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 6 * (label // 2), 6 * (label % 2)
        image[:, row : row + 6, column : column + 6] += 120
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images[:100], y_test=labels[:100])
    train = 'train {\n  data npz "data.npz"\n  optim sgd lr=0.05 momentum=0.9\n  batch 32\n  epochs 3\n}\n'
    (tmp_path / "net.cnn").write_text(TEXT + train)
    run = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "net.cnn"), "--out", run]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert main(["eval", run, "--precision", "fp32,int8", "--json"]) == 0, capsys.readouterr()
    single, whole = json.loads(capsys.readouterr().out)["precisions"]
    assert single["accuracy"] > 0.9
    assert abs(whole["difference"]) <= 2
    assert whole["weight_bytes"] < single["weight_bytes"] / 2
    assert main(["eval", run, "--precision", "int8"]) == 0
    assert "ranges for int8: 256 training images" in capsys.readouterr().out
