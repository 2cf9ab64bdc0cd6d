"""The structure of a model, checked: one graph input, one output, and the nodes between them in an order that runs.

Everything is looked at before any weight is read. Nodes that the output does not depend on are left out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from convc.frontend.hints import did_you_mean, plural, shape_text
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.onnx.tensors import type_name
from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.ir.onnx_library import onnx_library
from convc.ir.types import Shape
from convc.lazy import dataclass

# The oldest operator set whose broadcasting is numpy's, and the newest one that the tests cover.
OLDEST, NEWEST = 7, 23
_FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16 = 1, 10, 11, 16


@dataclass
class Model:
    """A model ready to be converted. `batch` is its fixed number of images, None where it is free.

    `row` is the shape of one image of the graph's input as the model has it, `consumed` the names that a node of
    `nodes` or the output reads.
    """

    name: str
    opset: int
    folder: Path
    input: str
    batch: int | None
    row: Shape
    output: str
    nodes: list[Any]
    initializers: dict[str, Any]
    consumed: set[str]
    notes: list[Diagnostic] = field(default_factory=list[Diagnostic])


def title(node: Any) -> str:
    """How messages call a node: its operation and its name, or else what it makes."""
    if node.name:
        return f"{node.op_type} `{node.name[:120]}`"
    made = next((name for name in node.output if name), "nothing")
    return f"{node.op_type} (makes `{made[:120]}`)"


def read_structure(
    proto: Any, folder: Path, output: str | None, input_shape: Shape | None, limits: Limits = DEFAULT_LIMITS
) -> Model:
    """Check a `ModelProto`. Errors: `onnx-malformed`, `onnx-interface`, `onnx-unsupported`, `budget-size`."""
    if any(not isinstance(text, str) for text in _texts(proto)):
        fail("onnx-malformed", "a name in the model is no UTF-8 text")
    opset = _opset(proto)
    if len(proto.functions):
        proto = _inlined(proto, limits)
    graph = proto.graph
    if len(graph.node) > limits.nodes:
        _too_many(len(graph.node), limits)
    initializers: dict[str, Any] = {}
    for tensor in graph.initializer:
        if tensor.name in initializers or not tensor.name:
            fail("onnx-malformed", f"two initialisers are called `{tensor.name}`" if tensor.name else "one has no name")
        initializers[tensor.name] = tensor
    producers = _producers(graph, initializers)
    chosen = _output(graph, output, producers, initializers)
    entries = [entry for entry in graph.input if entry.name not in initializers]
    nodes, reached = _needed(graph, chosen, producers, {*initializers, *(e.name for e in entries)})
    sparse = sorted({t.values.name for t in graph.sparse_initializer} & reached)
    if sparse:
        fail("onnx-unsupported", f"the sparse initialiser `{sparse[0]}` is not supported")
    entry = _only_input(entries, reached, chosen)
    batch, row = _input_row(entry, input_shape)
    model = Model(graph.name or "model", opset, folder, entry.name, batch, row, chosen, nodes, initializers, reached)
    kind = entry.type.tensor_type.elem_type
    if kind != _FLOAT:
        message = f"the input `{entry.name}` is {type_name(kind)}; the program reads and computes in float32"
        model.notes.append(Diagnostic("onnx-precision", message, severity="warning"))
    return model


def _texts(proto: Any) -> Iterator[object]:
    """All names of a model. Where their bytes are no text, the library gives them as bytes."""
    yield from (entry.domain for entry in proto.opset_import)
    graph = proto.graph
    yield graph.name
    for entry in (*graph.input, *graph.output):
        yield entry.name
        yield from (dim.dim_param for dim in entry.type.tensor_type.shape.dim)
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for function in proto.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
    for node in (*graph.node, *(node for function in proto.functions for node in function.node)):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name, attribute.t.name)


def _opset(proto: Any) -> int:
    """The version of the standard operators; those of other domains are refused where they are used."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        many = "several versions" if versions else "no version"
        fail("onnx-malformed", f"the model names {many} of the standard operators")
    if not OLDEST <= versions[0] <= NEWEST:
        hint = "onnx.version_converter.convert_version(model, 17)"
        fail("onnx-unsupported", f"opset {versions[0]} is not among {OLDEST} to {NEWEST}", hint=hint)
    return versions[0]


def _too_many(count: int, limits: Limits) -> None:
    fail("budget-size", f"the model has {count:,} nodes, more than {limits.nodes:,}")


# Functions of the model itself


def _inlined(proto: Any, limits: Limits) -> Any:
    """The model with its own functions written out where they are called."""
    functions = {(entry.domain, entry.name): entry for entry in proto.functions}
    if len(functions) != len(proto.functions):
        fail("onnx-malformed", "two functions of the model have the same name")
    sizes: dict[tuple[str, str], int] = {}
    open_: set[tuple[str, str]] = set()

    def size(key: tuple[str, str], depth: int) -> int:
        """Nodes of a function written out."""
        if key in open_ or depth > 100:
            fail("onnx-malformed", f"the function `{key[1]}` of the model calls itself")
        if key not in sizes:
            open_.add(key)
            sizes[key] = total(functions[key].node, depth)
            open_.discard(key)
        return sizes[key]

    def total(nodes: Iterable[Any], depth: int) -> int:
        count = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            count += size(key, depth + 1) if key in functions else 1
            if count > limits.nodes:
                _too_many(count, limits)
        return count

    total(proto.graph.node, 0)
    onnx_library()
    from onnx import inliner

    try:
        return inliner.inline_local_functions(proto)
    except Exception as error:  # the library's own exceptions have no common base
        reason = " ".join(str(error).split())[:160]
        fail("onnx-malformed", f"the functions of the model cannot be written out: {reason}")


# Nodes


def _producers(graph: Any, initializers: dict[str, Any]) -> dict[str, int]:
    """The number of the node that makes each name."""
    inputs = [entry.name for entry in graph.input]
    if len(set(inputs)) != len(inputs):
        fail("onnx-malformed", "two inputs of the graph have the same name")
    producers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in producers or name in initializers or name in inputs:
                fail("onnx-malformed", f"{title(node)} makes `{name}`, which exists already")
            producers[name] = index
    return producers


def _output(graph: Any, wanted: str | None, producers: dict[str, int], initializers: dict[str, Any]) -> str:
    names = [entry.name for entry in graph.output]
    if wanted is not None:
        if wanted not in producers:
            hint = did_you_mean(str(wanted), names, "outputs are")
            fail("onnx-interface", f"no node of the model makes `{wanted}`", hint=hint)
        return wanted
    if not names:
        fail("onnx-malformed", "the graph has no output")
    if len(set(names)) != len(names):
        fail("onnx-malformed", "two outputs of the graph have the same name")
    if len(names) > 1:
        listed = ", ".join(names[:20])
        hint = f'choose one: output="{names[0]}", on the command line --output {names[0]}'
        fail("onnx-interface", f"the model has {len(names)} outputs: {listed}", hint=hint)
    if names[0] not in producers:
        what = "a constant" if names[0] in initializers else "no result of a node"
        fail("onnx-interface", f"the output `{names[0]}` is {what}")
    return names[0]


def _needed(graph: Any, output: str, producers: dict[str, int], given: set[str]) -> tuple[list[Any], set[str]]:
    """The nodes that the output depends on, each after those that it reads; and all names that are read."""
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    reached, needed = {output}, set[int]()
    pending = [output]
    while pending:
        index = producers.get(pending.pop())
        if index is None or index in needed:
            continue
        needed.add(index)
        for name in filter(None, graph.node[index].input):
            if name not in producers and name not in given and name not in sparse:
                fail("onnx-malformed", f"{title(graph.node[index])} reads `{name}`, which nothing makes")
            if name not in reached:
                reached.add(name)
                pending.append(name)
    waiting = {index: {producers[name] for name in graph.node[index].input if name in producers} for index in needed}
    users: dict[int, list[int]] = {}
    for index, sources in waiting.items():
        for source in sources:
            users.setdefault(source, []).append(index)
    # The file's own order wherever it is possible.
    ready = [index for index, sources in waiting.items() if not sources]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users.get(index, ()):
            waiting[user].discard(index)
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(needed):
        stuck = min(index for index, sources in waiting.items() if sources)
        fail("onnx-malformed", f"the graph has a cycle; {title(graph.node[stuck])} depends on itself")
    return [graph.node[index] for index in order], reached


# The input


def _only_input(entries: list[Any], reached: set[str], output: str) -> Any:
    used = [entry for entry in entries if entry.name in reached]
    if len(used) == 1:
        return used[0]
    if not used:
        fail("onnx-interface", f"the output `{output}` depends on no input of the graph")
    names = ", ".join(entry.name for entry in used[:20])
    raise CompileError(
        [Diagnostic("onnx-interface", f"the model has {len(used)} inputs: {names}", hint="one image goes in, only")]
    )


def _input_row(entry: Any, given: Shape | None) -> tuple[int | None, Shape]:
    """The fixed batch (None: any), and the shape of one image."""
    if entry.type.WhichOneof("value") != "tensor_type":
        fail("onnx-interface", f"the input `{entry.name}` is no tensor")
    tensor = entry.type.tensor_type
    if tensor.elem_type not in (_FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16):
        kind = type_name(tensor.elem_type)
        fail("onnx-interface", f"the input `{entry.name}` is {kind}, but images are float32")
    hint = "input_shape=(3, 224, 224), on the command line --input 3x224x224"
    if not tensor.HasField("shape"):
        if given is None:
            fail("onnx-interface", f"the model does not say the shape of its input `{entry.name}`", hint=hint)
        return None, given
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    shown = "x".join(
        dim.dim_param or "?" if size is None else str(size) for size, dim in zip(sizes, tensor.shape.dim, strict=True)
    )
    if not 2 <= len(sizes) <= 4:
        rank = plural(len(sizes), "dimension")
        fail("onnx-interface", f"the input `{entry.name}` has {rank}, but images are (N, C, H, W)")
    batch, row = sizes[0], sizes[1:]
    if batch == -1:
        batch = None  # what some exporters write for a batch of any size
    if min((size for size in (batch, *row) if size is not None), default=1) < 1:
        fail("onnx-malformed", f"the input `{entry.name}` is {shown}")
    if given is not None:
        fits = len(given) == len(row) and all(size in (None, want) for size, want in zip(row, given, strict=True))
        if not fits:
            fail("onnx-interface", f"the input `{entry.name}` is {shown}, which {shape_text(given)} does not fit")
        row = list(given)
    if None in row:
        fail("onnx-interface", f"the input `{entry.name}` is {shown}: only the batch may be open", hint=hint)
    fixed = tuple(size for size in row if size is not None)
    if math.prod(fixed) > DEFAULT_LIMITS.elements:
        fail("budget-size", f"the input `{entry.name}` is {shown}, more than {DEFAULT_LIMITS.elements:,} elements")
    return batch, fixed
