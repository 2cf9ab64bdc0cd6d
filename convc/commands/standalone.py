"""`convc compile -o MODEL.so --header MODEL.h`: a net as a shared library with a C interface."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from convc.commands.options import algorithm_arguments, patterns
from convc.commands.output import format_bytes, format_count, print_json, refuse_input
from convc.commands.parser import UsageError
from convc.commands.precision_table import precision_content, precision_text

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.passes.quantization import Ranges
    from convc.runtime.data import Split
    from convc.runtime.precisions import Comparison

# What shows a program that stays in this process: a second command makes it.
_FOREIGN = ("emit", "report", "html", "dump_dir", "print_after")


def add_standalone(parser: argparse.ArgumentParser) -> None:
    """`--header` and what belongs to it."""
    group = parser.add_argument_group(
        "a standalone library",
        "-o MODEL.so --header MODEL.h writes a shared library that needs no Python, and its C header",
    )
    group.add_argument("--header", type=Path, metavar="H", help="write a library (to -o) and this header for it")
    group.add_argument("--prefix", metavar="NAME", help="what public names begin with (default: the name of the net)")
    group.add_argument(
        "--weights", type=Path, metavar="W", help="safetensors file or run folder (default: first weights, by the seed)"
    )
    group.add_argument(
        "--weights-beside",
        type=Path,
        metavar="OUT",
        help="keep the weights in this safetensors file, not in the library",
    )
    group.add_argument(
        "--cpu",
        metavar="A,B",
        help="tiers whose code goes in: avx512, avx2, baseline (default: all; the library chooses when it is loaded)",
    )
    group.add_argument(
        "--data",
        metavar="SPEC",
        help="test images (mnist): run the library on them, beside one in fp32 that is made for that, and print "
        "accuracy, speed and sizes; without it nothing is measured",
    )


def check_standalone(arguments: argparse.Namespace) -> None:
    """Refuse combinations that make no sense."""
    if not arguments.header:
        for name in ("prefix", "weights", "weights_beside", "cpu", "data"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} needs --header", "-o MODEL.so --header MODEL.h")
        return
    if not arguments.output:
        raise UsageError("--header needs -o", "-o MODEL.so is the library")
    if arguments.data is not None and arguments.mode != "infer":
        raise UsageError("--data measures inference", "leave out --mode train or --data")
    if arguments.data is not None and arguments.weights is None:
        raise UsageError("--data needs --weights", "the first weights know nothing about images")
    if arguments.target != "cpu":
        raise UsageError("a library is made for --target cpu", "leave --target out")
    for name in _FOREIGN:
        if getattr(arguments, name):
            raise UsageError(
                f"--{name.replace('_', '-')} and --header do not go together", "make the library without it"
            )
    paths = [path for path in (arguments.output, arguments.header, arguments.weights_beside) if path]
    if len({path.absolute() for path in paths}) < len(paths):
        raise UsageError("library, header and weights cannot be one file", "give each a name of its own")
    for path in paths:
        refuse_input(arguments.file, path)
        if arguments.weights and not arguments.weights.is_dir():
            refuse_input(arguments.weights, path)


def write_library(arguments: argparse.Namespace, net: Net, batch: int | None, ranges: Ranges | None) -> int:
    """Write the library and say what it is."""
    from convc.runtime.algorithms import AlgorithmOptions
    from convc.runtime.standalone import write_standalone
    from convc.runtime.trained import evaluation_data

    images = None if arguments.data is None else evaluation_data(net, arguments.data)
    started = time.perf_counter()
    write = partial(
        write_standalone,
        net,
        mode=arguments.mode,
        batch=batch,
        ranges=ranges,
        prefix=arguments.prefix,
        weights=arguments.weights,
        algorithms=AlgorithmOptions(**algorithm_arguments(arguments)),
        threads=arguments.threads,
        passes=arguments.passes,
        memory=arguments.memory,
    )
    fp32 = patterns(arguments.fp32)
    made = write(
        arguments.output,
        arguments.header,
        precision=arguments.precision,
        fp32=fp32,
        cpu=[word.strip() for word in (arguments.cpu or "").split(",") if word.strip()],
        beside=arguments.weights_beside,
    )
    seconds, interface = time.perf_counter() - started, made.interface
    memory = {tier: plan.memory.total_bytes for tier, plan in made.plans.items()}

    def measured(split: Split) -> Comparison:
        from convc.runtime.precisions import compare_library

        return compare_library(
            net, made, split, write, precision=arguments.precision, fp32=fp32, threads=arguments.threads
        )

    if arguments.json:
        print_json(
            {
                "net": net.name,
                "mode": interface.mode,
                "batch": interface.batch,
                "prefix": interface.prefix,
                "weights": made.origin,
                "inside": interface.inside,
                "tiers": [{"name": tier, "memory_bytes": size} for tier, size in memory.items()],
                "functions": interface.functions,
                "seconds": seconds,
                "weight_bytes": made.weight_bytes,
                "files": [str(path) for path in made.files],
            }
            | ({} if images is None else precision_content(measured(images[2])))
        )
        return 0
    print(f"{net.name}: {interface.mode}, batch {interface.batch}, {interface.prefix}_* for C, in {seconds:.2f} s")
    print(f"code for {', '.join(interface.tiers)}; a model takes {format_bytes(max(memory.values()))} at most")
    print(f"weights {'inside' if interface.inside else 'beside'} ({format_bytes(made.weight_bytes)}): {made.origin}")
    for path in made.files:
        print(f"wrote {path} ({format_bytes(path.stat().st_size)})", flush=True)
    if images is not None:
        dataset, part, split = images
        print(f"\n{format_count(len(split))} {part} images of {dataset.name}")
        print(precision_text(measured(split)))
    return 0
