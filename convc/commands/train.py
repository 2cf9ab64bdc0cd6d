"""`convc train`: train a net."""

from __future__ import annotations

import argparse
from pathlib import Path

from convc.commands.options import (
    add_algorithms,
    add_arch,
    add_batch,
    add_fp32,
    add_html,
    add_memory,
    add_net_options,
    add_precision,
    add_target,
    add_threads,
    algorithm_arguments,
    check_arch,
    check_memory,
    open_net,
    patterns,
    write_html,
)
from convc.commands.output import refuse_input
from convc.commands.parser import OneOf, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    add_net_options(parser)
    parser.add_argument("--data", metavar="SPEC", help="train on this instead: mnist, 'idx \"dir/\" train=5000'")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the training images")
    add_batch(parser, "the file's, else 64")
    add_memory(parser)
    add_precision(parser)
    add_fp32(parser)
    add_target(parser)
    add_arch(parser)
    add_threads(parser)
    add_algorithms(parser)
    add_html(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run folder (default: runs/NAME-N)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, or with the last one, to its end"
    )
    parser.add_argument(
        "--init", type=Path, metavar="W", help="start from the weights in W (safetensors), not the file's `init`"
    )
    text = "report: count what rounding to 16 bits loses in a step, op by op, before the training and after it"
    parser.add_argument("--numerics", type=OneOf("report"), metavar="WHAT", help=text)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print only the run folder and the result")
    shown.add_argument("--json", action="store_true", help="print one JSON object per event")


def run(arguments: argparse.Namespace) -> int:
    import convc

    check_memory(arguments)
    check_arch(arguments)
    if arguments.html:
        refuse_input(arguments.file, arguments.html)
    net = open_net(arguments)
    convc.fit(
        net,
        data=arguments.data,
        epochs=arguments.epochs,
        batch=arguments.batch,
        target=arguments.target,
        arch=arguments.arch,
        precision=arguments.precision,
        fp32=patterns(arguments.fp32),
        threads=arguments.threads,
        out=arguments.out,
        resume=arguments.resume,
        init=arguments.init,
        memory=arguments.memory,
        fit_bytes=arguments.fit,
        **algorithm_arguments(arguments),
        inspect=(lambda program: write_html(arguments, net, program)) if arguments.html else None,
        numerics=arguments.numerics is not None,
        report="json" if arguments.json else "quiet" if arguments.quiet else "auto",
    )
    return 0
