"""`convc passes`: what passes there are."""

from __future__ import annotations

import argparse

from convc.commands.options import add_json
from convc.commands.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.passes.options import options_of
    from convc.passes.registry import ALL_PASSES, explanation

    if arguments.json:
        entries = [
            {
                "name": name,
                "summary": explanation(kind)[0],
                "example": explanation(kind)[1],
                "options": [
                    {"name": option.name, "takes": option.takes, "default": _plain(option.default)}
                    for option in options_of(kind)
                ],
                "metrics": dict(kind.metrics),
            }
            for name, kind in ALL_PASSES.items()
        ]
        print_json({"passes": entries})
        return 0
    for name, kind in ALL_PASSES.items():
        summary, example = explanation(kind)
        options = [
            f"{option.name}={_shown(option.default)} ({option.takes})" for option in options_of(kind) if option.takes
        ]
        print(f"{name}: {summary}")
        if options:
            print(f"  options: {', '.join(options)}")
        if kind.metrics:
            print("  reports:\n" + "\n".join(f"    {key}: {meaning}" for key, meaning in kind.metrics.items()))
        print("\n" + "".join(f"  {line}".rstrip() + "\n" for line in example.splitlines()))
    return 0


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _shown(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else "" if value is None else str(value)
