"""Rewrites that change nothing in what a net computes, and the comparison that shows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convc.frontend import Net
from convc.frontend.rewriting.rewrite import Rewritten, editable, rewrite
from convc.frontend.rewriting.tracing import trace
from convc.ir.interpreter import run_reference
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.matching import choose_targets
from convc.passes.rewriting.table import parse_request
from convc.runtime.rewriting.conversion import substitute


def rewritten(net: Net, rules: str, path: str | None = None) -> tuple[Rewritten, dict[str, np.ndarray]]:
    """The net with its layers replaced, exactly, as ranks are full ones; and random weights of the old net as the new
    one has them. Fails where both compute different outputs."""
    random = np.random.default_rng(0)
    graph = net.graph(1)
    weights = {
        name: random.standard_normal(parameter.value.shape) / np.sqrt(max(1, parameter.value.type.size / 4))
        for name, parameter in graph.parameters.items()
    }
    weights |= {name: np.abs(array) + 0.5 for name, array in weights.items() if name.endswith(".var")}

    def weights_of(path: str, layer: Layer) -> dict[str, np.ndarray]:
        return {role: weights[f"{path}.{role}"] for role in layer.shapes}

    requests = list(map(parse_request, rules.split()))
    targets, _ = choose_targets(graph, requests, editable(trace(net)), weights_of)
    fits = {t.path: t.request.rule.fit(t.layer, weights_of(t.path, t.layer)) for t in targets}
    substitutes = {t.path: substitute(t.layer, fits[t.path].layers, t.request.rule) for t in targets}
    result = rewrite(net, substitutes, path=path)
    new = {result.names.parameters[name]: weights[name] for name in result.names.parameters}
    for path, layers in result.names.layers.items():
        for layer, arrays in zip(layers, fits[path].weights, strict=True):
            new |= {f"{layer.name}.{role}": array for role, array in arrays.items()}
    assert_same_outputs(net, weights, result.net, new)
    return result, new


def assert_same_outputs(old: Net, before: Mapping[str, np.ndarray], new: Net, after: Mapping[str, np.ndarray]) -> None:
    images = np.random.default_rng(1).standard_normal((1, *old.input_shape))
    outputs = []
    for net, weights in ((old, before), (new, after)):
        graph = net.graph(1)
        graph.outputs = {"logits": graph.outputs["logits"]}
        assert set(graph.parameters) == set(weights)
        arrays = {"x": images, **{name: np.asarray(array, np.float64) for name, array in weights.items()}}
        arrays |= {name: np.zeros(value.shape, np.int64) for name, value in graph.inputs.items() if name != "x"}
        outputs.append(run_reference(graph, arrays)["logits"])
    scale = np.abs(outputs[0]).max()
    assert scale > 1e-6
    np.testing.assert_allclose(outputs[1], outputs[0], atol=2e-5 * scale)
