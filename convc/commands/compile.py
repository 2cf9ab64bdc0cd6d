"""`convc compile`: what the compiler makes of a net."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.commands.options import (
    INT8,
    add_algorithms,
    add_arch,
    add_batch,
    add_fp32,
    add_html,
    add_inference_precision,
    add_json,
    add_memory,
    add_net_options,
    add_passes,
    add_target,
    add_threads,
    add_verify_numerics,
    algorithm_arguments,
    check_arch,
    check_memory,
    measured_ranges,
    open_net,
    patterns,
    write_html,
)
from convc.commands.output import format_count, print_json, refuse_input
from convc.commands.parser import OneOf, UsageError, similar
from convc.commands.reports import REPORTS, memory_text
from convc.commands.standalone import add_standalone, check_standalone, write_library

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.passes.manager import PassReport
    from convc.passes.plan import Plan
    from convc.passes.quantization import Ranges
    from convc.runtime.fitting_batch import FittingBatch
    from convc.runtime.program import Program

_SUFFIXES = {
    "ir": ".ir", "llvm": ".ll", "asm": ".s", "obj": ".o", "cu": ".cu", "ptx": ".ptx", "cubin": ".cubin", "sass": ".sass"
}  # fmt: skip
# What --dump-dir gets of every kernel by itself, and the folder; of machine code there is nothing else.
_PER_KERNEL, _KERNELS = ("cu", "ptx", "cubin", "sass"), "kernels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds, reports = OneOf(*_SUFFIXES, several=True), OneOf(*REPORTS)
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    add_net_options(parser)
    parser.add_argument("--mode", type=OneOf("train", "infer"), default="infer", help="train or infer (the default)")
    add_batch(parser, "the file's, else 64")
    add_memory(parser)
    add_inference_precision(parser)
    add_fp32(parser)
    add_target(parser)
    add_arch(parser)
    text = "the GPU that algorithms are chosen and times predicted for (h100, a100, rtx4090, t4, …), and its --arch"
    parser.add_argument("--gpu", metavar="NAME", help=text)
    add_threads(parser)
    add_algorithms(parser)
    add_passes(parser)
    add_verify_numerics(parser)
    parser.add_argument("--dump-dir", type=Path, metavar="D", help="write the graph after every pass, and what changed")
    parser.add_argument("--print-after", metavar="PASS", help="print the graph as a pass leaves it")
    parser.add_argument(
        "--emit", type=kinds, metavar=kinds.metavar, default=[], help="write these, into --dump-dir or beside -o"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="where to write what --emit asks for, or the library of --header",
    )
    parser.add_argument(
        "--report", type=reports, metavar=reports.metavar, action="append", default=[], help="print; may be repeated"
    )
    add_html(parser)
    add_json(parser)
    add_standalone(parser)


def run(arguments: argparse.Namespace) -> int:
    import convc

    _check(arguments)
    _choose_arch(arguments)
    if arguments.html:
        refuse_input(arguments.file, arguments.html)
    net = open_net(arguments)
    ranges = _ranges(arguments, net)
    if arguments.verify_numerics or arguments.bisect:
        from convc.runtime.algorithms import AlgorithmOptions
        from convc.runtime.numerics import verify_passes

        for line in verify_passes(
            net,
            arguments.mode,
            arguments.passes,
            bisect=arguments.bisect,
            target=arguments.target,
            precision=arguments.precision,
            fp32=patterns(arguments.fp32),
            ranges=ranges,
            threads=arguments.threads,
            algorithms=AlgorithmOptions(**algorithm_arguments(arguments), gpu=arguments.gpu or ""),
        ):
            print(line, file=sys.stderr)
    fitting = _fitting(arguments, net, ranges)
    if arguments.header:
        return write_library(arguments, net, fitting.batch if fitting is not None else arguments.batch, ranges)
    # What a program takes is told before it takes it.
    early = "memory" in arguments.report and not arguments.json and arguments.target != "reference"
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        # What a pass left is known from its dump.
        dump = arguments.dump_dir or (Path(scratch) if arguments.print_after else None)
        with convc.compile(
            net,
            batch=fitting.batch if fitting is not None else arguments.batch,
            mode=arguments.mode,
            target=arguments.target,
            arch=arguments.arch,
            gpu=arguments.gpu,
            precision=arguments.precision,
            fp32=patterns(arguments.fp32),
            ranges=ranges,
            threads=arguments.threads,
            passes=arguments.passes,
            dump_dir=dump,
            memory=arguments.memory,
            planned=_print_memory if early else None,
            **algorithm_arguments(arguments),
        ) as program:
            seconds = time.perf_counter() - started
            if arguments.print_after:
                assert dump is not None
                print(_after(arguments.print_after, program, dump), end="")
            written = _emit(arguments, program)
            if arguments.html:
                write_html(arguments, net, program)
                written.append(arguments.html)
            if arguments.json:
                fit = {} if fitting is None else {"fit": asdict(fitting)}
                print_json(_as_json(program, seconds, written, arguments) | fit)
            else:
                quiet = arguments.print_after or arguments.emit
                reports = [name for name in arguments.report if not (early and name == "memory")]
                _print(program, seconds, written, reports, arguments.gpu, brief=not quiet)
    return 0


def _ranges(arguments: argparse.Namespace, net: Net) -> Ranges | None:
    """Those that int8 needs."""
    if arguments.precision == INT8 and arguments.mode == "train":
        raise UsageError("int8 is for inference", "--mode infer, or --precision bf16")
    return measured_ranges(arguments, net, arguments.weights, patterns(arguments.fp32))


def _fitting(arguments: argparse.Namespace, net: Net, ranges: Ranges | None) -> FittingBatch | None:
    """The batch that `--fit` asks for."""
    if arguments.fit is None:
        return None
    from convc.runtime.algorithms import AlgorithmOptions
    from convc.runtime.configuration import element_types
    from convc.runtime.fitting_batch import fitting_batch

    fp32 = patterns(arguments.fp32)
    found = fitting_batch(
        net,
        arguments.fit,
        mode=arguments.mode,
        threads=arguments.threads,
        passes=arguments.passes,
        algorithms=AlgorithmOptions(**algorithm_arguments(arguments), gpu=arguments.gpu or ""),
        types=element_types(arguments.precision, net.settings, arguments.mode, net.layers, fp32, ranges),
        target=arguments.target,
        arch=arguments.arch,
    )
    if not arguments.json:
        print(f"batch {found.batch}: {found}")
    return found


def _print_memory(plan: Plan, passes: list[PassReport]) -> None:
    print(memory_text(plan, passes), end="\n\n", flush=True)


def _check(arguments: argparse.Namespace) -> None:
    check_memory(arguments)
    check_arch(arguments)
    check_standalone(arguments)
    if arguments.output and not (arguments.emit or arguments.header):
        raise UsageError(
            "-o needs --emit or --header", f"--emit {','.join(_SUFFIXES)}, or --header FILE.h for a library"
        )
    if "cubin" in arguments.emit and not arguments.dump_dir:
        raise UsageError("--emit cubin needs --dump-dir D", "there is one for each kernel")
    homeless = [kind for kind in arguments.emit if not (arguments.output or arguments.dump_dir)]
    if "obj" in homeless or len(homeless) > 1:
        raise UsageError(f"--emit {','.join(homeless)} needs -o PATH or --dump-dir D", "a single text may be printed")
    if arguments.json and (homeless or arguments.print_after):
        raise UsageError("--json and the text of a graph cannot both be printed", "-o PATH writes the graph to a file")


def _choose_arch(arguments: argparse.Namespace) -> None:
    """The architecture of --gpu, where --arch names none. Errors: `value-gpu`, `value-architecture`."""
    if arguments.gpu is None:
        return
    from convc.runtime.cuda_kernels import architecture_for

    arguments.arch = architecture_for(arguments.gpu, arguments.arch)


def _after(name: str, program: Program, dump: Path) -> str:
    from convc.ir.diagnostic import fail

    names = [report.name for report in program.reports]
    if name not in names:
        near = similar(name, names)
        fail(
            "name-pass",
            f"no pass {name!r} ran",
            hint=f"did you mean {near}?" if near else f"these ran: {', '.join(names)}",
        )
    stems = [dump / f"{number:02d}-{ran}" for number, ran in enumerate(names, start=1) if ran == name]
    return "\n".join(_left(stem).read_text(encoding="utf-8") for stem in stems)


def _left(stem: Path) -> Path:
    """What a pass has left: the graph or, where it only decides something, its log."""
    graph = stem.with_suffix(".ir")
    return graph if graph.exists() else stem.with_suffix(".log")


def _emit(arguments: argparse.Namespace, program: Program) -> list[Path]:
    """Write or print what `--emit` asks for; returns the files."""
    from convc.runtime.artifacts import artifact, write_artifact

    written = _emit_kernels(program, arguments) if arguments.dump_dir else []
    whole = [kind for kind in arguments.emit if kind != "cubin" or program.cuda_step is None]
    contents = {kind: artifact(program, kind) for kind in whole}
    if contents and not (arguments.output or arguments.dump_dir):
        (text,) = contents.values()
        print(text.decode(), end="")
        return []
    for kind, content in contents.items():
        stem = arguments.output or arguments.dump_dir / program.graph.name
        # The name of a single file is taken as it is given.
        path = stem if arguments.output and len(contents) == 1 else stem.with_name(stem.name + _SUFFIXES[kind])
        written += write_artifact(program, kind, content, path)
    return written


def _emit_kernels(program: Program, arguments: argparse.Namespace) -> list[Path]:
    """Write what a GPU runs of every kernel by itself."""
    from convc.runtime.atomic import write_bytes
    from convc.runtime.cuda_kernels import separate

    step, folder = program.cuda_step, arguments.dump_dir / _KERNELS
    kinds = [kind for kind in arguments.emit if kind in _PER_KERNEL] if step is not None else []
    written: list[Path] = []
    for kind in kinds:
        assert step is not None
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in separate(step, kind).items():
            write_bytes(folder / name, content)
            written.append(folder / name)
    return written


def _as_json(program: Program, seconds: float, written: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {
        "net": program.graph.name,
        "mode": program.mode,
        "target": program.target,
        "batch": program.batch,
        "seconds": seconds,
        "nodes": len(program.graph.nodes),
        "files": [str(path) for path in written],
    }
    if program.architecture is not None:
        result |= {"arch": program.architecture.value, "arch_why": program.architecture.why}
    return result | {report: REPORTS[report].content(program, arguments.gpu) for report in arguments.report}


def _print(
    program: Program, seconds: float, written: list[Path], reports: list[str], gpu: str | None, brief: bool
) -> None:
    from convc.runtime.cuda_driver import ASKED

    if program.architecture is not None and program.architecture.why != ASKED:
        # To the error output, since the text of a kernel may be printed.
        print(str(program.architecture).strip(), file=sys.stderr)
    if brief:
        print(
            f"{program.graph.name}: {program.mode}, batch {program.batch}, target {program.target}: "
            f"{format_count(len(program.graph.nodes))} nodes in {seconds:.2f} s"
        )
    for path in written:
        print(f"wrote {path}")
    for report in reports:
        print()
        print(REPORTS[report].text(program, gpu))
