"""A forward graph and its weights as an ONNX model: `encode` gives the bytes of the file.

The model computes what inference does: its input `x` holds images (N, C, H, W) with any number of rows, its output
`logits` is what the main loss reads; losses, auxiliary branches and what exists in training only are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convc._version import __version__
from convc.codegen.onnx.table import TABLE
from convc.codegen.onnx.writer import Writer
from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.ir.graph import Graph
from convc.ir.onnx_library import onnx_library
from convc.ir.op import Array
from convc.ir.ops.constant import Constant

# Each opset with the version of the file format that came with it (github.com/onnx/onnx, docs/Versioning.md).
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
DEFAULT_OPSET = 17
_IMAGES, _OUTPUT, _ROWS = "x", "logits", "N"
_LAST = "output"  # the name of the last node
# A protocol buffer holds less than this.
_LARGEST = 2**31 - 2**20


def encode(graph: Graph, weights: Mapping[str, Array], opset: int, about: Mapping[str, str]) -> bytes:
    """The model as a file's content. `about` becomes its metadata.

    Errors: `onnx-opset`; `onnx-op` for every op that ONNX cannot express; `onnx-size`; `onnx-library`.
    """
    if opset not in IR_VERSIONS:
        known = f"{min(IR_VERSIONS)} to {max(IR_VERSIONS)}"
        fail("onnx-opset", f"opset {opset} is not written by this version", hint=f"there are {known}")
    writer = _write(graph, weights, opset)
    size = sum(array.nbytes for array in writer.tensors.values())
    if size > _LARGEST:
        fail("onnx-size", f"the weights take {size:,} bytes, and an ONNX file holds less than 2 GiB")
    model = _model(graph, writer, about)
    onnx_library().checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _write(graph: Graph, weights: Mapping[str, Array], opset: int) -> Writer:
    writer = Writer(weights, opset)
    writer.reserve(_IMAGES, _OUTPUT, _LAST, *weights)
    writer.names[graph.inputs["x"]] = _IMAGES
    needed = graph.ancestors([graph.outputs["logits"]])
    found: list[Diagnostic] = []
    for node in graph.nodes:
        if node not in needed or isinstance(node.op, Constant) or node.results[0] in writer.names:
            continue
        export = TABLE.get(type(node.op))
        try:
            if export is None:
                fail("onnx-op", f"{node.label}: the op {node.op.name} has no form in ONNX", node.span)
            writer.names[node.results[0]] = export(writer, node)
        except CompileError as error:
            found += error.diagnostics
            writer.names[node.results[0]] = ""
    if found:
        raise CompileError(found)
    return writer


def _model(graph: Graph, writer: Writer, about: Mapping[str, str]) -> Any:
    onnx = onnx_library()
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    logits = graph.outputs["logits"]
    nodes = [
        helper.make_node(node.op, node.inputs, [node.output], node.name, **node.attributes) for node in writer.nodes
    ]
    # The output has a name of its own, whatever layer makes it, and though it be an input or read by others.
    nodes.append(helper.make_node("Identity", [writer.names[logits]], [_OUTPUT], _LAST))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in writer.tensors.items()]
    body = helper.make_graph(
        nodes,
        graph.name,
        [helper.make_tensor_value_info(_IMAGES, floats, [_ROWS, *graph.inputs["x"].shape[1:]])],
        [helper.make_tensor_value_info(_OUTPUT, floats, [_ROWS, *logits.shape[1:]])],
        tensors,
    )
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", writer.opset)],
        ir_version=IR_VERSIONS[writer.opset],
        producer_name="convc",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(about))
    return model
