"""What layers of a trained net read when it is shown images."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from convc.frontend.net import Net
from convc.passes.rewriting.matching import candidates
from convc.passes.rewriting.replacement import Samples
from convc.runtime.build import build
from convc.runtime.data import Split

# Of a layer's inputs: what is kept at a time, and how many images are enough.
_ELEMENTS = 1 << 24
_IMAGES = 256


def choose_images(split: Split, seed: int) -> np.ndarray:
    """Some images of a part, float32 (n, C, H, W), drawn at random but for the same seed the same."""
    count = min(len(split), _IMAGES)
    chosen = np.random.default_rng(seed).choice(len(split), count, replace=False)
    return split.batch(np.sort(chosen))[0]


def activations(
    net: Net, weights: Mapping[str, np.ndarray], path: str, images: np.ndarray, threads: int | None = None
) -> Samples:
    """What the layer `path` reads in inference, for as many of the images as fit into bounded memory."""
    value = candidates(net.graph(1))[path].operands[0]
    images = images[: max(1, _ELEMENTS // math.prod(value.shape[1:]))]
    graph = net.graph(len(images))
    value = candidates(graph)[path].operands[0]
    if value is graph.inputs["x"]:
        return Samples(images)
    graph.outputs = {"logits": value}
    with build(graph, mode="infer", batch=len(images), target="cpu", seed=0, threads=threads) as program:
        program.set_params({name: weights[name] for name in program.params})
        return Samples(program(images))
