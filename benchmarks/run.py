"""Training (or inference) speed of convc and its peers, side by side in one run.

    python -m benchmarks.run                          # lenet, simple, deep; training
    python -m benchmarks.run --nets all --mode infer --compile

Every contestant is a process of its own that stays alive and waits. Rounds go in turn, the order rotating, with a pause
before each so that the threads of the one before have stopped spinning. A result is the median of its rounds; the
spread is shown beside it. The ratio compares with the best peer. Writes one JSON file and prints a table.

The pauses also tell what else the machine is doing. Work beside it slows the contestants unequally (OpenMP's threads
wait for one that does not run), so a run on a busy machine says that it does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import convc
from benchmarks import machine, peak
from convc.ir.graph import Graph

FOLDER = Path(__file__).parent
BATCHES = {
    "lenet": 64, "simple": 100, "deep": 100, "cifar_resnet20": 128, "alexnet": 16, "googlenet": 8, "resnet18": 8,
    "resnet50": 8, "vgg16": 4,
}  # fmt: skip
DEFAULT_NETS = ("lenet", "simple", "deep")
PEERS = ("torch", "torch-channels-last")
COMPILED_PEER = "torch-compile"
SPINNING = 0.25  # seconds; OpenMP runtimes spin for up to 0.2 after their last parallel region
LISTENING = 0.25  # seconds after that, in which nothing of ours runs
BUSY = 0.1  # cores kept busy by others, on average, above which ratios mean nothing


@dataclass
class Contestant:
    """A running process and what it achieved, in images per second and round."""

    name: str
    process: subprocess.Popen[str]
    version: str = ""
    first_call: float = math.nan  # seconds for preparing and the first step: compile time, mostly
    error: str | None = None
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates) if self.rates else math.nan

    def read(self) -> dict[str, float | str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with exit code {self.process.wait()}"}

    def round(self, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"round {seconds}\n")
        self.process.stdin.flush()
        reply = self.read()
        if "error" in reply:
            self.error = str(reply["error"])
        else:
            self.rates.append(float(reply["images"]) / float(reply["seconds"]))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start(name: str, path: Path, mode: str, batch: int, threads: int) -> Contestant:
    """Start a contestant and wait until it is ready, or has failed."""
    # Variables that make a library choose slower kernels than it would by itself do not belong in a comparison.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "benchmarks.contestant", name, str(path)]
    command += ["--mode", mode, "--batch", str(batch), "--threads", str(threads)]
    process = subprocess.Popen(
        command, cwd=FOLDER.parent, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    contestant = Contestant(name, process)
    reply = contestant.read()
    if "error" in reply:
        contestant.error = str(reply["error"])
    else:
        contestant.version, contestant.first_call = str(reply["version"]), float(reply["ready"])
    return contestant


def flops_per_image(graph: Graph, batch: int, mode: str) -> float:
    """Arithmetic of convolutions and fully connected layers, counted directly whatever the algorithm.

    Training takes the forward work three times, except that nobody needs the gradient of the images.
    """
    total = 0.0
    images = {graph.inputs["x"]}
    for node in graph.nodes:
        if node.op.name in ("conv2d", "linear"):
            flops = node.op.cost(*(value.type for value in node.operands)).flops
            total += flops * (1 if mode == "infer" else 2 if node.operands[0] in images else 3)
        elif node.op.name in ("sub", "div", "flatten") and node.operands[0] in images:
            images.add(node.result)  # still the input, normalised
    return total / batch


def measure(
    net: str, mode: str, names: list[str], rounds: int, seconds: float, threads: int
) -> tuple[list[Contestant], list[float]]:
    """All contestants of one net, in turn, and the cores that others kept busy before each round."""
    busy: list[float] = []
    path = FOLDER / "nets" / f"{net}.cnn"
    contestants: list[Contestant] = []
    try:
        contestants += [start(name, path, mode, BATCHES[net], threads) for name in names]
        for index in range(rounds):
            for offset in range(len(contestants)):
                contestant = contestants[(index + offset) % len(contestants)]
                if contestant.error is None:
                    time.sleep(SPINNING)
                    busy.append(machine.busy_cores(LISTENING))
                    contestant.round(seconds)
    finally:
        for contestant in contestants:
            contestant.close()
    return contestants, busy


def summarise(net: str, mode: str, contestants: list[Contestant], peak_gflops: float) -> dict[str, object]:
    """One net's part of the result, JSON-ready."""
    graph = convc.load(FOLDER / "nets" / f"{net}.cnn").graph(BATCHES[net])
    flops = flops_per_image(graph, BATCHES[net], mode)
    entries: dict[str, dict[str, object]] = {}
    for one in contestants:
        entries[one.name] = {
            "images_per_second": one.median,
            "lowest": min(one.rates, default=math.nan),
            "highest": max(one.rates, default=math.nan),
            "rounds": one.rates,
            "fraction_of_peak": one.median * flops / (peak_gflops * 1e9),
            "first_call_seconds": one.first_call,
            "version": one.version,
            "error": one.error,
        }
    ours = next((one.median for one in contestants if one.name == "convc" and one.rates), None)
    peers = [one for one in contestants if one.name != "convc" and one.rates]
    best = max(peers, key=lambda one: one.median, default=None)
    return {
        "net": net,
        "batch": BATCHES[net],
        "mode": mode,
        "mflop_per_image": flops / 1e6,
        "contestants": entries,
        "best_peer": best.name if best else None,
        "ratio": ours / best.median if ours and best else None,
    }


def table(results: list[dict[str, object]]) -> str:
    """Results as GitHub-flavoured Markdown, ready for docs/performance-log.md."""
    lines = [
        "| net (batch) | contestant | images/s | lowest to highest | of FMA peak | first call | x best peer |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        entries: dict[str, dict[str, object]] = result["contestants"]  # type: ignore[assignment]
        for name, entry in entries.items():
            title = f"| {result['net']} ({result['batch']}) | {name} "
            if entry["error"]:
                lines.append(f"{title}| {entry['error']} |||||")
                continue
            ratio = f"**{result['ratio']:.2f}**" if name == "convc" and result["ratio"] else ""
            lines.append(
                f"{title}| {entry['images_per_second']:,.0f} | {entry['lowest']:,.0f} to {entry['highest']:,.0f} "
                f"| {entry['fraction_of_peak']:.0%} | {entry['first_call_seconds']:.2f} s | {ratio} |"
            )
    return "\n".join(lines)


def without_nan(value: object) -> object:
    """JSON knows no NaN: what was not measured is null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Settings:
    nets: tuple[str, ...]
    mode: str
    contestants: tuple[str, ...]
    rounds: int
    seconds: float
    threads: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(DEFAULT_NETS), help=f"all, or some of {','.join(BATCHES)}")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes up to a minute a net")
    parser.add_argument("--only", help="contestants, instead of convc and its peers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file (default benchmarks/results/MODE-TIME.json)")
    arguments = parser.parse_args()
    nets = tuple(BATCHES) if arguments.nets == "all" else tuple(arguments.nets.split(","))
    if unknown := set(nets) - set(BATCHES):
        parser.error(f"no net {', '.join(sorted(unknown))}; there are {', '.join(BATCHES)}")
    names = arguments.only.split(",") if arguments.only else ["convc", *PEERS, *[COMPILED_PEER] * arguments.compile]
    settings = Settings(nets, arguments.mode, tuple(names), arguments.rounds, arguments.seconds, arguments.threads)

    environment = machine.describe()
    ceilings = peak.measure(settings.threads)
    print(f"{environment['processor']}, {settings.threads} threads, FMA peak {ceilings['fma_gflops']:.0f} GFLOP/s")
    results: list[dict[str, object]] = []
    busy: list[float] = []
    failed = False
    for net in settings.nets:
        print(f"{net} ...", file=sys.stderr, flush=True)
        contestants, others = measure(net, settings.mode, names, settings.rounds, settings.seconds, settings.threads)
        results.append(summarise(net, settings.mode, contestants, ceilings["fma_gflops"]))
        busy += others
        failed |= any(one.error for one in contestants)
    print(table(results))
    ratios = [float(ratio) for result in results if (ratio := result["ratio"]) is not None]  # type: ignore[arg-type]
    mean = math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None
    if mean is not None:
        print(f"\ngeometric mean over {len(ratios)} nets: {mean:.2f} x the best peer")
    beside = statistics.fmean(busy) if busy else math.nan
    counts = not beside > BUSY
    if not counts:
        print(f"\nTHIS RUN DOES NOT COUNT: other work kept {beside:.2f} cores busy.")

    written = {
        "schema": 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "settings": asdict(settings),
        "machine": environment,
        "ceilings": ceilings,
        "results": results,
        "geometric_mean": mean,
        "busy_cores": beside,
        "counts": counts,
    }
    path = arguments.out or FOLDER / "results" / f"{settings.mode}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(without_nan(written), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
