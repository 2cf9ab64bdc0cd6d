"""One node of a model, as the function that converts it sees it: operands, attributes, and the graph to write to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from convc.frontend.hints import shape_text
from convc.frontend.onnx.model import Model
from convc.frontend.onnx.target import Target
from convc.frontend.onnx.values import Known, Tensor
from convc.ir.graph import Value
from convc.ir.op import Op
from convc.ir.types import Shape
from convc.lazy import dataclass

Operand = Known | Tensor
Result = Operand | None | tuple[Operand | None, ...]
Convert = Callable[["Site"], Result]


class Unsupported(Exception):
    """A node that cannot be expressed: why, and the attribute that stands in the way."""

    def __init__(self, why: str, attribute: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.attribute = attribute


@dataclass
class Site:
    """A node with its operands (None: left out). `attributes` holds the given ones and the defaults of the opset."""

    model: Model
    target: Target
    node: Any
    label: str
    operands: tuple[Operand | None, ...]
    attributes: dict[str, Any]
    tied: bool = False  # whether the layer's weights are those of an earlier one

    @property
    def opset(self) -> int:
        return self.model.opset

    @property
    def kind(self) -> str:
        return self.node.op_type

    def refuse(self, why: str, attribute: str | None = None) -> NoReturn:
        raise Unsupported(why, attribute)

    # Attributes

    def has(self, name: str) -> bool:
        return self.attributes.get(name) is not None

    def integer(self, name: str) -> int:
        return int(self._attribute(name))

    def number(self, name: str) -> float:
        """A float32 as its shortest decimal, 1e-05 and not 9.999999747378752e-06: so it was meant."""
        value = float(str(np.float32(self._attribute(name))))
        if not math.isfinite(value):
            self.refuse("is not finite", name)
        return value

    def text(self, name: str) -> str:
        return str(self._attribute(name))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of integers; None where it is not given."""
        value = self.attributes.get(name)
        return None if value is None else tuple(int(item) for item in value)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        value = self.attributes.get(name)
        return None if value is None else tuple(float(item) for item in value)

    def _attribute(self, name: str) -> Any:
        value = self.attributes.get(name)
        if value is None:
            self.refuse("is missing", name)
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse any value of an attribute but these; not given and without a default is fine."""
        value = self.attributes.get(name)
        if value is not None and value not in allowed:
            self.refuse(f"{value!r} is not supported", name)

    # Operands

    def operand(self, index: int) -> Operand | None:
        """An operand; None where it is left out."""
        return self.operands[index] if index < len(self.operands) else None

    def tensor(self, index: int = 0) -> Tensor:
        """An operand that is computed from the input."""
        operand = self.operand(index)
        if operand is None:
            self.refuse(f"operand {index + 1} is missing")
        if isinstance(operand, Known):
            self.refuse(
                f"operand {index + 1}, `{self.node.input[index]}`, is a constant; it is expected to be computed"
            )
        return operand

    def known(self, index: int, what: str) -> Known | None:
        """An operand that has to be known; None where it is left out."""
        operand = self.operand(index)
        if isinstance(operand, Tensor):
            self.refuse(f"{what}, `{self.node.input[index]}`, is computed from the input; only constants are supported")
        return operand

    def constant(self, index: int, what: str) -> np.ndarray | None:
        """A known operand that is the same for any batch; None where it is left out."""
        known = self.known(index, what)
        if known is not None and known.depends_on_batch:
            self.refuse(f"{what}, `{self.node.input[index]}`, depends on the batch size")
        return None if known is None else known.under(0)

    def floats(self, index: int, what: str) -> Known | None:
        """A known operand of floating-point numbers, the same for any batch, as float32."""
        array = self.constant(index, what)
        if array is None:
            return None
        if array.dtype.kind != "f":
            self.refuse(f"{what}, `{self.node.input[index]}`, is {array.dtype}, not float32")
        operand = self.operand(index)
        assert isinstance(operand, Known)
        return Known((self.target.single(array, self.node.input[index]),), operand.name)

    def whole_numbers(self, index: int, what: str) -> tuple[int, ...] | None:
        """A known operand that is a list of integers."""
        array = self.constant(index, what)
        if array is None:
            return None
        if array.dtype.kind not in "iu" or array.ndim > 1:
            self.refuse(f"{what}, `{self.node.input[index]}`, is no list of integers")
        return tuple(int(item) for item in array.reshape(-1))

    def axis(self, axis: int, rank: int, name: str | None = "axis") -> int:
        """An axis of a tensor of `rank` dimensions, counted from the front; the batch is 0 and may not be meant."""
        if not -rank <= axis < rank:
            self.refuse(f"{axis} is no axis of a tensor of {rank} dimensions", name)
        axis %= rank
        if axis == 0:
            self.refuse("works along the batch, and images are independent of each other", name)
        return axis

    # Results

    def emit(self, op: Op, *operands: Value | None) -> Value:
        """Append an op to the graph."""
        value = self.target.emit(self.label, op, *operands)
        row = value.shape[1:]
        limits = self.target.limits
        if math.prod(row) > limits.elements or max(row, default=0) > limits.extent:
            self.refuse(f"its result is {shape_text(row)}, more than {limits.elements:,} elements")
        return value

    def parameter(
        self, role: str, known: Known, array: np.ndarray, *, buffer: bool = False, fans: tuple[int, int] | None = None
    ) -> Value:
        """A parameter that starts as `array`, which was made of `known`.

        Layers that share their weights share their other parameters, too. Vectors alone are not shared: exporters
        store equal ones once, such as the zeros of all biases.
        """
        array = np.ascontiguousarray(array, np.float32)
        if role == "weight":
            self.tied = self.target.existing(role, known.name, array) is not None
        return self.target.parameter(
            f"{self.label}.{role}", role, known.name, array, buffer=buffer, fans=fans, tied=self.tied
        )

    def per_element(self, array: np.ndarray, shape: Shape, origin: str | None = None) -> Value:
        """A constant operand of an element-wise op: a scalar or a vector."""
        return self.target.constant(self.label, array.reshape(shape), origin)
