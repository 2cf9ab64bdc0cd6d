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
from typing import Literal

from convc.codegen.llvm.lowering import scratch_bytes
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.target import host_target
from convc.driver import load
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe
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


def measure(name: str, depth: int, batch: int, mode: Literal["train", "infer"], repeats: int) -> Measurement:
    net = load(EXAMPLES / f"{name}.cnn", set={"depth": str(depth)})
    machine = machine_of(host_target())
    best: Measurement | None = None
    for _ in range(repeats):
        graph = net.graph(batch)
        recipe = make_recipe(net.settings, graph) if mode == "train" else Recipe()
        order = choose_passes(mode, recipe, None, choose=AlgorithmOptions().chooser("cpu", None))
        gc.collect()
        begin = time.perf_counter()
        reports = PassManager(order.graph).run(graph)
        plan = make_plan(graph, machine, scratch_bytes, order.plan)
        whole = (time.perf_counter() - begin) * 1e3
        times = {report.name: report.milliseconds for report in (*reports, *plan.reports)}
        if best is None or whole < best.milliseconds:
            best = Measurement(name, depth, len(graph.nodes), len(plan.kernels), times, whole)
    assert best is not None
    return best


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
