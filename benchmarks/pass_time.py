"""How long the passes take, from the forward graph to the plan, and that it grows like the net.

    python -m benchmarks.pass_time                          ResNet-152, and CIFAR's ResNets from 20 to 1202 layers
    python -m benchmarks.pass_time --mode infer --json

Every net is compiled up to code generation; of the repetitions that one counts whose sum is smallest. `us/node` is the
whole, verification included, divided by the nodes that the passes leave: with linear growth it stays where it is.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from convc.codegen.llvm.lowering import scratch_bytes
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.target import CpuTarget, host_target
from convc.driver import load
from convc.frontend.net import Net
from convc.passes.base import Mode
from convc.passes.manager import PassManager, PassReport
from convc.passes.pipeline import Recipe
from convc.passes.plan import Plan
from convc.passes.planning import make_plan
from convc.runtime.algorithms import AlgorithmOptions
from convc.runtime.build import choose_passes
from convc.runtime.configuration import make_recipe

EXAMPLES = Path(__file__).parent.parent / "examples"
# (file, depth, batch): the deep net of the literature, and one family that only grows in depth.
NETS: tuple[tuple[str, int, int], ...] = (
    ("resnet", 152, 32),
    *(("cifar_resnet", depth, 128) for depth in (20, 110, 302, 602, 1202)),
)


@dataclass(frozen=True)
class Measurement:
    """One net: milliseconds of each pass in their order, and of all, with verification and the copying of lists."""

    net: str
    depth: int
    nodes: int
    kernels: int
    passes: dict[str, float]
    milliseconds: float

    @property
    def microseconds_per_node(self) -> float:
        return 1e3 * self.milliseconds / self.nodes


@dataclass(frozen=True)
class Planned:
    """A plan, how many nodes it is of, and the seconds that the passes over the graph and those over the plan took."""

    plan: Plan
    nodes: int
    reports: tuple[PassReport, ...]
    graph_seconds: float
    plan_seconds: float


def plan_net(net: Net, batch: int, mode: Mode, target: CpuTarget) -> Planned:
    """Run the usual passes of a program for `target`, up to code generation."""
    graph = net.graph(batch)
    recipe = make_recipe(net.settings, graph) if mode == "train" else Recipe()
    order = choose_passes(mode, recipe, None, choose=AlgorithmOptions().chooser("cpu", None))
    gc.collect()
    begin = time.perf_counter()
    reports = PassManager(order.graph).run(graph)
    passed = time.perf_counter()
    plan = make_plan(graph, machine_of(target), scratch_bytes, order.plan)
    planned = time.perf_counter()
    return Planned(plan, len(graph.nodes), (*reports, *plan.reports), passed - begin, planned - passed)


def measure(name: str, depth: int, batch: int, mode: Mode, repeats: int) -> Measurement:
    net = load(EXAMPLES / f"{name}.cnn", set={"depth": str(depth)})
    target = host_target()
    runs = (plan_net(net, batch, mode, target) for _ in range(repeats))
    best = min(runs, key=lambda run: run.graph_seconds + run.plan_seconds)
    times = {report.name: report.milliseconds for report in best.reports}
    whole = (best.graph_seconds + best.plan_seconds) * 1e3
    return Measurement(name, depth, best.nodes, len(best.plan.kernels), times, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = [measure(name, depth, batch, arguments.mode, arguments.repeats) for name, depth, batch in NETS]
    if arguments.json:
        print(json.dumps({"schema": 1, "mode": arguments.mode, "nets": [asdict(one) for one in found]}, indent=1))
        return
    names = list(found[0].passes)
    print(" ".join(("net".ljust(18), "nodes", "kernels", "   all ms", "us/node", *names)))
    for one in found:
        cells = (f"{one.passes[name]:{len(name)}.0f}" for name in names)
        label = f"{one.net}-{one.depth}"
        print(
            f"{label:18} {one.nodes:5} {one.kernels:7} {one.milliseconds:9.0f} {one.microseconds_per_node:7.1f}", *cells
        )


if __name__ == "__main__":
    main()
