"""One open file: its text, what the checker knows about it, and the names in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import field
from functools import cached_property

from convc.commands.language_server.positions import Places
from convc.frontend import syntax
from convc.frontend.bindings import Bindings, bindings_of
from convc.frontend.emission import Layer
from convc.frontend.load import Inspection, inspect
from convc.frontend.parser import parse_what_is_there
from convc.frontend.source import Source
from convc.ir.span import Span
from convc.lazy import dataclass


@dataclass(frozen=True)
class Instance:
    """One use of a layer that the text writes once: blocks and loops have several. Weights count where first used."""

    net: str
    layer: Layer
    params: int
    macs: int


@dataclass
class Document:
    """A version of a text. `older` is the last one that could be read, for names while a bracket is missing."""

    path: str
    text: str
    encoding: str = "utf-16"
    older: Document | None = None
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        self.places = Places(self.text, self.encoding)
        if self.older is not None and self.older.file is None:
            self.older = self.older.older
        # What is older than the one before that is never asked again; kept, every edit would be.
        if self.older is not None and self.older.older is not None:
            self.older.older.older = None

    @cached_property
    def inspection(self) -> Inspection:
        return inspect(Source(self.path, self.text))

    @cached_property
    def file(self) -> syntax.File | None:
        """The statements that parse; None where brackets do not match."""
        return parse_what_is_there(Source(self.path, self.text))

    @cached_property
    def bindings(self) -> Bindings:
        if self.file is None:
            return self.older.bindings if self.older is not None else Bindings()
        program = self.inspection.program
        known = program or (self.older.inspection.program if self.older is not None else None)
        return bindings_of(self.file, known.blocks if known is not None else {})

    @cached_property
    def instances(self) -> dict[Span, list[Instance]]:
        """The layers of this file's nets, by the place where the text writes them."""
        found: dict[Span, list[Instance]] = {}
        for instance in self._instances():
            found.setdefault(instance.layer.span, []).append(instance)
        return found

    def _instances(self) -> Iterator[Instance]:
        from convc.passes.summary import layer_rows

        for result in self.inspection.results:
            kinds = {layer.name: layer.kind.split()[0] for layer in result.layers}
            rows: dict[str, list[tuple[int, int]]] = {}
            if result.graph.inputs:
                for row in layer_rows(result.graph, kinds):
                    rows.setdefault(row.name, []).append((row.params, row.macs))
            for layer in result.layers:
                # Layers that become no operation, such as `linear`, have no row.
                counts = rows.get(layer.name)
                params, macs = counts.pop(0) if counts else (0, 0)
                yield Instance(result.graph.name, layer, params, macs)

    def statements(self) -> Iterator[syntax.Statement]:
        """All statements of the file, those inside others included."""
        from convc.frontend.bindings import statements_in

        for definition in self.file.definitions if self.file is not None else ():
            yield from statements_in(definition.body)

    def used_path(self, use: syntax.Use) -> str:
        return os.path.join(os.path.dirname(self.path), use.path)
