"""Options that several verbs share, and the net that they describe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.commands.parser import OneOf, UsageError, fraction, positive, size, tuning

if TYPE_CHECKING:
    from convc.frontend.limits import Limits
    from convc.frontend.net import Net
    from convc.passes.quantization import Ranges
    from convc.runtime.calibration import Weights
    from convc.runtime.data import DataSet
    from convc.runtime.program import Program

TARGETS = ("cpu", "cuda", "reference")
# All words of the language: what this version does not have is refused by name (`unavailable-precision`).
PRECISIONS = ("fp32", "fp16", "bf16")
INT8 = "int8"
INFERENCE_PRECISIONS = (*PRECISIONS, INT8)


def add_net_options(parser: argparse.ArgumentParser, strict: bool = True) -> None:
    """`--net`, `--set`, `--strict`: which net of a file, and what to change in it."""
    parser.add_argument("--net", metavar="NAME", help="which net, where a file has several")
    parser.add_argument(
        "--set",
        metavar="K=V",
        action="append",
        default=[],
        type=assignment,
        help="set a parameter of the net (classes=100) or a setting (train.optim.lr=0.01); may be repeated",
    )
    if strict:
        parser.add_argument("--strict", action="store_true", help="take warnings as errors")
    add_limit(parser)


def add_limit(parser: argparse.ArgumentParser) -> None:
    """`--limit`: what a file may ask for."""
    text = "change a budget of the front end, such as steps=100000 (a wrong name lists them); may be repeated"
    parser.add_argument("--limit", metavar="NAME=N", action="append", default=[], help=text)


def add_batch(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--batch", type=positive, metavar="N", help=f"images at a time (default: {default})")


def add_memory(parser: argparse.ArgumentParser) -> None:
    """`--memory` and `--fit`: what a program may take."""
    parser.add_argument(
        "--memory",
        type=size,
        metavar="SIZE",
        help="most memory of the program (500MiB): a training step computes activations again rather than keep them",
    )
    parser.add_argument(
        "--fit", type=size, metavar="SIZE", help="take the largest batch for which the program fits into SIZE (2GiB)"
    )


def check_memory(arguments: argparse.Namespace) -> None:
    """Refuse combinations of `--memory`, `--fit`, `--batch` and `--target` that make no sense."""
    if arguments.fit is not None and arguments.batch is not None:
        raise UsageError("--fit chooses the batch, and --batch says it", "leave one of them out")
    if arguments.fit is not None and arguments.memory is not None:
        raise UsageError("--fit chooses a batch that needs no --memory", "leave one of them out")
    for name in ("fit", "memory"):
        if getattr(arguments, name) is not None and arguments.target == "reference":
            raise UsageError(f"--{name} works with plans, and the target {arguments.target} makes none", "--target cpu")


def add_target(parser: argparse.ArgumentParser) -> None:
    kind = OneOf(*TARGETS)
    text = "cpu (the default), cuda (NVIDIA's GPUs) or reference, the slow interpreter"
    parser.add_argument("--target", type=kind, metavar="T", default="cpu", help=text)


def add_arch(parser: argparse.ArgumentParser) -> None:
    """`--arch`, for verbs that compile and take `--target`."""
    text = "the architecture of GPUs to compile for, such as sm_90 (default: that of the GPU here, else sm_80)"
    parser.add_argument("--arch", metavar="sm_N", help=text)


def check_arch(arguments: argparse.Namespace) -> None:
    """Refuse options of GPUs with other targets."""
    for name in ("arch", "gpu"):
        if getattr(arguments, name, None) is not None and arguments.target != "cuda":
            raise UsageError(f"--{name} is for GPUs, and the target is {arguments.target}", "--target cuda")


def add_precision(parser: argparse.ArgumentParser) -> None:
    what = "fp32, bf16 or fp16; default: what the file says, else fp32"
    parser.add_argument("--precision", type=OneOf(*PRECISIONS), metavar="P", help=what)


def add_inference_precision(parser: argparse.ArgumentParser, calibrate: bool = True) -> None:
    """`--precision` where inference may be asked for, and `--calibrate`."""
    what = "fp32, bf16, fp16 or, for inference, int8; default: what the file says, else fp32"
    parser.add_argument("--precision", type=OneOf(*INFERENCE_PRECISIONS), metavar="P", help=what)
    if calibrate:
        add_calibrate(parser)


def add_precisions(parser: argparse.ArgumentParser) -> None:
    """`--precision` with several words, and `--calibrate`."""
    kinds = OneOf(*INFERENCE_PRECISIONS, several=True)
    what = f"of {', '.join(INFERENCE_PRECISIONS)}; several are compared (default: that of the run or file, else fp32)"
    parser.add_argument("--precision", type=kinds, metavar="P,…", default=[], help=what)
    add_calibrate(parser)


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    what = (
        "where the ranges for int8 are measured: training images of mnist, 'folder \"photos/\"' (default: the file's)"
    )
    parser.add_argument("--calibrate", metavar="SPEC", help=what)


def measured_ranges(
    arguments: argparse.Namespace,
    net: Net,
    weights: Weights | None = None,
    fp32: Sequence[str] = (),
    dataset: DataSet | None = None,
) -> Ranges | None:
    """What `--precision int8` needs, None for others; says what it was measured on: `--calibrate`, else `dataset`, else
    what the file names. Errors: those of `convc.runtime.calibration.measured_ranges`; a usage error for `--calibrate`
    without int8."""
    asked = arguments.precision
    if INT8 not in (asked if isinstance(asked, list) else [asked]):
        if arguments.calibrate is not None:
            raise UsageError("--calibrate measures ranges for int8", "--precision int8")
        return None
    from convc.runtime.calibration import measured_ranges as measure
    from convc.runtime.configuration import refuse_precision

    refuse_precision(arguments.target, INT8)
    data = arguments.calibrate or dataset
    found = measure(net, data, weights=weights, fp32=fp32, threads=arguments.threads, target=arguments.target)
    if not arguments.json:
        print(f"ranges for int8: {found.images}")
    return found.ranges


def add_fp32(parser: argparse.ArgumentParser) -> None:
    what = "layers that stay in float32, with * and ? as wildcards: 'conv1*,fc*'; may be repeated"
    parser.add_argument("--fp32", metavar="PATTERNS", action="append", default=[], help=what)


def patterns(given: list[str]) -> tuple[str, ...]:
    """The patterns of `--fp32`."""
    return tuple(part.strip() for text in given for part in text.split(",") if part.strip())


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="worker threads (default: all that may be used)")


def add_algorithms(parser: argparse.ArgumentParser) -> None:
    """`--algo`, `--scratch`, `--max-error`, `--tune`: how convolutions are computed."""
    parser.add_argument(
        "--algo",
        metavar="[PATTERN=]A",
        action="append",
        default=[],
        help="how convolutions are computed: conv1=fft, 'conv3_*=winograd', or direct for all; may be repeated",
    )
    parser.add_argument("--scratch", type=size, metavar="SIZE", help="most scratch space of a convolution (64MiB)")
    parser.add_argument("--max-error", type=fraction, metavar="E", help="largest relative error (default: 1e-4)")
    parser.add_argument(
        "--tune", type=tuning, metavar="S|full", help="measure contenders for S seconds, or all of them; remembered"
    )
    parser.add_argument(
        "--constants",
        type=OneOf("table", "measured"),
        metavar="table|measured",
        default="table",
        help="predict from the table of this version, or from what `convc doctor --measure` has measured here",
    )


def algorithm_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_algorithms` has read, as arguments of `convc.compile` and `convc.fit`."""
    return {
        "constants": arguments.constants,
        "algo": ",".join(arguments.algo) or "auto",
        "scratch": arguments.scratch,
        "max_error": arguments.max_error,
        "tune": arguments.tune,
    }


def add_passes(parser: argparse.ArgumentParser) -> None:
    """`-p PASS` and `--passes`: which passes, in which order; None where nobody says."""
    parser.add_argument(
        "-p",
        "--pass",
        dest="passes",
        metavar="PASS",
        action="extend",
        type=lambda text: [text],
        help="a pass, with options as PASS:option=value,…; may be repeated (`convc passes` lists them)",
    )
    parser.add_argument(
        "--passes", metavar="A,B,…", action="extend", type=_names, help="passes without options, in their order"
    )


def add_verify_numerics(parser: argparse.ArgumentParser) -> None:
    text = "compare outputs and gradients before and after every pass, and stop at the one that changes them"
    parser.add_argument("--verify-numerics", action="store_true", help=text)
    text = "the same, and name the change of that pass which is the first wrong one"
    parser.add_argument("--bisect", action="store_true", help=text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_html(parser: argparse.ArgumentParser) -> None:
    text = "write a page on the compilation: passes, algorithms, memory, kernels, linked to the source"
    parser.add_argument("--html", type=Path, metavar="OUT", help=text)


def write_html(arguments: argparse.Namespace, net: Net, program: Program) -> None:
    """Write what `--html` asks for."""
    from convc.commands.page.page import write_page
    from convc.runtime.cores import choose_threads

    write_page(arguments.html, net, program, choose_threads(arguments.threads).threads)


def assignment(text: str) -> str:
    """The text of `K=V`, if it is one."""
    key, _, value = text.partition("=")
    if not (key.strip() and value.strip()):
        raise argparse.ArgumentTypeError(f"a setting is written K=V, as in classes=100, not {text!r}")
    return text


def assignments(texts: Iterable[str]) -> dict[str, str]:
    """The values of `--set`; of two for one key the later one counts."""
    from convc.frontend import parse_assignments

    return parse_assignments(texts)


def limits_of(arguments: argparse.Namespace) -> Limits:
    """The budgets as `--limit` wants them."""
    from convc.frontend import parse_limits

    return parse_limits(arguments.limit)


def open_net(arguments: argparse.Namespace) -> Net:
    """The net of FILE as `--net` and `--set` want it. Warnings go to the error output, or fail with `--strict`."""
    import convc
    from convc.ir.diagnostic import render

    net = convc.load(
        arguments.file,
        net=arguments.net,
        set=assignments(arguments.set),
        strict=arguments.strict,
        limits=limits_of(arguments),
    )
    if net.warnings:
        print(render(net.warnings, net.sources), file=sys.stderr)
    return net
