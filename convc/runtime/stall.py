"""Whether a figure still gets better from epoch to epoch: what `schedule plateau` and `early_stop` act upon."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convc.lazy import dataclass
from convc.runtime.progress import figure, percent

if TYPE_CHECKING:
    from convc.frontend.schedule import Schedule
    from convc.frontend.settings import EarlyStop

# Those of PyTorch's ReduceLROnPlateau: what counts as progress, and the least change of the rate.
_THRESHOLD = 1e-4
_LEAST_CHANGE = 1e-8


@dataclass
class Stall:
    """The best value of a figure so far (None: none yet) and how many `epochs` have passed without a better one.

    What is no finite number is never better.

    `rule` tells which figure, and what counts as better: a best value by another rule means nothing.
    """

    rule: str = ""
    best: float | None = None
    epochs: int = 0

    def watch(self, rule: str) -> None:
        """Go on by `rule`: from nothing where it is another one than before."""
        if rule != self.rule:
            self.rule, self.best, self.epochs = rule, None, 0

    def update(self, value: float, better: bool) -> None:
        """One more epoch, with its value."""
        if better:
            self.best, self.epochs = value, 0
        else:
            self.epochs += 1


@dataclass(frozen=True)
class Plateau:
    """`schedule plateau`, as PyTorch's ReduceLROnPlateau (mode min, threshold 1e-4 relative, no cooldown, least 0).

    After every epoch: a loss below best·(1 − 1e-4) is progress. Once there has been none for more than `patience`
    epochs, the rate is multiplied by `factor` (unless that changes it by no more than 1e-8) and counting begins anew.
    """

    factor: float
    patience: int
    figure: str

    def after_epoch(self, stall: Stall, loss: float, rate: float) -> str | None:
        """Count an epoch; the reason if the rate is to be reduced now."""
        stall.watch(self.figure)
        best = math.inf if stall.best is None else stall.best
        stall.update(loss, loss < best * (1 - _THRESHOLD))
        if stall.epochs <= self.patience:
            return None
        passed, stall.epochs = stall.epochs, 0
        if rate - rate * self.factor <= _LEAST_CHANGE:
            return None
        return f"{self.figure} has not fallen below {figure(best)} for {_epochs(passed)} (patience {self.patience})"


@dataclass(frozen=True)
class Stopping:
    """`early_stop`: a metric that has not got better by more than `delta` for `patience` epochs ends the training."""

    metric: str
    patience: int
    delta: float

    @property
    def rule(self) -> str:
        return f"{self.metric} delta={self.delta!r}"

    def after_epoch(self, stall: Stall, loss: float | None, accuracy: float | None) -> None:
        """Count an epoch."""
        stall.watch(self.rule)
        value = loss if self.metric == "val_loss" else accuracy
        assert value is not None, "such a training is refused before it begins"
        sign = -1 if self.metric == "val_loss" else 1
        best = -math.inf if stall.best is None else sign * stall.best
        stall.update(value, sign * value > best + self.delta)

    def reason(self, stall: Stall) -> str | None:
        """Why the training is over; None as long as it is not."""
        if stall.rule != self.rule or stall.epochs < self.patience:
            return None
        if self.metric == "val_loss":
            name, verb, best = "validation loss", "fallen below", figure(math.inf if stall.best is None else stall.best)
        else:
            name, verb, best = "validation accuracy", "risen above", percent(stall.best or 0.0)
        margin = f" by more than {self.delta:g}" if self.delta else ""
        return f"{name} has not {verb} {best}{margin} for {_epochs(stall.epochs)} (patience {self.patience})"


def make_plateau(schedule: Schedule, validation: bool) -> Plateau | None:
    """What `schedule` makes of the loss; None for schedules that do not look at it."""
    if schedule.kind != "plateau":
        return None
    return Plateau(schedule.factor, schedule.patience, "validation loss" if validation else "training loss")


def make_stopping(setting: EarlyStop | None) -> Stopping | None:
    return None if setting is None else Stopping(setting.metric, setting.patience, setting.delta)


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"


def parse_stall(content: Mapping[str, Any]) -> Stall:
    """What `asdict` made of a `Stall`. Raises a TypeError or ValueError for anything else."""
    stall = Stall(**content)
    rule, best, epochs = content["rule"], content["best"], content["epochs"]
    whole = isinstance(epochs, int) and 0 <= epochs < 1 << 53
    number = best is None or (isinstance(best, (int, float)) and abs(best) <= sys.float_info.max)
    if not (whole and number and isinstance(rule, str)):
        raise ValueError
    return stall
