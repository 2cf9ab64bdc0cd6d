"""`convc completion`: scripts that complete command lines, made from the verbs and their parsers."""

from __future__ import annotations

import argparse

from convc.commands.parser import OneOf

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", type=OneOf(*SHELLS), help=f"one of {', '.join(SHELLS)}")


def run(arguments: argparse.Namespace) -> int:
    from convc.commands import VERBS, completion_scripts
    from convc.commands.command_lines import command_line

    lines = [command_line(name) for name in VERBS]
    print(getattr(completion_scripts, arguments.shell)(lines), end="")
    return 0
