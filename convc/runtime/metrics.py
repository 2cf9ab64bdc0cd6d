"""The history of a run: one record per epoch, in metrics.jsonl and metrics.csv."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.runtime.atomic import write_text
from convc.runtime.plain_files import append_plain, read_plain


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. Losses are means over images, accuracies fractions; None where there was nothing to measure.

    `step` counts updates since the beginning, `seconds` is the time of the epoch with its validation, `best` says
    whether this epoch's weights were the best so far, `note` what followed from it (the rate was reduced, the training
    ended). Where the loss is scaled, `loss_scale` is that of the next step, and `skipped` counts the updates that were
    skipped since the beginning.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    images_per_second: float
    best: bool
    note: str | None = None
    loss_scale: float | None = None
    skipped: int | None = None


_COLUMNS = tuple(field.name for field in fields(EpochRecord))


class Metrics:
    """The two files. Every record is on the disk before the state that follows it."""

    def __init__(self, folder: Path) -> None:
        self.csv = folder / "metrics.csv"
        self.jsonl = folder / "metrics.jsonl"
        self.records: list[EpochRecord] = []

    def restart(self, completed: int) -> None:
        """Keep the records of the epochs 1 to `completed`; what a killed process wrote beyond that happens again."""
        self.records = [record for record in self._read() if record.epoch <= completed]
        write_text(self.jsonl, "".join(map(_json_line, self.records)))
        write_text(self.csv, ",".join(_COLUMNS) + "\n" + "".join(map(_csv_line, self.records)))

    def append(self, record: EpochRecord) -> None:
        """Add an epoch. Error: `file-write`."""
        _append(self.jsonl, _json_line(record))
        _append(self.csv, _csv_line(record))
        self.records.append(record)

    def _read(self) -> Iterable[EpochRecord]:
        try:
            lines = read_plain(self.jsonl).splitlines()
        except (OSError, UnicodeDecodeError):
            return
        for line in lines:
            try:
                record = EpochRecord(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                return  # torn by a crash
            if not _is_sound(record):
                return
            yield record


def _is_sound(record: EpochRecord) -> bool:
    """Whether a record that was read holds numbers where there have to be numbers."""
    content = asdict(record)
    note = content.pop("note")
    values: list[object] = [value for name, value in content.items() if value is not None or name == "epoch"]
    return (note is None or isinstance(note, str)) and all(
        isinstance(v, (int, float)) and abs(v) < math.inf for v in values
    )


def _json_line(record: EpochRecord) -> str:
    return json.dumps(asdict(record), allow_nan=False) + "\n"


def _csv_line(record: EpochRecord) -> str:
    return ",".join(_cell(getattr(record, column)) for column in _COLUMNS) + "\n"


def _cell(value: float | bool | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if not isinstance(value, float) or math.isfinite(value) else ""


def _append(path: Path, line: str) -> None:
    try:
        with append_plain(path) as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fail("file-write", f"cannot write {path}: {error.strerror}")
