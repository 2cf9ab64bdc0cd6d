"""Graphs as text. `parse_ir(print_ir(graph))` gives the graph back, spans included.

    convc-ir 1
    graph @net(%x: f32[8,1,6,6]) params(
      %fc.weight: f32[10,36] {role="weight", initial=he(0.0,36,10)} loc("net.cnn":4:3-4:8)
    ) -> (logits: %2) {
      %1 = flatten(%x) : f32[8,36]  @flatten  loc("net.cnn":3:3-3:10)
      %2 = linear(%1, %fc.weight) : f32[8,10]  @fc  loc("net.cnn":4:3-4:8)
      update %fc.weight = %fc.weight
    }

Values are numbered when printing. A name that is no plain word is quoted (`%"3x3"`). Attributes are written out even
where they have their default, so that a dump keeps its meaning when a default changes. Constants of more than
`INLINE` values appear as the hash of their content; their arrays travel beside the text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import fields
from numbers import Integral, Real

import numpy as np

from convc.ir.graph import Graph, Initializer, Node, Parameter, Value
from convc.ir.op import Op, shown_fields
from convc.ir.ops.constant import Constant
from convc.ir.span import Span
from convc.ir.types import DType

VERSION = 1
INLINE = 16
WORD = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


def print_ir(graph: Graph, constants: dict[str, np.ndarray] | None = None) -> str:
    """The text of a graph; arrays of large constants are put into `constants` under their hash.

    A broken graph prints, too: a value that nothing defines appears as `%?`.
    """
    names = value_names(graph)

    def reference(value: Value) -> str:
        return names.get(value, "%?")

    inputs = ", ".join(f"{name_text('%', name)}: {value.type}" for name, value in graph.inputs.items())
    parameters = ",\n".join(f"  {_parameter(parameter)}" for parameter in graph.parameters.values())
    outputs = ", ".join(f"{name_text('', name)}: {reference(value)}" for name, value in graph.outputs.items())
    block = f"\n{parameters}\n" if parameters else ""
    lines = [
        f"convc-ir {VERSION}",
        f"graph {name_text('@', graph.name)}({inputs}) params({block}) -> ({outputs}) {{",
    ]
    for node in graph.nodes:
        results = ", ".join(map(reference, node.results))
        operands = ", ".join(map(reference, node.operands))
        lines.append(f"  {results} = {node.op.name}({operands}){_attributes(node.op, constants)}{_suffix(node)}")
    lines += [f"  update {name_text('%', name)} = {reference(value)}" for name, value in graph.updates.items()]
    return "\n".join([*lines, "}", ""])


def content_hash(array: np.ndarray) -> str:
    """`sha256:…` of an array's element type, shape and bytes; the same on every machine."""
    array = np.asarray(array)
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    header = f"{array.dtype.name}{list(array.shape)}".encode()
    return "sha256:" + hashlib.sha256(header + little.tobytes()).hexdigest()


def value_names(graph: Graph) -> dict[Value, str]:
    """What each value is called in the text."""
    names = {value: name_text("%", name) for name, value in graph.inputs.items()}
    names |= {parameter.value: name_text("%", name) for name, parameter in graph.parameters.items()}
    results = (value for node in graph.nodes for value in node.results)
    return names | {value: f"%{number}" for number, value in enumerate(results, 1)}


def _parameter(parameter: Parameter) -> str:
    metadata = [f"role={_quoted(parameter.role)}"]
    for field in fields(Parameter):
        value = getattr(parameter, field.name)
        if field.name in ("trainable", "frozen", "lr", "decay") and value != field.default:
            metadata.append(f"{field.name}={_literal(value, field.type == 'float')}")
    if parameter.initial != Initializer():
        start = parameter.initial
        metadata.append(f"initial={name_text('', start.kind)}({float(start.value)!r},{start.fan_in},{start.fan_out})")
    place = f" {_location([parameter.span])}" if parameter.span else ""
    return f"{name_text('%', parameter.name)}: {parameter.value.type} {{{', '.join(metadata)}}}{place}"


def _suffix(node: Node) -> str:
    types = ", ".join(str(value.type) for value in node.results)
    label = f"  {name_text('@', node.label)}" if node.label else ""
    place = f"  {_location(node.location)}" if node.location else ""
    return f" : {types}{label}{place}"


def _location(spans: Iterable[Span]) -> str:
    return f"loc({', '.join(map(_span, spans))})"


def _span(span: Span) -> str:
    start, end = (span.line, span.column), (span.end_line, span.end_column)
    return f"{_quoted(span.file)}:{start[0]}:{start[1]}" + (f"-{end[0]}:{end[1]}" if end != start else "")


def _attributes(op: Op, constants: dict[str, np.ndarray] | None) -> str:
    if isinstance(op, Constant):
        return f" {{values={_constant_values(op, constants)}, shape={_literal(op.shape)}, dtype={_quoted(op.dtype)}}}"
    texts = [f"{field.name}={_literal(getattr(op, field.name), field.type == 'float')}" for field in shown_fields(op)]
    return f" {{{', '.join(texts)}}}" if texts else ""


def _constant_values(op: Constant, constants: dict[str, np.ndarray] | None) -> str:
    kind = DType(op.dtype).numpy
    if len(op.values) > INLINE:
        array = np.asarray(op.values, kind).reshape(op.shape)
        key = content_hash(array)
        if constants is not None:
            constants[key] = array
        return key
    if not DType(op.dtype).is_float:
        return _literal(op.values)
    return f"({','.join(_shortest(value, kind) for value in op.values)})"


def _shortest(value: float, kind: np.dtype) -> str:
    """The shortest decimal that gives back the same number of a narrow float type: 0.1, not 0.10000000149011612."""
    short = float(str(kind.type(value)))
    return repr(short if kind.type(short) == kind.type(value) else float(value))


def _literal(value: object, as_float: bool = False) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, tuple):
        return f"({','.join(_literal(item) for item in value)})"  # type: ignore[reportUnknownVariableType]
    if isinstance(value, Integral) and not as_float:
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    raise TypeError(f"an attribute of type {type(value).__name__} has no text form")


def name_text(sigil: str, name: str) -> str:
    """A name as the text shows it, quoted where it is no plain word; `sigil` is %, @ or nothing."""
    return sigil + (name if WORD.fullmatch(name) else _quoted(name))


def _quoted(text: str) -> str:
    # Readable umlauts, but nothing in the text that an editor or an encoding could trip over.
    return json.dumps(text, ensure_ascii=not text.isprintable())
