"""Runs that die after everything they save, and are begun again until they are through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convc.runtime import training_loop


def through_deaths(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any], after: Callable[[], None] = lambda: None
) -> tuple[Any, int]:
    """Call `run`, which resumes, until it ends; it saves after every step and dies of it. What it gave, and the deaths.

    `after` is called after each death.
    """

    class Killed(Exception):
        pass

    save = training_loop.save_state

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        raise Killed

    monkeypatch.setattr(training_loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training_loop, "_SAVE_SHARE", 1e9)
    monkeypatch.setattr(training_loop, "save_state", save_and_die)
    for deaths in range(100):
        try:
            return run(), deaths
        except Killed:
            after()
    raise AssertionError("the run makes no progress")
