"""`init … freeze="conv*"`: which parameters the patterns mean, and a graph in which these are frozen.

A pattern (`*`, `?`, `[abc]`) is held against the full name of a parameter, `basic2.conv1.weight`, and against the path
of every layer and block that it belongs to, `basic2.conv1` and `basic2`; `*` takes dots, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from convc.frontend.hints import closest
from convc.frontend.settings import TrainSettings
from convc.ir.diagnostic import Diagnostic
from convc.ir.graph import Graph
from convc.ir.ops.norm import BatchNorm


def freeze(graph: Graph, patterns: Sequence[str]) -> None:
    """Freeze the parameters of a forward graph that match, in place, so that no gradient is made for them.

    A `bn` whose gamma and beta are both frozen keeps its statistics as well, as one with `freeze=yes` does; so does one
    whose statistics match themselves.
    """
    if not patterns:
        return
    for name in frozen_names(graph.parameters, patterns):
        graph.parameters[name] = replace(graph.parameters[name], frozen=True)
    for node in graph.nodes_of(BatchNorm):
        assert isinstance(node.op, BatchNorm)
        affine, statistics = node.operands[1:3], node.operands[3:5]
        scaling = [graph.parameters[value.name] for value in affine if value.name is not None]
        buffers = [graph.parameters[value.name] for value in statistics if value.name is not None]
        if (scaling and all(p.frozen for p in scaling)) or any(p.frozen for p in buffers):
            node.op = replace(node.op, frozen=True)
            for parameter in buffers:
                graph.parameters[parameter.name] = replace(parameter, frozen=True)


def frozen_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those of `names` that one of `patterns` means."""
    return [name for name in names if any(_means(pattern, name) for pattern in patterns)]


def unmatched_patterns(settings: TrainSettings, graphs: Iterable[Graph]) -> Iterator[Diagnostic]:
    """An error for each pattern of `freeze=` that means nothing in any of `graphs`."""
    if settings.init is None or not settings.init.freeze:
        return
    names = [name for graph in graphs for name in graph.parameters]
    for pattern in settings.init.freeze:
        if not frozen_names(names, [pattern]):
            message = f"no parameter matches `{pattern}`, so there is nothing to freeze"
            yield Diagnostic("name-parameter", message, settings.span("init.freeze"), hint=_hint(pattern, names))


def _means(pattern: str, name: str) -> bool:
    return any(fnmatchcase(path, pattern) for path in _paths(name))


def _paths(name: str) -> Iterator[str]:
    """`basic2.conv1.weight`, `basic2.conv1`, `basic2`."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _hint(pattern: str, names: Sequence[str]) -> str | None:
    """The pattern that was most likely meant: the same one with a layer of this net, or a word that its layers have."""
    paths = dict.fromkeys(path for name in names for path in _paths(name))
    if not paths:
        return None
    stem = pattern.rstrip("*")
    star = pattern[len(stem) :]
    words = dict.fromkeys(re.sub(r"\d+$", "", path) for path in paths) if star else {}
    near = closest(stem, [*words, *paths])
    if near is not None:
        return f"did you mean `{near}{star}`?"
    layers = list(dict.fromkeys(name.split(".")[0] for name in names))
    shown = ", ".join(layers[:8]) + (", …" if len(layers) > 8 else "")
    return f"layers with parameters are {shown}"
