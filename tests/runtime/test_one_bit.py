"""`bits=1`: nets whose layers compute with signs learn, and everything that is done with a net is done with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.frontend import loads
from convc.frontend.formatter import format_text
from convc.frontend.net import Net
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.units import ScaleWeights
from convc.runtime.gradcheck import gradcheck

NET = """net n {
  input 1x8x8
  conv 6 k=3 -> relu
  conv 8 k=3 bits=1 bias=no -> bn -> relu
  fc 20 bits=1 -> relu
  fc 4
  loss softmax
}

train {
  optim adam lr=0.01
}
"""
BINARY = ("conv2.weight", "fc1.weight")


def images(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """One of four quarters of each image is brighter."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, count)
    x = random.random((count, 1, 8, 8), np.float32)
    for image, label in zip(x[:, 0], labels, strict=True):
        image[label // 2 * 4 :, label % 2 * 4 :][:4, :4] += 0.5
    return x, labels


def trained(net: Net, steps: int, **options: object) -> tuple[list[float], dict[str, np.ndarray]]:
    x, labels = images()
    with convc.compile(net, mode="train", batch=len(x), **options) as program:  # type: ignore[arg-type]
        losses = [program.step(x, labels) for _ in range(steps)]
        return losses, {name: program.params[name] for name in program.params}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_net_learns(precision: str) -> None:
    net = loads(NET)
    with convc.compile(net, mode="train") as program:
        first = {name: program.params[name] for name in BINARY}
    losses, weights = trained(net, 60, precision=precision)
    assert losses[-1] < 0.2 * losses[0]
    for name in BINARY:
        # What is trained are numbers like any others.
        assert len(np.unique(np.abs(weights[name]))) > 0.9 * weights[name].size
        assert (np.sign(weights[name]) != np.sign(first[name])).any()
    same, alike = trained(net, 60, precision=precision, threads=2)
    assert same == losses
    for name, array in weights.items():
        np.testing.assert_array_equal(array, alike[name])


def test_steps_are_those_of_the_interpreter() -> None:
    net = loads(NET.replace("adam lr=0.01", "sgd lr=0.1 momentum=0.9"))
    losses, weights = trained(net, 5)
    expected, reference = trained(net, 5, target="reference")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for name, array in weights.items():
        np.testing.assert_allclose(array, reference[name], rtol=1e-3, atol=1e-4)


def test_inference_computes_with_signs_and_norms_are_folded_into_them() -> None:
    net, (x, _) = loads(NET), images(5)
    _, weights = trained(net, 20)
    plain = loads(NET.replace(" bits=1", ""))
    with convc.compile(net, batch=5) as program, convc.compile(plain, batch=5) as other:
        program.set_params(weights)
        other.set_params({n: Binarize().reference(a) if n in BINARY else a for n, a in weights.items()})
        np.testing.assert_allclose(program(x), other(x), rtol=1e-5, atol=1e-5)
        (scaled,) = program.graph.nodes_of(ScaleWeights)
        source = scaled.operands[0].producer
        assert source is not None
        assert isinstance(source.op, Binarize)


def test_gradcheck_leaves_out_what_has_no_derivative() -> None:
    for options in ({}, {"after_passes": True}):
        report = gradcheck(loads(NET), **options)  # type: ignore[arg-type]
        assert report.passed
        untested = {check.name: check for check in report.parameters if check.verdict == "untested"}
        assert tuple(untested) == BINARY
        assert untested["conv2.weight"].why == "conv2 passes an estimate on, not a derivative"
        assert all(check.compiled_relative_error is not None for check in untested.values())


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    text = NET.partition("\n\n")[0] + "\n"
    assert format_text(text.replace("  conv", "conv").replace("bits=1 ", "bits = 1  ")) == text
    Path("n.cnn").write_text(text)
    assert main(["summary", "n.cnn"]) == 0
    Path("n.ir").write_text(str(loads(text).graph(2)))
    capsys.readouterr()
    assert main(["decompile", "n.ir"]) == 0
    layers = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "conv 8 k=3 bias=no bits=1 -> bn -> relu" in layers
    assert "fc 20 bits=1 -> relu" in layers
