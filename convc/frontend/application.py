"""Layers and blocks applied to the current value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convc.frontend import syntax
from convc.frontend.arguments import REQUIRED, Bound, Parameter, bind
from convc.frontend.context import ENDED, START, UNKNOWN, Context
from convc.frontend.emission import Layer, Site
from convc.frontend.expressions import Constant, Evaluator, Scope, Unknown
from convc.frontend.hints import closest, did_you_mean
from convc.frontend.kinds import Kind
from convc.frontend.layers import BY_WORD, COMMON, LayerKind
from convc.frontend.machine import Machine, Task
from convc.frontend.naming import Naming
from convc.ir.diagnostic import fail
from convc.ir.graph import Value
from convc.ir.span import Span

_ANY = Kind("a value", lambda value: value)


class Application(Machine):
    """`conv 20 k=5`, `basic(64, s=2)`."""

    def apply(self, statement: syntax.Apply, context: Context) -> Task | None:
        """Run a layer at once, or return the task that runs a block."""
        variants = BY_WORD.get(statement.word)
        if variants is not None:
            self.layer(statement, variants, context)
            return None
        block = self.program.blocks.get(statement.word)
        if block is not None:
            return self._call(block, statement, context)
        self._unknown_word(statement)
        return None

    def _unknown_word(self, statement: syntax.Apply) -> None:
        word = statement.word
        if self.program.incomplete and closest(word, self.words()) is None:
            raise Unknown  # it may stand in the file that could not be read
        if word in self.program.nets:
            hint = f"`{word}` is a net; what is applied inside a net is a `block`"
        elif word.lower() in _OTHER_NAMES:
            hint = f"here it is called `{_OTHER_NAMES[word.lower()]}`"
        else:
            hint = did_you_mean(word, self.words())
        fail("name-layer", f"there is no layer or block `{word}`", statement.word_span, hint=hint)

    # Layers

    def layer(self, statement: syntax.Apply, variants: dict[str | None, LayerKind], context: Context) -> None:
        """Carry out the statement of a layer."""
        kind, arguments = _choose(statement, variants, context.scope)
        bound = self._bind(kind.title, kind.signature, arguments, statement, context)
        if bound is None:
            context.naming.number(kind.word)
            raise Unknown
        self.place(kind, bound, statement.span, context)

    def _bind(
        self,
        title: str,
        parameters: Sequence[Parameter],
        arguments: Sequence[syntax.Argument],
        statement: syntax.Apply,
        context: Context,
    ) -> Bound | None:
        return bind(
            title,
            parameters,
            arguments,
            statement.word_span,
            self.evaluator(context),
            lambda diagnostic: self.record(diagnostic, context),
            self.is_statement,
        )

    def place(self, kind: LayerKind, bound: Bound, span: Span, context: Context) -> None:
        """Apply a layer with its arguments to the current value, under the next name of this body."""
        name = bound.values["name"]
        assert name is None or isinstance(name, str)
        path = context.naming.child(kind.word, bound.spans.get("name", span), name)
        if kind.word == "input":
            if self.current is UNKNOWN:
                raise Unknown
            if self.current is not START:
                fail("value-input", "a net has one `input`, at its beginning", span)
        else:
            self.value(f"`{kind.title}`", span)
        before = self.current if isinstance(self.current, Value) else None
        site = Site(
            self.emission,
            kind.title,
            kind.word,
            path,
            span,
            bound,
            before,
            context.modifiers.with_arguments(bound),
            context.auxiliary,
            context.uses,
            lambda diagnostic: self.record(diagnostic, context),
        )
        after = kind.emit(site)
        self.current = ENDED if after is None else after
        self.emission.add_layer(
            Layer(
                path,
                kind.title,
                span,
                before.shape[1:] if before is not None else None,
                after.shape[1:] if after is not None else None,
                tuple(site.parameters),
                site.modifiers.precision,
            ),
            before,
            after,
        )

    # Blocks

    def _call(self, block: syntax.Definition, statement: syntax.Apply, context: Context) -> Task:
        self.used_blocks.add(block.name)
        own = {parameter.name for parameter in block.parameters}
        parameters = [
            Parameter(p.name, _ANY, REQUIRED if p.default is None else None, positional=True) for p in block.parameters
        ]
        parameters += [parameter for parameter in COMMON if parameter.key not in own]
        bound = self._bind(f"`{block.name}`", parameters, statement.arguments, statement, context)
        if bound is None:
            context.naming.number(block.name)
            raise Unknown
        name = bound.values["name"] if "name" not in own else None
        assert name is None or isinstance(name, str)
        if context.unsure:
            raise Unknown
        self.entered.add(block.name)
        path = context.naming.child(
            block.name, bound.spans.get("name", statement.span) if name else statement.span, name
        )
        link = context.linked(f"in block `{block.name}`, called here", statement)
        inner = replace(
            context,
            naming=Naming(path + "."),
            scope=self._parameter_scope(block, bound),
            values=type(context.values)(),
            modifiers=context.modifiers.with_arguments(Bound({k: v for k, v in bound.values.items() if k not in own})),
            chain=link,
        )
        yield self.body(block.body, inner)

    def _parameter_scope(self, block: syntax.Definition, bound: Bound) -> Scope:
        scope = Scope(self.program.scope_of(block))
        for parameter in block.parameters:
            if parameter.name in bound.spans:
                scope.constants[parameter.name] = bound.values[parameter.name]  # type: ignore[assignment]
            elif parameter.default is not None:
                scope.constants[parameter.name] = self.evaluate_default(parameter.default, scope)
        return Scope(scope)

    def evaluate_default(self, default: syntax.Expression, scope: Scope) -> Constant:
        """A parameter's default; it may use the parameters before it, and `in`."""
        return Evaluator(scope, self._channels, self.budget).evaluate(default)


def _choose(
    statement: syntax.Apply, variants: dict[str | None, LayerKind], scope: Scope
) -> tuple[LayerKind, tuple[syntax.Argument, ...]]:
    """The variant that the first argument names (`pool max`), and the remaining arguments."""
    if None in variants:
        return variants[None], statement.arguments
    words = [str(word) for word in variants]
    wanted = " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    first = statement.arguments[0] if statement.arguments else None
    if first is None or first.key is not None:
        fail(
            "name-variant",
            f"`{statement.word}` is followed by {wanted}",
            statement.word_span,
            f"for example `{statement.word} {words[0]}`",
        )
    expression = first.value
    if isinstance(expression, syntax.Name):
        named = variants.get(expression.name)
        if named is None:
            value = _constant(expression.name, scope)
            named = variants.get(value) if isinstance(value, str) else None
        if named is not None:
            return named, statement.arguments[1:]
    leading = expression
    while isinstance(leading, syntax.Binary):
        leading = leading.left
    word = (
        leading.name
        if isinstance(leading, syntax.Name)
        else leading.function
        if isinstance(leading, syntax.Call)
        else ""
    )
    if word in variants:
        hint = f"a space after `{word}`, and no sign before what follows: `{statement.word} {word} 2`"
        fail(
            "name-variant",
            f"after `{statement.word}` this reads as a calculation, not as the word `{word}`",
            first.span,
            hint,
        )
    fail(
        "name-variant",
        f"`{statement.word}` is followed by {wanted}",
        first.span,
        did_you_mean(word, words) if word else None,
    )


def _constant(name: str, scope: Scope) -> Constant | None:
    try:
        return scope.find(name)
    except KeyError:
        return None


# What other frameworks call things.
_OTHER_NAMES = {
    "dense": "fc", "linear_layer": "fc", "batchnorm": "bn", "batch_norm": "bn", "maxpool": "pool max",
    "max_pool": "pool max", "avgpool": "pool avg", "avg_pool": "pool avg", "convolution": "conv", "conv2d": "conv",
    "lrelu": "leaky", "leaky_relu": "leaky", "reshape": "flatten", "concatenate": "concat", "identity": "linear",
    "conv_transpose": "deconv", "interpolate": "upsample", "criterion": "loss", "maxpool2d": "pool max",
    "avgpool2d": "pool avg", "batchnorm2d": "bn", "convtranspose2d": "deconv", "leakyrelu": "leaky",
}  # fmt: skip
