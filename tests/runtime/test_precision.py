"""`precision` of a file, of a command and of `convc.compile`: who decides, what runs, and that it trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.ir.diagnostic import CompileError
from convc.ir.ops.cast import Cast
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from tests.runtime.conftest import Compile

NET = "net n { input 1x8x8 -> conv 6 k=3 -> bn -> relu -> pool max 2 -> fc 12 -> relu -> fc 4 -> loss softmax }\n"
HALF = NET + "train { optim sgd lr=0.1 momentum=0.9\n precision bf16 }\n"


def casts(program: convc.Program) -> set[str]:
    return {node.op.dtype for node in program.graph.nodes_of(Cast) if isinstance(node.op, Cast)}


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Four classes that differ in the quarter of the image that is bright."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, count)
    x = random.random((count, 1, 8, 8), np.float32)
    for image, label in zip(x, labels, strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 1
    return x, labels


def test_the_file_decides_unless_somebody_asks(compile_text: Compile) -> None:
    assert casts(compile_text(HALF)) == {"bf16", "f32"}
    assert casts(compile_text(HALF, mode="infer")) == {"bf16", "f32"}
    assert casts(compile_text(HALF, precision="fp32")) == set()
    assert casts(compile_text(NET, mode="infer", precision="fp16")) == {"f16", "f32"}
    assert casts(compile_text(NET)) == set()


def test_results_are_float32_and_near(compile_text: Compile) -> None:
    x, _ = images(5)
    exact = compile_text(NET, mode="infer", batch=5)
    expected = exact(x)
    for precision, error in (("fp16", 2e-3), ("bf16", 2e-2)):
        logits = compile_text(NET, mode="infer", batch=5, precision=precision)(x)
        assert logits.dtype == np.float32
        difference = np.abs(logits - expected).max() / np.abs(expected).max()
        assert 0 < difference < error


def test_it_trains(compile_text: Compile) -> None:
    x, labels = images(32)
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        program = compile_text(HALF, batch=32, precision=precision)
        losses[precision] = [program.step(x, labels) for _ in range(30)]
        loss, gradients = program.value_and_grad(x, labels)
        assert loss < 0.1 * losses[precision][0]
        assert all(gradient.dtype == np.float32 for gradient in gradients.values())
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert losses["bf16"] != losses["fp32"]
    np.testing.assert_allclose(losses["bf16"][:5], losses["fp32"][:5], rtol=0.05)
    np.testing.assert_allclose(losses["fp16"][:5], losses["fp32"][:5], rtol=0.01)


def test_activations_take_half_the_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "n.cnn"
    layers = " -> ".join(["conv 16 k=3 pad=1 -> bn -> relu"] * 4)
    path.write_text(f"net n {{ input 3x32x32 -> {layers} -> pool avg global -> fc 4 -> loss softmax }}\n")
    arenas = {}
    for precision in ("fp32", "bf16"):
        words = ["compile", str(path), "--mode", "train", "--batch", "16", "--algo", "direct", "--precision", precision]
        assert main([*words, "--report", "memory", "--json"]) == 0
        arenas[precision] = json.loads(capsys.readouterr().out)["memory"]["arena_bytes"]
    assert arenas["bf16"] < 0.6 * arenas["fp32"]


LAYERS = """net n {
  input 1x8x8
  conv 6 k=3 precision=fp32 -> bn -> relu -> pool max 2
  small(12, precision=bf16)
  fc 4
  loss softmax
}
block small(n) { fc n precision=fp16 -> relu -> fc n }
train { optim sgd lr=0.1 }
"""


def products(program: convc.Program) -> dict[str, str]:
    nodes = program.graph.nodes_of(Conv2d, Linear)
    return {node.label: node.operands[0].type.dtype.value for node in nodes}


def test_a_layer_says_its_own(compile_text: Compile) -> None:
    """A layer before the block around it, that before the file, and `fp32` before all of them."""
    x, labels = images(6)
    expected = {"conv1": "f32", "small1.fc1": "f16", "small1.fc2": "bf16", "fc1": "f32"}
    for mode in ("infer", "train"):
        assert products(compile_text(LAYERS, mode=mode)) == expected
    assert products(compile_text(LAYERS, precision="bf16")) == {**expected, "fc1": "bf16"}
    program = compile_text(LAYERS, precision="bf16", fp32=["small1.*"], batch=6)
    assert products(program) == {"conv1": "f32", "small1.fc1": "f32", "small1.fc2": "f32", "fc1": "bf16"}
    assert np.isfinite([program.step(x, labels) for _ in range(3)]).all()
    with pytest.raises(CompileError, match=r"name-layer.*no layer matches `conv2\*`"):
        compile_text(LAYERS, precision="bf16", fp32=["conv2*"])


def test_patterns_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "n.cnn").write_text(HALF)
    assert main(["compile", str(path), "--mode", "train", "--fp32", "conv1, fc2", "--report", "passes"]) == 0
    text = capsys.readouterr().out
    assert "linear(fc1) -> linear(fc1)  why: linear in bf16" in text
    assert "missed precision  conv2d(conv1)  why: asked for" in text
    assert main(["compile", str(path), "--fp32", "fc9"]) == 1
    assert "no layer matches `fc9`" in capsys.readouterr().err


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "n.cnn"
    path.write_text(NET)
    net = convc.load(path)
    for mode in ("train", "infer"):
        with pytest.raises(CompileError, match="unavailable-precision"):
            convc.compile(net, mode=mode, precision="fp8")
