"""`program.params`: the parameters and buffers of a program as a mapping from names to arrays."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.ir.graph import Graph, Parameter
from convc.passes.sections import ACCUMULATOR

# What belongs to the optimiser: its states, and mean gradients over several batches.
STATE_ROLES = ("state", ACCUMULATOR)


class UnknownParameter(CompileError, KeyError):
    """A name that no parameter has. A `KeyError`, too, so that `in` and `get` work as for any mapping."""


class Parameters(Mapping[str, np.ndarray]):
    """Parameters and buffers (not the optimiser's states) by name, in file order, float32 in NCHW and OIHW shapes.

    Reading gives a read-only copy. Assigning takes any array of real numbers of the parameter's shape; a wrong name,
    shape or kind of element is a `CompileError`, and nothing is changed.
    """

    def __init__(
        self, graph: Graph, read: Callable[[str], np.ndarray], write: Callable[[str, np.ndarray], None]
    ) -> None:
        self._parameters = {name: p for name, p in graph.parameters.items() if p.role not in STATE_ROLES}
        self._read = read
        self._write = write

    def __getitem__(self, name: str) -> np.ndarray:
        self._parameter(name)
        array = self._read(name)
        array.flags.writeable = False
        return array

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        self._write(name, as_parameter(self._parameter(name), value))

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __repr__(self) -> str:
        lines = (f"  {name}: {list(p.value.shape)}" for name, p in self._parameters.items())
        return "\n".join([f"{len(self)} parameters", *lines])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter and buffer, without reading any."""
        return {name: parameter.value.shape for name, parameter in self._parameters.items()}

    def _parameter(self, name: str) -> Parameter:
        parameter = self._parameters.get(name)
        if parameter is None:
            near = difflib.get_close_matches(str(name), self._parameters, 1)
            hint = f"did you mean {near[0]}?" if near else None
            raise UnknownParameter([Diagnostic("name-parameter", f"there is no parameter {name!r}", hint=hint)])
        return parameter


def as_parameter(parameter: Parameter, value: ArrayLike) -> np.ndarray:
    """`value` as C-contiguous float32, if it is an array of real numbers of the parameter's shape."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        fail("value-dtype", f"{parameter.name}: {error}")
    if array.dtype.kind not in "fiu":
        fail("value-dtype", f"{parameter.name} takes real numbers, not {array.dtype}")
    if array.shape != parameter.value.shape:
        fail("value-shape", f"{parameter.name} is {list(parameter.value.shape)}, not {list(array.shape)}")
    with np.errstate(over="ignore"):
        # Unlike ascontiguousarray, this leaves a scalar a scalar.
        return np.asarray(array, np.float32, order="C")
