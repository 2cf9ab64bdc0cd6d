"""Code made by several processes: the same bits, whatever becomes of the others, and none of them is left behind."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pytest

import convc
from convc.codegen.llvm import emission, emission_worker
from convc.codegen.llvm.emission import Emission
from convc.codegen.llvm.target import CpuTarget, compile_object, host_target
from convc.codegen.llvm.vocabulary import Function
from convc.frontend import loads

pytestmark = pytest.mark.slow

NET = """
net n {
  input 3x12x12
  conv 8 k=3 -> relu
  conv 8 k=5 -> pool max 2
  fc 10
  loss softmax
}
train { optim sgd lr=0.1 }
"""
COUNT = 6


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function is a unit."""
    monkeypatch.setattr(emission, "UNIT_CHARACTERS", 1)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that have been started."""
    processes: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return processes


def function(number: int) -> Function:
    f = Function(f"scale{number}", 1)
    with f.loop(0, 64, 16) as loop:
        place = f.address(f.pointers[0], loop.index)
        f.store(f.binary("fmul", f.load(place, 16), f.constant(number, 16)), place)
    return f


def objects(processes: int, count: int = COUNT) -> Sequence[bytes]:
    with Emission(host_target(), processes) as made:
        for number in range(count):
            made.add(function(number))
        return made.objects()


def test_the_bits_do_not_depend_on_who_makes_them(
    started: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    alone = objects(1)
    assert (len(alone), len(set(alone)), started) == (COUNT, COUNT, [])
    assert objects(3) == alone
    assert started
    assert all(process.returncode is not None for process in started)
    assert not caplog.records


def test_workers_make_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the process that waits for them."""
    alone = objects(1)
    answered, own = threading.Event(), [0]

    def receive(pipe: BinaryIO) -> bytes:
        answer = emission_worker.receive(pipe)
        answered.set()
        return answer

    def compile_after_an_answer(text: str, target: CpuTarget) -> bytes:
        assert answered.wait(60)
        own[0] += 1
        return compile_object(text, target)

    monkeypatch.setattr(emission, "receive", receive)
    monkeypatch.setattr(emission, "compile_object", compile_after_an_answer)
    assert objects(2) == alone
    assert 1 <= own[0] < COUNT


def test_a_single_unit_starts_no_process(started: list[subprocess.Popen[bytes]]) -> None:
    assert objects(4, count=1) == objects(1, count=1)
    assert started == []


@pytest.mark.parametrize(
    "program", ["raise SystemExit(1)", "import os; os.close(0); os.close(1)", "print('nonsense' * 9)"]
)
def test_workers_that_die_are_done_without(
    program: str,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = objects(1)

    def compile_after_the_loss(text: str, target: CpuTarget) -> bytes:
        while not caplog.records:
            pass
        return compile_object(text, target)

    monkeypatch.setattr(emission, "_PROGRAM", program)
    monkeypatch.setattr(emission, "compile_object", compile_after_the_loss)
    assert objects(3) == alone
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert all(process.returncode is not None for process in started)


def test_a_worker_that_is_killed_at_work(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = objects(1)
    monkeypatch.setattr(emission, "_PROGRAM", "import time; time.sleep(600)")
    with Emission(host_target(), 2) as made:
        for number in range(COUNT):
            made.add(function(number))
        while not started:
            pass
        started[0].kill()
        assert made.objects() == alone


def test_an_interruption_leaves_nothing_behind(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "_PROGRAM", "import time; time.sleep(600)")

    def interrupted() -> None:
        with Emission(host_target(), 3) as made:
            for number in range(COUNT):
                made.add(function(number))
            while len(started) < 2:
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [process.returncode is not None for process in started] == [True, True]


def test_an_invalid_text_is_an_error_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with Emission(host_target(), 2) as made:
        for number in range(COUNT):
            f = function(number)
            if number == 1:
                f.do("nonsense")
            made.add(f)
        with pytest.raises(RuntimeError, match="nonsense"):
            made.objects()


def test_a_program_of_many_objects_computes_the_same_fresh_and_from_the_cache(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    x, labels = np.random.default_rng(1).standard_normal((4, 3, 12, 12), np.float32), np.arange(4, dtype=np.int32)

    def losses(target: str = "cpu") -> list[float]:
        with convc.compile(loads(NET), batch=4, mode="train", target=target) as program:
            return [program.step(x, labels) for _ in range(3)]

    expected = losses("reference")
    monkeypatch.setenv("CONVC_COMPILE_PROCESSES", "2")
    fresh = losses()
    assert len(started) == 1
    assert losses() == fresh
    assert len(started) == 1
    assert fresh == pytest.approx(expected, rel=1e-4)
