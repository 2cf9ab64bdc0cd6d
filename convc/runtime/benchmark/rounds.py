"""Contestants taking turns: processes that are started, told to work for a while, and ended."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np

from convc.lazy import dataclass
from convc.runtime.benchmark import machine
from convc.runtime.benchmark.task import TASK, Task

_PACKAGE = Path(__file__).parents[2]  # the folder `convc`
_ENDING = 5.0  # seconds until a contestant that does not end by itself is ended


@dataclass(frozen=True)
class Pace:
    """Seconds. Each turn is a pause in which the threads of the one before stop spinning (OpenMP's do so for up to 0.2
    seconds), a look at what others do on the machine, a warm-up (clocks, caches and threads as in steady work), and
    the measurement."""

    rounds: int = 7
    seconds: float = 1.5
    warm_up: float = 0.3
    spinning: float = 0.25
    listening: float = 0.25

    def total(self, contestants: int) -> float:
        """What all rounds take."""
        return self.rounds * contestants * (self.spinning + self.listening + self.warm_up + self.seconds)


@dataclass
class Contestant:
    """A running process and what it achieved: images per second and seconds per step, round by round."""

    name: str
    process: subprocess.Popen[str]
    result: Path
    errors: Path
    version: str = ""
    first_call: float = math.nan  # seconds for preparing and the first step: compile time, mostly
    error: str | None = None
    deviation: float | None = None
    peak_rss: int | None = None
    rates: dict[int, float] = field(default_factory=dict[int, float])
    step_seconds: list[float] = field(default_factory=list[float])

    @property
    def numbers(self) -> np.ndarray:
        """What it computed first."""
        return np.load(self.result, allow_pickle=False)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        said = [text for text in self.errors.read_text(errors="replace").splitlines() if text.strip()]
        return {"error": f"ended with exit code {code}" + (f": {said[-1].strip()}" if said else "")}

    def turn(self, index: int, pace: Pace) -> None:
        """Work through round `index`."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # reading finds out how it ended
            self.process.stdin.write(f"round {pace.seconds} {pace.warm_up}\n")
            self.process.stdin.flush()
        reply = self.read()
        if "error" in reply:
            self.error = str(reply["error"])
        else:
            self.rates[index] = reply["images"] / reply["seconds"]
            self.step_seconds.append(reply["seconds"] / reply["steps"])
            self.peak_rss = reply["peak_rss"]

    def close(self, wait: bool = True) -> None:
        """End the process: it reads the end of its input, or (at once, without `wait`) is killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(_ENDING if wait else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def launch(name: str, entry: str, task: Task) -> Contestant:
    """Start the process of a contestant; `await_ready` waits for it."""
    # Variables that make a library choose slower kernels than it would by itself do not belong in a comparison.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    environment["OMP_NUM_THREADS"] = str(task.threads)
    # The same convc as here, wherever that is; and no file of the working folder in the place of a library.
    environment["PYTHONSAFEPATH"] = "1"
    home = str(_PACKAGE.parent)
    if home not in sysconfig.get_paths().values():  # where it is installed it is found, behind Python's own modules
        environment["PYTHONPATH"] = os.pathsep.join([home, *filter(None, [environment.get("PYTHONPATH")])])
    result, errors = task.path(f"{name}.npy"), task.path(f"{name}.err")
    with errors.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "convc.runtime.benchmark.contestant", entry, str(task.path(TASK)), str(result)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for the process that measures, which then ends the others
        )
    return Contestant(name, process, result, errors)


def await_ready(contestant: Contestant) -> None:
    """Wait until it has prepared itself, or has failed."""
    reply = contestant.read()
    if "error" in reply:
        contestant.error = str(reply["error"])
    else:
        contestant.version, contestant.first_call = str(reply["version"]), float(reply["ready"])


def take_turns(contestants: list[Contestant], pace: Pace, busy: list[float], done: Callable[[int], None]) -> None:
    """All rounds, the order rotating; `busy` gets the cores that others kept busy before each turn."""
    for index in range(pace.rounds):
        for offset in range(len(contestants)):
            contestant = contestants[(index + offset) % len(contestants)]
            if contestant.error is None:
                time.sleep(pace.spinning)
                busy.append(machine.busy_cores(pace.listening))
                contestant.turn(index, pace)
        done(index + 1)
