"""curves.png: loss and accuracy over the epochs. Nothing here may harm a training: what fails is told and forgotten."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from convc.runtime.atomic import replaced
from convc.runtime.metrics import EpochRecord

# Drawing takes about a second; now and then within a training, at most this fraction of the time.
_SHARE = 0.01


class Curves:
    """Draws into `path`, at intervals that keep the share of the time small."""

    def __init__(self, path: Path, title: str) -> None:
        self.path = path
        self._title = title
        self._next = time.monotonic() + 1 / _SHARE

    def draw_if_cheap(self, records: Sequence[EpochRecord]) -> str | None:
        """Draw if the last drawing is long ago, measured by what it took."""
        return self.draw(records) if time.monotonic() >= self._next else None

    def draw(self, records: Sequence[EpochRecord]) -> str | None:
        """Draw; the reason if that failed."""
        if not records:
            return None
        started = time.monotonic()
        try:
            _draw(self.path, self._title, records)
        except Exception as error:  # a library, fonts, a full disk: none is worth a training
            return f"{self.path.name} could not be drawn: {' '.join(str(error).split())[:200]}"
        finally:
            now = time.monotonic()
            self._next = now + (now - started) / _SHARE
        return None


def _draw(path: Path, title: str, records: Sequence[EpochRecord]) -> None:
    # The object interface: pyplot would choose a window system and keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [record.epoch for record in records]
    for axes, what, scale in ((left, "loss", 1.0), (right, "accuracy", 100.0)):
        for part, colour in (("train", "#4477aa"), ("validation", "#cc6677")):
            values = [getattr(record, f"{part}_{what}") for record in records]
            points = [(x, scale * y) for x, y in zip(epochs, values, strict=True) if y is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=part, marker="o", markersize=3)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(what if what == "loss" else "accuracy (%)")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.suptitle(title)
    with replaced(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
