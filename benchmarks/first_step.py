"""How long a user waits: `import convc`, and the first training step of a net, in fresh processes.

    python -m benchmarks.first_step --net lenet

*Cold* starts with an empty object cache, *warm* with the one that the cold run left. The step's times run from the
start of the program text to the end of the step, import included; what Python itself takes to start is reported, too.
`train` is the command line, from the start of the process to the report of an epoch of a single step: data, graph,
code, step, metrics. It is measured for nets that read MNIST.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import convc
from benchmarks.run import FOLDER, NETS, net_batch, net_path

_IMPORT = """
import time
start = time.perf_counter()
import convc
print(time.perf_counter() - start)
"""

_STEP = """
import time
start = time.perf_counter()
import sys
import numpy as np
file, mode, batch, shape = sys.argv[1:]
images, labels = np.ones(tuple(map(int, shape.split("x"))), np.float32), np.zeros(int(batch), np.int32)
import convc
imported = time.perf_counter()
program = convc.compile(convc.load(file), batch=int(batch), mode=mode)
compiled = time.perf_counter()
program.step(images, labels) if mode == "train" else program(images)
print(time.perf_counter() - start, compiled - imported)
"""


@dataclass(frozen=True)
class FirstStep:
    """Seconds from the start of the program text to the end of the first step, and those of `load` and `compile`."""

    whole: float
    compile: float


def environment(cache: str | None = None) -> dict[str, str]:
    """Of a fresh process. Byte code is kept in a folder of its own, whatever the environment says of it: it is written
    once per installation, and an environment that forbids that would have all sources compiled at every start."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "convc-first-step-bytecode")
    return kept | ({"CONVC_CACHE_DIR": cache} if cache else {})


def run_fresh(program: str, *arguments: str, cache: str | None = None) -> str:
    """What the program prints, run in a fresh interpreter; `cache` is the folder of its object cache."""
    command = [sys.executable, "-c", program, *arguments]
    finished = subprocess.run(command, cwd=FOLDER.parent, env=environment(cache), stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise SystemExit(f"a fresh process for {' '.join(arguments)} failed")
    return finished.stdout


def import_seconds() -> float:
    """`import convc` in a fresh interpreter."""
    return float(run_fresh(_IMPORT))


def first_step(path: Path, mode: str, batch: int, cache: str) -> FirstStep:
    """Load, compile and run the first step, of training or inference, in a fresh interpreter."""
    shape = "x".join(map(str, convc.load(path).graph(batch).inputs["x"].shape))
    whole, compiling = map(float, run_fresh(_STEP, str(path), mode, str(batch), shape, cache=cache).split())
    return FirstStep(whole, compiling)


def train_seconds(path: Path, batch: int, cache: str) -> float:
    """From starting `convc train` with one step's worth of images until it reports the epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "convc.cli", "train", str(path), "--json", "--epochs", "1"]
        command += ["--data", f"mnist train={batch} test={batch}", "--batch", str(batch), "--out", f"{folder}/run"]
        begin = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=FOLDER.parent,
            env=environment(cache),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            passed = [time.perf_counter() - begin for line in process.stdout if json.loads(line)["event"] == "epoch"]
        if process.returncode or not passed:
            raise SystemExit(f"{' '.join(command)} failed")
        return passed[0]


def median_start() -> float:
    """Seconds for an interpreter that does nothing."""
    times: list[float] = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], check=True)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="lenet")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    path, batch = net_path(arguments.net), net_batch(arguments.net)
    with tempfile.TemporaryDirectory() as folder:
        first_step(path, "train", batch, folder)  # byte code is compiled once per installation, not per start
    imports = [import_seconds() for _ in range(arguments.repeats)]
    reads_mnist = convc.load(path).graph(1).inputs["x"].shape == (1, 1, 28, 28)
    cold: list[float] = []
    warm: list[float] = []
    train: list[float] = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = str(Path(folder) / "cache")
            cold.append(first_step(path, "train", batch, cache).whole)
            warm.append(first_step(path, "train", batch, cache).whole)
            if reads_mnist:
                train_seconds(path, batch, cache)  # leaves what only the command line compiles in the cache
                train.append(train_seconds(path, batch, cache))
    result = {
        "net": arguments.net,
        "batch": batch,
        "interpreter_start": median_start(),
        "import": statistics.median(imports),
        "first_step_cold": statistics.median(cold),
        "first_step_warm": statistics.median(warm),
        "train_warm": statistics.median(train) if train else None,
        "rounds": {"import": imports, "cold": cold, "warm": warm, "train": train},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
