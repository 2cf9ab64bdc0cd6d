"""Small ONNX models, and what ONNX Runtime makes of them: the peer that imports are compared with."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import convc
from convc.frontend.net import Net
from convc.ir.interpreter import run_reference

Array = np.ndarray
TOLERANCE = 1e-5

onnxruntime.set_default_logger_severity(4)


@dataclass(frozen=True)
class Op:
    """A node. Operands and results are names, one text with blanks between them; `-` stands for one left out."""

    kind: str
    operands: str
    results: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def node(self) -> Any:
        operands, results = ([name if name != "-" else "" for name in t.split()] for t in (self.operands, self.results))
        return helper.make_node(self.kind, operands, results, name=self.name or None, **self.attributes)


def make_model(
    ops: Sequence[Op],
    x: Sequence[int | str],
    constants: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    output: str = "y",
    kind: int = TensorProto.FLOAT,
    name: str = "net",
) -> Any:
    """A model with the input `x` and one output."""
    graph = helper.make_graph(
        [op.node() for op in ops],
        name,
        [helper.make_tensor_value_info("x", kind, list(x))],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(model: Any, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def draw(shape: Sequence[int], seed: object = 0) -> Array:
    """Normal numbers, the same for the same seed."""
    generator = np.random.default_rng(zlib.crc32(repr(seed).encode()))
    return generator.standard_normal(tuple(shape)).astype(np.float32)


def peer(model: Any, x: Array) -> Array:
    """The first output by ONNX Runtime, optimisations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def run_net(net: Net, x: Array, target: str) -> Array:
    """The net's output, on images as the model takes them."""
    images = x.reshape(len(x), *net.input_shape).astype(np.float32)
    if target == "interpreter":
        return run_reference(net.graph(len(x)), {"x": images, **net.weights})["logits"]
    with convc.compile(net, batch=len(x), target=target, threads=1) as program:
        return program(images)


def check(model: Any, x: Array, folder: Path, tolerance: float = TOLERANCE) -> Net:
    """Import a model and compare: the interpreter and native code against ONNX Runtime."""
    expected = peer(model, x)
    net = convc.from_onnx(save(model, folder))
    largest = max(float(np.abs(expected).max(initial=0.0)), 0.1)
    for target in ("interpreter", "cpu"):
        result = run_net(net, x, target)
        assert result.shape == expected.shape, f"{target}: {result.shape} instead of {expected.shape}"
        error = float(np.abs(result.astype(np.float64) - expected).max(initial=0.0)) / largest
        assert error <= tolerance, f"{target}: relative error {error:.2e}"
    return net


def dims(*values: int) -> Array:
    """Integers as ONNX wants them in operands."""
    return np.array(values, np.int64)


__all__ = ["Op", "check", "dims", "draw", "make_model", "onnx", "peer", "run_net", "save"]
