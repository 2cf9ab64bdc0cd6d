"""Pools in ONNX. Partial last windows are written as padding at the end: what `ceil_mode` gives differs by version."""

from __future__ import annotations

import numpy as np

from convc.codegen.onnx.writer import Writer
from convc.ir.diagnostic import fail
from convc.ir.graph import Node
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.window import Sides, Window

# Opset 19 gave AveragePool its dilations.
_DILATED_MEANS = 19


def max_pool(w: Writer, node: Node) -> str:
    op, x = node.op, node.operands[0]
    assert isinstance(op, MaxPool)
    name, pads = w.value(x), _reach(op.window, x.shape)
    if any(side >= size for side, size in zip(pads, op.kernel * 2, strict=True)):
        # More than a pool may be padded with: the border is a node of its own.
        name, pads = _padded(w, node, pads, float(np.finfo(np.float32).min)), (0, 0, 0, 0)
    return w.node(
        "MaxPool",
        [name],
        node.label,
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=pads,
        dilations=op.dilation,
    )


def avg_pool(w: Writer, node: Node) -> str:
    op, x = node.op, node.operands[0]
    assert isinstance(op, AvgPool)
    if op.dilation != (1, 1) and w.opset < _DILATED_MEANS:
        message = f"{node.label}: means under windows with dilation need opset {_DILATED_MEANS}, not {w.opset}"
        fail("onnx-op", message, node.span, hint=f"--opset {_DILATED_MEANS}")
    spread = {} if op.dilation == (1, 1) else {"dilations": op.dilation}
    name, pads = w.value(x), _reach(op.window, x.shape)
    counted = op.count_padding and any(op.padding)
    if counted and pads != op.padding:
        # The declared padding counts in the divisor, what a partial window sees beyond it does not.
        name = _padded(w, node, op.padding, 0.0)
        pads = tuple(reach - declared for reach, declared in zip(pads, op.padding, strict=True))
        counted = False
    return w.node(
        "AveragePool",
        [name],
        node.label,
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=pads,
        count_include_pad=int(counted),
        **spread,
    )


def _reach(window: Window, shape: tuple[int, ...]) -> Sides:
    """The padding with which every window lies inside."""
    top, left, bottom, right = window.padding
    size = (shape[2], shape[3])
    ends = [
        (count - 1) * stride + extent - before - pixels
        for count, stride, extent, before, pixels in zip(
            window.output_size(size), window.stride, window.extent, (top, left), size, strict=True
        )
    ]
    return top, left, max(bottom, ends[0]), max(right, ends[1])


def _padded(w: Writer, node: Node, sides: Sides, value: float) -> str:
    top, left, bottom, right = sides
    pads = w.tensor(f"{node.label}.pads", np.asarray([0, 0, top, left, 0, 0, bottom, right], np.int64))
    fill = w.tensor(f"{node.label}.constant", np.asarray(value, np.float32))
    return w.node("Pad", [w.value(node.operands[0]), pads, fill], node.label)
