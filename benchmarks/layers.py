"""How far kernels are from what the machine can do: large layers one by one, or a whole net layer by layer.

    python -m benchmarks.layers                                        the large layers, beside the goals
    python -m benchmarks.layers --layers 4x256x28 --directions forward --threads 1
    python -m benchmarks.layers --net resnet50 --mode train            a net's kernels, layer by layer, and their floors
    python -m benchmarks.layers --net all --mode infer --summary       of every net only where time is lost

Large layers are convolutions with as many filters as channels, batch x channels x side. *GEMM* is the layer with 1x1
filters, by the faster of `direct` and `im2col`; *direct* and *Winograd* (F(4x4, 3x3)) have 3x3 filters. GFLOP/s count
the operations of the definition. *Of peak* leaves out its products with the zeros around an image, which nobody has to
compute, and divides by the peak of fused multiply-adds, the higher of those measured before and after each layer and
direction, so that a machine that drifts takes both along; *of floor* also asks what the bytes take at the rate of
copying. The direction `inference` is forward with filters that are transformed ahead of all runs; the others transform
them each time, as training must. Means are geometric.

Of a net (a name of `benchmarks/nets`, or a file) every kernel is listed under the layer that it stems from, in the
order of the step: its time, its share of all kernels' time, and which floor is the higher one and how near it is
(docs/performance.md, *How a comparison is made*). *Lost* is the time above the floor. Kernels are timed one by one, so
that their sum shows, beside the time of the whole step, how far they can be believed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import convc
from benchmarks.convolutions import DIRECTIONS, problem_of
from benchmarks.report import Run, markdown, verdict, write_json
from benchmarks.run import NETS, chosen_nets
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.algorithms.table import BY_NAME
from convc.runtime.benchmark.arithmetic import KernelFloor, kernel_floors, profile_case
from convc.runtime.benchmark.case import Case, write_material
from convc.runtime.benchmark.results import geometric_mean
from convc.runtime.cores import choose_threads
from convc.runtime.machine_probe import Ceilings, measure_ceilings
from convc.runtime.tuning import measure

LAYERS = ("4x64x224", "4x128x112", "4x256x56", "4x512x28", "4x512x14", "4x64x56", "4x256x14")
INFERENCE = "inference"
PEAK_GOAL = (0.82, 0.88)  # accepted, aimed at: GEMM and direct, of the FMA peak
WINOGRAD_GOAL = (2.4, 3.0)  # Winograd F(4x4, 3x3), by our direct
# A kernel may be as short as what a launch costs, which is taken off; nothing is infinitely fast.
_SHORTEST = 1e-9
_GEMM = ("direct", "im2col")
_WINOGRAD = "winograd_f4x3"


@dataclass(frozen=True)
class Product:
    """One algorithm on one problem: the median time, the operations of the definition, those of them that do not
    multiply by the zeros around an image, and the bytes of the operands."""

    algorithm: str
    seconds: float
    flops: int
    inner_flops: int
    bytes: int

    @property
    def gflops(self) -> float:
        """GFLOP/s, of the definition's operations."""
        return self.flops / self.seconds / 1e9

    def of_peak(self, ceilings: Ceilings) -> float:
        return self.inner_flops / self.seconds / 1e9 / ceilings.fma_gflops

    def of_floor(self, ceilings: Ceilings) -> float:
        floor = max(self.inner_flops / (ceilings.fma_gflops * 1e9), self.bytes / (ceilings.copy_gbps * 1e9))
        return floor / self.seconds


@dataclass(frozen=True)
class LargeLayer:
    """A layer in one direction, by the three ways that there are goals for, and the ceilings around them."""

    layer: str
    direction: str
    ceilings: Ceilings
    gemm: Product
    direct: Product
    winograd: Product

    @property
    def speedup(self) -> float:
        """Of Winograd over direct."""
        return self.direct.seconds / self.winograd.seconds


def layer_problem(layer: str, direction: str, side: int) -> Problem:
    """The problem of a large layer with filters of side x side; `inference` is forward with prepared filters."""
    known: Direction = "forward" if direction == INFERENCE else DIRECTIONS[DIRECTIONS.index(direction)]
    return replace(problem_of(layer, known, (side, side)), prepared=direction == INFERENCE)


def inner_flops(problem: Problem) -> int:
    """The operations of the definition without those on the zeros around the images."""
    inside = 1
    for axis in (0, 1):
        stride, dilation, before = problem.stride[axis], problem.dilation[axis], problem.padding[axis]
        inside *= sum(
            0 <= stride * result + dilation * tap - before < problem.size[axis]
            for result in range(problem.output[axis])
            for tap in range(problem.kernel[axis])
        )
    return 2 * problem.batch * problem.filters * (problem.channels // problem.groups) * inside


def product(problem: Problem, algorithm: str, threads: int, rounds: int) -> Product:
    """Measure one algorithm."""
    moved = problem.image_bytes + problem.result_bytes + problem.weight_bytes
    seconds = max(measure(problem, algorithm, threads, rounds), _SHORTEST)
    return Product(algorithm, seconds, problem.flops, inner_flops(problem), moved)


def highest(*found: Ceilings) -> Ceilings:
    """Of each ceiling the highest: whatever slows a measurement down, a ceiling is what was reached once."""
    return Ceilings(*map(max, zip(*map(astuple, found), strict=True)))


def large_layer(layer: str, direction: str, threads: int, rounds: int) -> LargeLayer:
    """Measure a layer in one direction."""
    before = measure_ceilings(threads)
    narrow, wide = (layer_problem(layer, direction, side) for side in (1, 3))
    usable = [name for name in _GEMM if BY_NAME[name].obstacle(narrow) is None]
    gemm = min((product(narrow, name, threads, rounds) for name in usable), key=lambda found: found.seconds)
    direct, winograd = (product(wide, name, threads, rounds) for name in ("direct", _WINOGRAD))
    ceilings = highest(before, measure_ceilings(threads))
    return LargeLayer(layer, direction, ceilings, gemm, direct, winograd)


def large_table(found: Sequence[LargeLayer]) -> str:
    """One row for each layer and direction, and the geometric means of each direction."""
    columns = ("peak, GFLOP/s", "GEMM, GFLOP/s", "of peak", "of floor", "direct, GFLOP/s", "of peak")
    rows = [
        (
            one.layer,
            one.direction,
            f"{one.ceilings.fma_gflops:.0f}",
            f"{one.gemm.gflops:.0f} ({one.gemm.algorithm})",
            f"{one.gemm.of_peak(one.ceilings):.0%}",
            f"{one.gemm.of_floor(one.ceilings):.0%}",
            f"{one.direct.gflops:.0f}",
            f"{one.direct.of_peak(one.ceilings):.0%}",
            f"{one.winograd.gflops:.0f}",
            f"{one.speedup:.2f}",
        )
        for one in found
    ]
    return markdown(("layer", "direction", *columns, "Winograd, GFLOP/s", "x direct"), rows, left=2)


def large_verdict(found: Sequence[LargeLayer]) -> str:
    """The geometric means of each direction beside the goals, and which layers are below."""
    lines: list[str] = []
    for direction in dict.fromkeys(one.direction for one in found):
        some = [one for one in found if one.direction == direction]
        parts: list[str] = []
        for name, values, (accept, aim), form in (
            ("GEMM, of the FMA peak", [one.gemm.of_peak(one.ceilings) for one in some], PEAK_GOAL, "{:.0%}"),
            ("direct, of the FMA peak", [one.direct.of_peak(one.ceilings) for one in some], PEAK_GOAL, "{:.0%}"),
            ("Winograd F(4,3) over direct", [one.speedup for one in some], WINOGRAD_GOAL, "{:.2f}x"),
        ):
            mean = geometric_mean(values)
            assert mean is not None
            below = [f"{one.layer} {form.format(v)}" for one, v in zip(some, values, strict=True) if v < accept]
            goal = f"accepted {form.format(accept)}, aimed at {form.format(aim)}: {verdict(mean, accept)}"
            parts.append(
                f"* {name}: {form.format(mean)} ({goal})" + (f"; below are {', '.join(below)}" if below else "")
            )
        layers = f"{len(some)} layer{'s' * (len(some) > 1)}"
        if not {one.layer for one in some}.issuperset(LAYERS):
            layers += f" (the goals are over {len(LAYERS)})"
        lines.append("\n".join([f"{direction}, geometric means of {layers}:", "", *parts]))
    return "\n\n".join(lines)


@dataclass(frozen=True)
class NetProfile:
    """The kernels of a net's step beside their floors. `wall_seconds` is the whole step, not interrupted by clocks."""

    net: str
    mode: str
    batch: int
    threads: int
    ceilings: Ceilings
    wall_seconds: float
    kernels: tuple[KernelFloor, ...]

    @property
    def seconds(self) -> float:
        return sum(kernel.seconds for kernel in self.kernels)

    def by_layer(self) -> dict[str, list[KernelFloor]]:
        """Kernels by the layer of the text, layers in the order in which the step first comes to them."""
        return grouped((layer_of(kernel), kernel) for kernel in self.kernels)

    def by_kind(self) -> dict[str, list[KernelFloor]]:
        """Kernels by what they compute and how, whatever the layer; those that lose most time first."""
        groups = grouped((kind_of(kernel), kernel) for kernel in self.kernels)
        return dict(sorted(groups.items(), key=lambda item: -lost(item[1])))


def grouped(pairs: Iterable[tuple[str, KernelFloor]]) -> dict[str, list[KernelFloor]]:
    found: dict[str, list[KernelFloor]] = {}
    for name, kernel in pairs:
        found.setdefault(name, []).append(kernel)
    return found


def layer_of(kernel: KernelFloor) -> str:
    """The layer's name. Updates of many parameters at once carry the name of the first, which is not their layer's."""
    return "update" if kernel.ops.endswith("_update") else kernel.layer or "step"


def kind_of(kernel: KernelFloor) -> str:
    return kernel.ops + (f", {kernel.algorithm}" if kernel.algorithm else "")


def lost(kernels: Sequence[KernelFloor]) -> float:
    """Seconds above the floors. A kernel that is faster than its floor makes up for no other."""
    return sum(max(0.0, kernel.seconds - kernel.floor_seconds) for kernel in kernels)


def profile_net(case: Case) -> NetProfile:
    """Compile, and time every kernel between two measurements of the ceilings."""
    before = measure_ceilings(case.threads)
    with tempfile.TemporaryDirectory(prefix="convc-layers-") as folder:
        task = write_material(case, Path(folder) / "net", model=False)
        profile = profile_case(case, task)
    ceilings = highest(before, measure_ceilings(case.threads))
    kernels = kernel_floors(profile, ceilings)
    return NetProfile(case.file.stem, case.mode, case.batch, case.threads, ceilings, profile.wall_seconds, kernels)


_COLUMNS = ("ms", "% of kernels", "GFLOP/s", "floor, ms", "bound", "of floor", "lost, ms")


def _cells(kernels: Sequence[KernelFloor], whole: float) -> tuple[str, ...]:
    """What is told of a kernel, or of several together."""
    seconds, floor = (sum(values) for values in zip(*((k.seconds, k.floor_seconds) for k in kernels), strict=True))
    bounds = " and ".join(dict.fromkeys(kernel.bound for kernel in kernels))
    return (
        f"{1e3 * seconds:.3f}",
        f"{100 * seconds / whole:.1f}" if whole else "",
        f"{sum(kernel.flops for kernel in kernels) / seconds / 1e9:.0f}" if seconds else "",
        f"{1e3 * floor:.3f}",
        bounds,
        f"{floor / seconds:.0%}" if seconds else "",
        f"{1e3 * lost(kernels):.3f}",
    )


def layer_table(profile: NetProfile) -> str:
    """Layers in bold with their sums, below each its kernels."""
    rows: list[tuple[str, ...]] = []
    for layer, kernels in profile.by_layer().items():
        # A layer of a block that is used often has the line of the block.
        line = next((str(kernel.line) for kernel in kernels if kernel.line), "") if layer != "update" else ""
        rows.append((f"**{layer}**", line, *_cells(kernels, profile.seconds)))
        rows += [(kind_of(kernel), "", *_cells([kernel], profile.seconds)) for kernel in kernels]
    return markdown(("layer, kernel", "line", *_COLUMNS), rows)


def kind_table(profile: NetProfile) -> str:
    """Where time is lost: kernels of a kind together."""
    rows = [(kind, str(len(found)), *_cells(found, profile.seconds)) for kind, found in profile.by_kind().items()]
    return markdown(("kernel", "count", *_COLUMNS), rows)


def net_heading(profile: NetProfile) -> str:
    what = "training" if profile.mode == "train" else "inference"
    floor = sum(kernel.floor_seconds for kernel in profile.kernels)
    found = profile.ceilings
    share = f", of which the floors are {floor / profile.seconds:.0%}" if profile.seconds else ""
    return (
        f"## {profile.net}: {what}, batch {profile.batch}, threads {profile.threads}\n\n"
        f"FMA peak {found.fma_gflops:.0f} GFLOP/s, copying {found.copy_gbps:.1f} GB/s. {len(profile.kernels)} kernels "
        f"take {1e3 * profile.seconds:.2f} ms{share}; the whole step takes {1e3 * profile.wall_seconds:.2f} ms."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), metavar="NxCxSIDE", help="large layers")
    directions = (INFERENCE, *DIRECTIONS)
    parser.add_argument("--directions", nargs="+", choices=directions, default=list(directions))
    parser.add_argument("--rounds", type=int, default=7, help="of which a large layer's median is taken (default 7)")
    parser.add_argument("--net", help=f"nets instead: all, or some of {','.join(NETS)}, or files, with commas")
    parser.add_argument("--mode", choices=("train", "infer"), default="train", help="of a net (default train)")
    parser.add_argument("--batch", type=int, help="of a net (default: that of its file)")
    parser.add_argument("--summary", action="store_true", help="of a net only the table by kinds of kernels")
    parser.add_argument("--threads", type=int, help="default: what this process may use")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every measurement")
    options = parser.parse_args(arguments)
    threads = choose_threads(options.threads).threads
    files = chosen_nets(options.net, parser) if options.net else []
    run = Run()
    print(f"{run.machine['processor']}, tier {run.machine['tier']}, threads {threads}\n")
    layers: list[LargeLayer] = []
    nets: list[NetProfile] = []
    with run.kept():
        for file in files:
            run.pause()
            batch = options.batch or convc.load(file).settings.batch
            nets.append(profile_net(Case(file, options.mode, batch, threads)))
            tables = [kind_table(nets[-1])] if options.summary else [layer_table(nets[-1]), kind_table(nets[-1])]
            print(net_heading(nets[-1]), *tables, sep="\n\n", end="\n\n", flush=True)
        for layer in () if files else options.layers:
            for direction in options.directions:
                print(f"{layer} {direction}", file=sys.stderr, flush=True)
                run.pause()
                layers.append(large_layer(layer, direction, threads, options.rounds))
    if layers:
        print(large_table(layers), large_verdict(layers), sep="\n\n")
    if options.json:
        write_json(options.json, as_json(run, threads, layers, nets))
    return run.end()


def as_json(run: Run, threads: int, layers: Sequence[LargeLayer], nets: Sequence[NetProfile]) -> dict[str, object]:
    """Every measurement, with what the tables divide."""
    return {
        **run.as_json(),
        "threads": threads,
        "layers": [
            {
                **asdict(one),
                "gemm_of_peak": one.gemm.of_peak(one.ceilings),
                "gemm_of_floor": one.gemm.of_floor(one.ceilings),
                "direct_of_peak": one.direct.of_peak(one.ceilings),
                "winograd_over_direct": one.speedup,
            }
            for one in layers
        ],
        "nets": [{**asdict(net), "kernels": [kernel.as_json() for kernel in net.kernels]} for net in nets],
    }


if __name__ == "__main__":
    sys.exit(main())
