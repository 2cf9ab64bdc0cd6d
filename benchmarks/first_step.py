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
from pathlib import Path

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
images, labels = np.ones(tuple(map(int, sys.argv[3].split("x"))), np.float32), np.zeros(int(sys.argv[2]), np.int32)
import convc
program = convc.compile(convc.load(sys.argv[1]), batch=int(sys.argv[2]), mode="train")
program.step(images, labels)
print(time.perf_counter() - start)
"""


def seconds(program: str, *arguments: str, cache: str | None = None) -> float:
    """What the program prints, run in a fresh interpreter."""
    environment = {**os.environ, **({"CONVC_CACHE_DIR": cache} if cache else {})}
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=FOLDER.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(finished.stdout)


def train_seconds(path: Path, batch: int, cache: str) -> float:
    """From starting `convc train` with one step's worth of images until it reports the epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "convc.cli", "train", str(path), "--json", "--epochs", "1"]
        command += ["--data", f"mnist train={batch} test={batch}", "--batch", str(batch), "--out", f"{folder}/run"]
        begin = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=FOLDER.parent,
            env={**os.environ, "CONVC_CACHE_DIR": cache},
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
    import convc

    path, batch = net_path(arguments.net), net_batch(arguments.net)
    shape = "x".join(map(str, convc.load(path).graph(batch).inputs["x"].shape))
    net = (str(path), str(batch), shape)
    seconds(_IMPORT)  # byte code is compiled once per installation, not per start
    imports = [seconds(_IMPORT) for _ in range(arguments.repeats)]
    cold: list[float] = []
    warm: list[float] = []
    train: list[float] = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = str(Path(folder) / "cache")
            cold.append(seconds(_STEP, *net, cache=cache))
            warm.append(seconds(_STEP, *net, cache=cache))
            if shape.endswith("x1x28x28"):
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
