"""The graph that an import writes, and the weights that belong to its parameters."""

from __future__ import annotations

import math
import re

import numpy as np

from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.ir.builder import Builder
from convc.ir.diagnostic import Diagnostic, fail
from convc.ir.graph import Graph, Initializer, Value
from convc.ir.op import Op
from convc.ir.types import Shape, f32

# Names that read like the language's own paths, `layer1.0.conv1.weight`, stay as they are.
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*", re.ASCII)
# Exporters number what has no name, `onnx::Conv_193` or `const_fold_opt__46`.
_NUMBERED = re.compile(r"(?:onnx|val|const|Constant|_)\w*\d*", re.ASCII)

_STARTS = {
    "gamma": Initializer("const", 1.0),
    "var": Initializer("const", 1.0),
    "slope": Initializer("const", 0.25),
}


class Names:
    """Names that are taken."""

    def __init__(self, *taken: str) -> None:
        self._taken = set(taken)
        self._counts: dict[tuple[str, bool], int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def next(self, name: str, *, numbered: bool = False) -> str:
        """A free name, taken from now on: `name`, `name_2`, …; `numbered` ones are `relu1`, `relu2`, …"""
        free = name
        if numbered or name in self._taken:
            number = self._counts.get((name, numbered), 0 if numbered else 1)
            while free in self._taken or free == name:
                number += 1
                free = f"{name}{number}" if numbered else f"{name}_{number}"
            self._counts[name, numbered] = number
        self._taken.add(free)
        return free


class Target:
    """A forward graph for one image, the arrays of its parameters, and what there is to remark."""

    def __init__(self, name: str, row: Shape, limits: Limits = DEFAULT_LIMITS) -> None:
        self.graph = Graph(name)
        self.limits = limits
        self.weights: dict[str, np.ndarray] = {}
        self.notes: list[Diagnostic] = []
        self.origins: dict[Value, str] = {}
        self.x = self.graph.add_input("x", f32(1, *row))
        self._builder = Builder(self.graph)
        self._names = Names("x")
        self._origins: dict[tuple[str, str], list[str]] = {}
        self._rounded: dict[str, int] = {}
        self._widened: dict[str, int] = {}
        self._layers: set[tuple[str, ...]] = set()
        self._elements = 0

    def emit(self, label: str, op: Op, *operands: Value | None) -> Value:
        with self._builder.at((), label):
            return self._builder.add(op, *operands)

    def constant(self, label: str, array: np.ndarray, origin: str | None = None) -> Value:
        """A scalar or vector; `origin` is the initialiser that it was."""
        with self._builder.at((), label):
            value = self._builder.constant(array)
        if origin is not None:
            self.origins[value] = origin
        return value

    def parameter(
        self,
        name: str,
        role: str,
        origin: str | None,
        array: np.ndarray,
        *,
        buffer: bool = False,
        fans: tuple[int, int] | None = None,
        tied: bool = False,
    ) -> Value:
        """A parameter with its array. The initialiser's own name is kept where it is a path, else it is `name`.

        `tied` ones are the same parameter as an earlier use of the same initialiser in the same form.
        """
        array = np.ascontiguousarray(array, np.float32)
        twin = self.existing(role, origin, array) if tied else None
        if twin is not None:
            return twin
        initial = _STARTS.get(role, Initializer())
        if role == "weight":
            # As the language's own layers would start, were they trained anew.
            area = math.prod(array.shape[2:])
            initial = Initializer("he", 0.0, *(fans or (array.shape[1] * area, array.shape[0] * area)))
        self._elements += array.size
        if self._elements > self.limits.parameter_elements:
            fail("budget-size", f"all parameters have more than {self.limits.parameter_elements:,} elements")
        if origin is not None and _PATH.fullmatch(origin) and not _NUMBERED.fullmatch(origin):
            name = origin if origin not in self._names else name
        name = self._names.next(name)
        self.weights[name] = array
        if origin is not None:
            self._origins.setdefault((origin, role), []).append(name)
        return self.graph.add_parameter(name, f32(*array.shape), role=role, trainable=not buffer, initial=initial)

    def existing(self, role: str, origin: str | None, array: np.ndarray) -> Value | None:
        """The parameter that an earlier use of an initialiser has made in this role and form."""
        for other in self._origins.get((origin, role), ()) if origin else ():
            known = self.weights[other]
            if known.shape == array.shape and np.array_equal(known, array):
                return self.graph.parameters[other].value
        return None

    def seen_before(self, names: tuple[str, ...]) -> bool:
        """Whether an earlier layer had exactly these operands; remembers them."""
        seen = names in self._layers
        self._layers.add(names)
        return seen

    def single(self, array: np.ndarray, name: str) -> np.ndarray:
        """As float32, which is remarked where it changes anything; values that are not finite are an error."""
        if array.dtype != np.float32:
            with np.errstate(over="ignore"):
                rounded = array.astype(np.float32)
            if array.dtype == np.float64 and not np.array_equal(rounded, array):
                self._rounded[name] = self._rounded.get(name, 0) + 1
            array = rounded
        if not np.isfinite(array).all():
            fail("onnx-malformed", f"the constant `{name}` holds values that are not finite")
        return array

    def note_precision(self, kind: str) -> None:
        """Remember that a value of another floating-point type is computed in float32."""
        self._widened[kind] = self._widened.get(kind, 0) + 1

    def remarks(self) -> list[Diagnostic]:
        """What was noticed on the way, as warnings."""
        found = list(self.notes)
        for kind, count in self._widened.items():
            message = f"{count} values are {kind} in the model; the program computes in float32"
            found.append(Diagnostic("onnx-precision", message, severity="warning"))
        if self._rounded:
            first = next(iter(self._rounded))
            others = f" and {len(self._rounded) - 1} more" if len(self._rounded) > 1 else ""
            message = f"`{first}`{others}: float64 constants were rounded to float32, in which the program computes"
            found.append(Diagnostic("onnx-precision", message, severity="warning"))
        return found
