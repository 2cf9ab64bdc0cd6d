"""Element-wise ops on vectors in registers: one function per op, used by every kernel's epilogue."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.mathematics import exponential, exponential_minus_one, hyperbolic_tangent, sigmoid
from convc.codegen.llvm.vocabulary import Function, V
from convc.ir.op import Op
from convc.ir.ops.activation import Elu, LeakyRelu, Prelu, Relu, Relu6, Sigmoid, Step, Tanh
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

Lower = Callable[..., V]


def _zero(f: Function, x: V) -> V:
    return f.constant(0.0, x.lanes)


def _binary(operation: str) -> Lower:
    return lambda f, op, left, right: f.binary(operation, left, right)


def _larger(f: Function, op: Op, left: V, right: V) -> V:
    # numpy's maximum: NaN in either operand wins.
    chosen = f.select(f.compare("uge", left, right), left, right)
    return f.select(f.compare("uno", right, right), right, chosen)


def _smaller(f: Function, op: Op, left: V, right: V) -> V:
    chosen = f.select(f.compare("ule", left, right), left, right)
    return f.select(f.compare("uno", right, right), right, chosen)


def _relu(f: Function, op: Op, x: V) -> V:
    # Written so that NaN passes through: 0 only where x compares below 0.
    return f.select(f.compare("olt", x, _zero(f, x)), _zero(f, x), x)


def _positive_or(f: Function, x: V, other: V) -> V:
    return f.select(f.compare("ogt", x, _zero(f, x)), x, other)


def _leaky_relu(f: Function, op: LeakyRelu, x: V) -> V:
    return _positive_or(f, x, f.binary("fmul", f.constant(op.alpha, x.lanes), x))


def _elu(f: Function, op: Elu, x: V) -> V:
    return _positive_or(f, x, f.binary("fmul", f.constant(op.alpha, x.lanes), exponential_minus_one(f, x)))


def _step(f: Function, op: Op, x: V) -> V:
    return f.select(f.compare("ogt", x, _zero(f, x)), f.constant(1.0, x.lanes), _zero(f, x))


def _relu6(f: Function, op: Op, x: V) -> V:
    six = f.constant(6.0, x.lanes)
    low = _relu(f, op, x)
    return f.select(f.compare("ogt", low, six), six, low)


def _sign(f: Function, op: Op, x: V) -> V:
    one = f.constant(1.0, x.lanes)
    negative = f.select(f.compare("olt", x, _zero(f, x)), f.negate(one), _zero(f, x))
    return f.select(f.compare("ogt", x, _zero(f, x)), one, negative)


def _running_average(f: Function, op: RunningAverage, old: V, new: V) -> V:
    kept = f.binary("fmul", f.constant(1 - op.momentum, old.lanes), old)
    return f.binary("fadd", kept, f.binary("fmul", f.constant(op.momentum, old.lanes), new))


ELEMENTWISE: dict[type[Op], Lower] = {
    Relu: _relu,
    LeakyRelu: _leaky_relu,
    Prelu: lambda f, op, x, slope: _positive_or(f, x, f.binary("fmul", slope, x)),
    Elu: _elu,
    Sigmoid: lambda f, op, x: sigmoid(f, x),
    Tanh: lambda f, op, x: hyperbolic_tangent(f, x),
    Step: _step,
    Relu6: _relu6,
    Add: _binary("fadd"),
    Subtract: _binary("fsub"),
    Multiply: _binary("fmul"),
    Divide: _binary("fdiv"),
    Maximum: _larger,
    Minimum: _smaller,
    Negate: lambda f, op, x: f.negate(x),
    Absolute: lambda f, op, x: f.unary("fabs", x),
    Sign: _sign,
    Exp: lambda f, op, x: exponential(f, x),
    Sqrt: lambda f, op, x: f.unary("sqrt", x),
    Greater: lambda f, op, left, right: f.compare("ogt", left, right),
    Select: lambda f, op, condition, yes, no: f.select(condition, yes, no),
    RunningAverage: _running_average,
}
