from __future__ import annotations

import threading

import pytest

from convc.runtime.parallel import run_all


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_is_called_once(threads: int) -> None:
    called: list[int] = []
    run_all([lambda number=number: called.append(number) for number in range(50)], threads)
    assert sorted(called) == list(range(50))


def test_threads_work_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=60)
    run_all([meeting.wait] * 3, threads=3)


def test_an_error_is_raised_and_nothing_further_begun() -> None:
    called: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_all([lambda: called.append(1), fail, lambda: called.append(2)], threads=1)
    assert called == [1]


def test_without_further_threads_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    called: list[int] = []
    run_all([lambda: called.append(1), lambda: called.append(2)], threads=4)
    assert called == [1, 2]
