"""From one node back to the layer that emits it: for every op with surface syntax, the arguments of its layer.

A reader gives the layer's title and its arguments, and raises `NoSyntax` where no arguments give this very node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from convc.frontend.emitters import same_padding
from convc.frontend.kinds import InitialValue
from convc.ir.equivalence import effective_initial
from convc.ir.graph import Initializer, Node, Parameter, Value
from convc.ir.op import Op
from convc.ir.ops.activation import Elu, LeakyRelu, Maxout, Prelu, Relu, Relu6, Sigmoid, Softmax, Step, Tanh
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.distance import Hinge, MeanSquaredError
from convc.ir.ops.dropconnect import DropConnect
from convc.ir.ops.linear import Linear
from convc.ir.ops.local_response import LocalResponseNorm
from convc.ir.ops.loss import SoftmaxCrossEntropy
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.random import Dropout, Noise
from convc.ir.ops.resample import Upsample
from convc.ir.ops.shape import Flatten
from convc.ir.window import Pair, Sides

Arguments = dict[str, object]
Reading = tuple[str, Arguments]
Parameters = Mapping[Value, Parameter]


class NoSyntax(Exception):
    """No statement of the language gives this node; the message says why, after `… : `."""


def read(node: Node, parameters: Parameters) -> Reading:
    """The layer of a node: `pool max` and its arguments."""
    reader = READERS.get(type(node.op))
    if reader is None:
        raise NoSyntax("no layer of the language computes it")
    title, arguments = reader(node, parameters)
    for value in arguments.values():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):  # type: ignore[reportUnknownVariableType]
            raise NoSyntax("the language has no infinities")
    return title, arguments


def parameters_of(node: Node, parameters: Parameters, roles: tuple[str, ...]) -> list[Parameter]:
    """The parameters that the operands behind the first one are, which must have these roles."""
    found: list[Parameter] = []
    for value, role in zip(node.operands[1:], roles, strict=False):
        parameter = parameters.get(trained_weights(value))
        if parameter is None or parameter.role != role:
            raise NoSyntax(f"its {role} is not a parameter" + (f" of role {role}" if parameter else ""))
        found.append(parameter)
    return found


def trained_weights(value: Value) -> Value:
    """What the weights of a layer are made of: `dropconnect` leaves out some of them, `bits=1` takes their signs."""
    for kind in (DropConnect, Binarize):
        if value.producer is not None and isinstance(value.producer.op, kind):
            value = value.producer.operands[0]
    return value


def _bits(weight: Value) -> Arguments:
    """`bits=1` where it is said."""
    return {"bits": 1} if weight.producer is not None and isinstance(weight.producer.op, Binarize) else {}


# Windows


def _padding(padding: Sides, size: Pair, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> object:
    """`same` where the padding is that, and not as easily said in numbers."""
    if padding[:2] != padding[2:] and padding == same_padding(size, kernel, stride, dilation):
        return "same"
    return padding


def _size(value: Value) -> Pair:
    return value.shape[2], value.shape[3]


def _kernel(value: Value) -> Pair:
    return value.shape[2], value.shape[3]


def _groups(groups: int, channels: int) -> object:
    return "in" if groups == channels > 1 else groups


def _weight(parameter: Parameter, fan_in: int, fan_out: int) -> InitialValue:
    """What `init=` says of a weight with these fans."""
    initial = effective_initial(parameter.initial)
    if initial.kind not in ("he", "xavier", "zeros", "orthogonal", "const", "gauss", "uniform"):
        raise NoSyntax(f"the language has no initialiser {initial.kind!r}, with which {parameter.name} starts")
    if initial != effective_initial(Initializer(initial.kind, initial.value, fan_in, fan_out)):
        fans = f"{parameter.initial.fan_in} inputs and {parameter.initial.fan_out} outputs"
        raise NoSyntax(f"{parameter.name} starts as if it had {fans}, not {fan_in} and {fan_out}")
    if initial.kind in ("he", "xavier", "zeros", "orthogonal"):
        if initial.value:
            raise NoSyntax(f"the initialiser {initial.kind} takes no value, but {parameter.name} has one")
        return InitialValue(initial.kind)
    return InitialValue(initial.kind, float(initial.value))


def check_start(parameter: Parameter, kind: str, value: float = 0.0) -> None:
    """Parameters other than weights start as their layer says, and in no other way."""
    initial = effective_initial(parameter.initial)
    wanted = Initializer(kind, value)
    if initial != wanted:
        raise NoSyntax(f"{parameter.name} starts with {initial.kind}({initial.value:g}), not {kind}({value:g})")


def _bias(parameters: list[Parameter]) -> bool:
    if len(parameters) > 1:
        check_start(parameters[1], "zeros")
    return len(parameters) > 1


def _conv(node: Node, parameters: Parameters) -> Reading:
    op, x, w = node.op, node.operands[0], node.operands[1]
    assert isinstance(op, Conv2d)
    found = parameters_of(node, parameters, ("weight", "bias"))
    kernel = _kernel(w)
    filters, depth = w.shape[0], w.shape[1]
    area = kernel[0] * kernel[1]
    return "conv", {
        "filters": filters, "k": kernel, "s": op.stride, "dil": op.dilation, "groups": _groups(op.groups, x.shape[1]),
        "pad": _padding(op.padding, _size(x), kernel, op.stride, op.dilation),
        "bias": _bias(found), "init": _weight(found[0], depth * area, filters * area), "algo": op.algorithm,
        **_bits(w),
    }  # fmt: skip


def _deconv(node: Node, parameters: Parameters) -> Reading:
    """The bias is a node of its own: see `recognition`."""
    op, x, w = node.op, node.operands[0], node.operands[1]
    assert isinstance(op, Conv2dBackwardData)
    (weight,) = parameters_of(node, parameters, ("weight",))
    kernel = _kernel(w)
    channels, filters = x.shape[1], w.shape[1] * op.groups
    arguments: Arguments = {
        "filters": filters, "k": kernel, "s": op.stride, "dil": op.dilation, "groups": _groups(op.groups, channels),
        "init": _weight(weight, channels // op.groups * kernel[0] * kernel[1], filters * kernel[0] * kernel[1]),
        "bias": False, "algo": op.algorithm,
    }  # fmt: skip
    extra = tuple(
        op.size[a]
        - ((x.shape[2 + a] - 1) * op.stride[a] - op.padding[a] - op.padding[a + 2] + op.dilation[a] * (kernel[a] - 1))
        - 1
        for a in (0, 1)
    )
    whole = tuple(size * step for size, step in zip(_size(x), op.stride, strict=True))
    same = op.size == whole and op.padding == same_padding(op.size, kernel, op.stride, op.dilation)
    if same and (op.padding[:2] != op.padding[2:] or min(extra) < 0):
        return "deconv", arguments | {"pad": "same"}
    if any(not 0 <= e < s for e, s in zip(extra, op.stride, strict=True)):
        rows, columns = op.size
        raise NoSyntax(f"no `out_pad` smaller than the stride gives its size {rows}x{columns}")
    return "deconv", arguments | {"pad": op.padding, "out_pad": extra}


def _pool(node: Node, parameters: Parameters) -> Reading:
    op, x = node.op, node.operands[0]
    assert isinstance(op, (MaxPool, AvgPool))
    title = "pool avg" if isinstance(op, AvgPool) else "pool max"
    counted: Arguments = {"count_pad": op.count_padding} if isinstance(op, AvgPool) else {}
    if op.dilation != (1, 1):
        raise NoSyntax(f"the windows of a pool have no gaps, but its dilation is {op.dilation}")
    size = _size(x)
    whole = op.kernel == op.stride == size and not any(op.padding) and not op.ceil
    if whole and isinstance(op, AvgPool):
        return title, {"k": "global", **counted}
    return title, {
        "k": op.kernel, "s": None if op.stride == op.kernel else op.stride,
        "pad": _padding(op.padding, size, op.kernel, op.stride), "round": "ceil" if op.ceil else "floor", **counted,
    }  # fmt: skip


# Dense layers


def _fc(node: Node, parameters: Parameters) -> Reading:
    outputs, features = node.operands[1].shape
    arguments: Arguments = {"outputs": outputs}
    weight = node.operands[1]
    if weight.producer is not None and isinstance(weight.producer.op, DropConnect):
        arguments["dropconnect"] = weight.producer.op.rate
        weight = weight.producer.operands[0]
    found = parameters_of(node, parameters, ("weight", "bias"))
    return "fc", arguments | _bits(weight) | {"bias": _bias(found), "init": _weight(found[0], features, outputs)}


def _bn(node: Node, parameters: Parameters) -> Reading:
    op = node.op
    assert isinstance(op, BatchNorm)
    arguments: Arguments = {"eps": op.eps, "momentum": op.momentum}
    fixed = [_filled(value, number) for value, number in zip(node.operands[1:3], (1.0, 0.0), strict=True)]
    if all(fixed):
        arguments["affine"] = False
    elif any(fixed):
        raise NoSyntax("only one of gamma and beta is learned")
    roles = ("gamma", "beta", "mean", "var")
    for value, role, start in zip(node.operands[1:], roles, (1.0, 0.0, 0.0, 1.0), strict=True):
        if all(fixed) and role in ("gamma", "beta"):
            continue
        parameter = parameters.get(value)
        if parameter is None or parameter.role != role:
            raise NoSyntax(f"its {role} is not a parameter of role {role}")
        if start:
            check_start(parameter, "const", start)
        else:
            check_start(parameter, "zeros")
        if parameter.trainable != (role in ("gamma", "beta")):
            raise NoSyntax(f"{parameter.name} {'is' if parameter.trainable else 'is not'} trainable")
        if parameter.frozen != op.frozen:
            raise NoSyntax("either the statistics are kept, or the parameters are trained, not both")
    return "bn", arguments


def _filled(value: Value, number: float) -> bool:
    op = value.producer.op if value.producer else None
    return isinstance(op, Constant) and op.values == (number,) and value.type.rank == 1


def _lrn(node: Node, parameters: Parameters) -> Reading:
    op = node.op
    assert isinstance(op, LocalResponseNorm)
    return "lrn", {"size": op.size, "alpha": op.alpha, "beta": op.beta, "k": op.k}


def _prelu(node: Node, parameters: Parameters) -> Reading:
    (slope,) = parameters_of(node, parameters, ("slope",))
    check_start(slope, "const", 0.25)
    return "prelu", {}


def _plain(title: str, **arguments: str) -> Callable[[Node, Parameters], Reading]:
    """A layer whose arguments are attributes of its op: argument=attribute."""

    def reader(node: Node, parameters: Parameters) -> Reading:
        return title, {key: getattr(node.op, attribute) for key, attribute in arguments.items()}

    return reader


def _loss(title: str, **arguments: str) -> Callable[[Node, Parameters], Reading]:
    plain = _plain(title, **arguments)

    def reader(node: Node, parameters: Parameters) -> Reading:
        if len(node.operands) > 2:
            raise NoSyntax("the weights of classes are no part of a net; `train` has `class_weights`")
        return plain(node, parameters)

    return reader


READERS: dict[type[Op], Callable[[Node, Parameters], Reading]] = {
    Conv2d: _conv,
    Conv2dBackwardData: _deconv,
    MaxPool: _pool,
    AvgPool: _pool,
    Linear: _fc,
    Flatten: _plain("flatten"),
    BatchNorm: _bn,
    LocalResponseNorm: _lrn,
    Upsample: _plain("upsample", factor="factor", mode="mode"),
    Relu: _plain("relu"),
    Relu6: _plain("relu6"),
    LeakyRelu: _plain("leaky", a="alpha"),
    Prelu: _prelu,
    Elu: _plain("elu", a="alpha"),
    Sigmoid: _plain("sigmoid"),
    Tanh: _plain("tanh"),
    Step: _plain("step"),
    Maxout: _plain("maxout", group="group"),
    Softmax: _plain("softmax"),
    Dropout: _plain("dropout", rate="rate"),
    Noise: _plain("noise", std="std"),
    SoftmaxCrossEntropy: _loss("loss softmax", smooth="smooth"),
    Hinge: _loss("loss hinge", margin="margin"),
    MeanSquaredError: _loss("loss mse"),
}
