"""`convc export`: a net with its weights as an ONNX model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.options import add_net_options, assignments, limits_of
from convc.commands.output import format_bytes, refuse_input
from convc.commands.parser import positive

if TYPE_CHECKING:
    from convc.runtime.program import Program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE|RUN", help="a run folder, or a .cnn file")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="the .onnx file to write")
    parser.add_argument("--weights", type=Path, metavar="W", help="safetensors file (default: the best of the run)")
    parser.add_argument(
        "--opset", type=positive, metavar="N", default=17, help="version of the operators (default: 17)"
    )
    add_net_options(parser, strict=False)


def run(arguments: argparse.Namespace) -> int:
    import convc

    refuse_input(arguments.source, arguments.output)
    with _program(arguments) as program:
        convc.to_onnx(program, arguments.output, arguments.opset)
        sizes = ", ".join(map(str, program.image))
    size = format_bytes(arguments.output.stat().st_size)
    print(f"wrote {arguments.output}: {size}, opset {arguments.opset}, x (N, {sizes}) to logits")
    return 0


def _program(arguments: argparse.Namespace) -> Program:
    """The interpreter's program: weights are needed, machine code is not."""
    import convc
    from convc.runtime.trained import open_trained

    chosen, limits = assignments(arguments.set), limits_of(arguments)
    if arguments.weights is None and not Path(arguments.source).is_dir():
        net = convc.load(arguments.source, net=arguments.net, set=chosen, limits=limits)
        message = (
            f"{arguments.source} comes without weights: exporting the first ones, as seed {net.settings.seed} draws"
        )
        print(f"warning: {message} them (--weights W takes trained ones)", file=sys.stderr)
        return convc.compile(net, batch=1, target="reference")
    trained = open_trained(arguments.source, arguments.weights, net=arguments.net, set=chosen, limits=limits)
    return trained.program(batch=1, target="reference")
