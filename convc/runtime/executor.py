"""What a back end offers to a program, and the back end that needs no compiler: the reference interpreter.

An executor holds the tensors of one graph (parameters, buffers, optimiser states) and runs sections of it. Arrays cross
this border in logical layout, NCHW and OIHW, float32; how they lie inside is the executor's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.lazy import dataclass
from convc.passes.sections import Section, section_of
from convc.passes.training import GRADIENT


@dataclass(frozen=True, slots=True)
class Result:
    """What one run gives: the logits of the rows given (a fresh float32 array), the loss, how many rows were right.

    Loss and count are None unless `Section.GRADIENT` was asked for; the count also where no loss counts.
    """

    logits: np.ndarray
    loss: float | None = None
    correct: float | None = None


class Executor(Protocol):
    """One back end's ability to run one graph. Callers take care that calls do not overlap.

    A new executor's tensors are zero.
    """

    batch: int

    def run(
        self,
        sections: Section,
        x: np.ndarray,
        labels: np.ndarray | None,
        *,
        lr: float,
        step: int,
        seed: int,
        seen: int = 0,
    ) -> Result:
        """Run `sections` on x, float32 C-contiguous with 1 to `batch` rows, and labels (None without a loss), which are
        C-contiguous and of the type of the graph's input.

        `step` is the number of the update under way, from 1; `seen` rows of it have been given before. Updates of the
        sections that run take effect.
        """
        ...

    def read(self, name: str) -> np.ndarray:
        """A parameter, buffer or optimiser state: a fresh float32 array in its logical shape."""
        ...

    def write(self, name: str, array: np.ndarray) -> None:
        """Set it; `array` is float32, C-contiguous and of the right shape."""
        ...

    def fill(self, values: Mapping[str, Callable[[], np.ndarray]]) -> None:
        """Set each to the array that its function gives, before the first run of most programs.

        Functions may be called by other threads, several at a time; they and `write` must bear that.
        """
        ...

    def gradient(self, name: str) -> np.ndarray:
        """The gradient of a trained parameter from the last run with `Section.GRADIENT`, a fresh float32 array."""
        ...

    def output(self, name: str, rows: int) -> np.ndarray:
        """An output of the last run, which had so many rows, if that run computed it: a fresh float32 array."""
        ...

    def close(self) -> None:
        """Give back memory and code. No other method is called afterwards."""
        ...


class ReferenceExecutor:
    """Runs a graph with the ops' numpy rules: slow, but it is what every other back end is compared with."""

    def __init__(self, graph: Graph, *, batch: int) -> None:
        self.batch = batch
        self._graph = graph
        self._arrays = {name: np.zeros(p.value.shape, np.float32) for name, p in graph.parameters.items()}
        self._gradients: dict[str, np.ndarray] = {}
        self._outputs: dict[str, np.ndarray] = {}
        self._parts: dict[Section, Graph] = {}

    def run(
        self,
        sections: Section,
        x: np.ndarray,
        labels: np.ndarray | None,
        *,
        lr: float,
        step: int,
        seed: int,
        seen: int = 0,
    ) -> Result:
        part = self._parts.get(sections)
        if part is None:
            part = self._parts[sections] = restrict(self._graph, sections)
        inputs = {
            "x": x,
            "labels": labels,
            "lr": np.asarray(lr, np.float32),
            "step": np.asarray(step, np.int64),
            "seed": np.asarray(seed, np.int64),
            "rows": np.asarray(len(x), np.int64),
            "seen": np.asarray(seen, np.int64),
        }
        arrays = {name: array for name, array in inputs.items() if name in part.inputs and array is not None}
        # An overflow is for the caller to find in the results, not for numpy to print.
        with np.errstate(all="ignore"):
            results = run_reference(part, self._arrays | arrays)
        self._outputs = {name: results[name] for name in part.outputs}
        for name in part.updates:
            self._arrays[name] = np.array(results[name], np.float32)
        for name in part.outputs:
            if name.startswith(GRADIENT):
                self._gradients[name.removeprefix(GRADIENT)] = results[name]
        loss, correct = results.get("loss"), results.get("correct")
        return Result(
            np.array(results["logits"], np.float32),
            None if loss is None else float(loss),
            None if correct is None else float(correct),
        )

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name].copy()

    def write(self, name: str, array: np.ndarray) -> None:
        self._arrays[name] = array.copy()

    def fill(self, values: Mapping[str, Callable[[], np.ndarray]]) -> None:
        for name, value in values.items():
            self.write(name, value())

    def gradient(self, name: str) -> np.ndarray:
        return np.array(self._gradients[name], np.float32)

    def output(self, name: str, rows: int) -> np.ndarray:
        return np.array(self._outputs[name], np.float32)

    def close(self) -> None:
        self._arrays.clear()
        self._outputs.clear()
        self._gradients.clear()
        self._parts.clear()


def restrict(graph: Graph, sections: Section) -> Graph:
    """A copy of `graph` with the outputs, updates, nodes and inputs of some sections only."""
    part = graph.copy()
    if Section.GRADIENT not in sections:
        part.outputs = {"logits": part.outputs["logits"]}
    for name in list(part.updates):
        if section_of(part.parameters[name]) not in sections:
            del part.updates[name]
    needed = part.ancestors((*part.outputs.values(), *part.updates.values()))
    part.remove([node for node in part.nodes if node not in needed])
    part.inputs = {name: value for name, value in part.inputs.items() if name == "x" or value.users}
    return part
