"""Layers with weights or state that move no window: matrix products, normalisations, dropout."""

from __future__ import annotations

import numpy as np

from convc.frontend.hints import shape_text
from convc.frontend.onnx.forms import axis_as_channels, back_from_front, rows_of
from convc.frontend.onnx.site import Site
from convc.frontend.onnx.values import Known, Tensor
from convc.ir.graph import Value
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.ops.local_response import LocalResponseNorm
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.random import Dropout
from convc.ir.philox import stream_key


def gemm(site: Site) -> Tensor:
    """alpha·A·B + beta·C; the factors go into the weights."""
    x = site.tensor()
    if site.integer("transA"):
        site.refuse("a transposed first operand mixes the images of a batch", "transA")
    if len(x.shape) != 1:
        site.refuse(f"reads rows (N, features), not N x {shape_text(x.shape)}")
    known = site.floats(1, "the matrix")
    if known is None:
        site.refuse("has no matrix")
    matrix = known.under(0)
    if matrix.ndim != 2:
        site.refuse(f"the matrix is {shape_text(matrix.shape)}")
    w = matrix if site.integer("transB") else matrix.T
    if w.shape[1] != x.size:
        site.refuse(f"the matrix reads {w.shape[1]} features, but there are {x.size}")
    alpha, beta = site.number("alpha"), site.number("beta")
    weight = site.parameter("weight", known, _scaled(w, alpha))
    bias = _bias(site, w.shape[0], beta)
    return Tensor(site.emit(Linear(), rows_of(site, x), weight, bias), (w.shape[0],))


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    return array if factor == 1 else np.asarray(array * np.float32(factor), np.float32)


def _bias(site: Site, outputs: int, beta: float) -> Value | None:
    known = site.floats(2, "the third operand")
    if known is None:
        return None
    array = known.under(0)
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1) or array.shape[-1:] not in ((), (1,), (outputs,)):
        site.refuse(f"the third operand is {shape_text(array.shape)}, not one number for each of {outputs} outputs")
    return site.parameter("bias", known, np.broadcast_to(_scaled(array, beta).reshape(-1), (outputs,)))


def matmul(site: Site) -> Tensor:
    """The product of the last axis with a constant matrix: a fully connected layer, or a 1x1 convolution."""
    if isinstance(site.operand(0), Known):
        site.refuse("the first operand is a constant; only the second one may be")
    x = site.tensor()
    known = site.floats(1, "the matrix")
    if known is None:
        site.refuse("has no matrix")
    matrix = known.under(0)
    while matrix.ndim > 2 and matrix.shape[0] == 1 and matrix.ndim <= len(x.shape) + 1:
        matrix = matrix[0]
    if matrix.ndim != 2 or not x.shape:
        site.refuse(f"the matrix is {shape_text(known.under(0).shape)}; only one matrix for all rows is supported")
    if matrix.shape[0] != x.shape[-1]:
        site.refuse(f"the matrix reads {matrix.shape[0]} features, but there are {x.shape[-1]}")
    outputs = matrix.shape[1]
    if x.size == x.shape[-1]:
        value = site.emit(Linear(), rows_of(site, x), site.parameter("weight", known, matrix.T))
        return Tensor(value, (*x.shape[:-1], outputs))
    last = len(x.shape) - 1
    value, moved = axis_as_channels(site, x, last)
    weight = site.parameter("weight", known, np.ascontiguousarray(matrix.T)[:, :, None, None])
    y = site.emit(Conv2d(), value, weight)
    return back_from_front(site, Tensor(y, (outputs, *moved.shape[1:])), last)


def batch_norm(site: Site) -> Tensor:
    if site.has("training_mode") and site.integer("training_mode"):
        site.refuse("the model was exported for training; export it for inference (model.eval())", "training_mode")
    x = site.tensor()
    rank = len(x.shape)
    if rank == 0:
        site.refuse("there are no channels in its operand")
    if rank > 1:
        site.only("spatial", 1)  # rows have one node for each channel either way
    value, form = axis_as_channels(site, x, 0)
    roles, vectors = ("gamma", "beta", "mean", "var"), list[Value]()
    site.tied = site.target.seen_before(tuple(site.node.input[1:5]))
    for index, role in enumerate(roles, 1):
        known = site.floats(index, f"{role}")
        if known is None or known.under(0).shape != (x.shape[0],):
            size = "missing" if known is None else shape_text(known.under(0).shape) or "a number"
            site.refuse(f"{role} is {size}, but there are {x.shape[0]} channels")
        array = known.under(0)
        if role == "var" and float(array.min(initial=0)) < 0:
            site.refuse("the variance is negative")
        vectors.append(site.parameter(role, known, array, buffer=role in ("mean", "var")))
    # ONNX weights the old value by its momentum, the language the new one.
    momentum = round(1 - site.number("momentum"), 7)
    return form.on(site.emit(BatchNorm(site.number("epsilon"), momentum), value, *vectors))


def local_response(site: Site) -> Tensor:
    x = site.tensor()
    size = site.integer("size")
    if size < 1 or size % 2 == 0:
        site.refuse(f"{size} is not odd: ONNX and PyTorch differ on which side has one channel more", "size")
    if not x.shape:
        site.refuse("there are no channels in its operand")
    value, form = axis_as_channels(site, x, 0)
    op = LocalResponseNorm(size, site.number("alpha"), site.number("beta"), site.number("bias"))
    return form.on(site.emit(op, value))


def dropout(site: Site) -> Tensor:
    """Kept, so that the net can be trained further; at inference it is nothing."""
    x = site.tensor()
    if len(site.operands) > 2 and site.operand(2) is not None:
        training = site.constant(2, "training_mode")
        if training is not None and bool(np.asarray(training).any()):
            site.refuse("drops at inference, too: export the model with model.eval()")
    rate = 0.5
    if site.has("ratio"):
        rate = site.number("ratio")
    elif site.operand(1) is not None:
        ratio = site.constant(1, "the ratio")
        rate = float(np.asarray(ratio).reshape(-1)[0]) if ratio is not None and ratio.size == 1 else -1.0
    if not 0 <= rate < 1:
        site.refuse(f"the ratio is {rate}, not a number from 0 to below 1", "ratio" if site.has("ratio") else None)
    return x.on(site.emit(Dropout(rate, stream_key(site.label, "dropout")), x.value))


def identity(site: Site) -> Tensor:
    return site.tensor()
