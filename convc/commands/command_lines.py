"""What may stand on the command lines of each verb, read from its parser: for completion in shells."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module

from convc.commands import VERBS
from convc.commands.parser import OneOf, VerbParser
from convc.lazy import dataclass


@dataclass(frozen=True)
class Value:
    """What completes a value: `words`, and files whose names end in `suffix`, files at all, or folders."""

    words: tuple[str, ...] = ()
    files: bool = False
    suffix: str = ""
    folders: bool = False


@dataclass(frozen=True)
class Option:
    """`value` is None for a switch."""

    names: tuple[str, ...]
    help: str
    metavar: str
    value: Value | None
    repeated: bool


@dataclass(frozen=True)
class CommandLine:
    """A verb with its options, and what completes its positional arguments."""

    verb: str
    summary: str
    options: tuple[Option, ...]
    value: Value
    metavar: str


# By the names that help texts give to values.
_KINDS = {
    "FILE": Value(files=True, suffix=".cnn"),
    "FILE|RUN": Value(files=True, suffix=".cnn", folders=True),
    "DIR": Value(folders=True),
    "D": Value(folders=True),
    "IMAGE": Value(files=True),
    "PATH": Value(files=True),
    "MODEL": Value(files=True, suffix=".onnx"),
    "FILE.ir": Value(files=True, suffix=".ir"),
    "W": Value(files=True),
    "W2": Value(files=True),
    "OUT": Value(files=True),
}


def _language_words() -> tuple[str, ...]:
    from convc.frontend.reference import known_words

    return tuple(dict.fromkeys(word.split()[0] for word in known_words()))


# Positional arguments that are words without being one of a few.
_WORDS: dict[tuple[str, str], Callable[[], tuple[str, ...]]] = {("docs", "words"): _language_words}


def command_line(verb: str) -> CommandLine:
    """What may stand behind `convc VERB`."""
    parser = VerbParser(verb, VERBS[verb].text, VERBS[verb].example)
    import_module(f"convc.commands.{verb}").add_arguments(parser)
    options: list[Option] = []
    values: list[Value] = []
    metavars: list[str] = []
    for action in parser.actions:
        if action.option_strings:
            switch = action.nargs == 0
            options.append(
                Option(
                    tuple(action.option_strings),
                    (action.help or "").split("\n")[0],
                    _metavar(action),
                    None if switch else _value(verb, action),
                    action.__class__.__name__ == "_AppendAction",
                )
            )
        else:
            values.append(_value(verb, action))
            metavars.append(_metavar(action))
    return CommandLine(verb, VERBS[verb].summary, tuple(options), _merged(values), " ".join(metavars))


def _metavar(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest


def _value(verb: str, action: argparse.Action) -> Value:
    if (verb, action.dest) in _WORDS:
        return Value(_WORDS[verb, action.dest]())
    if isinstance(action.type, OneOf):
        return Value(action.type.words)
    if action.choices is not None:
        return Value(tuple(map(str, action.choices)))
    return _KINDS.get(_metavar(action), Value())


def _merged(values: list[Value]) -> Value:
    """What completes any of several positional arguments."""
    suffixes = {value.suffix for value in values if value.files}
    return Value(
        tuple(word for value in values for word in value.words),
        any(value.files for value in values),
        suffixes.pop() if len(suffixes) == 1 else "",
        any(value.folders for value in values),
    )
