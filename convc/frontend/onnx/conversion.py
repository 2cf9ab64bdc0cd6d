"""Node by node from a checked model to a graph. What cannot be converted is collected: all of it is reported at once.

A node whose operands are known is computed on the spot, any other is converted by its entry in the table. What depends
on a node that failed is not converted, but its operator and its attributes are still checked.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from convc.frontend.hints import closest
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.onnx.folding import FAILURES, FOLDS
from convc.frontend.onnx.model import Model, title
from convc.frontend.onnx.site import Operand, Site, Unsupported
from convc.frontend.onnx.table import OPERATORS
from convc.frontend.onnx.target import Names, Target
from convc.frontend.onnx.tensors import tensor_array
from convc.frontend.onnx.values import BATCHES, Known, Tensor, combine
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.onnx_library import onnx_library
from convc.ir.op import InferError

# Numbers of attribute types in ONNX.
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 6, 7, 8
_CONSTANTS = {"value", "value_float", "value_floats", "value_int", "value_ints"}
_STANDARD = ("", "ai.onnx")


def convert(model: Model, limits: Limits = DEFAULT_LIMITS) -> tuple[Target, Tensor]:
    """The graph with its weights, and the output. Error: `onnx-unsupported`, one for each node that is in the way."""
    return _Conversion(model, limits).run()


class _Conversion:
    def __init__(self, model: Model, limits: Limits) -> None:
        self.model = model
        row = model.row
        # Rows of one or two dimensions are images of one pixel, or of one row of pixels.
        image = (row[0], 1, 1) if len(row) == 1 else (row[0], 1, row[1]) if len(row) == 2 else row
        self.target = Target(model.name, image, limits)
        self.target.notes += model.notes
        self.values: dict[str, Operand] = {model.input: Tensor(self.target.x, row)}
        self.failed: set[str] = set()
        self.problems: list[Diagnostic] = []
        self.labels = Names()

    def run(self) -> tuple[Target, Tensor]:
        for node in self.model.nodes:
            self._node(node)
        if self.problems:
            raise CompileError(self.problems)
        output = self.values[self.model.output]
        if isinstance(output, Known):
            raise CompileError(
                [Diagnostic("onnx-interface", f"the output `{self.model.output}` does not depend on the input")]
            )
        return self.target, output

    def _node(self, node: Any) -> None:
        try:
            attributes = self._attributes(node)
            operands = self._operands(node)
            if operands is not None:
                site = Site(self.model, self.target, node, self._label(node), operands, attributes)
                self._keep(node, self._results(site))
                return
        except Unsupported as problem:
            self._report(node, problem.why, problem.attribute)
        except InferError as error:
            self._report(node, str(error), None)
        self.failed.update(filter(None, node.output))

    def _report(self, node: Any, why: str, attribute: str | None) -> None:
        what = f"{title(node)}: {f'attribute `{attribute}`: ' if attribute else ''}{why}"
        hint = None
        if node.domain in _STANDARD and node.op_type not in OPERATORS and node.op_type not in FOLDS:
            near = closest(node.op_type, OPERATORS)
            hint = f"the nearest supported operator is {near}" if near else None
        self.problems.append(Diagnostic("onnx-unsupported", what, hint=hint))

    # Before the conversion

    def _attributes(self, node: Any) -> dict[str, Any]:
        """The given attributes and the defaults of this opset; what the table does not list is refused."""
        if node.domain not in _STANDARD:
            raise Unsupported(f"the operator is of the domain `{node.domain}`; only ONNX's own are supported")
        if node.op_type not in OPERATORS and node.op_type not in FOLDS and node.op_type != "Constant":
            raise Unsupported("the operator is not supported")
        schema = _schema(node.op_type, self.model.opset)
        if schema is None:
            raise Unsupported(f"there is no such operator in opset {self.model.opset}")
        found: dict[str, Any] = dict(schema.defaults)
        given: set[str] = set()
        for attribute in node.attribute:
            name = attribute.name
            if name in given or attribute.ref_attr_name:
                raise Unsupported("is given twice" if name in given else "refers to a function's attribute", name)
            given.add(name)
            expected = schema.types.get(name)
            if expected is None:
                raise Unsupported(f"opset {self.model.opset} knows no such attribute", name)
            if attribute.type != expected:
                raise Unsupported("has the wrong type", name)
            found[name] = self._value(attribute)
        if node.op_type in OPERATORS:
            honoured = OPERATORS[node.op_type].attributes
            for name in given - set(honoured):
                raise Unsupported("is not supported", name)
        if not schema.fewest <= len(node.input) <= schema.most:
            raise Unsupported(f"has {len(node.input)} operands")
        return found

    def _value(self, attribute: Any) -> Any:
        if attribute.type == _FLOAT:
            return attribute.f
        if attribute.type == _INT:
            return attribute.i
        if attribute.type in (_STRING, _STRINGS):
            texts = [attribute.s] if attribute.type == _STRING else attribute.strings
            decoded = [text.decode("utf-8", "replace") for text in texts]
            return decoded[0] if attribute.type == _STRING else tuple(decoded)
        if attribute.type == _FLOATS:
            return tuple(attribute.floats)
        if attribute.type == _INTS:
            return tuple(attribute.ints)
        if attribute.type == _TENSOR:
            return tensor_array(attribute.t, self.model.folder)
        raise Unsupported("graphs and other things inside attributes are not supported", attribute.name)

    def _operands(self, node: Any) -> tuple[Operand | None, ...] | None:
        """The operands; None where one of them depends on what could not be converted."""
        found: list[Operand | None] = []
        for name in node.input:
            if name in self.failed:
                return None
            if name and name not in self.values:
                self.values[name] = Known.of(tensor_array(self.model.initializers[name], self.model.folder), name)
            found.append(self.values[name] if name else None)
        return tuple(found)

    def _label(self, node: Any) -> str:
        """The layer that ops and parameters are called after: the node's name in words, or its operator's, numbered."""
        words = re.findall(r"\w+", node.name, re.ASCII)
        label = "_".join(words) if words else node.op_type.lower()
        if not label[0].isalpha():
            label = f"{node.op_type.lower()}_{label}"
        return self.labels.next(label, numbered=not words)

    # The conversion

    def _results(self, site: Site) -> tuple[Operand | None, ...]:
        if site.kind == "Constant":
            return (self._constant(site),)
        if site.kind in FOLDS and all(operand is None or isinstance(operand, Known) for operand in site.operands):
            return self._folded(site)
        if site.kind not in OPERATORS:
            site.refuse("the operator is supported for constants and shapes only, not for computed values")
        result = OPERATORS[site.kind].convert(site)
        return result if isinstance(result, tuple) else (result,)

    @staticmethod
    def _constant(site: Site) -> Known:
        given = [name for name in site.attributes if site.attributes[name] is not None]
        if len(given) != 1 or given[0] not in _CONSTANTS:
            site.refuse(f"is given by {', '.join(given) or 'nothing'}; one tensor of numbers is supported")
        value = site.attributes[given[0]]
        kind = None if given[0] == "value" else np.float32 if "float" in given[0] else np.int64
        return Known.of(np.asarray(value, kind), site.node.output[0])

    @staticmethod
    def _folded(site: Site) -> tuple[Known, ...]:
        known = [operand for operand in site.operands if isinstance(operand, Known)]
        counts = range(len(BATCHES) if any(operand.depends_on_batch for operand in known) else 1)
        made: list[tuple[np.ndarray, ...]] = []
        for batch in counts:
            arrays = [operand.under(batch) if isinstance(operand, Known) else None for operand in site.operands]
            try:
                results = FOLDS[site.kind](site, *arrays)
            except FAILURES as error:
                site.refuse(f"cannot be computed on its constants: {' '.join(str(error).split())[:120]}")
            made.append(results if isinstance(results, tuple) else (results,))
        # A weight that is merely turned around or converted keeps its name.
        named = [operand.name for operand in known if operand.name and operand.under(0).dtype.kind == "f"]
        name = named[0] if len(named) == 1 else None
        return tuple(combine([results[i] for results in made], name) for i in range(len(made[0])))

    def _keep(self, node: Any, results: tuple[Operand | None, ...]) -> None:
        """Give the results their names; a result that somebody reads has to be there."""
        for index, name in enumerate(node.output):
            if not name:
                continue
            result = results[index] if index < len(results) else None
            if result is not None:
                self.values[name] = result
            elif name in self.model.consumed:
                raise Unsupported(f"its output {index + 1}, `{name}`, is read, but only the first one is supported")


class _Schema:
    """What a version of ONNX says about an operator: types of attributes by number, defaults, numbers of operands."""

    def __init__(self, schema: Any) -> None:
        self.types: dict[str, int] = {}
        self.defaults: dict[str, Any] = {}
        self.fewest, self.most = schema.min_input, schema.max_input
        from onnx.helper import get_attribute_value

        for name, attribute in schema.attributes.items():
            self.types[name] = int(attribute.type.value)
            default = attribute.default_value
            value = get_attribute_value(default) if default is not None and default.name else None
            self.defaults[name] = value.decode() if isinstance(value, bytes) else value


@cache
def _schema(kind: str, opset: int) -> _Schema | None:
    onnx_library()
    from onnx import defs

    try:
        schema = defs.get_schema(kind, opset, "")
    except defs.SchemaError:
        return None
    return None if schema.deprecated else _Schema(schema)
