"""Definitions that move to another file: they take along the constants of their own file that they mention."""

from __future__ import annotations

from collections.abc import Container, Mapping

from convc.frontend import syntax
from convc.frontend.expressions import Constant, literal
from convc.frontend.program import names_in
from convc.frontend.text_editor import Editor
from convc.frontend.token_roles import nodes


def supply_constants(
    editor: Editor, definition: syntax.Definition, constants: Mapping[str, Constant | None], given: Container[str] = ()
) -> None:
    """Edit a definition so that it no longer needs the `let`s of its file, whose values are `constants`.

    Defaults of the parameters in `given` are left alone: they are replaced anyway.
    """
    own = {parameter.name for parameter in definition.parameters}
    body_names = set(names_in(definition.body)) - own
    lets = [
        f"let {name} = {literal(value)}"
        for name, value in constants.items()
        if name in body_names and value is not None
    ]
    if lets:
        opening, _ = editor.bounds(definition.body.span)
        editor.insert(opening + 1, "\n  " + "\n  ".join(lets) + "\n")
    earlier: set[str] = set()
    for parameter in definition.parameters:
        if parameter.default is not None and parameter.name not in given:
            for name in nodes(parameter.default):
                value = constants.get(name.name) if isinstance(name, syntax.Name) else None
                if isinstance(name, syntax.Name) and name.name not in earlier and value is not None:
                    editor.replace(name.span, f"({literal(value)})")
        earlier.add(parameter.name)
