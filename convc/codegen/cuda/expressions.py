"""Element-wise ops as expressions of CUDA C++: one row per op, used by every kernel's epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from convc.ir.op import Op
from convc.ir.ops.activation import Elu, LeakyRelu, Prelu, Relu, Relu6, Sigmoid, Step, Tanh
from convc.ir.ops.cast import Cast
from convc.ir.ops.elementwise import (
    Absolute,
    Add,
    Divide,
    Exp,
    Greater,
    Maximum,
    Minimum,
    Multiply,
    Negate,
    RunningAverage,
    Select,
    Sign,
    Sqrt,
    Subtract,
)
from convc.ir.ops.loss_scaling import ScaleLoss


def literal(value: float) -> str:
    """A number as the float that it becomes, exactly: in hexadecimal digits where it is finite."""
    with np.errstate(over="ignore"):
        number = float(np.float32(value))
    if math.isfinite(number):
        return f"{number.hex()}f"
    return f"__uint_as_float({int(np.float32(number).view(np.uint32)):#x}u)"


def _call(name: str) -> Callable[..., str]:
    return lambda op, *operands: f"{name}({', '.join(operands)})"


def _between(symbol: str) -> Callable[..., str]:
    return lambda op, left, right: f"{left} {symbol} {right}"


def _select(op: Op, condition: str, yes: str, no: str) -> str:
    return f"{condition} ? {yes} : {no}"


def _negate(op: Op, x: str) -> str:
    return f"-{x}"


def _prelu(op: Op, x: str, slope: str) -> str:
    return f"leaky_relu({x}, {slope})"


def _leaky_relu(op: LeakyRelu, x: str) -> str:
    return f"leaky_relu({x}, {literal(op.alpha)})"


def _elu(op: Elu, x: str) -> str:
    return f"elu({x}, {literal(op.alpha)})"


def _running_average(op: RunningAverage, old: str, new: str) -> str:
    return f"running_average({old}, {new}, {literal(op.momentum)})"


def _cast(op: Op, x: str) -> str:
    """In registers all numbers are float; they are rounded where they are stored."""
    return x


# Takes the op and its operands, which are names or literals. Products and sums round separately only where the compiler
# does not contract them, which is as exact as one rounding.
EXPRESSIONS: dict[type[Op], Callable[..., str]] = {
    Relu: _call("relu"),
    LeakyRelu: _leaky_relu,
    Prelu: _prelu,
    Elu: _elu,
    Sigmoid: _call("sigmoid"),
    Tanh: _call("tanhf"),
    Step: _call("heaviside"),
    Relu6: _call("relu6"),
    Add: _between("+"),
    Subtract: _between("-"),
    Multiply: _between("*"),
    Divide: _between("/"),
    Maximum: _call("larger"),
    Minimum: _call("smaller"),
    Negate: _negate,
    Absolute: _call("fabsf"),
    Sign: _call("sign"),
    Exp: _call("expf"),
    Sqrt: _call("sqrtf"),
    Cast: _cast,
    Greater: _between(">"),
    Select: _select,
    RunningAverage: _running_average,
    ScaleLoss: _between("*"),
}
