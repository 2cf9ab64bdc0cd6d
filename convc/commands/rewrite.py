"""`convc rewrite`: layers of a net replaced by others, in its text and in its weights."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.options import add_batch, add_json, add_net_options, add_threads, assignments, open_net
from convc.commands.output import print_json, refuse_input
from convc.commands.parser import UsageError, positive, tuning

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.passes.rewriting.analysis import Measure
    from convc.passes.rewriting.table import Request
    from convc.passes.rewriting.timing import Model

# What `--analyze` compares where nobody asks for anything else, the one to be preferred first.
_ALTERNATIVES = ("stack3x3", "factorize", "bottleneck")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    parser.add_argument(
        "-r",
        "--rule",
        dest="rules",
        metavar="RULE[:LAYERS][:OPTION=V]",
        action="append",
        default=[],
        help="replace layers: 'factorize:conv3_*:rank=24'; may be repeated",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the .cnn file to write (default: print it)")
    parser.add_argument("--weights", type=Path, metavar="W", help="trained weights of FILE, to fit the new layers to")
    parser.add_argument("--out-weights", type=Path, metavar="W2", help="where the weights of the new net go")
    parser.add_argument(
        "--eval",
        nargs="?",
        const="",
        metavar="SPEC",
        help="accuracy before and after on this data, by default the file's; also fits and measures on it",
    )
    parser.add_argument("--finetune", type=positive, metavar="N", help="train the new net for N epochs")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run folder of --finetune (default: runs/NAME-N)")
    parser.add_argument("--overwrite", action="store_true", help="allow -o and --out-weights to be the files read")
    parser.add_argument(
        "--analyze", action="store_true", help="write nothing: compare large kernels with what could replace them"
    )
    parser.add_argument(
        "--tune", type=tuning, metavar="S|full", help="measure times, too: for S seconds, or all of them"
    )
    add_net_options(parser)
    add_batch(parser, "the file's, else 64")
    add_threads(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.ir.diagnostic import with_sources
    from convc.passes.rewriting.table import parse_request

    _check(arguments)
    requests = tuple(map(parse_request, arguments.rules))
    net = open_net(arguments)
    if not arguments.overwrite:
        _refuse_inputs(arguments, net)
    with with_sources(net.sources):
        return _analyze(arguments, net, requests) if arguments.analyze else _rewrite(arguments, net, requests)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.analyze:
        given = [name for name in ("output", "weights", "out_weights", "eval", "finetune") if _given(arguments, name)]
        if given:
            option = "-o" if given[0] == "output" else "--" + given[0].replace("_", "-")
            raise UsageError(f"--analyze compares and writes nothing: {option} has no place beside it")
        return
    if not arguments.rules:
        raise UsageError("-r RULE is missing", "such as -r factorize:conv2:rank=24; --analyze says what is worth it")
    for option in ("out_weights", "eval", "finetune"):
        if _given(arguments, option) and arguments.weights is None:
            raise UsageError(f"--{option.replace('_', '-')} needs --weights W, the trained weights of the net")
    if arguments.run is not None and arguments.finetune is None:
        raise UsageError("--run needs --finetune N")
    if arguments.output is not None and arguments.output.suffix != ".cnn":
        raise UsageError(f"-o {arguments.output}: the file to write ends in .cnn")


def _refuse_inputs(arguments: argparse.Namespace, net: Net) -> None:
    """What is read is written over only if that is wanted: the file, what it uses, the weights."""
    sources = [*net.sources, *([arguments.weights] if arguments.weights else [])]
    outputs: list[Path] = [path for path in (arguments.output, arguments.out_weights) if path is not None]
    for output in outputs:
        for source in sources:
            refuse_input(source, output, "name another one, or --overwrite")


def _given(arguments: argparse.Namespace, name: str) -> bool:
    return getattr(arguments, name) is not None


def _model(arguments: argparse.Namespace) -> tuple[Model, Measure | None]:
    from convc.codegen.llvm.target import host_target
    from convc.passes.rewriting.timing import Model
    from convc.runtime.cores import choose_threads
    from convc.runtime.rewriting.stopwatch import Stopwatch

    model = Model(host_target().tier, choose_threads(arguments.threads).threads)
    if arguments.tune is None:
        return model, None
    return model, Stopwatch(model, math.inf if arguments.tune == "full" else arguments.tune).measured


def _analyze(arguments: argparse.Namespace, net: Net, requests: tuple[Request, ...]) -> int:
    from convc.commands.rewriting_report import analysis_as_json, analysis_as_text
    from convc.passes.rewriting.analysis import analyze
    from convc.passes.rewriting.table import parse_request

    batch = arguments.batch or net.settings.batch
    model, measure = _model(arguments)
    found = analyze(net.graph(1), requests or tuple(map(parse_request, _ALTERNATIVES)), batch, model, measure)
    if arguments.json:
        print_json(analysis_as_json(net.name, batch, model, found))
    else:
        print(analysis_as_text(net.name, batch, model, found))
    return 0


def _show(text: str) -> None:
    print(f"fitting {text}", file=sys.stderr)


def _rewrite(arguments: argparse.Namespace, net: Net, requests: tuple[Request, ...]) -> int:
    from convc.commands.rewriting_report import finetuned_as_text, outcome_as_json, outcome_as_text
    from convc.runtime.rewriting.procedure import Wishes, finetune, rewrite_net

    settings = {key: value for key, value in assignments(arguments.set).items() if key.split(".")[0] == "train"}
    model, measure = _model(arguments)
    wishes = Wishes(
        out=arguments.output,
        weights=arguments.weights,
        out_weights=arguments.out_weights,
        data=arguments.eval,
        finetune=arguments.finetune,
        run=arguments.run,
        batch=arguments.batch,
        threads=arguments.threads,
        settings=settings,
        report="quiet" if arguments.json else "auto",
        progress=_show if arguments.weights is not None and sys.stderr.isatty() else lambda text: None,
    )
    outcome = rewrite_net(net, requests, wishes, model, measure)
    written = [path for path in (arguments.output, arguments.out_weights) if path is not None]
    if arguments.json:
        with redirect_stdout(sys.stderr):  # what the training has to say
            finetuned = finetune(outcome, wishes) if wishes.finetune else None
        print_json(outcome_as_json(outcome, finetuned, model, written))
        return 0
    # The text goes where it can be redirected to a file, what there is to say about it does not.
    stream = sys.stderr if arguments.output is None else sys.stdout
    if arguments.output is None:
        print(outcome.rewritten.text, end="", flush=True)
    print(outcome_as_text(outcome, model), file=stream)
    for path in written:
        print(f"wrote {path}", file=stream)
    if wishes.finetune:
        with redirect_stdout(stream):
            print(finetuned_as_text(finetune(outcome, wishes)))
    return 0
