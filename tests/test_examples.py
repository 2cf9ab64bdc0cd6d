"""The example files and the benchmark nets: each elaborates to a sound graph of the size that its literature says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import convc
from convc.ir.verify import problems
from tests.test_classic_networks import PARAMETERS

# Trainable parameters, by hand: out·(in·kh·kw + 1) per convolution and layer, 2 per channel of bn.
EXAMPLES = {
    "lenet": 520 + 25_050 + 400_500 + 5_010,
    "simple_convnet": 780 + 432_100 + 1_010,
    "deep_convnet": 160 + 2_320 + 4_640 + 9_248 + 18_496 + 36_928 + 51_250 + 510,
    "mlp": 200_960 + 32_896 + 1_290,
    "underflow": 80 + 1_168 + 4_640 + 330,
    "vgg_mnist": 144 + 2_304 + 4_608 + 9_216 + 18_432 + 36_864 + 2 * 224 + 131_072 + 2 * 128 + 1_290,
}
BENCHMARKS = {
    "lenet": EXAMPLES["lenet"],
    "simple": EXAMPLES["simple_convnet"],
    "deep": EXAMPLES["deep_convnet"],
}


def trainable(path: Path) -> int:
    graph = convc.load(path).graph(2)
    assert problems(graph) == []
    assert graph.outputs["logits"].shape == (2, 10)
    parameters = (parameter for parameter in graph.parameters.values() if parameter.trainable)
    return sum(math.prod(parameter.value.shape) for parameter in parameters)


@pytest.mark.parametrize(("name", "count"), EXAMPLES.items())
def test_example(repository: Path, name: str, count: int) -> None:
    assert trainable(repository / "examples" / f"{name}.cnn") == count


def test_every_example_is_tested(repository: Path) -> None:
    tested = {*EXAMPLES, *(name for name, *_ in PARAMETERS)}
    assert {path.stem for path in (repository / "examples").glob("*.cnn")} == tested


@pytest.mark.parametrize(("name", "count"), BENCHMARKS.items())
def test_benchmark_net(repository: Path, name: str, count: int) -> None:
    assert trainable(repository / "benchmarks" / "nets" / f"{name}.cnn") == count
