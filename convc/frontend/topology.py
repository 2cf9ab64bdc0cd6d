"""Statements that shape the graph: names, joins, residuals, branches, side losses and shared parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convc.frontend import syntax
from convc.frontend.application import Application
from convc.frontend.arguments import Bound, bind
from convc.frontend.context import ENDED, UNKNOWN, Context, Current, Shared
from convc.frontend.emission import Layer
from convc.frontend.expressions import Constant, OverBudget, Unknown, show
from convc.frontend.hints import did_you_mean, shape_text
from convc.frontend.kinds import InitialValue
from convc.frontend.layers import BY_WORD, COMMON
from convc.frontend.machine import Task
from convc.frontend.naming import Naming, numbered
from convc.ir.diagnostic import CompileError, Note, fail
from convc.ir.graph import Value
from convc.ir.ops.elementwise import Add, Multiply
from convc.ir.ops.join import Concat
from convc.ir.ops.maps import ScaleMaps
from convc.ir.span import Span

_JOIN_ARGUMENTS = tuple(parameter for parameter in COMMON if parameter.key == "name")


class Topology(Application):
    """Everything that makes a net more than a chain."""

    # Names

    def name_value(self, statement: syntax.As, context: Context) -> None:
        """`as NAME`."""
        try:
            index = self._index(statement.target, context)
        except (Unknown, CompileError):
            context.values.vague.add(statement.target.name)
            raise
        if self.current is not UNKNOWN:
            self.value("`as`", statement.span)
        if statement.target.span not in self.read:
            self.named.setdefault(statement.target.span, (statement.target.name, self.current))
        context.values.bind(statement.target.name, index, self.current, statement.target.span)

    def continue_from(self, statement: syntax.From, context: Context) -> None:
        """`from NAME`."""
        self.current = self._find(statement.source, context)

    def _index(self, reference: syntax.Reference, context: Context) -> Constant | None:
        return None if reference.index is None else self.evaluator(context).whole(reference.index, "an index")

    def _find(self, reference: syntax.Reference, context: Context) -> Current:
        index = self._index(reference, context)
        found = context.values.find(reference.name, index)
        self.referred.add(reference.span)
        if found is None and context.values.is_vague(reference.name):
            raise Unknown
        if found is None:
            indices = context.values.indices(reference.name)
            shown = reference.name if index is None else f"{reference.name}[{show(index)}]"
            hint = did_you_mean(reference.name, context.values.names())
            if indices:
                known = ", ".join(reference.name if i is None else f"{reference.name}[{show(i)}]" for i in indices[:8])
                hint = f"there is {known}"
            elif reference.name in self.shared:
                hint = f"`{reference.name}` is a shared part: `reuse {reference.name}` runs it again"
            fail(
                "name-value",
                f"no value is called `{shown}` here",
                reference.span,
                hint=hint or "`as NAME` names the current value",
            )
        value, place = found
        self.named.pop(place, None)
        self.read.add(place)
        return value

    # Joins

    def join(self, statement: syntax.Join, context: Context) -> None:
        """`add a, b`: the current value first."""
        bound = bind(
            f"`{statement.word}`",
            _JOIN_ARGUMENTS,
            statement.arguments,
            statement.word_span,
            self.evaluator(context),
            lambda diagnostic: self.record(diagnostic, context),
            self.is_statement,
        )
        self.budget.evaluate(statement.span, len(statement.sources))
        values = [self._find(source, context) for source in statement.sources]
        first = self.value(f"`{statement.word}`", statement.span)
        known = [value for value in values if isinstance(value, Value)]
        if bound is None or len(known) < len(values):
            raise Unknown
        name = bound.values["name"]
        label = (
            context.naming.claim(name, statement.span)
            if isinstance(name, str)
            else context.naming.prefix + statement.word
        )
        try:
            self.combine(statement.word, [first, *known], statement.span, label)
        except OverBudget:
            raise
        except CompileError as error:
            raise self._with_names(error, statement, known, context) from None

    def _with_names(
        self, error: CompileError, statement: syntax.Join, values: Sequence[Value], context: Context
    ) -> CompileError:
        """The error of a join that also says where its named values come from."""
        notes: list[Note] = []
        for source, value in zip(statement.sources, values, strict=True):
            found = context.values.find(source.name, self._index(source, context))
            if found is not None:
                notes.append(Note(f"`{source.name}` is {shape_text(value.shape[1:])}, named here", found[1]))
        return CompileError([replace(d, notes=(*d.notes, *notes[:4])) for d in error.diagnostics])

    def combine(self, word: str, values: Sequence[Value], span: Span, label: str) -> None:
        """Add, multiply or concatenate values; the result becomes the current one."""
        first = values[0]
        if word == "concat":
            self._concatenate(values, span, label)
            return
        total = first
        with self.emission.builder.at((span,), label):
            for value in values[1:]:
                total = self._by_element(word, total, value, span)
        self._joined(total, word, first, span, label)

    def _by_element(self, word: str, left: Value, right: Value, span: Span) -> Value:
        """The sum or the product; factors may be maps of one pixel, which spread over the other's."""
        builder = self.emission.builder
        if left.shape == right.shape:
            return builder.add(Add() if word == "add" else Multiply(), left, right)
        if word == "mul" and _spreads(right, left):
            return builder.add(ScaleMaps(), left, right)
        if word == "mul" and _spreads(left, right):
            return builder.add(ScaleMaps(), right, left)
        shapes = " and ".join(shape_text(v.shape[1:]) for v in (left, right))
        fail(f"shape-{word}", f"`{word}` needs equal shapes, not {shapes}", span)

    def _joined(self, value: Value, word: str, first: Value, span: Span, label: str) -> None:
        self.current = value
        self.emission.add_layer(Layer(label, word, span, first.shape[1:], value.shape[1:]), first, value)

    def _concatenate(self, values: Sequence[Value], span: Span, label: str) -> None:
        first = values[0]
        for value in values[1:]:
            if value.type.rank != first.type.rank or value.shape[2:] != first.shape[2:]:
                shapes = " and ".join(shape_text(v.shape[1:]) for v in (first, value))
                fail("shape-concat", f"`concat` joins channels of images of one size, not {shapes}", span)
        shape = (first.shape[0], sum(value.shape[1] for value in values), *first.shape[2:])
        self.emission.check_size(shape[1:], span, "the result of concat,")
        builder = self.emission.builder
        with builder.at((span,), label):
            joined = builder.add(Concat(), *values) if len(values) > 1 else first  # one branch alone
        self._joined(joined, "concat", first, span, label)

    # Bodies side by side

    def residual(self, statement: syntax.Residual, context: Context) -> Task:
        """`residual { … } skip …`: both on the current value, then the sum."""
        start = self._start("`residual`", statement.word_span)
        number = context.naming.number("res")
        path = context.naming.claim(numbered("res", number), statement.word_span)
        yield self.body(statement.body, context.inside(path + "."))
        main = self._end("the body of a residual", statement.word_span)
        self.current = start
        skip = context.naming.claim(numbered("skip", number), statement.word_span) + "."
        if isinstance(statement.skip, syntax.Body):
            yield self.body(statement.skip, context.inside(skip))
        side = self._end("the skip of a residual", statement.word_span)
        if not isinstance(main, Value) or not isinstance(side, Value):
            raise Unknown
        self.current = main
        if statement.skip == "auto" and main.shape != side.shape:
            self.current = side
            side = self._project(main, side, statement, context.inside(skip))
        elif statement.skip == "identity" and main.shape != side.shape:
            fail(
                "shape-residual",
                f"the body of the residual makes {shape_text(side.shape[1:])} into {shape_text(main.shape[1:])}; "
                "`skip identity` needs equal shapes",
                statement.word_span,
                hint="`skip auto` inserts a 1x1 convolution where shapes differ",
            )
        self.combine("add", [main, side], statement.word_span, f"{path}.add")

    def _project(self, main: Value, side: Value, statement: syntax.Residual, context: Context) -> Value:
        """What `skip auto` inserts: conv C k=1 s=S bias=no -> bn."""
        span = statement.word_span
        shapes = f"{shape_text(side.shape[1:])} into {shape_text(main.shape[1:])}"
        if main.type.rank != 4 or side.type.rank != 4:
            fail("shape-residual", f"`skip auto` cannot make {shapes}: it needs images", span)
        strides: list[int] = []
        for before, after in zip(side.shape[2:], main.shape[2:], strict=True):
            # The smallest stride with (before - 1) // stride + 1 == after, if there is one.
            stride = (before - 1) // after + 1
            if (before - 1) // stride + 1 != after:
                fail(
                    "shape-residual",
                    f"`skip auto` cannot make {shapes}: no stride does",
                    span,
                    "give the skip a body of its own",
                )
            strides.append(stride)
        no_warnings = len(self.warnings)
        given = {"name": None, "freeze": False, "lr": 1.0, "decay": 1.0, "precision": None}
        (conv,), (bn,) = BY_WORD["conv"].values(), BY_WORD["bn"].values()
        values = {p.key: p.default for p in conv.parameters} | given
        values |= {
            "filters": main.shape[1],
            "k": (1, 1),
            "s": (strides[0], strides[1]),
            "bias": False,
            "init": InitialValue("he"),
        }
        self.place(conv, Bound(values), span, context)
        self.place(bn, Bound({p.key: p.default for p in bn.parameters} | given), span, context)
        del self.warnings[no_warnings:]  # nobody can mend what was inserted
        assert isinstance(self.current, Value)
        return self.current

    def branches(self, statement: syntax.Concat, context: Context) -> Task:
        """`concat { branch { … } branch { … } }`."""
        start = self._start("`concat`", statement.word_span)
        path = context.naming.child("concat", statement.word_span)
        ends: list[Current] = []
        for number, branch in enumerate(statement.branches, 1):
            self.current = start
            yield self.body(branch, context.inside(f"{path}.{numbered('branch', number)}."))
            ends.append(self._end("a branch", statement.word_span))
        values = [end for end in ends if isinstance(end, Value)]
        if len(values) < len(ends):
            raise Unknown
        self.combine("concat", values, statement.word_span, path)

    def aux(self, statement: syntax.Aux, context: Context) -> Task:
        """`aux { … loss … }`: the current value stays as it was."""
        start = self._start("`aux`", statement.word_span)
        path = context.naming.child("aux", statement.word_span)
        yield self.body(statement.body, replace(context.inside(path + "."), auxiliary=True))
        ended, self.current = self.current, start
        if ended is not ENDED and ended is not UNKNOWN:
            hint = "for example aux { pool avg global -> fc 10 -> loss softmax weight=0.3 }"
            fail("value-aux", "an `aux` body ends in a loss", statement.word_span, hint)

    def _start(self, what: str, span: Span) -> Current:
        """The value that bodies begin with; after an error it is unknown, and they are checked all the same."""
        return self.current if self.current is UNKNOWN else self.value(what, span)

    def _end(self, what: str, span: Span) -> Current:
        if self.current is ENDED:
            fail(
                "value-missing",
                f"{what} ends in a loss; there is no value to join",
                span,
                hint="a side loss stands in `aux { }`",
            )
        return self.current

    # Shared parts

    def share(self, statement: syntax.Shared, context: Context) -> Task:
        """`shared NAME { … }`: defines and runs; in a loop later iterations run the same parameters."""
        path = context.naming.prefix + statement.name
        known = self.shared.get(statement.name)
        if context.unsure:
            # This may not be the only one that would ever be carried out.
            self.shared.setdefault(statement.name, Shared(statement, path, context))
            yield self.body(statement.body, context.inside(path + "."))
            return
        if known is not None:
            if known.statement is not statement or known.path != path:
                fail(
                    "name-duplicate",
                    f"the shared part `{statement.name}` is defined already",
                    statement.name_span,
                    hint=f"`reuse {statement.name}` runs it again",
                    notes=(Note("here", known.statement.name_span),),
                )
            yield self._rerun(known, statement, context)
            return
        context.naming.claim(statement.name, statement.name_span)
        self.shared[statement.name] = Shared(statement, path, context)
        yield self.body(statement.body, context.inside(path + "."))

    def reuse(self, statement: syntax.Reuse, context: Context) -> Task:
        """`reuse NAME`."""
        known = self.shared.get(statement.name)
        if known is None and context.unsure:
            raise Unknown
        if known is None:
            hint = did_you_mean(statement.name, self.shared)
            fail("name-shared", f"no shared part is called `{statement.name}`", statement.name_span, hint=hint)
        yield self._rerun(known, statement, context)

    def _rerun(self, known: Shared, statement: syntax.Shared | syntax.Reuse, context: Context) -> Task:
        runs = known.runs
        known.runs += 1
        inner = known.context.inside(known.path + ".")
        link = context.linked(f"in the shared part `{known.statement.name}`, run again here", statement)
        inner = replace(inner, naming=Naming(known.path + "."), chain=link, auxiliary=context.auxiliary, uses=runs)
        yield self.body(known.statement.body, inner)


def _spreads(value: Value, over: Value) -> bool:
    """Whether a value has one number for each map of another one."""
    return value.type.rank == over.type.rank == 4 and value.shape[1:] == (over.shape[1], 1, 1)
