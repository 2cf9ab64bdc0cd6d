"""What a rewritten file says besides its net: paths that lead elsewhere from another folder, frozen parameters."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from convc.frontend import syntax
from convc.frontend.expressions import literal
from convc.frontend.text_editor import Editor

_WITH_PATHS = ("data", "init")


def relocate(editor: Editor, file: syntax.File, folder: str) -> None:
    """Let relative paths lead where they led before, for a text that moves to `folder`."""
    base = os.path.dirname(file.name)
    if os.path.realpath(base or ".") == os.path.realpath(folder or "."):
        return
    for use in file.uses:
        if not os.path.isabs(use.path):
            editor.replace(use.path_span, literal(_moved(use.path, base, folder)))
    for text in _path_arguments(file):
        if not os.path.isabs(text.value):
            editor.replace(text.span, literal(_moved(text.value, base, folder)))


def _moved(path: str, base: str, folder: str) -> str:
    moved = os.path.relpath(os.path.join(base, path), folder or ".")
    return moved + "/" if path.endswith("/") else moved


def _path_arguments(file: syntax.File) -> Iterator[syntax.Text]:
    for train in file.trains:
        for setting in train.settings:
            for argument in setting.arguments if setting.word in _WITH_PATHS else ():
                if argument.key is None and isinstance(argument.value, syntax.Text):
                    yield argument.value


def init_argument(file: syntax.File, key: str | None) -> syntax.Argument | None:
    """The path (`key` None) or `freeze=` of the `init` of a file's train item."""
    for train in file.trains:
        for setting in train.settings:
            if setting.word == "init":
                return next((argument for argument in setting.arguments if argument.key == key), None)
    return None


def patterns_text(names: Sequence[str]) -> str:
    """`"conv1"` or `["conv1", "conv2"]`."""
    return literal(names[0]) if len(names) == 1 else f"[{', '.join(map(literal, names))}]"
