"""`convc predict`: what a trained net sees in images."""

from __future__ import annotations

import argparse
from pathlib import Path

from convc.commands.options import add_json, add_net_options, add_target, add_threads, assignments
from convc.commands.output import print_json

# More images at a time gain nothing, and a small program is compiled no faster than a large one.
_MOST = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE|RUN", help="a run folder, or a .cnn file")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument("--weights", type=Path, metavar="W", help="safetensors file (default: the best of the run)")
    add_net_options(parser, strict=False)
    add_target(parser)
    add_threads(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.ir.diagnostic import printable
    from convc.runtime.predict import predict
    from convc.runtime.trained import open_trained

    settings = assignments(arguments.set)
    trained = open_trained(arguments.source, arguments.weights, net=arguments.net, set=settings)
    batch = min(_MOST, len(arguments.images))
    with trained.program(batch=batch, target=arguments.target, threads=arguments.threads) as program:
        predictions = predict(program, arguments.images, trained.classes)
    if arguments.json:
        print_json(
            {
                "predictions": [
                    {
                        "image": prediction.path,
                        "classes": [
                            {"name": guess.name, "label": guess.label, "probability": guess.probability}
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
            print(f"  {100 * guess.probability:6.2f} %  {printable(guess.name)}")
    return 0
