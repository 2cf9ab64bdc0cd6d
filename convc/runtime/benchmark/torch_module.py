# PyTorch is optional: where it is not installed, its names are unknown to the type checker.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportPrivateImportUsage=false
"""The same net for PyTorch: a forward graph of convc as a `torch.fx` module.

The module is straight-line Python over `torch.nn.functional`, what a user of PyTorch would write by hand, with the
usual habits (in-place ReLU after a convolution), so that the comparison is with the peer's best. Parameters carry
convc's names: `load` and `gradients` make it an independent check of results, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as functional
from torch import fx

from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.graph import Graph, Initializer, Node, Value

Mode = Literal["train", "infer"]
Rule = Callable[["_Builder", Node, tuple[fx.Node, ...]], fx.Node]


class TorchPeer:
    """`module(x)` gives the logits (`infer`); `module(x, labels)` the weighted loss (`train`).

    x is float32 (N, C, H, W), labels int64 (N,), (N, H, W), or float32 of the logits' shape, as the loss reads them.
    Parameters start as convc's initialisers say, drawn by PyTorch's generator. Error: `unavailable-peer`, for every op
    that has no rule here.
    """

    def __init__(self, graph: Graph, mode: Mode) -> None:
        builder = _Builder(graph, mode)
        self.module: fx.GraphModule = builder.build()
        self._attributes = builder.attributes

    def load(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Take over values, running statistics included, by convc's names."""
        for name, array in parameters.items():
            with torch.no_grad():
                self._tensor(name).copy_(torch.from_numpy(np.array(array, np.float32)))

    def parameters(self) -> dict[str, np.ndarray]:
        """All parameters and running statistics by convc's names."""
        return {name: self._tensor(name).detach().numpy().copy() for name in self._attributes}

    def gradients(self) -> dict[str, np.ndarray]:
        """What the last `backward` left, by convc's names."""
        found = {name: self._tensor(name).grad for name in self._attributes}
        return {name: gradient.numpy().copy() for name, gradient in found.items() if gradient is not None}

    def trained(self) -> list[tuple[str, Any]]:
        """Names and tensors of the parameters that training moves."""
        return [(name, tensor) for name in self._attributes if (tensor := self._tensor(name)).requires_grad]

    def _tensor(self, name: str) -> torch.Tensor:
        return getattr(self.module, self._attributes[name])


class _Builder:
    """Walks the nodes that the result depends on and emits the corresponding PyTorch calls."""

    def __init__(self, graph: Graph, mode: Mode) -> None:
        self.graph = graph
        self.training = mode == "train"
        self.attributes: dict[str, str] = {}
        self.root = torch.nn.Module()
        self.fx = fx.Graph()

    def build(self) -> fx.GraphModule:
        result = self.graph.outputs["loss" if self.training else "logits"]
        needed = self.graph.ancestors([result])
        used = {operand for node in needed for operand in node.operands}
        values = {
            value: self.fx.placeholder(name)
            for name, value in self.graph.inputs.items()
            if value in used or self.training
        }
        for name, parameter in self.graph.parameters.items():
            if parameter.value in used:
                attribute = name.replace(".", "__")
                tensor = initial_tensor(parameter.initial, parameter.value.shape)
                if parameter.trainable and not parameter.frozen:
                    self.root.register_parameter(attribute, torch.nn.Parameter(tensor))
                else:
                    self.root.register_buffer(attribute, tensor)
                self.attributes[name] = attribute
                values[parameter.value] = self.fx.get_attr(attribute)
        nodes = [node for node in self.graph.nodes if node in needed]
        self._require_rules(nodes)
        for node in nodes:
            operands = tuple(values[operand] for operand in node.operands)
            values[node.result] = RULES[node.op.name](self, node, operands)
        self.fx.output(values[result])
        module = fx.GraphModule(self.root, self.fx)
        return module.train(self.training)

    @staticmethod
    def _require_rules(nodes: list[Node]) -> None:
        found = [
            Diagnostic("unavailable-peer", f"{node.label}: {reason}", node.span)
            for node in nodes
            if (reason := refusal(node)) is not None
        ]
        if found:
            raise CompileError(found)

    def call(self, function: Callable[..., Any], *operands: Any, **options: Any) -> fx.Node:
        return self.fx.call_function(function, operands, options)

    def spread(self, operand: fx.Node, value: Value, rank: int) -> fx.Node:
        """A per-channel vector (C,) as (1, C, 1, …); everything else unchanged."""
        if value.type.rank != 1 or rank < 2:
            return operand
        return self.call(torch.reshape, operand, (1, -1, *(1,) * (rank - 2)))


def refusal(node: Node) -> str | None:
    """Why PyTorch has nothing for a node; None where it has."""
    op: Any = node.op
    if op.name not in RULES:
        return f"PyTorch has no op like {op.name}"
    if op.name == "hinge" and node.operands[0].type.rank != 2:
        return "PyTorch has no hinge loss of pixels"
    if op.name == "avg_pool":
        if op.dilation != (1, 1):
            return "PyTorch's average has no dilation"
        if op.padding[:2] != op.padding[2:] and not op.count_padding:
            return "PyTorch has no average that leaves out an asymmetric padding"
    return None


def initial_tensor(initial: Initializer, shape: tuple[int, ...]) -> torch.Tensor:
    """A start of the right scale. Only the distribution's width matters to a benchmark; `load` sets exact values."""
    if initial.kind in ("zeros", "const"):
        return torch.full(shape, float(initial.value) if initial.kind == "const" else 0.0)
    if initial.kind in ("gauss", "uniform"):
        return torch.randn(shape) * float(initial.value)
    fan = initial.fan_in if initial.kind == "he" else (initial.fan_in + initial.fan_out) / 2
    return torch.randn(shape) * math.sqrt((2 if initial.kind == "he" else 1) / fan)


def _constant(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    name = f"constant_{len(list(builder.root.buffers()))}"
    builder.root.register_buffer(name, torch.from_numpy(np.array(node.op.reference())))
    return builder.fx.get_attr(name)


def _conv2d(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    x, w, *bias = operands
    op: Any = node.op
    x, padding = _padded(builder, x, op.padding, 0.0)
    b = bias[0] if bias else None
    return builder.call(functional.conv2d, x, w, b, op.stride, padding, op.dilation, op.groups)


def _max_pool(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    x, padding = _padded(builder, operands[0], op.padding, -math.inf)
    return builder.call(functional.max_pool2d, x, op.kernel, op.stride, padding, op.dilation, op.ceil)


def _avg_pool(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    x, padding = _padded(builder, operands[0], op.padding, 0.0)
    count = op.count_padding
    return builder.call(
        functional.avg_pool2d, x, op.kernel, op.stride, padding, ceil_mode=op.ceil, count_include_pad=count
    )


def _padded(builder: _Builder, x: fx.Node, sides: tuple[int, ...], fill: float) -> tuple[fx.Node, tuple[int, int]]:
    """PyTorch pads both ends alike; anything else is a step of its own."""
    top, left, bottom, right = sides
    if (top, left) == (bottom, right):
        return x, (top, left)
    return builder.call(functional.pad, x, (left, right, top, bottom), value=fill), (0, 0)


def _batch_norm(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    x, gamma, beta, mean, var = operands
    op: Any = node.op
    training = builder.training and not op.frozen
    return builder.call(functional.batch_norm, x, mean, var, gamma, beta, training, op.momentum, op.eps)


def _relu(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    # In place where PyTorch allows it: nobody else reads the input, and its producer's backward does not need it.
    value = node.operands[0]
    producer = value.producer
    overwrite = producer is not None and producer.op.name in ("conv2d", "linear", "batch_norm", "add")
    return builder.call(functional.relu, operands[0], inplace=overwrite and len(value.users) == 1)


def _dropout(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    return builder.call(functional.dropout, operands[0], op.rate, builder.training)


def _cross_entropy(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    return builder.call(functional.cross_entropy, *operands, label_smoothing=op.smooth)


def _hinge(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    # `multi_margin_loss` divides by the number of classes, which convc's definition does not.
    op: Any = node.op
    loss = builder.call(functional.multi_margin_loss, *operands, margin=op.margin)
    return builder.call(torch.mul, loss, node.operands[0].shape[1])


def _mse(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    x, targets = operands
    if not node.operands[1].type.dtype.is_float:
        classes = node.operands[0].shape[1]
        onehot = builder.call(functional.one_hot, targets, classes)
        targets = builder.call(torch.movedim, builder.call(torch.Tensor.float, onehot), -1, 1)
    return builder.call(functional.mse_loss, x, targets)


def _unflatten(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    return builder.call(torch.reshape, operands[0], (-1, *op.shape))


def _rearrange(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    x = builder.call(torch.reshape, operands[0], (-1, *op.view))
    x = builder.call(torch.permute, x, (0, *(axis + 1 for axis in op.order)))
    return builder.call(torch.reshape, x, (-1, *op.shape))


def _pad(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    top, left, bottom, right = op.sides
    return builder.call(functional.pad, operands[0], (left, right, top, bottom), value=op.value)


def _slice(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    return builder.call(torch.narrow, operands[0], 1, op.start, op.count)


def _prelu(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    return builder.call(functional.prelu, *operands)


def _maxout(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    _, c, *rest = node.operands[0].shape
    grouped = builder.call(torch.reshape, operands[0], (-1, c // op.group, op.group, *rest))
    return builder.call(torch.amax, grouped, 2)


def _concat(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    return builder.call(torch.cat, list(operands), 1)


def _deconv(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    # PyTorch crops both ends alike; the rest is given as output padding, or cut off afterwards.
    op: Any = node.op
    _, _, height, width = node.operands[0].shape
    kernel = node.operands[1].shape[2:]
    full = [
        (size - 1) * s + d * (k - 1) + 1
        for size, s, d, k in zip((height, width), op.stride, op.dilation, kernel, strict=True)
    ]
    extra = tuple(max(0, t + n - f) for t, n, f in zip(op.padding[:2], op.size, full, strict=True))
    x, w = operands
    y = builder.call(functional.conv_transpose2d, x, w, None, op.stride, 0, extra, op.groups, op.dilation)
    for axis in (2, 3):
        y = builder.call(torch.narrow, y, axis, op.padding[axis - 2], op.size[axis - 2])
    return y


def _upsample(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    return builder.call(functional.interpolate, operands[0], scale_factor=op.factor, mode=op.mode)


def _noise(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
    op: Any = node.op
    if not builder.training:
        return operands[0]
    drawn = builder.call(torch.randn_like, operands[0])
    return builder.call(torch.add, operands[0], drawn, alpha=op.std)


def _with(function: Callable[..., Any], *attributes: str, **options: object) -> Rule:
    """A rule for a function that takes the operands and then these attributes of the op."""

    def rule(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
        return builder.call(function, *operands, *(getattr(node.op, name) for name in attributes), **options)

    return rule


def _elementwise(function: Callable[..., Any]) -> Rule:
    """A rule for a function of operands that spread as convc's element-wise ops do."""

    def rule(builder: _Builder, node: Node, operands: tuple[fx.Node, ...]) -> fx.Node:
        rank = node.result.type.rank
        spread = (builder.spread(operand, value, rank) for operand, value in zip(operands, node.operands, strict=True))
        return builder.call(function, *spread)

    return rule


RULES: dict[str, Rule] = {
    "constant": _constant,
    "conv2d": _conv2d,
    "linear": _with(functional.linear),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    "noise": _noise,
    "drop_connect": _dropout,  # of the weights, one choice for all images
    "conv2d_backward_data": _deconv,
    "upsample": _upsample,
    "lrn": _with(functional.local_response_norm, "size", "alpha", "beta", "k"),
    "concat": _concat,
    "scale_maps": _with(torch.mul),
    "flatten": _with(torch.flatten, start_dim=1),
    "unflatten": _unflatten,
    "rearrange": _rearrange,
    "pad": _pad,
    "slice_channels": _slice,
    "spatial_sum": _with(torch.sum, dim=(2, 3), keepdim=True),
    "relu": _relu,
    "relu6": _with(functional.relu6),
    "leaky_relu": _with(functional.leaky_relu, "alpha"),
    "prelu": _prelu,
    "elu": _with(functional.elu, "alpha"),
    "sigmoid": _with(torch.sigmoid),
    "tanh": _with(torch.tanh),
    "softmax": _with(torch.softmax, dim=1),
    "log_softmax": _with(torch.log_softmax, dim=1),
    "maxout": _maxout,
    "add": _elementwise(torch.add),
    "sub": _elementwise(torch.sub),
    "mul": _elementwise(torch.mul),
    "div": _elementwise(torch.div),
    "max": _elementwise(torch.maximum),
    "min": _elementwise(torch.minimum),
    "neg": _with(torch.neg),
    "abs": _with(torch.abs),
    "exp": _with(torch.exp),
    "sqrt": _with(torch.sqrt),
    "softmax_cross_entropy": _cross_entropy,
    "hinge": _hinge,
    "mse": _mse,
}
