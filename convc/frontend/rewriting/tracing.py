"""Which statement made which layer, in which run of the bodies around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from convc.frontend import syntax
from convc.frontend.context import Context, Link, Missing
from convc.frontend.elaborate import Elaborator
from convc.frontend.emission import Layer
from convc.frontend.expressions import Constant, Unknown
from convc.frontend.layers import LayerKind
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.frontend.net import Net


@dataclass(frozen=True, eq=False)
class Execution:
    """One run of the statement of a layer.

    `values` are what the expressions of its arguments came to, by their position; words such as `same`, which are not
    expressions, are left out. `channels` is what `in` meant there. `chain` is the way from the net to the statement.
    """

    layer: Layer
    statement: syntax.Apply
    kind: LayerKind
    values: Mapping[int, Constant]
    channels: int
    chain: Link | None

    @property
    def path(self) -> str:
        return self.layer.name


@dataclass(frozen=True)
class Trace:
    """All layers of a net in their order, those with a statement of their own as executions, and its graph."""

    layers: tuple[Layer, ...]
    executions: tuple[Execution, ...]
    graph: Graph


def trace(net: Net) -> Trace:
    """Elaborate a net once more, for one image, and look on."""
    origin = net.origin
    tracer = _Tracer(origin.program, origin.definition, 1)
    tracer.run(origin.given)
    result = tracer.result()
    if result.errors:
        raise CompileError(result.errors, net.sources)
    return Trace(result.layers, tuple(tracer.executions), result.graph)


class _Tracer(Elaborator):
    """An elaboration that remembers where its layers come from."""

    executions: list[Execution]

    def run(self, parameters: Mapping[str, Constant]) -> None:
        self.executions = []
        super().run(parameters)

    def layer(self, statement: syntax.Apply, variants: dict[str | None, LayerKind], context: Context) -> None:
        values = {
            index: value
            for index, argument in enumerate(statement.arguments)
            if (value := self._value(argument.value, context)) is not None
        }
        channels = self.current.shape[1] if not isinstance(self.current, Missing) else 0
        before = len(self.emission.layers)
        super().layer(statement, variants, context)
        for made in self.emission.layers[before:]:
            kind = next(kind for kind in variants.values() if kind.title == made.kind)
            self.executions.append(Execution(made, statement, kind, values, channels, context.chain))

    def _value(self, expression: syntax.Expression, context: Context) -> Constant | None:
        try:
            return self.evaluator(context).evaluate(expression)
        except (CompileError, Unknown):
            return None
