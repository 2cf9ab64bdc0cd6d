"""`convc eval`: accuracy and loss of a trained net, in one precision or in several side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from convc.commands.options import (
    add_batch,
    add_fp32,
    add_json,
    add_net_options,
    add_precisions,
    add_target,
    add_threads,
    assignments,
    limits_of,
    measured_ranges,
    patterns,
)
from convc.commands.output import format_count, print_json
from convc.commands.precision_table import precision_content, precision_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE|RUN", help="a run folder, or a .cnn file")
    parser.add_argument("--weights", type=Path, metavar="W", help="safetensors file (default: the best of the run)")
    parser.add_argument("--data", metavar="SPEC", help="other data: mnist, 'folder \"photos/\"'")
    add_net_options(parser, strict=False)
    add_batch(parser, "the file's, else 64")
    add_precisions(parser)
    add_fp32(parser)
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
    precisions, fp32 = list(dict.fromkeys(arguments.precision)), patterns(arguments.fp32)
    kept = fp32 or trained.fp32
    ranges = measured_ranges(arguments, trained.net, trained.checkpoint.weights, kept, dataset)
    heading = f"{format_count(len(split))} {part} images of {dataset.name}, weights {trained.checkpoint.path}"
    if len(precisions) > 1:
        from convc.runtime.precisions import compare_trained

        found = compare_trained(
            trained,
            split,
            precisions,
            batch=arguments.batch,
            target=arguments.target,
            threads=arguments.threads,
            fp32=fp32,
            ranges=ranges,
        )
        if arguments.json:
            print_json({"count": len(split), **precision_content(found)})
        else:
            print(heading)
            print(precision_text(found))
        return 0
    with trained.program(
        batch=arguments.batch,
        target=arguments.target,
        threads=arguments.threads,
        precision=precisions[0] if precisions else None,
        fp32=fp32,
        ranges=ranges,
    ) as program:
        result = evaluate(program, split)
    if arguments.json:
        print_json(dict(result))
        return 0
    print(heading)
    print(f"accuracy {100 * result['accuracy']:.2f} %")
    print(f"top five {100 * result['top5']:.2f} %")
    if result["loss"] is not None:
        print(f"loss {figure(result['loss'])}")
    return 0
