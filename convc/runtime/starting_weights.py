"""`init "pretrained.safetensors"`: the weights that a training starts from, as far as they fit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convc.ir.diagnostic import CompileError, fail
from convc.ir.graph import Graph
from convc.ir.span import Span
from convc.lazy import dataclass
from convc.runtime.checkpoint import Match, match, non_finite, read_checkpoint, require_match

if TYPE_CHECKING:
    from convc.frontend.net import Net


@dataclass(frozen=True)
class StartingWeights:
    """A file of weights, and where a program names it (None: on the command line)."""

    net: Net
    path: Path
    span: Span | None = None

    def values(self) -> dict[str, np.ndarray]:
        """The arrays that fit the net, by name of parameter. Errors: those of `read`."""
        return self.read()[1]

    def read(self) -> tuple[Match, dict[str, np.ndarray]]:
        """How the file fits the parameters of the net, and the arrays that do, by name.

        Errors: those of `read_checkpoint`, `checkpoint-mismatch` if nothing fits, `checkpoint-not-finite`.
        """
        try:
            return self._read(self.net.graph(1))
        except CompileError as error:
            found = [replace(diagnostic, span=diagnostic.span or self.span) for diagnostic in error.diagnostics]
            raise CompileError(found, {**self.net.sources, **error.sources}) from None

    def _read(self, graph: Graph) -> tuple[Match, dict[str, np.ndarray]]:
        weights = read_checkpoint(self.path).weights
        shapes = {name: parameter.value.shape for name, parameter in graph.parameters.items()}
        found = match({name: array.shape for name, array in weights.items()}, shapes)
        if not found.loaded:
            require_match(found, self.path, graph.name)
        with np.errstate(over="ignore"):
            bad = non_finite({name: weights[name].astype(np.float32) for name in found.loaded})
        if bad:
            fail("checkpoint-not-finite", f"{bad[0]} in {self.path} holds values that are not finite")
        return found, {name: weights[name] for name in found.loaded}


def starting_weights(net: Net, path: Path | None = None) -> StartingWeights | None:
    """The file `path` or, without one, that of the net's train item."""
    if path is not None:
        return StartingWeights(net, path)
    init = net.settings.init
    if init is None:
        return None
    return StartingWeights(net, Path(os.path.join(init.base, init.path)), init.span)
