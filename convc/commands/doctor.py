"""`convc doctor`: what this installation can do."""

from __future__ import annotations

import argparse

from convc.commands.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure what predictions of times are made of, and remember it for --constants measured",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from convc.runtime.doctor import doctor, print_doctor

    report = doctor(measure=arguments.measure)
    if arguments.json:
        print_json(report)
    else:
        print_doctor(report)
    return 0 if report["ok"] else 1
