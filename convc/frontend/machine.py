"""The machinery under the elaborator: running bodies on a stack of our own, budgets, and the reporting of errors."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace

from convc.frontend import syntax
from convc.frontend.context import START, UNKNOWN, Context, Current, Shared
from convc.frontend.emission import Emission
from convc.frontend.expressions import Budget, Evaluator, OverBudget, Unknown
from convc.frontend.hints import shape_text
from convc.frontend.layers import BY_WORD
from convc.frontend.program import Program
from convc.frontend.statement_parser import STATEMENT_WORDS
from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail
from convc.ir.graph import Graph, Value
from convc.ir.span import Span

# Layers that the trace of a shape error shows.
_TRACED = 4

Task = Generator["Task", None, None]


class Stop(Exception):
    """Elaboration cannot go on: a budget is spent, or there are enough errors."""


class Machine:
    """State of one elaboration, and how its statements are run."""

    def __init__(self, program: Program, net: syntax.Definition, batch: int) -> None:
        self.program = program
        self.net = net
        self.limits = program.limits
        self.budget = Budget(self.limits)
        self.emission = Emission(Graph(net.name), batch, self.limits)
        self.current: Current = START
        self.errors: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.shared: dict[str, Shared] = {}
        self.used_blocks: set[str] = set()
        self.named: dict[Span, tuple[str, Current]] = {}  # every `as`, until its value is used
        self.read: set[Span] = set()  # every `as` whose value was used
        self.referred: set[Span] = set()  # every mention of a named value that was carried out
        self.entered: set[str] = set()  # blocks whose body was run
        self._seen: set[tuple[str, Span | None]] = set()
        self._depth = 0

    def statement(self, statement: syntax.Statement, context: Context) -> Task | None:
        """Carry out one statement, or return the task that does."""
        raise AssertionError("the elaborator knows the statements")

    # Running

    def drive(self, task: Task) -> None:
        """Run a task and the tasks that it yields, to the end."""
        stack = [task]
        failure: Exception | None = None
        while stack:
            pending, failure = failure, None
            try:
                child = next(stack[-1]) if pending is None else stack[-1].throw(pending)
            except StopIteration:
                stack.pop()
            except (CompileError, Unknown) as error:
                stack.pop()
                failure = error
            else:
                stack.append(child)
        if failure is not None:
            raise failure

    def body(self, body: syntax.Body, context: Context) -> Task:
        """The statements of a body, each failing on its own."""
        self._depth += 1
        try:
            if not body.statements:
                self.budget.step(body.span)  # nothing in it counts, and yet it takes time
        except OverBudget as error:
            self.report(error, context)
            raise Stop from None
        for statement in body.statements:
            try:
                if self._depth > self.limits.depth:
                    raise OverBudget("depth", f"bodies are nested deeper than {self.limits.depth:,}", statement.span)
                self.budget.step(statement.span)
                task = self.statement(statement, context)
                if task is not None:
                    yield task
            except Unknown:
                self.current = UNKNOWN
            except OverBudget as error:
                self.report(error, context)
                raise Stop from None
            except CompileError as error:
                self.report(error, context)
                self.current = UNKNOWN
        self._depth -= 1

    # Reporting

    def report(self, error: CompileError, context: Context) -> None:
        """Record errors with the last shapes and the way that led to the statement."""
        for diagnostic in error.diagnostics:
            self.record(diagnostic, context)

    def record(self, diagnostic: Diagnostic, context: Context) -> None:
        """Record one error or warning. Of one problem met in several instances only the first is kept."""
        key = (diagnostic.code, diagnostic.span)
        if key in self._seen:
            return
        self._seen.add(key)
        notes = diagnostic.notes
        if diagnostic.code.startswith(("shape-", "budget-size")) and diagnostic.severity == "error":
            notes += self._trace()
        if context.chain is not None:
            notes += context.chain.notes()
        diagnostic = replace(diagnostic, notes=notes)
        if diagnostic.severity == "warning":
            self.warnings.append(diagnostic)
            return
        self.errors.append(diagnostic)
        if len(self.errors) >= self.limits.errors:
            raise Stop

    def _trace(self) -> tuple[Note, ...]:
        """The last layers on the way to the current value, with their shapes."""
        notes: list[Note] = []
        value = self.current if isinstance(self.current, Value) else None
        while value in self.emission.producers and len(notes) < _TRACED:
            layer, value = self.emission.producers[value]
            before = f"{shape_text(layer.input)} -> " if layer.input else ""
            notes.append(Note(f"{layer.name}: {before}{shape_text(layer.output or ())}", layer.span))
        return tuple(reversed(notes))

    # Values

    def evaluator(self, context: Context) -> Evaluator:
        """Expressions as a statement in this context sees them."""
        return Evaluator(context.scope, self._channels, self.budget)

    def _channels(self, span: Span) -> int:
        return self.value("`in`", span).shape[1]

    def value(self, what: str, span: Span) -> Value:
        """The current value. Raises an error where there is none, `Unknown` after an earlier error."""
        if isinstance(self.current, Value):
            return self.current
        if self.current is UNKNOWN:
            raise Unknown
        if self.current is START:
            fail("value-missing", f"{what} has no current value yet", span, hint="`input CxHxW` comes first")
        fail(
            "value-missing",
            f"{what} has no current value: the loss was its end",
            span,
            hint="`from NAME` continues elsewhere",
        )

    def is_statement(self, word: str) -> bool:
        """Whether a word can begin a statement."""
        return word in BY_WORD or word in self.program.blocks or word in STATEMENT_WORDS

    def words(self) -> Iterable[str]:
        """All words that can begin a statement."""
        return (*BY_WORD, *self.program.blocks, *(w for w in STATEMENT_WORDS if w not in ("else", "skip", "branch")))
