"""The forward graph of a net in the words of ONNX and of PyTorch: independent judges of what a net computes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops.activation import Relu, Tanh
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.shape import Flatten

Arrays = Mapping[str, np.ndarray]
_ONNX_NAMES: dict[type[Op], str] = {Relu: "Relu", Tanh: "Tanh", Flatten: "Flatten", Add: "Add"}


def _onnx_node(node: Node) -> tuple[str, dict[str, Any]]:
    """ONNX's operator and attributes for one of our nodes; operands are in the same order."""
    op = node.op
    if isinstance(op, Conv2d):
        return "Conv", {
            "strides": op.stride, "pads": op.padding, "dilations": op.dilation, "group": op.groups,
        }  # fmt: skip
    if isinstance(op, MaxPool):
        return "MaxPool", {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding}
    if isinstance(op, AvgPool):
        return "AveragePool", {
            "kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding,
            "count_include_pad": int(op.count_padding),
        }  # fmt: skip
    if isinstance(op, BatchNorm):
        return "BatchNormalization", {"epsilon": op.eps}
    if isinstance(op, Linear):
        return "Gemm", {"transB": 1}
    return _ONNX_NAMES[type(op)], {}


def onnx_logits(graph: Graph, arrays: Arrays) -> np.ndarray:
    """What ONNX Runtime makes of x; needs the packages `onnx` and `onnxruntime`."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    names: dict[Value, str] = {value: name for name, value in graph.inputs.items()}
    names |= {parameter.value: name for name, parameter in graph.parameters.items()}
    wanted = graph.ancestors([graph.outputs["logits"]])
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(node for node in graph.nodes if node in wanted):
        names[node.result] = f"value{number}"
        kind, attributes = _onnx_node(node)
        operands = [names[operand] for operand in node.operands]
        nodes.append(helper.make_node(kind, operands, [names[node.result]], **attributes))
    x, logits = graph.inputs["x"], graph.outputs["logits"]
    body = helper.make_graph(
        nodes,
        graph.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *x.shape[1:]])],
        [helper.make_tensor_value_info(names[logits], TensorProto.FLOAT, ["rows", *logits.shape[1:]])],
        [numpy_helper.from_array(arrays[name], name) for name in graph.parameters],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": arrays["x"]})[0])


def _torch_node(functional: Any, node: Node, operands: list[Any]) -> Any:
    op = node.op
    if isinstance(op, Conv2d):
        x, *weights = operands
        top, left, bottom, right = op.padding
        padded = functional.pad(x, (left, right, top, bottom))
        bias = weights[1] if len(weights) > 1 else None
        return functional.conv2d(padded, weights[0], bias, op.stride, 0, op.dilation, op.groups)
    if isinstance(op, MaxPool):
        return functional.max_pool2d(operands[0], op.kernel, op.stride, op.padding[:2])
    if isinstance(op, AvgPool):
        return functional.avg_pool2d(operands[0], op.kernel, op.stride, op.padding[:2], False, op.count_padding)
    if isinstance(op, BatchNorm):
        x, gamma, beta, mean, var = operands
        return functional.batch_norm(x, mean, var, gamma, beta, True, op.momentum, op.eps)
    if isinstance(op, SoftmaxCrossEntropy):
        return functional.cross_entropy(operands[0], operands[1].long(), label_smoothing=op.smooth)
    if isinstance(op, Linear):
        return functional.linear(*operands)
    plain: dict[type[Op], Any] = {
        Relu: functional.relu,
        Tanh: functional.tanh,
        Flatten: lambda x: x.flatten(1),
        Add: lambda x, y: x + y,
    }
    return plain[type(op)](*operands)


def torch_step(graph: Graph, arrays: Arrays) -> dict[str, np.ndarray]:
    """Logits, loss, `grad.NAME` and running statistics of a training step in PyTorch, in float64."""
    torch: Any = import_module("torch")
    functional: Any = import_module("torch.nn.functional")
    values: dict[Value, Any] = {value: torch.from_numpy(arrays[name].copy()) for name, value in graph.inputs.items()}
    parameters = {name: torch.from_numpy(arrays[name].astype(np.float64)) for name in graph.parameters}
    trained = [name for name, parameter in graph.parameters.items() if parameter.trainable]
    for name in trained:
        parameters[name].requires_grad_(True)
    values |= {parameter.value: parameters[name] for name, parameter in graph.parameters.items()}
    values[graph.inputs["x"]] = values[graph.inputs["x"]].double()
    for node in graph.nodes:
        if not isinstance(node.op, CountCorrect):
            values[node.result] = _torch_node(functional, node, [values[operand] for operand in node.operands])
    loss = values[graph.outputs["loss"]]
    loss.backward()
    found = {name: values[graph.outputs[name]] for name in ("logits", "loss")}
    found |= {f"grad.{name}": parameters[name].grad for name in trained}
    found |= {name: parameters[name] for name in graph.parameters if name not in trained}
    return {name: np.asarray(tensor.detach()) for name, tensor in found.items()}
