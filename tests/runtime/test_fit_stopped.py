"""Training in a process of its own that is interrupted, killed, or finds its folder in use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.training_state import Position, parse_position

pytestmark = pytest.mark.slow

NET = """\
net tiny {
  input 1x6x6
  conv 3 k=3 -> bn -> relu -> fc 8 -> relu -> dropout 0.25 -> fc 4
  loss softmax
}
train { data npz "data.npz" -> batch 8 -> epochs 4 -> optim sgd lr=0.02 momentum=0.9 }
"""

# All that has a memory of its own: the rate, the patience, the files, a sum of gradients, augmentation.
COURSE = (
    NET[: NET.index("train")]
    + """
train {
  data npz "data.npz" train=400 val=200 -> batch 8 accumulate=3 -> epochs 12 -> optim sgd lr=0.02 momentum=0.9
  augment { shift 1 -> noise 0.05 }
  schedule plateau factor=0.5 patience=0
  early_stop val_loss patience=3 delta=0.0001
  checkpoint every=20s keep=3
  init "start.safetensors" freeze=["conv1", "bn1"]
}
"""
)

# What `convc train` does, with slower steps and a state saved every few of them instead of every minute. As soon as the
# state has come as far as `hold` says, it waits for a file: a test that is late must not find it finished.
PROGRAM = """
import json, os, pathlib, sys, time
import convc
from convc.runtime import curves, training_loop
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.training_state import parse_position
options = json.loads(sys.argv[1])
hold = options.pop("hold")
held, go, state = (pathlib.Path(name) for name in (f"held-{os.getpid()}", f"go-{os.getpid()}", "run/state.safetensors"))
curves._draw = lambda *arguments: None
training_loop.SAVE_SECONDS, training_loop._SAVE_SHARE = 0.1, 1e9
train_batch = convc.Program.train_batch
def slow_train_batch(*arguments, **more):
    time.sleep(0.001)
    if hold is not None and not held.exists() and state.exists():
        position = parse_position(state, read_checkpoint(state).metadata)
        if all(getattr(position, name) >= least for name, least in hold.items()):
            held.touch()
            while not go.exists():
                time.sleep(0.01)
    return train_batch(*arguments, **more)
convc.Program.train_batch = slow_train_batch
try:
    convc.fit(convc.load("net.cnn"), out="run", report="json", **options)
except convc.CompileError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
except KeyboardInterrupt as interrupt:
    print(interrupt, interrupt.command, file=sys.stderr)
    sys.exit(130)
"""


class Run:
    """A training process in a folder. It stops where the saved state has at least the numbers of `hold`, by name."""

    def __init__(self, folder: Path, hold: dict[str, int] | None = None, **options: Any) -> None:
        self.folder = folder / "run"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps({"hold": hold, **options})],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def wait(self) -> tuple[int, str]:
        """The exit code and the error output."""
        errors = self.process.communicate(timeout=120)[1]
        return self.process.returncode, errors

    def position(self) -> Position | None:
        state = self.folder / "state.safetensors"
        return parse_position(state, read_checkpoint(state).metadata) if state.exists() else None

    def wait_until_held(self) -> Position:
        held = self.folder.parent / f"held-{self.process.pid}"
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            if held.exists():
                position = self.position()
                assert position is not None
                return position
            time.sleep(0.01)
        raise AssertionError(f"the training ended with {self.wait()} at {self.position()}")

    def go_on(self) -> None:
        (self.folder.parent / f"go-{self.process.pid}").touch()


@pytest.fixture
def start(tmp_path: Path, target: str) -> Iterator[Callable[..., Run]]:
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 1600)
    np.savez(tmp_path / "data.npz", x=random.random((1600, 6, 6)).astype(np.float32), y=labels)
    (tmp_path / "net.cnn").write_text(NET)
    (tmp_path / "whole").mkdir()
    for name in ("data.npz", "net.cnn"):
        os.link(tmp_path / name, tmp_path / "whole" / name)
    runs: list[Run] = []

    def begin(folder: str = ".", **options: Any) -> Run:
        runs.append(Run(tmp_path / folder, target=target, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()
        if run.process.stderr:
            run.process.stderr.close()


Start = Callable[..., Run]


def assert_equal_runs(one: Run, other: Run) -> None:
    for name in ("state.safetensors", "best.safetensors", "last.safetensors"):
        first, second = (read_checkpoint(run.folder / name).tensors for run in (one, other))
        assert first.keys() == second.keys()
        for key, array in first.items():
            np.testing.assert_array_equal(array, second[key], err_msg=f"{name} {key}")
    records = [
        [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()] for run in (one, other)
    ]
    for first, second in zip(*records, strict=True):
        for key in ("epoch", "step", "learning_rate", "train_loss", "train_accuracy", "best", "note"):
            assert first[key] == second[key]


def test_killed_twice_it_goes_on_bit_by_bit(start: Start) -> None:
    """kill -9 within the first and within a later epoch."""
    whole = start("whole")
    assert whole.wait() == (0, "")
    run = start(hold={"batch": 1})
    assert run.wait_until_held().epoch == 0
    run.process.send_signal(signal.SIGKILL)
    assert run.wait()[0] == -signal.SIGKILL
    run = start(resume=True, hold={"epoch": 2, "batch": 1})
    run.wait_until_held()
    run.process.send_signal(signal.SIGKILL)
    run.wait()
    run = start(resume=True)
    assert run.wait() == (0, "")
    assert not [name for name in os.listdir(run.folder) if ".part-" in name]
    assert_equal_runs(run, whole)


@pytest.mark.parametrize("target", ["cpu"])
def test_a_whole_course_killed_and_interrupted(start: Start, tmp_path: Path) -> None:
    """kill -9 and Ctrl-C with plateau, early stop, numbered checkpoints, frozen layers: the same files."""
    (tmp_path / "net.cnn").write_text(NET)
    with convc.compile(convc.load(tmp_path / "net.cnn"), target="reference", seed=3) as program:
        program.save(tmp_path / "start.safetensors")
    os.link(tmp_path / "start.safetensors", tmp_path / "whole" / "start.safetensors")
    (tmp_path / "net.cnn").write_text(COURSE)
    whole, run = start("whole"), start(hold={"step": 26})
    killed = run.wait_until_held()
    run.process.send_signal(signal.SIGKILL)
    assert run.wait()[0] == -signal.SIGKILL
    os.remove(tmp_path / "start.safetensors")
    run = start(resume=True, hold={"step": killed.step + 11})
    run.wait_until_held()
    run.process.send_signal(signal.SIGINT)
    run.go_on()
    assert run.wait()[0] == 130
    run = start(resume=True)
    assert run.wait() == (0, "")
    assert whole.wait() == (0, "")
    assert_equal_runs(run, whole)
    for name in ("best.safetensors", "last.safetensors"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert sorted(os.listdir(run.folder)) == sorted(os.listdir(whole.folder))
    assert sum(name.startswith("checkpoint-") for name in os.listdir(run.folder)) == 3
    results = [json.loads((each.folder / "result.json").read_text()) for each in (run, whole)]
    assert results[0] | {"seconds": 0} == results[1] | {"seconds": 0}
    assert results[0]["stopped"], "the course is to end early"
    frozen = read_checkpoint(tmp_path / "whole" / "start.safetensors").tensors
    last = read_checkpoint(run.folder / "last.safetensors").tensors
    for name in ("conv1.weight", "conv1.bias", "bn1.mean", "bn1.gamma"):
        assert last[name].tobytes() == frozen[name].tobytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(start: Start, number: signal.Signals) -> None:
    whole = start("whole")
    run = start(hold={"step": 1})
    run.wait_until_held()
    sent = time.monotonic()
    run.process.send_signal(number)
    assert run.process.stderr is not None
    run.process.stderr.readline()
    assert f"{number.name}: finishing this step" in run.process.stderr.readline()
    acknowledged = time.monotonic() - sent
    run.go_on()
    code, errors = run.wait()
    assert code == 130
    assert "convc train run/model.cnn --out run --resume" in errors
    assert acknowledged < 5  # a loaded machine; the aim is one second
    position = run.position()
    assert position is not None
    assert f"stopped and saved after step {position.step} " in errors
    run = start(resume=True)
    assert run.wait() == (0, "")
    assert whole.wait() == (0, "")
    assert_equal_runs(run, whole)


def test_a_second_interrupt_aborts_and_keeps_the_state(start: Start) -> None:
    run = start(hold={"step": 1})
    run.wait_until_held()
    run.process.send_signal(signal.SIGINT)
    assert run.process.stderr is not None
    while "finishing this step" not in run.process.stderr.readline():
        assert run.process.poll() is None
    time.sleep(0.25)  # sooner it would be the first one's echo
    run.process.send_signal(signal.SIGINT)
    # Python may die of the signal once it is on its way out; a shell tells both as 130.
    assert run.wait()[0] in (130, -signal.SIGINT)
    assert run.position() is not None
    assert start(resume=True, epochs=4).wait() == (0, "")


def test_two_processes_do_not_share_a_folder(start: Start) -> None:
    run = start(hold={"step": 1})
    run.wait_until_held()
    code, errors = start(resume=True).wait()
    assert (code, "file-in-use" in errors) == (1, True)
    run.process.send_signal(signal.SIGKILL)
    run.wait()
    # The lock of a dead process is free.
    assert start(resume=True).wait() == (0, "")
