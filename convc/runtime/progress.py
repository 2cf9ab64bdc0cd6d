"""What a training tells its user: a progress bar on a terminal, lines elsewhere, JSON events, or next to nothing.

Every message goes to the run's log, too. A reader that went away (`| head`) ends the output, not the training.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from convc.ir.diagnostic import fail, printable
from convc.lazy import dataclass
from convc.runtime.plain_files import append_plain

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Style = Literal["auto", "bar", "lines", "json", "quiet"]
STYLES = ("auto", "bar", "lines", "json", "quiet")

# Kinds of messages that are shown even when quiet was asked for.
_ALWAYS = frozenset({"folder", "end", "test", "interrupt", "resume-with"})


@dataclass(frozen=True)
class Progress:
    """Where a training stands within an epoch (from 1). Losses and accuracies are means of the epoch so far.

    `skipped` counts the updates that were skipped since the beginning, where the loss is scaled by `loss_scale`.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    step: int
    loss: float
    accuracy: float | None
    images_per_second: float
    seconds_left: float
    loss_scale: float | None = None
    skipped: int | None = None


class Reporter:
    """Writes messages to the log and, in this base, only the most important ones to the standard output."""

    # Seconds between two calls of `tick` that are worth their time.
    interval = 60.0

    def __init__(self) -> None:
        self._log: TextIO | None = None
        self._pending: list[str] = []
        self._mute = False

    def attach(self, log: Path) -> None:
        """Write everything said so far and from now on to the file `log`. Error: `file-write`."""
        try:
            self._log = append_plain(log)
        except OSError as error:
            fail("file-write", f"cannot write {log}: {error.strerror}")
        for line in self._pending:
            self._write_log(line)
        self._pending.clear()

    def emit(self, kind: str, text: str, **fields: Any) -> None:
        """One message: `kind` and `fields` for machines, `text` for people."""
        self._note(text)
        self.show(kind, text, fields)

    def record(self, kind: str, text: str, **fields: Any) -> None:
        """A message that people get in another way (an error, say): for the log and for machines only."""
        self._note(text)

    def _note(self, text: str) -> None:
        stamped = f"{datetime.now().isoformat(sep=' ', timespec='seconds')}  {text}"
        if self._log is None:
            self._pending.append(stamped)
        else:
            self._write_log(stamped)

    def show(self, kind: str, text: str, fields: dict[str, Any]) -> None:
        if kind in _ALWAYS:
            self.print(text)

    def tick(self, progress: Progress) -> None:
        """Called about every `interval` seconds between two steps."""

    def loading(self, done: int, total: int) -> None:
        """Called while images are decoded."""

    def print(self, text: str) -> None:
        if self._mute:
            return
        try:
            print(printable(text), flush=True)
        except BrokenPipeError:
            self._mute = True
            # What is left in the buffer must not fail again when the interpreter ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _write_log(self, line: str) -> None:
        # A log that cannot be written (full disk) is no reason to stop: the checkpoint will say so.
        with suppress(OSError, ValueError):
            if self._log is not None:
                self._log.write(line + "\n")


class LineReporter(Reporter):
    """A line per message; within long epochs one per minute."""

    def show(self, kind: str, text: str, fields: dict[str, Any]) -> None:
        self.print(text)

    def tick(self, progress: Progress) -> None:
        done = 100 * progress.batch / max(progress.batches, 1)
        self.print(f"epoch {progress.epoch}/{progress.epochs}  {done:.0f} %  {describe(progress)}")


class JsonReporter(Reporter):
    """One JSON object per line: `{"event": "epoch", …}`; the first has the schema's number."""

    interval = 2.0

    def __init__(self) -> None:
        super().__init__()
        self._first = True

    def show(self, kind: str, text: str, fields: dict[str, Any]) -> None:
        event: dict[str, Any] = {"event": kind, **(fields or {"text": text})}
        if self._first:
            event = {"schema": 1, **event}
            self._first = False
        self.print(json.dumps(event, ensure_ascii=False, allow_nan=False))

    def record(self, kind: str, text: str, **fields: Any) -> None:
        self.emit(kind, text, **fields)

    def tick(self, progress: Progress) -> None:
        self.show("progress", "", asdict(progress))

    def loading(self, done: int, total: int) -> None:
        pass


class BarReporter(Reporter):
    """A progress bar below lines that scroll. Redrawn between steps: no thread competes with the workers."""

    interval = 0.25

    def __init__(self) -> None:
        super().__init__()
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._batch = 0

    def show(self, kind: str, text: str, fields: dict[str, Any]) -> None:
        if self._bar is None:
            self.print(text)
        else:
            self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def tick(self, progress: Progress) -> None:
        bar = self._bar or self._start()
        bar.update(
            self._task,
            total=progress.batches,
            completed=progress.batch,
            description=f"epoch {progress.epoch}/{progress.epochs}",
            figures=describe(progress),
        )
        bar.refresh()

    def loading(self, done: int, total: int) -> None:
        bar = self._bar or self._start()
        bar.update(self._task, total=total, completed=done, description="reading images", figures=f"{done}/{total}")
        now = time.monotonic()
        if done == total or now - self._loaded_at >= self.interval:
            self._loaded_at = now
            bar.refresh()

    _loaded_at = 0.0

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        super().close()

    def _start(self) -> RichProgress:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
        self._bar = RichProgress(*columns, auto_refresh=False, transient=True)
        self._task = self._bar.add_task("", total=None, figures="")
        self._bar.start()
        return self._bar


def make_reporter(style: Style) -> Reporter:
    """`auto` is a bar on a terminal and lines elsewhere. Error: `value-report` for an unknown style."""
    if style not in STYLES:
        fail("value-report", f"report={style!r} is not one of {', '.join(STYLES)}")
    if style == "auto":
        style = "bar" if sys.stdout is not None and sys.stdout.isatty() else "lines"
    kinds = {"bar": BarReporter, "lines": LineReporter, "json": JsonReporter, "quiet": Reporter}
    return kinds[style]()


def describe(progress: Progress) -> str:
    """`loss 0.1234  accuracy 96.50 %  12,345 images/s  1:05 left`."""
    parts = [f"loss {figure(progress.loss)}"]
    if progress.accuracy is not None:
        parts.append(f"accuracy {percent(progress.accuracy)}")
    parts += scaling(progress.loss_scale, progress.skipped)
    parts.append(f"{progress.images_per_second:,.0f} images/s")
    parts.append(f"{duration(progress.seconds_left)} left")
    return "  ".join(parts)


def scaling(scale: float | None, skipped: int | None) -> list[str]:
    """`loss scale 65536  3 skipped`, in parts; no skipped steps go without saying, and so does no scale."""
    if scale is None:
        return []
    return [f"loss scale {scale:.10g}", *([f"{skipped} skipped"] if skipped else [])]


def figure(value: float) -> str:
    """A loss: `0.0521`, `12.3457`; `1.235e+30` where digits before the point would fill the line."""
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.3e}"


def percent(fraction: float) -> str:
    """`99.12 %`."""
    return f"{100 * fraction:.2f} %"


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
