"""How long a program takes to compile, part by part, and the first step from an empty and from a filled cache.

    python -m benchmarks.compile_time                                    the nine nets, training and inference
    python -m benchmarks.compile_time --nets lenet,resnet50 --mode train --repeats 5

*load* reads the file and makes the graph, *passes* rewrite the graph (the choice of algorithms is one of them), *plan*
places kernels in memory, *generation* writes LLVM IR (*text*), *LLVM* starts LLVM and makes objects of it, *link* loads
them. These parts are measured one after the other in a fresh process, without the cache; *sum* is what they take
together. *Cold compile* is `convc.load` and `convc.compile` as a user calls them, with an empty cache: several
processes share LLVM's work there while the text is still being written. *First step* runs from the start of the program
text to the end of a step on given arrays, in a fresh process, with the import and the drawing of weights: *cold* with
an empty cache, *warm* with what the cold one left. Medians of `--repeats`, in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import convc
from benchmarks.first_step import FirstStep, first_step, import_seconds, run_fresh
from benchmarks.pass_time import plan_net
from benchmarks.report import Run, markdown, verdict, write_json
from benchmarks.run import NETS, chosen_nets
from convc.codegen.llvm.emission import Emission
from convc.codegen.llvm.link import link
from convc.codegen.llvm.lowering import generate
from convc.codegen.llvm.program import fma_of
from convc.codegen.llvm.spmd import load_runtime
from convc.codegen.llvm.target import host_target
from convc.codegen.llvm.vocabulary import Function
from convc.passes.base import Mode

MODES: tuple[Mode, ...] = ("train", "infer")

_PARTS = """
import json, sys
from dataclasses import asdict
from benchmarks.compile_time import measure_parts
print(json.dumps(asdict(measure_parts(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
"""


@dataclass(frozen=True)
class Goal:
    """Seconds that are accepted, and aimed at, in training."""

    cold_compile: tuple[float, float]
    warm_step: tuple[float, float]


GOALS = {"lenet": Goal((1.0, 0.5), (0.5, 0.3)), "resnet50": Goal((10.0, 5.0), (0.9, 0.6))}


@dataclass(frozen=True)
class Parts:
    """Seconds of each part of a compilation by one process."""

    load: float
    passes: float
    plan: float
    generation: float
    llvm: float
    link: float

    @property
    def sum(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Compilation:
    """A program compiled part by part: how many kernels it has and, as kernels of one signature share them, how many
    functions; `text_bytes` of LLVM IR; `object_bytes` of machine code."""

    kernels: int
    functions: int
    text_bytes: int
    object_bytes: int
    parts: Parts


def measure_parts(file: str, mode: Mode, batch: int) -> Compilation:
    """Compile in this process. The cache has no say, but for the thread pool's own code."""
    start = time.perf_counter()
    target = host_target()
    started = time.perf_counter()
    net = convc.load(file)
    net.graph(batch)
    loaded = time.perf_counter()
    planned = plan_net(net, batch, mode, target)
    sizes: list[int] = []
    with Emission(target, processes=1) as emission:

        def written(function: Function) -> None:
            sizes.append(sum(len(line) + 1 for line in function.lines))
            emission.add(function)

        begin = time.perf_counter()
        generate(planned.plan, fma_of(target), net.limits.instructions, written=written)
        generated = time.perf_counter()
        objects = emission.objects()
        compiled = time.perf_counter()
    link(objects, ["step"], load_runtime().imports).close()
    linked = time.perf_counter()
    parts = Parts(
        loaded - started,
        planned.graph_seconds,
        planned.plan_seconds,
        generated - begin,
        started - start + compiled - generated,
        linked - compiled,
    )
    return Compilation(len(planned.plan.kernels), len(sizes), sum(sizes), sum(map(len, objects)), parts)


@dataclass(frozen=True)
class Measurement:
    """A net in one mode, every repetition by a process of its own."""

    net: str
    mode: str
    batch: int
    compilations: tuple[Compilation, ...]
    cold: tuple[FirstStep, ...]
    warm: tuple[FirstStep, ...]

    @property
    def parts(self) -> Parts:
        """Medians, each part by itself."""
        found = [one.parts for one in self.compilations]
        return Parts(*(statistics.median(getattr(one, part.name) for one in found) for part in fields(Parts)))

    @property
    def cold_compile(self) -> float:
        return statistics.median(step.compile for step in self.cold)

    @property
    def cold_step(self) -> float:
        return statistics.median(step.whole for step in self.cold)

    @property
    def warm_step(self) -> float:
        return statistics.median(step.whole for step in self.warm)

    def as_json(self) -> dict[str, Any]:
        medians = {
            "parts": asdict(self.parts),
            "cold_compile": self.cold_compile,
            "cold_step": self.cold_step,
            "warm_step": self.warm_step,
        }
        return {**asdict(self), "medians": medians}


def measure(file: Path, mode: Mode, batch: int, repeats: int) -> Measurement:
    """Compile part by part, and take the first step cold and warm, in turn."""
    compilations: list[Compilation] = []
    cold: list[FirstStep] = []
    warm: list[FirstStep] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="convc-compile-") as folder:
            content = json.loads(run_fresh(_PARTS, str(file), mode, str(batch), cache=f"{folder}/parts"))
            compilations.append(Compilation(**{**content, "parts": Parts(**content["parts"])}))
            cold.append(first_step(file, mode, batch, f"{folder}/cache"))
            warm.append(first_step(file, mode, batch, f"{folder}/cache"))
    return Measurement(file.stem, mode, batch, tuple(compilations), tuple(cold), tuple(warm))


def table(found: Sequence[Measurement]) -> str:
    """One row for each net and mode."""
    parts = tuple("LLVM" if part.name == "llvm" else part.name for part in fields(Parts))
    columns = ("kernels", "functions", "text, MB", *parts, "sum", "cold compile", "cold first step", "warm first step")
    rows: list[tuple[str, ...]] = []
    for one in found:
        size = one.compilations[0]
        seconds = (*asdict(one.parts).values(), one.parts.sum, one.cold_compile, one.cold_step, one.warm_step)
        counts = (str(size.kernels), str(size.functions), f"{size.text_bytes / 1e6:.2f}")
        rows.append((f"{one.net} ({one.batch})", one.mode, *counts, *(f"{value:.2f}" for value in seconds)))
    return markdown(("net (batch)", "mode", *columns), rows, left=2)


def goals(found: Sequence[Measurement]) -> list[str]:
    """What there are goals for, beside them."""
    lines: list[str] = []
    for one in found:
        goal = GOALS.get(one.net)
        if goal is not None and one.mode == "train":
            for name, value, (accept, aim) in (
                ("cold compile", one.cold_compile, goal.cold_compile),
                ("warm first step", one.warm_step, goal.warm_step),
            ):
                met = verdict(value, accept, at_most=True)
                lines.append(f"{one.net}, {name}: {value:.2f} s (accepted {accept:g} s, aimed at {aim:g} s: {met})")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="all", help=f"all, or some of {','.join(NETS)}, or files, with commas")
    parser.add_argument("--mode", choices=MODES, help="only this one")
    parser.add_argument("--repeats", type=int, default=3, help="of which medians are taken (default 3)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every measurement")
    options = parser.parse_args(arguments)
    files = chosen_nets(options.nets, parser)
    run = Run()
    found: list[Measurement] = []
    with run.kept():
        import_seconds()  # byte code is compiled once per installation, not per start
        for file in files:
            batch = convc.load(file).settings.batch
            for mode in (options.mode,) if options.mode else MODES:
                print(f"{file.stem} {mode}", file=sys.stderr, flush=True)
                run.pause()
                found.append(measure(file, mode, batch, options.repeats))
    print(f"{run.machine['processor']}, {run.machine['cores']} cores, tier {run.machine['tier']}\n")
    if found:
        print(table(found), *goals(found), sep="\n\n")
    if options.json:
        write_json(options.json, {**run.as_json(), "nets": [one.as_json() for one in found]})
    return run.end()


if __name__ == "__main__":
    sys.exit(main())
