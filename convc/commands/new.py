"""`convc new`: a net to begin with, from a template that explains itself."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

from convc.commands.parser import OneOf

SUFFIX = ".cnn"
DEFAULT = "lenet"
_NET = re.compile(r"^net (\w+)\(", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = templates()
    text = f"what to begin with: {', '.join(names)} (default: {DEFAULT})"
    parser.add_argument("name", metavar="NAME", help="the name of the net, or the path of its file; .cnn is added")
    parser.add_argument("--like", metavar="KIND", type=OneOf(*names), default=DEFAULT, help=text)


def run(arguments: argparse.Namespace) -> int:
    from convc.ir.diagnostic import fail
    from convc.runtime.atomic import write_new

    path = Path(arguments.name if arguments.name.endswith(SUFFIX) else arguments.name + SUFFIX)
    if not path.stem or path.name == SUFFIX or arguments.name.endswith("/") or "\0" in arguments.name:
        fail("file-write", f"{arguments.name!r} is no name for a file", hint="for example: convc new digits")
    write_new(path, filled(template(arguments.like), path))
    print(f"{path} written; go on with: {next_step(arguments.like, path)}")
    return 0


def templates() -> list[str]:
    """The names that `--like` takes."""
    return sorted(path.stem for path in _folder().glob(f"*{SUFFIX}"))


def template(name: str) -> str:
    """The text of a template."""
    return (_folder() / f"{name}{SUFFIX}").read_text(encoding="utf-8")


def filled(text: str, path: Path) -> str:
    """A template for the file `path`: the net has its name, if that can be the name of a net."""
    from convc.frontend.formatter import format_text

    name = path.name.removesuffix(SUFFIX)
    if _names_a_net(name):
        text = _NET.sub(f"net {name}(", text)
    if path.name.isprintable():
        # In comments: commands that the reader may copy, whatever the file is called.
        for place, shown in (('"NAME.cnn"', json.dumps(path.name)), ("NAME", shlex.quote(name))):
            text = text.replace(place, shown)
    return format_text(text)


def next_step(kind: str, path: Path) -> str:
    """The command that makes sense next: training, where the template says on what."""
    verb = "train" if "\n  data " in template(kind) else "summary"
    return f"convc {verb} {shlex.quote(str(path))}"


def _names_a_net(name: str) -> bool:
    from convc.frontend.expression_parser import OPERATOR_WORDS
    from convc.frontend.limits import DEFAULT_LIMITS

    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and len(name) <= DEFAULT_LIMITS.name_characters
    return bool(plain) and name not in OPERATOR_WORDS


def _folder() -> Path:
    import convc.frontend

    return Path(convc.frontend.__file__).parent / "templates"
