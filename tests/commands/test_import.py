"""`convc import`: text and weights where the language has words, IR where it has not, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.ir_file import read_ir
from tests.frontend.onnx.models import Op, dims, draw, make_model, peer, run_net, save

SHAPE = ("N", 3, 8, 10)
X = draw((4, 3, 8, 10))


def residual_net() -> Any:
    """Words of the language throughout, numbered initialisers, a bias that is added."""
    constants = {
        "onnx::Conv_1": draw((4, 3, 3, 3)),
        "onnx::Conv_2": draw((4,)),
        "bn.weight": draw((4,), "g"),
        "bn.bias": draw((4,), "b"),
        "bn.running_mean": draw((4,), "m"),
        "bn.running_var": np.abs(draw((4,), "v")) + 0.5,
        "w": draw((4, 4, 3, 3)),
        "m": draw((4, 5)),
        "n": draw((5,), "n"),
    }
    pads = {"pads": [1, 1, 1, 1]}
    ops = [
        Op("Conv", "x onnx::Conv_1 onnx::Conv_2", "a", pads, "/stem/Conv"),
        Op("BatchNormalization", "a bn.weight bn.bias bn.running_mean bn.running_var", "b", {"epsilon": 0.001}),
        Op("Relu", "b", "c"),
        Op("Conv", "c w", "d", pads, "/block/Conv"),
        Op("Add", "d c", "e"),
        Op("GlobalAveragePool", "e", "f"),
        Op("Flatten", "f", "g"),
        Op("MatMul", "g m", "h"),
        Op("Add", "h n", "y"),
    ]
    return make_model(ops, SHAPE, constants)


def without_words() -> Any:
    ops = [Op("Conv", "x w", "a"), Op("HardSwish", "a", "b", name="/act/HardSwish"), Op("Flatten", "b", "y")]
    return make_model(ops, SHAPE, {"w": draw((4, 3, 3, 3))})


def test_a_model_becomes_text_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = residual_net(), tmp_path / "net.cnn"
    assert main(["import", str(save(model, tmp_path)), "-o", str(out)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"wrote {out}"
    assert second.startswith(f"wrote {tmp_path / 'net.safetensors'}: 297 numbers, ")
    net = convc.load(out)
    norm = [f"bn1.{role}" for role in ("gamma", "beta", "mean", "var")]
    names = ["conv1.weight", "conv1.bias", *norm, "conv2.weight", "fc1.weight", "fc1.bias"]
    assert list(net.graph(1).parameters) == names
    weights = read_checkpoint(tmp_path / "net.safetensors").weights
    assert set(weights) == set(names)
    with convc.compile(net, batch=4, target="reference") as program:
        program.load_params(tmp_path / "net.safetensors")
        np.testing.assert_allclose(program(X), peer(model, X), rtol=1e-5, atol=1e-5)


def test_the_pair_can_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.cnn"
    assert main(["import", str(save(residual_net(), tmp_path)), "-o", str(out)]) == 0
    images = np.clip(np.abs(X) * 60, 0, 255).astype(np.uint8)
    labels = peer(residual_net(), (images / np.float32(255)).astype(np.float32)).argmax(1)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    weights, data = str(out.with_suffix(".safetensors")), f'npz "{tmp_path}/data.npz"'
    assert main(["eval", str(out), "--weights", weights, "--data", data]) == 0
    assert "100" in capsys.readouterr().out


def test_names_of_the_model_can_be_kept(tmp_path: Path) -> None:
    out = tmp_path / "net.cnn"
    assert main(["import", str(save(residual_net(), tmp_path)), "-o", str(out), "--keep-names"]) == 0
    assert "name=stem_Conv" in out.read_text()
    with convc.compile(convc.load(out), batch=1, target="reference") as program:
        program.load_params(out.with_suffix(".safetensors"))


def test_a_model_without_words_becomes_ir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.cnn"
    assert main(["import", str(save(without_words(), tmp_path)), "-o", str(out)]) == 0
    messages = capsys.readouterr()
    assert "act_HardSwish" in messages.err
    assert f"wrote {tmp_path / 'net.ir'}" in messages.out
    assert not out.exists()
    graph = read_ir(tmp_path / "net.ir")
    weights = read_checkpoint(tmp_path / "net.safetensors").weights
    assert set(graph.parameters) == set(weights)
    found = convc.run_reference(graph, {"x": X, **weights})["logits"]
    np.testing.assert_allclose(found, peer(without_words(), X), rtol=1e-5, atol=1e-5)


def test_ir_can_be_asked_for(tmp_path: Path) -> None:
    """Constants too large for the text lie beside it."""
    model = make_model([Op("Add", "x c", "y")], SHAPE, {"c": draw((3, 8, 10))})
    out = tmp_path / "net.ir"
    weights = str(tmp_path / "w.safetensors")
    assert main(["import", str(save(model, tmp_path)), "-o", str(out), "--weights", weights]) == 0
    assert (tmp_path / "net.ir.constants.npz").exists()
    found = convc.run_reference(read_ir(out), {"x": X})["logits"]
    np.testing.assert_allclose(found, peer(model, X), rtol=1e-6)


def test_everything_unsupported_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ops = [Op("Erf", "x" if i == 0 else f"a{i - 1}", f"a{i}", name=f"erf{i}") for i in range(25)]
    model = make_model([*ops, Op("Relu", "a24", "y")], SHAPE)
    assert main(["import", str(save(model, tmp_path)), "-o", str(tmp_path / "net.cnn")]) == 1
    message = capsys.readouterr().err
    assert all(f"Erf `erf{i}`" in message for i in range(25))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_weights_of_somebody_else_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(save(residual_net(), tmp_path)), tmp_path / "net.cnn"
    other = out.with_suffix(".safetensors")
    other.write_bytes(b"precious")
    assert main(["import", model, "-o", str(out)]) == 1
    assert "file-exists" in capsys.readouterr().err
    assert other.read_bytes() == b"precious"
    assert not out.exists()
    assert main(["import", model, "-o", str(out), "--weights", str(other)]) == 0
    # Its own ones are.
    assert main(["import", model, "-o", str(out)]) == 0


def test_sizes_and_outputs_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ops = [Op("Conv", "x w", "a"), Op("Relu", "a", "b"), Op("Erf", "b", "y")]
    model = str(save(make_model(ops, ("N", 3, "H", "W"), {"w": draw((4, 3, 3, 3))}), tmp_path))
    out = tmp_path / "net.cnn"
    assert main(["import", model, "-o", str(out), "--output", "b"]) == 1
    assert "--input 3x224x224" in capsys.readouterr().err
    assert main(["import", model, "-o", str(out), "--output", "b", "--input", "3x9x11"]) == 0
    assert convc.load(out).input_shape == (3, 9, 11)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["import"], 2),
        (["import", "model.onnx"], 2),
        (["import", "model.onnx", "-o", "net.txt"], 2),
        (["import", "model.onnx", "-o", "net.cnn", "--input", "3,4,5"], 2),
        (["import", "model.onnx", "-o", "net.cnn", "--input", "3xx5"], 2),
        (["import", "nothing.onnx", "-o", "net.cnn"], 1),
        (["import", ".", "-o", "net.cnn"], 1),
        (["import", "model.onnx", "-o", "nowhere/net.cnn"], 1),
    ],
)
def test_bad_command_lines(
    words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(residual_net(), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    message = capsys.readouterr().err
    assert message
    assert "internal error" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_an_exported_net_comes_back(tmp_path: Path) -> None:
    """Names and weights survive the way there and back."""
    (tmp_path / "net.cnn").write_text(
        "net small(classes = 5) {\n  input 3x8x10\n  conv 4 k=3 pad=1 bias=no -> bn -> relu -> pool max 2\n"
        "  fc 7 -> dropout 0.5 -> relu\n  fc classes name=head\n  loss softmax\n}\n"
    )
    net = convc.load(tmp_path / "net.cnn")
    with convc.compile(net, batch=4, target="reference", seed=3) as program:
        convc.to_onnx(program, tmp_path / "net.onnx")
        expected = program(X)
        names = list(program.params)
        back = convc.from_onnx(tmp_path / "net.onnx")
        assert list(back.weights) == names
        np.testing.assert_allclose(run_net(back, X, "interpreter"), expected, rtol=1e-5, atol=1e-5)


def test_shapes_in_operands_survive(tmp_path: Path) -> None:
    model = make_model([Op("Reshape", "x s", "a"), Op("Softmax", "a", "y", {"axis": -1})], SHAPE, {"s": dims(0, -1)})
    out = tmp_path / "net.cnn"
    assert main(["import", str(save(model, tmp_path)), "-o", str(out)]) == 0
    np.testing.assert_allclose(run_net(convc.load(out), X, "interpreter"), peer(model, X), rtol=1e-5)
