"""The command line of one verb: argparse, with a hint for every slip of the finger."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


class UsageError(Exception):
    """A command line that makes no sense; `hint` says what was probably meant."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class VerbParser(argparse.ArgumentParser):
    """Options of one verb. `example` ends the help text. Mistakes raise `UsageError`."""

    def __init__(self, verb: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"convc {verb}",
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # An abbreviation that works today breaks with the next option.
            allow_abbrev=False,
        )

    @property
    def actions(self) -> list[argparse.Action]:
        """Its options and positional arguments, in the order of the help text."""
        return list(self._actions)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            self._refuse(unknown[0])
        return known

    def _refuse(self, word: str) -> NoReturn:
        name = word.split("=")[0]
        if not name.startswith("-"):
            raise UsageError(f"unexpected argument {word!r}", f"see `{self.prog} --help`")
        options = [option for action in self._actions for option in action.option_strings]
        from convc.frontend.train_item import WORDS

        if name.lstrip("-") in WORDS and "--set" in options:
            raise UsageError(f"unknown option {name}", f"settings are given as --set train.{name.lstrip('-')}=VALUE")
        near = similar(name, options)
        raise UsageError(f"unknown option {name}", f"did you mean {near}?" if near else f"see `{self.prog} --help`")

    def error(self, message: str) -> NoReturn:
        required = re.match(r"the following arguments are required: (.*)", message)
        if required:
            message = f"{required[1]} is missing"
        raise UsageError(message, f"see `{self.prog} --help`")


def similar(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    near = difflib.get_close_matches(word, list(known), 1)
    return near[0] if near else None


# Types of options: their messages are shown behind the option's name.


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1 is needed, not {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII):
        raise argparse.ArgumentTypeError(f"a whole number is needed, not {text!r}")
    return int(text)


def positives(text: str) -> list[int]:
    """Whole numbers of at least 1 with commas between, each once: `1,8,64`."""
    return list(dict.fromkeys(positive(part) for part in text.split(",")))


def fraction(text: str) -> float:
    """A number above 0, such as 1e-4."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 such as 1e-4 is needed, not {text!r}")
    return value


def tuning(text: str) -> float | str:
    """A number of seconds, or `full`."""
    return text if text == "full" else fraction(text.removesuffix("s"))


def size(text: str) -> int:
    """A number of bytes: `2GiB`, `500MB`, `4096`. KiB, MiB, … are powers of 1024, kB, MB, … powers of 1000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise argparse.ArgumentTypeError(f"a size such as 2GiB or 500MB is needed, not {text!r}")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


class OneOf:
    """One of several words, or with `several` a list of them with commas between."""

    def __init__(self, *words: str, several: bool = False) -> None:
        self.words = words
        self.several = several

    def __call__(self, text: str) -> Any:
        chosen = [word.strip() for word in text.split(",")] if self.several else [text]
        for word in chosen:
            if word not in self.words:
                near = similar(word, self.words)
                hint = f"; did you mean {near}?" if near else ""
                raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(self.words)}{hint}")
        return chosen if self.several else text

    @property
    def metavar(self) -> str:
        return "|".join(self.words) if not self.several else ",".join(self.words)
