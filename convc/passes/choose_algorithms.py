"""Choose how each convolution is computed, for each direction by itself.

    %1 = conv2d(%x, %w) {stride=(1,1), padding=(1,1,1,1), …}
        →
    %1 = conv2d(%x, %w) {stride=(1,1), padding=(1,1,1,1), …, algorithm="winograd_f4x3"}

Every algorithm of `algorithms/table.py` is asked whether it applies, how long it will take, how much scratch space it
needs and how exact it is; the fastest within the limits is taken. The graph means the same: the attribute says how.

The direct algorithm rounds least. Another one is taken where it is predicted to be a tenth faster, or measured to be
faster (`--tune`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from fnmatch import fnmatchcase
from glob import escape
from typing import ClassVar

from convc.ir.diagnostic import fail, similar
from convc.ir.graph import Graph, Node
from convc.ir.ops.conv import ALGORITHM_WORDS
from convc.lazy import dataclass
from convc.passes.algorithms.algorithm import Algorithm
from convc.passes.algorithms.decision import PLAIN, Decision, Limits, Measured, decide, is_wanted, obstacle_of
from convc.passes.algorithms.prediction import CONSTANTS, Predictor
from convc.passes.algorithms.problem import CONVOLUTIONS, Problem
from convc.passes.algorithms.table import ALGORITHMS
from convc.passes.base import Pass, PassLog
from convc.passes.machine import MACHINES, Machine, Tier
from convc.passes.sections import fixed_values

# Measures algorithms for problems, in the order in which they are given, as many as it cares to: seconds of each.
Timer = Callable[[Sequence[tuple[Problem, str]]], Measured]

RULE = "algorithm"
AUTO = "auto"
EVERYTHING = "*"


@dataclass(frozen=True)
class Wish:
    """Somebody wants convolutions whose layer matches `pattern` (shell wildcards) computed by a family or algorithm."""

    pattern: str
    algorithm: str


def parse_wishes(text: str) -> tuple[Wish, ...]:
    """`fft`, `conv1=direct`, `conv3_*=fft,conv1=direct`: of two that fit a layer the later one counts.

    `auto` asks for nothing, so that what the file says holds; `*=auto` asks for a free choice everywhere.

    Error: `value-algorithm`.
    """
    if text == AUTO:
        return ()
    wishes: list[Wish] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, word = item.rpartition("=")
        if not equals:
            pattern = EVERYTHING
        if not pattern:
            fail("value-algorithm", f"`{item}` names no layer", hint="write conv1=fft, or conv3_*=fft")
        if word not in ALGORITHM_WORDS:
            fail("value-algorithm", f"algorithm `{word}` is unknown", hint=f"there are {', '.join(ALGORITHM_WORDS)}")
        wishes.append(Wish(pattern.strip(), word))
    return tuple(wishes)


@dataclass(frozen=True)
class Choice:
    """The decision for one convolution of a graph: its layer, its line, whether somebody asked for it.

    `missed` is what was asked for and is not possible in this direction, with the reason.
    """

    label: str
    line: int | None
    direction: str
    decision: Decision
    missed: str | None = None

    @property
    def key(self) -> str:
        """How a record of choices names it."""
        return f"{self.label} {self.direction}"


@dataclass(frozen=True)
class ChooseAlgorithms(Pass):
    """Sets the `algorithm` of every convolution. `tier` is the processor that it is chosen for, `dot_bf16`,
    `dot_int8`, `amx_bf16` and `amx_int8` instructions that it has beside those of its tier (`Machine`).

    `wishes` is what somebody asks for (see `parse_wishes`; it comes before what the file says); `scratch` bounds the
    bytes of scratch space of a kernel (0: no bound), `error` the relative error. `constants` replaces those of the
    tier, `timer` measures contenders, the most promising of the largest problems first;
    `recorded` holds choices that were made before, by `Choice.key`, and are made again. For a `gpu` its `constants`
    and its `algorithms` are to be given.

    Leaves a `Choice` for every convolution among the log's findings. Errors: `unavailable-algorithm`, `name-algorithm`,
    those of `parse_wishes`.
    """

    name: ClassVar[str] = "choose-algorithms"
    tier: Tier = "avx512"
    dot_bf16: bool = False
    dot_int8: bool = False
    amx_bf16: bool = False
    amx_int8: bool = False
    wishes: str = ""
    scratch: int = 0
    error: float = 1e-4
    constants: Predictor | None = None
    timer: Timer | None = None
    recorded: Mapping[str, str] = field(default_factory=dict[str, str])
    gpu: Machine | None = None
    algorithms: tuple[Algorithm, ...] = ALGORITHMS

    @property
    def machine(self) -> Machine:
        return self.gpu or replace(
            MACHINES[self.tier],
            dot_bf16=self.dot_bf16,
            dot_int8=self.dot_int8,
            amx_bf16=self.amx_bf16,
            amx_int8=self.amx_int8,
        )

    def run(self, graph: Graph, log: PassLog) -> None:
        wanted = _Wanted(graph, parse_wishes(self.wishes), self.machine, self.algorithms)
        nodes, fixed = list(graph.nodes_of(*CONVOLUTIONS)), fixed_values(graph)
        asked = {node: (Problem.of(node, fixed), *self._asked(node, wanted)) for node in nodes}
        counts = Counter((problem, wish) for problem, wish, _ in asked.values())
        decisions = {key: self._decide(*key) for key in counts}
        if self.timer is not None:
            measured = self.timer(_contenders(decisions, counts))
            decisions = {key: self._decide(*key, measured) for key in counts}
        for node, (problem, wish, missed) in asked.items():
            decision = decisions[problem, wish]
            if missed:
                log.missed(RULE, node, missed)
            log.findings.append(
                Choice(node.label, node.span.line if node.span else None, problem.direction, decision, missed)
            )
            assert isinstance(node.op, CONVOLUTIONS)
            if node.op.algorithm != decision.chosen:
                graph.set_op(node, replace(node.op, algorithm=decision.chosen))
                log.changed(RULE, (node,), (node,), f"{decision.chosen}: {decision.why}")

    def _asked(self, node: Node, wanted: _Wanted) -> tuple[str, str | None]:
        earlier = self.recorded.get(f"{node.label} {Problem.of(node).direction}")
        names = [algorithm.name for algorithm in self.algorithms]
        if earlier in names and _obstacle(node, earlier, self.machine, self.algorithms) is None:
            return earlier, None
        return wanted.of(node)

    def _decide(self, problem: Problem, wish: str, measured: Measured | None = None) -> Decision:
        limits = Limits(self.scratch or None, self.error)
        constants = self.constants or CONSTANTS[self.tier]
        return decide(problem, self.machine, constants, limits, measured, wish, self.algorithms)


def _contenders(
    decisions: Mapping[tuple[Problem, str], Decision], counts: Mapping[tuple[Problem, str], int]
) -> list[tuple[Problem, str]]:
    """What to measure, in order: problem by problem, those first that most time is spent on, of each the algorithm that
    was predicted to be the fastest and the direct one, then the others from fast to slow."""
    found: list[tuple[Problem, str]] = []

    def share(key: tuple[Problem, str]) -> float:
        decision = decisions[key]
        return counts[key] * (decision.candidate(decision.chosen).predicted or 0.0)

    for key in sorted(decisions, key=share, reverse=True):
        decision = decisions[key]
        possible = [c for c in decision.candidates if c.applicable]
        possible.sort(key=lambda c: (c.algorithm not in (decision.chosen, PLAIN), c.predicted or 0.0))
        found += [(key[0], candidate.algorithm) for candidate in possible]
    return list(dict.fromkeys(found))


class _Wanted:
    """What is asked for, node by node. A layer may get its wish in one direction and not in another: that is missed,
    not refused. It is refused where nothing that a wish names can have it."""

    def __init__(
        self, graph: Graph, wishes: tuple[Wish, ...], machine: Machine, algorithms: tuple[Algorithm, ...]
    ) -> None:
        self._wishes, self._machine, self._algorithms = wishes, machine, algorithms
        nodes = list(graph.nodes_of(*CONVOLUTIONS))
        layers: dict[Wish, list[Node]] = {wish: [] for wish in wishes}
        for node in nodes:
            wish = self._wish(node)
            if wish is not None:
                layers.setdefault(wish, []).append(node)
        for wish, members in layers.items():
            named = [node for node in nodes if fnmatchcase(node.label, wish.pattern)]
            if not named and wish.pattern != EVERYTHING:
                labels = list(dict.fromkeys(node.label for node in nodes))
                hint = similar(wish.pattern, labels) or f"there are {', '.join(labels) or 'no convolutions'}"
                fail("name-algorithm", f"no convolution is called `{wish.pattern}`", hint=hint)
            reasons = [_obstacle(node, wish.algorithm, machine, algorithms) for node in members]
            if members and all(reasons):
                place = members[0]
                message = f"{place.label or place.op.name} cannot be computed by `{wish.algorithm}`: {reasons[0]}"
                fail("unavailable-algorithm", message, place.span, hint="`algo=auto` takes what is fastest")

    def _wish(self, node: Node) -> Wish | None:
        """The last wish of the command line that fits, else that of the file."""
        fitting = [wish for wish in self._wishes if fnmatchcase(node.label, wish.pattern)]
        if fitting:
            return fitting[-1]
        assert isinstance(node.op, CONVOLUTIONS)
        return None if node.op.algorithm == AUTO else Wish(escape(node.label), node.op.algorithm)

    def of(self, node: Node) -> tuple[str, str | None]:
        """What is wanted, and what cannot be had and why."""
        wish = self._wish(node)
        if wish is None or wish.algorithm == AUTO:
            return AUTO, None
        reason = _obstacle(node, wish.algorithm, self._machine, self._algorithms)
        return (wish.algorithm, None) if reason is None else (AUTO, f"{wish.algorithm} was asked for: {reason}")


def _obstacle(node: Node, wanted: str, machine: Machine, algorithms: tuple[Algorithm, ...]) -> str | None:
    """Why nothing that is wanted can compute a node."""
    problem = Problem.of(node)
    reasons = [obstacle_of(a, problem, machine) for a in algorithms if is_wanted(a, wanted)]
    return None if None in reasons else next(iter(reasons), "there is no such algorithm")
