"""convc's reference interpreter against PyTorch, whole nets: values, and the peer of the benchmarks is the same net."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend import loads

torch = pytest.importorskip("torch", reason="PyTorch is not installed; `make bench` brings it")

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


def test_layers_that_join_and_resample() -> None:
    graph = loads(JOINED).graph(3)
    peer = TorchPeer(graph, "infer")
    x = np.random.default_rng(0).random(graph.inputs["x"].shape, np.float32)
    labels = np.zeros(graph.inputs["labels"].shape, np.int32)
    expected = convc.run_reference(graph, {"x": x, "labels": labels, **peer.parameters()})["logits"]
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
