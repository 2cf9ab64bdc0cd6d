"""`convc gradcheck`: are the gradients of a net right?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from convc.commands.options import (
    add_algorithms,
    add_batch,
    add_fp32,
    add_json,
    add_net_options,
    add_passes,
    add_precision,
    add_target,
    algorithm_arguments,
    open_net,
    patterns,
)
from convc.commands.output import format_table, print_json
from convc.commands.parser import positive, whole

if TYPE_CHECKING:
    from convc.runtime.gradcheck import GradientReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    add_net_options(parser)
    add_batch(parser, "4")
    add_target(parser)
    add_precision(parser)
    add_fp32(parser)
    text = "check the graph that all passes of a training program have left; -p, --passes and --algo imply it"
    parser.add_argument("--after-passes", action="store_true", help=text)
    add_passes(parser)
    add_algorithms(parser)
    parser.add_argument(
        "--samples", type=positive, default=8, metavar="N", help="elements to check per parameter (default: 8)"
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="of the random point (default: 0)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.runtime.algorithms import AlgorithmOptions
    from convc.runtime.gradcheck import as_json, gradcheck

    net = open_net(arguments)
    algorithms = AlgorithmOptions(**algorithm_arguments(arguments))
    report = gradcheck(
        net,
        batch=arguments.batch or 4,
        samples=arguments.samples,
        seed=arguments.seed,
        target=arguments.target,
        precision=arguments.precision,
        fp32=patterns(arguments.fp32),
        after_passes=arguments.after_passes,
        passes=arguments.passes,
        algorithms=None if algorithms == AlgorithmOptions() else algorithms,
    )
    if arguments.json:
        print_json(as_json(report))
    else:
        print(_as_text(report))
    return 0 if report.passed else 1


def _as_text(report: GradientReport) -> str:
    header = ("parameter", "shape", "checked", "on kinks", "error", "worst element", "compiled error", "verdict")
    rows = [
        (
            check.name,
            "x".join(map(str, check.shape)),
            str(check.checked),
            str(check.skipped),
            _error(check.max_relative_error),
            "" if check.worst is None else "[" + ",".join(map(str, check.worst)) + "]",
            _error(check.compiled_relative_error),
            check.verdict + (f": {check.why}" if check.why else ""),
        )
        for check in report.parameters
    ]
    count = sum(check.verdict == "wrong" for check in report.parameters)
    untested = sum(check.verdict == "untested" for check in report.parameters)
    verdict = f"{count} of {len(rows)} gradients are WRONG" if count else f"{len(rows) - untested} gradients are right"
    return "\n".join(
        (
            f"{report.net}, batch {report.batch}: numeric against analytic gradients in float64"
            + (f", and those of target {report.target} in float32" if report.target != "reference" else ""),
            *((f"after {', '.join(report.passes)}",) if report.passes else ()),
            "",
            format_table(header, rows, left=(0, 1, 7)),
            "",
            verdict + (f", {untested} could not be tested" if untested else ""),
        )
    )


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
