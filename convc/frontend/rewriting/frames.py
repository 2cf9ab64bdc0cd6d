"""The runs of the bodies of a net as a tree: calls of blocks, and iterations of loops.

Within one run of a body every statement is carried out at most once; the bodies of residuals, branches, `if` and the
like belong to the run around them. A `shared` part counts where it is run first: later runs have the same statements
and the same layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from convc.frontend import syntax
from convc.frontend.context import Iteration, Link
from convc.frontend.rewriting.tracing import Execution
from convc.lazy import dataclass

Loop = syntax.Repeat | syntax.For


@dataclass(eq=False)
class Run:
    """One run of the body of a definition, or of one iteration of a loop in it."""

    definition: syntax.Definition
    layers: dict[syntax.Apply, Execution] = field(default_factory=dict[syntax.Apply, Execution])
    calls: dict[syntax.Apply, Run] = field(default_factory=dict[syntax.Apply, "Run"])
    loops: dict[Loop, LoopRuns] = field(default_factory=dict[Loop, "LoopRuns"])


@dataclass(eq=False)
class LoopRuns:
    """The iterations of one run of a loop, by their number; those without layers are missing."""

    whole: Iteration
    runs: dict[int, Run] = field(default_factory=dict[int, Run])


@dataclass(frozen=True)
class Frames:
    """The run of the net, all runs of each block in the order of their first layers, and every run there is, those
    around it before it."""

    net: Run
    blocks: Mapping[syntax.Definition, tuple[Run, ...]]
    runs: tuple[Run, ...]


def frames(net: syntax.Definition, blocks: Mapping[str, syntax.Definition], executions: Iterable[Execution]) -> Frames:
    """The tree of the runs that led to `executions`."""
    builder = _Builder(net, blocks)
    for execution in executions:
        run = builder.run(execution.chain)
        if run is not None:
            run.layers[execution.statement] = execution
    return Frames(builder.net, {block: tuple(runs) for block, runs in builder.found.items()}, tuple(builder.order))


class _Builder:
    def __init__(self, net: syntax.Definition, blocks: Mapping[str, syntax.Definition]) -> None:
        self.net = Run(net)
        self.order = [self.net]
        self.blocks = blocks
        self.found: dict[syntax.Definition, list[Run]] = {}
        # Links are compared by what they are, not by what they say: two iterations may read the same.
        self.known: dict[int, Run | None] = {}

    def run(self, chain: Link | None) -> Run | None:
        """The run at the end of a chain; None within a shared part that is run again."""
        pending: list[Link] = []
        while chain is not None and id(chain) not in self.known:
            pending.append(chain)
            chain = chain.parent
        run = self.net if chain is None else self.known[id(chain)]
        for link in reversed(pending):
            run = None if run is None else self._enter(run, link)
            self.known[id(link)] = run
        return run

    def _enter(self, around: Run, link: Link) -> Run | None:
        match link.statement:
            case syntax.Apply() as call:
                block = self.blocks[call.word]
                around.calls[call] = inner = self._new(block)
                self.found.setdefault(block, []).append(inner)
                return inner
            case (syntax.Repeat() | syntax.For()) as loop:
                assert link.iteration is not None
                runs = around.loops.setdefault(loop, LoopRuns(link.iteration))
                runs.runs[link.iteration.number] = inner = self._new(around.definition)
                return inner
            case _:
                return None

    def _new(self, definition: syntax.Definition) -> Run:
        self.order.append(run := Run(definition))
        return run
