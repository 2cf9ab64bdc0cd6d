"""`convc predict`: what a trained net sees in images: classes with probabilities or, of pixels, with their shares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.options import (
    add_fp32,
    add_inference_precision,
    add_json,
    add_net_options,
    add_target,
    add_threads,
    assignments,
    limits_of,
    measured_ranges,
    patterns,
)
from convc.commands.output import print_json

if TYPE_CHECKING:
    from convc.runtime.predict import Prediction

# More images at a time gain nothing, and a small program is compiled no faster than a large one.
_MOST = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE|RUN", help="a run folder, or a .cnn file")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument("--weights", type=Path, metavar="W", help="safetensors file (default: the best of the run)")
    add_net_options(parser, strict=False)
    add_inference_precision(parser)
    add_fp32(parser)
    add_target(parser)
    add_threads(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.ir.diagnostic import printable
    from convc.runtime.predict import predict
    from convc.runtime.trained import open_trained

    settings = assignments(arguments.set)
    limits = limits_of(arguments)
    trained = open_trained(arguments.source, arguments.weights, net=arguments.net, set=settings, limits=limits)
    batch, fp32 = min(_MOST, len(arguments.images)), patterns(arguments.fp32)
    ranges = measured_ranges(arguments, trained.net, trained.checkpoint.weights, fp32 or trained.fp32)
    with trained.program(
        batch=batch,
        target=arguments.target,
        threads=arguments.threads,
        precision=arguments.precision,
        fp32=fp32,
        ranges=ranges,
    ) as program:
        predictions = predict(program, arguments.images, trained.classes, trained.image_size)
    if arguments.json:
        print_json(
            {
                "predictions": [
                    {
                        "image": prediction.path,
                        "classes": [
                            {"name": guess.name, "label": guess.label, _measure(prediction): guess.probability}
                            for guess in prediction.guesses
                        ],
                    }
                    for prediction in predictions
                ]
            }
        )
        return 0
    for prediction in predictions:
        print(printable(prediction.path))
        for guess in prediction.guesses:
            unit = "% of the pixels" if prediction.per_pixel else "%"
            print(f"  {100 * guess.probability:6.2f} {unit}  {printable(guess.name)}")
    return 0


def _measure(prediction: Prediction) -> str:
    """What the number of a class is, by its name in JSON."""
    return "share" if prediction.per_pixel else "probability"
