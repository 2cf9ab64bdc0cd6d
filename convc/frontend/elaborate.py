"""A net, its parameters given, to a forward graph: runs the statements, tracking the current value and its shape.

After an error the current value is unknown: what follows is still checked as far as that is possible without a shape,
and nothing is reported that only follows from the first error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from convc.frontend import syntax
from convc.frontend.context import UNKNOWN, Context, Iteration, Link, Values
from convc.frontend.dead_code import unexecuted_references, unused_results, warn_of_redundant_biases
from convc.frontend.emission import Emission, Layer, Loss
from convc.frontend.expressions import Constant, OverBudget, Scope, Unknown, plain, show
from convc.frontend.machine import Stop, Task
from convc.frontend.naming import Naming
from convc.frontend.program import Program
from convc.frontend.topology import Topology
from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.ir.graph import Graph, Value
from convc.ir.ops.elementwise import Add, Multiply
from convc.ir.ops.loss import CountCorrect
from convc.lazy import dataclass


@dataclass(frozen=True)
class Elaboration:
    """A finished forward graph with its layers; of use only where `errors` is empty."""

    graph: Graph
    layers: tuple[Layer, ...]
    emission: Emission
    parameters: dict[str, Constant]
    errors: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...]
    used_blocks: frozenset[str]
    entered_blocks: frozenset[str]


def elaborate(program: Program, net: syntax.Definition, parameters: Mapping[str, Constant], batch: int) -> Elaboration:
    """Run the body of `net` for `batch` images. Never raises for what a file says: see `errors`."""
    elaborator = Elaborator(program, net, batch)
    elaborator.run(parameters)
    return elaborator.result()


def probe(program: Program, definition: syntax.Definition) -> tuple[Diagnostic, ...]:
    """The errors of a block that nobody calls, or of a net without its values, as far as they can be told.

    Parameters, shapes and conditions are unknown; words, arguments, names and constant values are checked.
    """
    elaborator = Elaborator(program, definition, 1)
    elaborator.probe()
    return tuple(elaborator.errors)


class Elaborator(Topology):
    """One elaboration: `run`, then `result`."""

    def __init__(self, program: Program, net: syntax.Definition, batch: int) -> None:
        super().__init__(program, net, batch)
        self.parameters: dict[str, Constant] = {}

    def run(self, parameters: Mapping[str, Constant]) -> None:
        scope = Scope(self.program.scope_of(self.net))
        context = Context(Naming(), Scope(scope), Values())
        try:
            self._parameters(parameters, scope, context)
            self.drive(self.body(self.net.body, context))
            self._finish(context)
        except Stop:
            return
        except CompileError as error:
            self.errors += error.diagnostics

    def result(self) -> Elaboration:
        emission = self.emission
        return Elaboration(
            emission.graph,
            tuple(emission.layers),
            emission,
            self.parameters,
            tuple(self.errors),
            tuple(self.warnings),
            frozenset(self.used_blocks),
            frozenset(self.entered),
        )

    def probe(self) -> None:
        scope = Scope(self.program.scope_of(self.net))
        context = Context(Naming(), Scope(scope), Values(), unsure=True)
        scope.constants.update(dict.fromkeys((parameter.name for parameter in self.net.parameters), None))
        if self.net.kind == "block":
            self.current = UNKNOWN
        try:
            self.drive(self.body(self.net.body, context))
        except Stop:
            return

    def _parameters(self, given: Mapping[str, Constant], scope: Scope, context: Context) -> None:
        for parameter in self.net.parameters:
            self._parameter(parameter, given, scope, context)
        self.parameters = {name: value for name, value in scope.constants.items() if value is not None}

    def _parameter(
        self, parameter: syntax.Parameter, given: Mapping[str, Constant], scope: Scope, context: Context
    ) -> None:
        name = parameter.name
        value: Constant | None = None
        if name in given:
            value = given[name]
        elif parameter.default is None:
            message = f"net `{self.net.name}` needs a value for its parameter `{name}`"
            self.record(Diagnostic("name-missing", message, parameter.span, hint=f"--set {name}=VALUE"), context)
        else:
            try:
                value = self.evaluate_default(parameter.default, scope)
            except Unknown:
                pass
            except CompileError as error:
                self.report(error, context)
        scope.constants[name] = value

    def statement(self, statement: syntax.Statement, context: Context) -> Task | None:
        match statement:
            case syntax.Apply():
                return self.apply(statement, context)
            case syntax.Residual():
                return self.residual(statement, context)
            case syntax.Repeat():
                return self._repeat(statement, context)
            case syntax.For():
                return self._for(statement, context)
            case syntax.If():
                return self._if(statement, context)
            case syntax.Concat():
                return self.branches(statement, context)
            case syntax.Aux():
                return self.aux(statement, context)
            case syntax.Shared():
                return self.share(statement, context)
            case syntax.Reuse():
                return self.reuse(statement, context)
            case syntax.Let():
                return self._let(statement, context)
            case syntax.Assert():
                return self._assert(statement, context)
            case syntax.As():
                return self.name_value(statement, context)
            case syntax.From():
                return self.continue_from(statement, context)
            case syntax.Join():
                return self.join(statement, context)

    # Constants and conditions: their errors leave the current value as it is

    def _let(self, statement: syntax.Let, context: Context) -> None:
        constants = context.scope.constants
        if statement.name in constants:
            message = f"`{statement.name}` is defined already in this body"
            hint = "constants do not change; a body inside may have its own"
            self.record(Diagnostic("name-duplicate", message, statement.name_span, hint=hint), context)
            return
        # The name is bound after its value is known: in `let c = c + 1` the right one is that of the body around.
        value: Constant | None = None
        try:
            value = self.evaluator(context).evaluate(statement.value)
        except Unknown:
            pass
        except OverBudget:
            raise
        except CompileError as error:
            self.report(error, context)
        constants[statement.name] = value

    def _assert(self, statement: syntax.Assert, context: Context) -> None:
        evaluator = self.evaluator(context)
        try:
            if evaluator.truth(statement.condition):
                return
            message = evaluator.message(statement.message) if statement.message else "the condition does not hold"
            self.record(Diagnostic("assert-failed", message, statement.condition.span), context)
        except Unknown:
            return
        except OverBudget:
            raise
        except CompileError as error:
            self.report(error, context)

    def _if(self, statement: syntax.If, context: Context) -> Task:
        evaluator = self.evaluator(context)
        for index, (condition, body) in enumerate(statement.branches):
            try:
                taken = evaluator.truth(condition)
            except OverBudget:
                raise
            except (Unknown, CompileError) as error:
                # Nobody knows which one is taken: all that could be are checked, without a current value.
                others = [branch for _, branch in statement.branches[index:]]
                yield self._unsure([*others, *([statement.otherwise] if statement.otherwise else [])], context)
                raise error
            if taken:
                yield self.body(body, context.nested())
                return
        if statement.otherwise is not None:
            yield self.body(statement.otherwise, context.nested())

    def _unsure(self, bodies: Sequence[syntax.Body], context: Context, loop: Sequence[syntax.Name] = ()) -> Task:
        """Check bodies that may or may not be run, the names of their layers each on its own."""
        start = self.current
        for body in bodies:
            self.current = UNKNOWN if isinstance(start, Value) else start
            inner = replace(context.nested(), naming=Naming(context.naming.prefix), unsure=True)
            inner.scope.constants.update({name.name: None for name in loop})
            yield self.body(body, inner.nested())

    # Loops

    def _repeat(self, statement: syntax.Repeat, context: Context) -> Task:
        try:
            count = self.evaluator(context).whole(statement.count, "the count of a `repeat`")
        except OverBudget:
            raise
        except (Unknown, CompileError) as error:
            yield self._unsure([statement.body], context)
            raise error
        if count < 0:
            fail("value-count", f"a body cannot be repeated {count} times", statement.count.span)
        self._afford(count, statement.body, statement)
        for number in range(1, count + 1):
            text = f"in iteration {number} of {count}"
            yield self._iteration(statement, text, {}, Iteration(number - 1, count), context)

    def _for(self, statement: syntax.For, context: Context) -> Task:
        try:
            values = self._loop_values(statement, context)
        except OverBudget:
            raise
        except (Unknown, CompileError) as error:
            yield self._unsure([statement.body], context, statement.names)
            raise error
        self._afford(len(values), statement.body, statement)
        names = [name.name for name in statement.names]
        for number, value in enumerate(values):
            if len(names) == 1:
                constants: dict[str, Constant] = {names[0]: value}
            elif isinstance(value, tuple) and len(value) == len(names):
                constants = dict(zip(names, value, strict=True))
            else:
                message = f"the loop has {len(names)} variables, but an item of its list is {show(value)}"
                fail("type-loop", message, statement.values.span)
            text = "with " + ", ".join(f"{name} = {plain(constants[name])}" for name in names)
            yield self._iteration(statement, text, constants, Iteration(number, len(values), values), context)

    def _loop_values(self, statement: syntax.For, context: Context) -> Sequence[Constant]:
        evaluator = self.evaluator(context)
        if statement.stop is not None:
            start = evaluator.whole(statement.values, "the start of a range")
            stop = evaluator.whole(statement.stop, "the end of a range")
            self._afford(max(0, stop - start), statement.body, statement)
            return range(start, stop)
        values = evaluator.evaluate(statement.values)
        if not isinstance(values, tuple):
            hint = f"for {statement.names[0].name} in 0..{show(values)} {{ … }}" if isinstance(values, int) else None
            fail(
                "type-loop",
                f"a loop runs over a list, a tuple or a range, not {show(values)}",
                statement.values.span,
                hint,
            )
        return values

    def _iteration(
        self,
        statement: syntax.Repeat | syntax.For,
        text: str,
        constants: dict[str, Constant],
        iteration: Iteration,
        context: Context,
    ) -> Task:
        inner = context.nested(Link(text, statement, context.chain, iteration))
        inner.scope.constants.update(constants)
        # One more scope, so that the body may define a constant with the name of a loop variable.
        return self.body(statement.body, inner.nested())

    def _afford(self, count: int, body: syntax.Body, statement: syntax.Repeat | syntax.For) -> None:
        """Refuse a loop that would pass the budget before its first iteration."""
        wanted = count * weight(body)
        left = self.limits.steps - self.budget.steps
        if wanted > left:
            message = (
                f"this loop would carry out at least {_short(wanted)} statements; "
                f"{max(left, 0):,} of {self.limits.steps:,} are left"
            )
            raise OverBudget("steps", message, statement.span)

    # The end of the net

    def _finish(self, context: Context) -> None:
        emission = self.emission
        if self.errors or self.current is UNKNOWN:
            return
        if not emission.graph.inputs:
            message = f"net `{self.net.name}` has no `input`"
            self.record(Diagnostic("value-input", message, self.net.name_span, hint="input 1x28x28"), context)
            return
        main = [loss for loss in emission.losses if not loss.auxiliary]
        outputs = emission.graph.outputs
        if main:
            outputs["logits"] = main[-1].logits
        elif isinstance(self.current, Value):
            outputs["logits"] = self.current
        if emission.losses:
            outputs["loss"] = self._total(emission.losses)
        if main and emission.labels is not None:
            last = main[-1]
            with emission.builder.at((last.span,), "correct"):
                outputs["correct"] = emission.builder.add(CountCorrect(), last.logits, emission.labels)
        self._warn(context)

    def _warn(self, context: Context) -> None:
        """What only the finished net shows: names, results and biases that have no effect."""
        unread = list(self.named.items())
        if unread:
            files = [definition for file in self.program.files.values() for definition in file.definitions]
            elsewhere = frozenset[str]().union(*(unexecuted_references(item, self.referred) for item in files))
            unread = [(span, named) for span, named in unread if named[0] not in elsewhere]
        for span, (name, _) in unread:
            message = f"the value `{name}` is never used"
            self.record(Diagnostic("unused-value", message, span, severity="warning"), context)
        names = [value for _, value in self.named.values() if isinstance(value, Value)]
        for warning in unused_results(self.emission, names):
            self.record(warning, context)
        warn_of_redundant_biases(self.emission)

    def _total(self, losses: Sequence[Loss]) -> Value:
        builder = self.emission.builder
        total: Value | None = None
        for loss in losses:
            with builder.at((loss.span,), "loss"):
                term = loss.value
                if loss.weight != 1.0:
                    term = builder.add(Multiply(), term, builder.constant(loss.weight))
                total = term if total is None else builder.add(Add(), total, term)
        assert total is not None
        return total


def weight(body: syntax.Body) -> int:
    """How many statements one run of a body carries out at least; 1 for an empty one."""
    return max(1, len(body.statements))


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"{float(number):.1e}" if number < 10**300 else "countless"
