"""Which layers of a net the rules are to replace, and why others are left as they are."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from convc.ir.diagnostic import Note, fail, similar
from convc.ir.graph import Graph, Node
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.span import Span
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer, Weights
from convc.passes.rewriting.table import Request

_SHOWN = 8


@dataclass(frozen=True)
class Target:
    """A layer that a rule is to replace."""

    path: str
    layer: Layer
    request: Request
    span: Span | None


@dataclass(frozen=True)
class Missed:
    """A layer that a rule was asked for and cannot replace; or one that it was offered and declined."""

    path: str
    rule: str
    why: str
    span: Span | None


def candidates(graph: Graph) -> dict[str, Node]:
    """The convolutions and fully connected layers of a forward graph by their paths; a shared one by its first use."""
    found: dict[str, Node] = {}
    for node in graph.nodes_of(Conv2d, Linear):
        if node.label:
            found.setdefault(node.label, node)
    return found


def first_layers(graph: Graph) -> frozenset[str]:
    """Those of the candidates that nothing trainable stands before: no gradient of what they read is needed."""
    trainable = {p.value for p in graph.parameters.values() if p.trainable and not p.frozen}
    for node in graph.nodes:
        if not trainable.isdisjoint(node.operands):
            trainable.update(node.results)
    return frozenset(path for path, node in candidates(graph).items() if node.operands[0] not in trainable)


def choose_targets(
    graph: Graph,
    requests: Sequence[Request],
    editable: Container[str],
    weights: Callable[[str, Layer], Weights | None],
) -> tuple[tuple[Target, ...], tuple[Missed, ...]]:
    """Match the requests with the layers of a forward graph.

    `editable` are the paths of layers with a statement of their own, `weights` gives trained weights where there are
    any. Errors: `name-rewrite-layer` for a pattern that means nothing, `value-rewrite` for a request that nothing comes
    of, `value-conflict` for two requests that want the same layer.
    """
    nodes = candidates(graph)
    targets: dict[str, Target] = {}
    missed: list[Missed] = []
    for request in requests:
        _require_known(request, list(nodes))
        declined = list(_declined(request, nodes, editable, weights))
        refused = {entry.path for entry in declined}
        wanted = [path for path in nodes if request.wants(path) and path not in refused]
        if not wanted:
            _nothing(request, declined)
        for path in wanted:
            if path in targets:
                message = f"`{targets[path].request.text}` and `{request.text}` both want to replace {path}"
                hint = "do it in two steps: rewrite the result once more"
                fail("value-conflict", message, nodes[path].span, hint)
            targets[path] = Target(path, Layer.of(nodes[path]), request, nodes[path].span)
        # Without a pattern a rule takes what it can; there is no need to hear about all the others.
        missed += declined if request.patterns else []
    order = {path: number for number, path in enumerate(nodes)}
    return tuple(sorted(targets.values(), key=lambda target: order[target.path])), tuple(missed)


def _declined(
    request: Request,
    nodes: dict[str, Node],
    editable: Container[str],
    weights: Callable[[str, Layer], Weights | None],
) -> Iterator[Missed]:
    for path, node in nodes.items():
        if request.wants(path):
            why = _obstacle(request, path, node, editable, weights)
            if why is not None:
                yield Missed(path, request.rule.name, why, node.span)


def _obstacle(
    request: Request,
    path: str,
    node: Node,
    editable: Container[str],
    weights: Callable[[str, Layer], Weights | None],
) -> str | None:
    if path not in editable:
        return "`skip auto` inserted it: a `skip { }` of your own has statements to replace"
    if node.operands[1].name != f"{path}.weight":
        source = node.operands[1].producer
        binary = source is not None and isinstance(source.op, Binarize)
        return "its weights have one bit" if binary else "its weights go through `dropconnect`"
    layer = Layer.of(node)
    return request.rule.refusal(layer, weights(path, layer))


def _require_known(request: Request, paths: list[str]) -> None:
    for pattern in request.unmatched(paths):
        shown = ", ".join(paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")
        hint = similar(pattern, paths) or (f"there are {shown}" if paths else None)
        fail("name-rewrite-layer", f"no convolution and no fully connected layer is called `{pattern}`", hint=hint)


def _nothing(request: Request, declined: Sequence[Missed]) -> None:
    """Refuse a request that changes nothing, with the reasons."""
    notes = [Note(f"{entry.path}: {entry.why}", entry.span) for entry in declined[:_SHOWN]]
    if len(declined) > _SHOWN:
        notes.append(Note(f"and {len(declined) - _SHOWN} more"))
    message = f"`{request.text}` can replace none of the layers"
    fail("value-rewrite", message, notes=tuple(notes))
