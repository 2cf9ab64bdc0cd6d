"""How the learning rate moves over the training."""

from __future__ import annotations

import math
from typing import Literal

from convc.frontend.expressions import Quantity
from convc.ir.span import Span
from convc.lazy import dataclass

_NONE, _THIRTY_EPOCHS = Quantity(0, "e"), Quantity(30, "e")
# Keys of the language and the fields that they set.
_WRITTEN = {
    "constant": (),
    "cosine": (("min", "floor"),),
    "step": (("every", "every"), ("gamma", "gamma")),
    "poly": (("power", "power"), ("min", "floor")),
    "onecycle": (("max", "maximum"),),
    "plateau": (("factor", "factor"), ("patience", "patience")),
}
ScheduleKind = Literal["constant", "rates", "step", "cosine", "poly", "onecycle", "plateau"]


@dataclass(frozen=True)
class Segment:
    """A rate and how long it holds; None is "to the end"."""

    rate: float
    duration: Quantity | None


@dataclass(frozen=True)
class Schedule:
    """A learning rate as a function of time.

    `rates`: `segments` of absolute rates. Else `base`, the optimiser's rate, is scaled: by `gamma` every `every`
    (`step`), along a half cosine down to `floor` (`cosine`), or by (1 - t)^`power` (`poly`). `onecycle` rises from
    max/25 to `maximum` over the first 30 % and falls to max/25e4, both along cosines, as PyTorch's OneCycleLR.
    `plateau` depends on the validation loss: its owner scales `base` by `factor` after `patience` epochs without gain.
    During `warmup` the rate rises linearly from near 0.
    """

    kind: ScheduleKind = "constant"
    base: float = 0.01
    segments: tuple[Segment, ...] = ()
    every: Quantity = _THIRTY_EPOCHS
    gamma: float = 0.1
    power: float = 1.0
    floor: float = 0.0
    maximum: float = 0.1
    factor: float = 0.1
    patience: int = 5
    warmup: Quantity = _NONE
    span: Span | None = None

    def __str__(self) -> str:
        """As a file writes it, with every value that has a part in it but `base`."""
        if self.kind == "rates":
            return ", ".join(f"{s.rate!r}" + (f" for {s.duration}" if s.duration else "") for s in self.segments)
        words = [self.kind, *(f"{key}={getattr(self, name)}" for key, name in _WRITTEN[self.kind])]
        if self.warmup.value and self.kind in ("constant", "cosine", "step", "poly"):
            words.append(f"warmup={self.warmup}")
        return " ".join(words)

    @property
    def absolute(self) -> bool:
        """Whether the schedule brings its own rates, so that the optimiser's `lr=` has no part in it."""
        return self.kind in ("rates", "onecycle")

    def rate(self, epoch: float, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The rate of the update after `epoch` epochs (fractions allowed) and `step` updates of `epochs` epochs."""
        clock = _Clock(epoch, step, max(1, steps_per_epoch), max(1, epochs))
        return clock.warmth(self.warmup) * self._rate(clock)

    def _rate(self, clock: _Clock) -> float:
        if self.kind == "rates":
            return self._segment(clock)
        if self.kind == "step":
            return self.base * self.gamma ** math.floor(clock.fraction_of(self.every))
        if self.kind == "cosine":
            progress = clock.progress(self.warmup)
            return self.floor + (self.base - self.floor) * (1 + math.cos(math.pi * progress)) / 2
        if self.kind == "poly":
            return self.floor + (self.base - self.floor) * (1 - clock.progress(self.warmup)) ** self.power
        if self.kind == "onecycle":
            return _one_cycle(self.maximum, clock.epoch / clock.epochs)
        return self.base

    def _segment(self, clock: _Clock) -> float:
        end = _Position(0.0, 0.0)
        for segment in self.segments:
            if segment.duration is None:
                return segment.rate
            end = end.after(segment.duration)
            if clock.before(end):
                return segment.rate
        return self.segments[-1].rate


@dataclass(frozen=True)
class _Position:
    epochs: float
    steps: float

    def after(self, duration: Quantity) -> _Position:
        if duration.unit == "e":
            return _Position(self.epochs + duration.value, self.steps)
        return _Position(self.epochs, self.steps + duration.value)


@dataclass(frozen=True)
class _Clock:
    epoch: float
    step: int
    steps_per_epoch: int
    epochs: int

    def before(self, end: _Position) -> bool:
        # Pure epochs and pure steps are compared as they are, free of rounding; only a mixture is converted.
        if not end.steps:
            return self.epoch < end.epochs
        if not end.epochs:
            return self.step < end.steps
        return self.epoch * self.steps_per_epoch < end.epochs * self.steps_per_epoch + end.steps

    def steps(self, duration: Quantity) -> float:
        return duration.value * (self.steps_per_epoch if duration.unit == "e" else 1)

    def warmth(self, warmup: Quantity) -> float:
        """The factor of the warm-up: the first update has a small rate, not none."""
        position = self.epoch * self.steps_per_epoch if warmup.unit == "e" else self.step
        return min(1.0, (position + 1) / (self.steps(warmup) + 1))

    def fraction_of(self, duration: Quantity) -> float:
        """Time so far, in units of `duration`."""
        return (self.epoch if duration.unit == "e" else self.step) / duration.value

    def progress(self, warmup: Quantity) -> float:
        """From 0 after the warm-up to 1 at the end of the training."""
        start = self.steps(warmup) / self.steps_per_epoch
        return min(1.0, max(0.0, (self.epoch - start) / max(self.epochs - start, 1e-12)))


def _one_cycle(maximum: float, progress: float) -> float:
    rising = 0.3
    low, end = maximum / 25, maximum / 25e4
    if progress < rising:
        return _along_cosine(low, maximum, progress / rising)
    return _along_cosine(maximum, end, min(1.0, (progress - rising) / (1 - rising)))


def _along_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
