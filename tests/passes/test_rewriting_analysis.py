"""What layers cost beside others in their place: the figures of the lectures, and what is recommended."""

from __future__ import annotations

import pytest

from convc.frontend import loads
from convc.passes.rewriting.analysis import LayerAnalysis, analyze, figures
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.matching import candidates, first_layers
from convc.passes.rewriting.table import parse_request
from convc.passes.rewriting.timing import Model, problems

MODEL = Model("avx2")


def analysis(body: str, *rules: str, batch: int = 1) -> dict[str, LayerAnalysis]:
    graph = loads(f"net n {{ input 32x20x20\n{body}\n}}").graph(1)
    return {found.path: found for found in analyze(graph, list(map(parse_request, rules)), batch, MODEL)}


@pytest.mark.parametrize(
    ("kernel", "rule", "before", "after"),
    [
        # Weights in units of C².
        (3, "factorize", 9, 6),
        (3, "bottleneck", 9, 3.25),
        (5, "factorize", 25, 10),
    ],
)
def test_the_figures_of_the_lectures(kernel: int, rule: str, before: float, after: float) -> None:
    channels = 32
    layer = f"conv {channels} k={kernel} pad={kernel // 2} bias=no"
    found = analysis(layer, f"{rule}:conv1")["conv1"]
    new = found.variants[0].figures
    assert new is not None
    assert (found.old.parameters, new.parameters) == (before * channels**2, after * channels**2)
    # All maps are of one size, so the same holds for the work.
    assert found.old.macs / new.macs == pytest.approx(before / after)
    assert found.old.receptive_field == new.receptive_field == (kernel, kernel)
    maps = sum(layer.weight[0] for layer in new.layers if layer.weight is not None) * 20 * 20
    assert new.activation_bytes == 4 * maps


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [5, 7, 9, 11])
def test_stacks_of_3x3(kernel: int, stride: int) -> None:
    """9·C² for each layer in place of k²·C²; the same pixels are seen, or more with the stride on the first layer."""
    channels, count = 32, (kernel - 1) // 2
    layer = f"conv {channels} k={kernel} s={stride} pad={kernel // 2} bias=no"
    found = analysis(layer, "stack3x3", "stack3x3:relu=no:stride=first")["conv1"]
    last, first = (variant.figures for variant in found.variants)
    assert last is not None
    assert first is not None
    biases = count * channels
    assert (found.old.parameters, last.parameters) == (kernel**2 * channels**2, 9 * count * channels**2 + biases)
    assert first.parameters == 9 * count * channels**2
    assert last.receptive_field == (kernel, kernel)
    assert first.receptive_field == (3 + 2 * stride * (count - 1),) * 2
    assert (last.activations, first.activations) == (count - 1, 0)
    assert last.layers[-1].output == first.layers[-1].output == found.old.layers[-1].output
    # Every layer between is kept for the gradients, of the full size until the stride.
    size = last.layers[0].output[1:]
    assert size == (20, 20)
    assert last.activation_bytes - found.old.activation_bytes == (count - 1) * 4 * channels * 20 * 20
    if stride == 2:
        assert first.macs < last.macs
        assert first.activation_bytes < last.activation_bytes


def test_only_large_kernels_are_compared_unless_named() -> None:
    body = "conv 32 k=3 pad=1 -> conv 32 k=5 pad=2 -> conv 32 k=7x1 pad=3x0 -> conv 32 k=11 s=4 pad=5"
    assert list(analysis(body, "factorize")) == ["conv2", "conv4"]
    assert list(analysis(body, "factorize:conv1,conv3")) == ["conv1", "conv3"]


def test_the_first_that_nothing_speaks_against_is_recommended() -> None:
    # With a stride, that is: without, the 5x5 kernel is done by Fourier transforms, faster than the two others.
    found = analysis("conv 32 k=1 -> conv 32 k=5 s=2 pad=2", "factorize:order=vertical", "factorize", batch=8)["conv2"]
    assert found.recommended is found.variants[0]
    assert found.recommended is not None
    assert found.reason.startswith("60 % fewer weights, 1.67 times fewer multiply-adds, predicted ")


@pytest.mark.parametrize(
    ("body", "rule", "reason"),
    [
        ("conv 1 k=1 -> conv 8 k=5 pad=2", "factorize", "factorize: 12 % more weights"),
        ("conv 32 k=5 groups=4", "factorize", "factorize: its 4 groups do not mix channels, as the inner ones would"),
        ("conv 16 k=1 -> conv 16 k=5", "bottleneck", "bottleneck: 16 channels are too few to be squeezed into 8"),
    ],
)
def test_why_a_layer_is_kept(body: str, rule: str, reason: str) -> None:
    found = list(analysis(body, rule).values())[-1]
    assert found.recommended is None
    assert found.reason == reason


def test_equal_forms_are_listed_once() -> None:
    found = analysis("conv 32 k=5", "factorize", "factorize:rank=32")["conv1"]
    assert len(found.variants) == 1


def test_the_first_layer_needs_no_gradient_of_the_image() -> None:
    graph = loads("net n { input 3x8x8 -> conv 4 k=3 freeze=yes -> relu -> conv 4 k=3 -> conv 4 k=3 -> fc 2 }").graph(1)
    assert first_layers(graph) == {"conv1", "conv2"}
    layer = Layer.of(candidates(graph)["conv3"])
    ways = [problem.direction for _, problem in problems([layer, layer], 4, "train", first=True)]
    assert ways == ["forward", "backward_weights", "forward", "backward_data", "backward_weights"]
    assert [problem.direction for _, problem in problems([layer], 4, "infer")] == ["forward"]


def test_times_add_up_and_are_divided_by_the_threads() -> None:
    graph = loads("net n { input 8x8x8 -> conv 8 k=3 -> conv 8 k=5 -> fc 20 -> fc 2 }").graph(1)
    layers = [Layer.of(node) for node in candidates(graph).values()]
    alone = [figures([layer], 8, MODEL).predicted["train"] for layer in layers]
    together = figures(layers, 8, Model("avx2", threads=2))
    assert together.predicted["train"] == pytest.approx(sum(alone) / 2)
    assert together.predicted["infer"] < together.predicted["train"]
    assert together.measured == {"infer": None, "train": None}


def test_measured_times_count_where_there_are_any() -> None:
    graph = loads("net n { input 32x20x20 -> conv 32 k=1 -> conv 32 k=5 pad=2 }").graph(1)

    def measure(layers: object, batch: int, mode: str, *, first: bool = False) -> float:
        assert isinstance(layers, (list, tuple))
        return 1.0 if len(layers) == 1 else 2.0

    (found,) = analyze(graph, [parse_request("factorize")], 8, MODEL, measure)
    assert found.recommended is None
    assert found.reason == "factorize: 60 % fewer weights, but measured 0.50 times as fast in training"
