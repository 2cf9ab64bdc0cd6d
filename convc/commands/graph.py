"""`convc graph`: a net as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from convc.commands.options import add_net_options, open_net
from convc.commands.output import refuse_input
from convc.commands.parser import UsageError, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    add_net_options(parser)
    parser.add_argument("--depth", type=whole, metavar="N", help="draw blocks within N blocks as one box each")
    parser.add_argument("-o", "--output", metavar="OUT", default="-", help="an .svg file (default: standard output)")


def run(arguments: argparse.Namespace) -> int:
    from convc.commands.drawing.picture import picture
    from convc.runtime.atomic import write_text

    place = arguments.output
    if place != "-" and Path(place).suffix.lower() not in (".svg", ""):
        raise UsageError(f"a net is drawn as SVG, not {Path(place).suffix}", f"-o {Path(place).with_suffix('.svg')}")
    refuse_input(arguments.file, place)
    net = open_net(arguments)
    text = picture(net, arguments.depth)
    if place == "-":
        print(text, end="")
    else:
        write_text(Path(place), text)
        print(f"wrote {place}")
    return 0
