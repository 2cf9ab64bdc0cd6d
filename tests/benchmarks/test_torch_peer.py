"""convc's reference interpreter against PyTorch, whole nets: values, and the peer of the benchmarks is the same net."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend import loads
from convc.frontend.constructs import LAYER_EXAMPLES
from convc.ir.diagnostic import CompileError
from convc.runtime.benchmark import ours
from convc.runtime.benchmark.case import Case, write_material
from convc.runtime.benchmark.checking import compare
from convc.runtime.benchmark.contestant import CHECKED_STEPS

torch = pytest.importorskip("torch", reason="PyTorch is not installed; `make bench` brings it")

from convc.runtime.benchmark import torch_peer  # noqa: E402
from convc.runtime.benchmark.torch_module import TorchPeer  # noqa: E402


@pytest.mark.parametrize("name", ["lenet", "simple_convnet", "deep_convnet", "mlp", "vgg_mnist"])
def test_same_logits_as_the_reference(repository: Path, name: str) -> None:
    graph = convc.load(repository / "examples" / f"{name}.cnn").graph(3)
    torch.manual_seed(0)
    peer = TorchPeer(graph, "infer")
    x = np.random.default_rng(0).random(graph.inputs["x"].shape, np.float32)
    labels = np.zeros(3, np.int32)
    expected = convc.run_reference(graph, {"x": x, "labels": labels, **peer.parameters()})["logits"]
    with torch.inference_mode():
        actual = peer.module(torch.from_numpy(x)).numpy()
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


JOINED = """net joined { input 3x8x6
    conv 6 k=3 pad=1 -> relu as a -> pool avg global -> conv 6 k=1 -> sigmoid as g -> from a -> mul g -> lrn 4 alpha=1
    deconv 5 k=(3, 4) s=(2, 1) groups=1 dil=2 -> deconv 4 k=5 pad=(0, 1, 2, 3) -> deconv 4 k=1 s=2 pad=same
    deconv 3 k=3 s=2 pad=1 out_pad=1 -> noise 0.1 as b -> concat b -> conv 2 k=3 s=20
    upsample 3 -> upsample 2 mode=bilinear -> loss softmax }"""


NET = "net n {{\ninput 3x32x32\n{}\n}}\n"
LAYERS = {
    title: NET.format(text).replace("input 3x32x32\ninput", "input")
    for title, text in LAYER_EXAMPLES.items()
    if title != "step"  # which has no gradient, and no counterpart
}


@pytest.mark.parametrize("text", [JOINED, *LAYERS.values()], ids=["joined", *LAYERS])
def test_every_layer(text: str) -> None:
    graph = loads(text).graph(3)
    peer = TorchPeer(graph, "infer")
    generator = np.random.default_rng(0)
    x = generator.random(graph.inputs["x"].shape, np.float32)
    kinds = {name: np.float32 if value.type.dtype.is_float else np.int32 for name, value in graph.inputs.items()}
    labels = {name: np.zeros(graph.inputs[name].shape, kind) for name, kind in kinds.items()}
    # What inference does not read (of an auxiliary branch, say) has to be something for the interpreter.
    parameters = {name: np.ones(p.value.shape, np.float32) for name, p in graph.parameters.items()}
    expected = convc.run_reference(graph, {**labels, "x": x, **parameters, **peer.parameters()})["logits"]
    with torch.inference_mode():
        actual = peer.module(torch.from_numpy(x)).numpy()
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_parameters_go_in_and_gradients_come_out_by_name(repository: Path) -> None:
    graph = convc.load(repository / "examples" / "vgg_mnist.cnn").graph(4)
    peer = TorchPeer(graph, "train")
    generator = np.random.default_rng(1)
    given = {name: generator.random(parameter.value.shape, np.float32) for name, parameter in graph.parameters.items()}
    peer.load(given)
    for name, array in peer.parameters().items():
        np.testing.assert_array_equal(array, given[name])
    x = torch.from_numpy(generator.random(graph.inputs["x"].shape, np.float32))
    peer.module(x, torch.tensor([0, 1, 2, 3])).backward()
    gradients = peer.gradients()
    assert gradients.keys() == {name for name, parameter in graph.parameters.items() if parameter.trainable}
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


BODY = "input 2x6x6 -> conv 4 k=3 pad=1 lr=2 -> bn -> prelu -> pool max 3 s=2 -> fc 5"
TRAINED = {
    "sgd": "optim sgd momentum=0.9",
    "nesterov": "optim sgd momentum=0.5 nesterov=yes\n decay l2=0.01",
    "plain": "optim sgd",
    "adagrad": "optim adagrad\n decay l2=0.01 bias=yes",
    "rmsprop": "optim rmsprop momentum=0.9",
    "adam": "optim adam\n decay l2=0.01",
    "adamw": "optim adamw beta1=0.8\n decay l2=0.1",
}


def compared(folder: Path, text: str) -> str | None:
    """What is wrong with PyTorch's steps, if anything: its losses against ours."""
    (file := folder / "n.cnn").write_text(text)
    task = write_material(Case(file, "train", 6, 1), folder / "work", model=False)
    losses: list[np.ndarray] = []
    for prepare in (ours.prepare, torch_peer.prepare):
        prepared = prepare(task)
        losses.append(np.array([prepared.numbers(prepared.step()) for _ in range(CHECKED_STEPS)]))
    return compare(losses[1], losses[0], "train").problem


@pytest.mark.slow
@pytest.mark.parametrize("train", TRAINED.values(), ids=TRAINED)
def test_every_optimiser_moves_as_ours(tmp_path: Path, train: str) -> None:
    assert compared(tmp_path, f"net n {{ {BODY} -> loss softmax smooth=0.1 }}\ntrain {{\n {train}\n}}\n") is None


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hinge margin=0.5", "mse"])
def test_other_losses(tmp_path: Path, loss: str) -> None:
    assert compared(tmp_path, f"net n {{ {BODY} dropconnect=0 -> loss {loss} }}\ntrain {{ optim sgd }}\n") is None


def test_a_step_that_is_more_than_an_update_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="PyTorch's step has no `clip`"):
        compared(tmp_path, f"net n {{ {BODY} -> loss softmax }}\ntrain {{\n optim sgd\n clip 1\n}}\n")


def test_ops_that_pytorch_does_not_have_are_all_named() -> None:
    text = "net n { input 1x6x6 -> pool avg 2 pad=(0, 0, 1, 1) count_pad=no -> conv 3 k=1 -> loss hinge }"
    with pytest.raises(CompileError) as caught:
        TorchPeer(loads(text).graph(2), "train")
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["unavailable-peer"] * 2
