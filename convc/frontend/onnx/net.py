"""A net that was read from an ONNX file: a graph with weights, and no text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.net import Net
from convc.frontend.onnx.conversion import convert
from convc.frontend.onnx.files import read_model
from convc.frontend.onnx.forms import settled
from convc.frontend.onnx.model import Model, read_structure
from convc.frontend.onnx.site import Site
from convc.frontend.onnx.target import Target
from convc.frontend.onnx.tidying import tidy
from convc.frontend.onnx.values import Tensor
from convc.frontend.settings import TrainSettings
from convc.ir.diagnostic import Diagnostic, fail
from convc.ir.graph import Graph
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.rebatch import rebatch
from convc.ir.types import Shape


class ImportedNet(Net):
    """A net whose graph and weights were imported. It has no loss and no settings, and no text that it came from."""

    _forward: Graph
    _weights: Mapping[str, np.ndarray]
    _limits: Limits

    def __init__(
        self,
        path: str,
        forward: Graph,
        weights: Mapping[str, np.ndarray],
        warnings: tuple[Diagnostic, ...],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        _, channels, height, width = forward.inputs["x"].shape
        fields: dict[str, Any] = {
            "name": forward.name,
            "path": path,
            "text": "",
            "parameters": {},
            "settings": TrainSettings(),
            "warnings": warnings,
            "layers": (),
            "input_shape": (channels, height, width),
            "classes": forward.outputs["logits"].shape[1],
            "has_loss": False,
            "input_mean": None,
            "input_std": None,
            "sources": {},
            "_forward": forward,
            "_weights": weights,
            "_limits": limits,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def limits(self) -> Limits:
        return self._limits

    def graph(self, batch: int) -> Graph:
        """A fresh forward graph for `batch` images: input `x`, output `logits`."""
        if batch < 1:
            fail("value-batch", f"a batch has at least 1 image, not {batch}")
        return rebatch(self._forward, batch)

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        return self._weights

    def resolved(self) -> str:
        fail(
            "onnx-interface",
            f"the net {self.name} was imported from {self.path} and has no text",
            hint="`convc import` writes it as a .cnn file where all of it has words in the language",
        )


def from_onnx(
    path: str | os.PathLike[str],
    *,
    input_shape: Shape | None = None,
    output: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> ImportedNet:
    """Read an ONNX model. See `convc.from_onnx`."""
    name = os.fspath(path)
    proto = read_model(name)
    shape = None if input_shape is None else tuple(int(extent) for extent in input_shape)
    model = read_structure(proto, Path(name).parent, output, shape, limits)
    target, result = convert(model, limits)
    target.graph.outputs["logits"] = _as_output(model, target, result)
    tidy(target)
    return ImportedNet(name, target.graph, target.weights, tuple(target.remarks()), limits)


def _as_output(model: Model, target: Target, result: Tensor) -> Any:
    """The output in the shape that the model gives it."""
    site = Site(model, target, None, "output", (), {})
    row = result.shape
    if not row:
        message = f"the output `{model.output}` is one number for each image; the program gives it as (N, 1)"
        target.notes.append(Diagnostic("onnx-interface", message, severity="warning"))
        row = (1,)
    if len(row) in (1, 3):
        return settled(site, result, row).value
    value = settled(site, result).value
    if value.type.rank > 2:
        value = site.emit(Flatten(), value)
    return site.emit(Unflatten(row), value)
