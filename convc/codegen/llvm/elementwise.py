"""Element-wise ops on vectors in registers: one function per op, used by every kernel's epilogue."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.mathematics import exponential, exponential_minus_one, hyperbolic_tangent, sigmoid
from convc.codegen.llvm.vocabulary import Function, V
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
from convc.ir.ops.quantize import Quantize

# Takes the function under construction, the op, and its operands.
Lower = Callable[..., V]


def _zero(f: Function, x: V) -> V:
    return f.constant(0.0, x.lanes)


def _add(f: Function, op: Op, left: V, right: V) -> V:
    return f.binary("fadd", left, right)


def _subtract(f: Function, op: Op, left: V, right: V) -> V:
    return f.binary("fsub", left, right)


def _multiply(f: Function, op: Op, left: V, right: V) -> V:
    return f.binary("fmul", left, right)


def _divide(f: Function, op: Op, left: V, right: V) -> V:
    return f.binary("fdiv", left, right)


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


def _prelu(f: Function, op: Op, x: V, slope: V) -> V:
    return _positive_or(f, x, f.binary("fmul", slope, x))


def _sigmoid(f: Function, op: Op, x: V) -> V:
    return sigmoid(f, x)


def _tanh(f: Function, op: Op, x: V) -> V:
    return hyperbolic_tangent(f, x)


def _exp(f: Function, op: Op, x: V) -> V:
    return exponential(f, x)


def _negate(f: Function, op: Op, x: V) -> V:
    return f.negate(x)


def _absolute(f: Function, op: Op, x: V) -> V:
    return f.unary("fabs", x)


def _sqrt(f: Function, op: Op, x: V) -> V:
    return f.unary("sqrt", x)


def _cast(f: Function, op: Op, x: V) -> V:
    """In registers all numbers are float; they are rounded where they are stored."""
    return x


def _greater(f: Function, op: Op, left: V, right: V) -> V:
    return f.compare("ogt", left, right)


def _select(f: Function, op: Op, condition: V, yes: V, no: V) -> V:
    return f.select(condition, yes, no)


ELEMENTWISE: dict[type[Op], Lower] = {
    Relu: _relu,
    LeakyRelu: _leaky_relu,
    Prelu: _prelu,
    Elu: _elu,
    Sigmoid: _sigmoid,
    Tanh: _tanh,
    Step: _step,
    Relu6: _relu6,
    Add: _add,
    Subtract: _subtract,
    Multiply: _multiply,
    Divide: _divide,
    Maximum: _larger,
    Minimum: _smaller,
    Negate: _negate,
    Absolute: _absolute,
    Sign: _sign,
    Exp: _exp,
    Sqrt: _sqrt,
    Cast: _cast,
    Quantize: _cast,
    Greater: _greater,
    Select: _select,
    RunningAverage: _running_average,
    ScaleLoss: _multiply,
}
