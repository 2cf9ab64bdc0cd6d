"""Warnings about what a file says in vain: names that nobody reads, results that go nowhere, biases that `bn` cancels.

What depends on shapes and branches is found in the finished graph, what depends on the text alone in the text.
"""

from __future__ import annotations

from collections.abc import Iterable

from convc.frontend import syntax
from convc.frontend.bindings import Binding, Bindings, bindings_of, statements_in
from convc.frontend.emission import Emission
from convc.frontend.hints import shape_text
from convc.frontend.program import Program
from convc.ir.diagnostic import Diagnostic
from convc.ir.graph import Node, Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNorm
from convc.ir.span import Span

_CODES = {"let": "unused-let", "parameter": "unused-parameter"}


def _warning(code: str, message: str, span: Span, hint: str | None = None) -> Diagnostic:
    return Diagnostic(code, message, span, hint=hint, severity="warning")


def unused_names(program: Program) -> list[Diagnostic]:
    """Constants and parameters of the root file that are never read. A name that begins with `_` is meant to be so."""
    bindings = bindings_of(program.root, program.blocks)
    return [
        _unused_name(binding, program)
        for binding in _unread(bindings)
        if binding.kind in _CODES and not binding.name.startswith("_")
    ]


def _unread(bindings: Bindings) -> list[Binding]:
    read = {id(binding) for _, binding in bindings.uses}
    return [binding for binding in bindings.introduced if id(binding) not in read]


def _unused_name(binding: Binding, program: Program) -> Diagnostic:
    if binding.kind == "let":
        message = f"the constant `{binding.name}` is never used"
        library = binding.owner is None and not program.root.definitions
        hint = "constants are seen only in their own file; `use` brings in blocks and nets" if library else None
    else:
        assert binding.owner is not None
        message = f"the parameter `{binding.name}` of {binding.owner.kind} `{binding.owner.name}` is never used"
        hint = None
    meant = f"a leading underscore, `_{binding.name}`, says that this is meant"
    return _warning(_CODES[binding.kind], message, binding.span, hint or meant)


def unexecuted_references(definition: syntax.Definition, executed: Iterable[Span]) -> set[str]:
    """Names of values that statements refer to which were not carried out, such as those of a branch not taken."""
    done = set(executed)
    names: set[str] = set()
    for statement in statements_in(definition.body):
        if isinstance(statement, syntax.From):
            sources: tuple[syntax.Reference, ...] = (statement.source,)
        elif isinstance(statement, syntax.Join):
            sources = statement.sources
        else:
            continue
        names.update(source.name for source in sources if source.span not in done)
    return names


def unused_results(emission: Emission, named: Iterable[Value]) -> list[Diagnostic]:
    """Layers whose result nobody reads: `from` went on elsewhere, or the net ends beside its loss."""
    graph, named = emission.graph, set(named)
    dead = {value: layer for value, (layer, _) in emission.producers.items() if not graph.is_live(value)}
    live = {layer.span for value, (layer, _) in emission.producers.items() if value not in dead}
    found: dict[Span, Diagnostic] = {}
    for value, layer in dead.items():
        if value not in named and layer.span not in live:
            message = f"the result of {layer.name}, {shape_text(value.shape[1:])}, is never used"
            hint = f"`as NAME` after {layer.kind} keeps it for `add`, `concat` or `from`"
            found.setdefault(layer.span, _warning("unused-result", message, layer.span, hint))
    return list(found.values())


def warn_of_redundant_biases(emission: Emission) -> None:
    """A bias whose sums all go into batch norms and nowhere else: these take it away with the mean."""
    for value, span, warn in emission.normalised:
        bias = _bias_of(value.producer)
        if bias is not None and value.producer is not None and all(_only_normalised(node) for node, _ in bias.users):
            label = value.producer.label
            message = f"the bias of {label} has no effect before `bn`, which subtracts the mean"
            warn(_warning("redundant-bias", message, span, f"bias=no in {label}"))


def _bias_of(node: Node | None) -> Value | None:
    """The bias of a layer with weights: a third operand, or behind `deconv` a sum of its own."""
    if node is None:
        return None
    if isinstance(node.op, Add):
        producer = node.operands[0].producer
        if producer is None or not isinstance(producer.op, Conv2dBackwardData) or producer.label != node.label:
            return None
        return node.operands[1]
    return node.operands[2] if isinstance(node.op, (Conv2d, Linear)) and len(node.operands) == 3 else None


def _only_normalised(node: Node) -> bool:
    """Whether all who read a node's result are batch norms that take the mean of the batch."""
    users = [user for user, _ in node.result.users]
    # With `freeze` the mean is a constant, with momentum 0 the one of inference is not that of the data.
    return bool(users) and all(
        isinstance(user.op, BatchNorm) and not user.op.frozen and user.op.momentum > 0 for user in users
    )
