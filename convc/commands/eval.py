"""`convc eval`: accuracy and loss of a trained net."""

from __future__ import annotations

import argparse
from pathlib import Path

from convc.commands.options import (
    add_batch,
    add_json,
    add_net_options,
    add_target,
    add_threads,
    assignments,
    limits_of,
)
from convc.commands.output import format_count, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE|RUN", help="a run folder, or a .cnn file")
    parser.add_argument("--weights", type=Path, metavar="W", help="safetensors file (default: the best of the run)")
    parser.add_argument("--data", metavar="SPEC", help="other data: mnist, 'folder \"photos/\"'")
    add_net_options(parser, strict=False)
    add_batch(parser, "the file's, else 64")
    add_target(parser)
    add_threads(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.runtime.evaluate import evaluate
    from convc.runtime.progress import figure
    from convc.runtime.trained import evaluation_data, open_trained

    settings = assignments(arguments.set)
    limits = limits_of(arguments)
    trained = open_trained(arguments.source, arguments.weights, net=arguments.net, set=settings, limits=limits)
    dataset, part, split = evaluation_data(trained.net, arguments.data)
    with trained.program(batch=arguments.batch, target=arguments.target, threads=arguments.threads) as program:
        result = evaluate(program, split)
    if arguments.json:
        print_json(dict(result))
        return 0
    print(f"{format_count(result['count'])} {part} images of {dataset.name}, weights {trained.checkpoint.path}")
    print(f"accuracy {100 * result['accuracy']:.2f} %")
    print(f"top five {100 * result['top5']:.2f} %")
    if result["loss"] is not None:
        print(f"loss {figure(result['loss'])}")
    return 0
