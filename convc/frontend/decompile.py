"""Source to source: a forward graph back to a `.cnn` file that loads as the same graph.

Names are kept as far as the language allows, so that checkpoints go on working: what comes from a `.cnn` file comes
back with its residuals, branches, blocks and shared parts, and with its own names. What has no such structure becomes
a chain of statements with `as`, `from`, `add` and `concat`. Every text is read back and compared before it is given
away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field, replace

from convc.frontend.decompiling.blocks import define
from convc.frontend.decompiling.layout import text as layout
from convc.frontend.decompiling.recognition import Recognition, recognise
from convc.frontend.decompiling.structure import structure
from convc.frontend.decompiling.writing import Writer, hoist
from convc.frontend.formatter import format_text
from convc.frontend.layers import BY_WORD
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.load import loads
from convc.frontend.net import Net
from convc.frontend.program import names_in, read_program
from convc.frontend.source import Source
from convc.frontend.statement_parser import STATEMENT_WORDS
from convc.frontend.syntax import Let
from convc.ir.diagnostic import CompileError, fail
from convc.ir.equivalence import Match, match
from convc.ir.graph import Graph
from convc.ir.span import Span
from convc.lazy import dataclass

_FILE = "<decompiled>"  # what messages call the text


@dataclass(frozen=True)
class Decompiled:
    """A `.cnn` file, and how the parameters of the graph are called in it: graph's name -> name in the file."""

    text: str
    names: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def renamed(self) -> dict[str, str]:
        """The names that could not be kept."""
        return {old: new for old, new in self.names.items() if old != new}


def decompile(
    graph: Graph, *, settings: str | None = None, keep_names: bool = True, limits: Limits = DEFAULT_LIMITS
) -> Decompiled:
    """The `.cnn` text of a forward graph; `load` makes it into an equal graph, up to names (see `ir.equivalence`).

    `settings` is the text of a `train` or `search` item, appended as it is. With `keep_names` layers get `name=` where
    their automatic number would differ from their name in the graph; without, all are numbered. The random streams of
    dropout and noise follow from the names of their layers.

    Raises a `CompileError` that lists all nodes and parameters without surface syntax (`missing-syntax`), or one with
    the errors of the text, for `settings` that cannot be read or a net beyond the limits.
    """
    found = recognise(graph)
    result = Match()
    for flat in (False, True):
        try:
            text = _text(graph, found, settings, keep_names=keep_names, flat=flat, limits=limits)
            result = _compare(graph, text, limits)
        except CompileError:
            if flat:
                raise
            continue
        if result.difference is None:
            return Decompiled(text, {name: result.parameters[name] for name in graph.parameters})
    hint = "the text that comes closest differs in this"
    fail("missing-syntax", f"graph @{graph.name} has no text that gives it back: {result.difference}", hint=hint)


def forward_graph(net: Net, batch: int) -> Graph:
    """The graph of a net without what its settings freeze, which stays with the settings."""
    return replace(net, settings=replace(net.settings, init=None)).graph(batch)


def settings_text(net: Net) -> str | None:
    """The `train` and `search` items of a net's file, with the constants that they mention and with absolute paths."""
    program, _ = read_program(Source(net.path, net.resolved()), DEFAULT_LIMITS)
    root = program.root
    items = (*root.trains, *root.searches)
    lines = program.sources[root.name].split("\n")
    wanted = _constants(root.lets, set(names_in(items)))
    return "\n\n".join(_slice(lines, item.span) for item in (*wanted, *items)) or None


def _constants(lets: Sequence[Let], names: set[str]) -> list[Let]:
    """Those of the definitions that the names need, in their order."""
    by_name = {let.name: let for let in lets}
    pending, found = list(names), set[str]()
    while pending:
        name = pending.pop()
        if name in by_name and name not in found:
            found.add(name)
            pending += names_in(by_name[name].value)
    return [let for let in lets if let.name in found]


def _slice(lines: Sequence[str], span: Span) -> str:
    taken = list(lines[span.line - 1 : span.end_line])
    taken[-1] = taken[-1][: span.end_column - 1]
    taken[0] = taken[0][span.column - 1 :]
    return "\n".join(taken)


def _text(
    graph: Graph, found: Recognition, settings: str | None, *, keep_names: bool, flat: bool, limits: Limits
) -> str:
    name = _net_name(graph.name)
    parts = structure(found.steps, found.logits, flat=flat)
    hoist(parts)
    writer = Writer(keep_names)
    blocks = define(parts, writer, name)
    text = layout(name, blocks, writer.body(parts))
    if settings is not None and settings.strip():
        text += "\n" + settings.strip("\n") + "\n"
    return format_text(text, _FILE, limits)


def _compare(graph: Graph, text: str, limits: Limits) -> Match:
    batch = next(iter(graph.inputs.values())).shape[0]
    twin = forward_graph(loads(text, file=_FILE, limits=limits), batch)
    # The order of parameters follows the layers; a graph made elsewhere may list them in another one.
    return match(graph, twin, ordered=False)


def _net_name(name: str) -> str:
    word = re.sub(r"\W", "_", name, flags=re.ASCII)[:60] or "net"
    if not re.match(r"[A-Za-z_]", word) or word in BY_WORD or word in STATEMENT_WORDS:
        word = f"net_{word}"
    return word
