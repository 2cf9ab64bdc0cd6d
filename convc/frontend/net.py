"""An elaborated and checked net, ready to be compiled: what `convc.load` returns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property

import numpy as np

from convc.frontend import syntax
from convc.frontend.elaborate import elaborate
from convc.frontend.emission import Layer
from convc.frontend.expressions import Constant
from convc.frontend.freeze import freeze
from convc.frontend.limits import Limits
from convc.frontend.program import Program
from convc.frontend.resolve import resolve
from convc.frontend.settings import TrainSettings
from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.ir.graph import Graph, Value
from convc.ir.op import shown_fields
from convc.lazy import dataclass


@dataclass(frozen=True)
class Origin:
    """The syntax that a net was made of, with the values that were given to its parameters."""

    program: Program
    definition: syntax.Definition
    given: Mapping[str, Constant]


@dataclass(frozen=True, eq=False)
class Net:
    """A net of a `.cnn` file with its parameters given.

    `parameters` are the values of the parameters of the *net* (`classes=10`); the weights are `graph(1).parameters`.
    `layers` lists all layers in the order of the file. `input_shape` is (C, H, W), `classes` the number of channels
    of the logits. `input_mean` and `input_std` are those of `input` (None: not given; one value, or one per channel).
    """

    name: str
    path: str
    text: str
    parameters: Mapping[str, Constant]
    settings: TrainSettings
    warnings: tuple[Diagnostic, ...]
    layers: tuple[Layer, ...]
    input_shape: tuple[int, int, int]
    classes: int
    has_loss: bool
    input_mean: tuple[float, ...] | None
    input_std: tuple[float, ...] | None
    sources: Mapping[str, str]
    _program: Program = field(repr=False)
    _definition: syntax.Definition = field(repr=False)
    _train: syntax.Train | None = field(repr=False)
    _given: Mapping[str, Constant] = field(repr=False)
    _used_blocks: frozenset[str] = field(repr=False)

    @property
    def limits(self) -> Limits:
        """What the net was allowed to ask for."""
        return self._program.limits

    @property
    def origin(self) -> Origin:
        """Where the net comes from, for those who rewrite its text."""
        return Origin(self._program, self._definition, self._given)

    def graph(self, batch: int) -> Graph:
        """A fresh forward graph for `batch` images.

        Inputs: `x`, f32[batch, C, H, W], and, where there is a loss, `labels` (i32). Outputs: `logits`, and with a loss
        `loss` (the weighted sum of all losses) and `correct` (how many logits are largest at the label). What `freeze`
        of the train item names is frozen.
        """
        if batch < 1:
            fail("value-batch", f"a batch has at least 1 image, not {batch}", self.settings.span("batch"))
        result = elaborate(self._program, self._definition, self._given, batch)
        if result.errors:
            raise CompileError(result.errors, self.sources)
        if self.settings.init is not None:
            freeze(result.graph, self.settings.init.freeze)
        return result.graph

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """Arrays that a program starts from in place of initialisers, by parameter: those of an imported net."""
        return {}

    def resolved(self) -> str:
        """One self-contained text that loads as this net with these settings: for the run folder.

        The source with the given values in place of defaults and settings, without other nets, with what `use` brings
        in written out, and with paths made absolute.
        """
        return resolve(
            self._program, self._definition, self._given, self._train, self.settings, self._used_blocks, self.sources
        )

    def digest(self) -> str:
        """SHA-256 (hexadecimal): equal for nets that train alike.

        Operations, shapes, and all about the parameters (names, initialisers, rates, what is frozen) have a part in it;
        the name of the net, places in a file and the batch size have none.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest(self.graph(1))


def digest(graph: Graph) -> str:
    """SHA-256 (hexadecimal) of a graph's inputs, parameters, operations and outputs."""
    numbers: dict[Value, str] = {}
    lines: list[str] = []
    for name, value in graph.inputs.items():
        numbers[value] = f"input {name}"
        lines.append(f"input {name} {value.type}")
    for name, parameter in graph.parameters.items():
        numbers[parameter.value] = f"parameter {name}"
        training = (parameter.trainable, parameter.frozen, parameter.initial, parameter.lr, parameter.decay)
        lines.append(f"parameter {name} {parameter.value.type} {parameter.role} {training}")
    for index, node in enumerate(graph.nodes):
        operands = ", ".join(numbers[operand] for operand in node.operands)
        attributes = ", ".join(f"{entry.name}={getattr(node.op, entry.name)!r}" for entry in shown_fields(node.op))
        lines.append(f"{node.op.name}({operands}) {{{attributes}}}")
        for value in node.results:
            numbers[value] = f"{index}.{value.index}"
    lines += [f"output {name} {numbers[value]}" for name, value in graph.outputs.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
