"""The loop of a training: batches, validation, checkpoints, and stopping where it can be continued.

Per step Python does no more than fetch a batch that a thread has prepared, call the compiled step, and add up three
numbers; everything else happens at intervals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from convc.ir.diagnostic import CompileError
from convc.runtime.checkpoint import non_finite
from convc.runtime.curves import Curves
from convc.runtime.data import BatchLoader, Split
from convc.runtime.evaluate import Evaluation, evaluate
from convc.runtime.interrupt import Interrupted, Interrupts
from convc.runtime.metrics import EpochRecord, Metrics
from convc.runtime.program import Program, Rate
from convc.runtime.progress import Progress, Reporter, figure, percent
from convc.runtime.run_folder import RunFolder
from convc.runtime.training_state import Position, save_state

# Within long epochs the state is saved this often, unless saving takes more than a fiftieth of the time.
SAVE_SECONDS = 60.0
_SAVE_SHARE = 0.02


class NotFinite(Exception):
    """A loss or a parameter stopped being a finite number in the step that `position` counts as done."""


@dataclass
class TrainingLoop:
    """One training from `position` on. `infer` is a program for inference of the same net, made when it is needed."""

    program: Program
    train: Split
    validation: Split | None
    batch: int
    epochs: int
    rate: Rate
    counts_correct: bool
    folder: RunFolder
    metrics: Metrics
    curves: Curves
    reporter: Reporter
    interrupts: Interrupts
    infer: Callable[[], Program]
    about: dict[str, str]
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self._save_interval = SAVE_SECONDS
        self._next_save = time.monotonic() + SAVE_SECONDS
        self.batches = -(-len(self.train) // self.batch)

    def run(self) -> None:
        """Train until `epochs` are complete. Raises `Interrupted` (after saving) and `NotFinite` (nothing saved)."""
        while self.position.epoch < self.epochs:
            self._run_batches()
            self._finish_epoch()
            if self.interrupts.requested and self.position.epoch < self.epochs:
                self._stop(saved=True)

    def _run_batches(self) -> None:
        program, position, interrupts, rate = self.program, self.position, self.interrupts, self.rate
        batches, reporter = self.batches, self.reporter
        started = previous = now = time.monotonic()
        first_images = position.images
        next_tick = now + (0.0 if reporter.interval < 1 else reporter.interval)
        with BatchLoader(
            self.train, self.batch, seed=program.seed, epoch=position.epoch, start_batch=position.batch
        ) as loader:
            for images, labels in loader:
                result = program.train_batch(
                    images, labels, rate(position.epoch + position.batch / batches, position.step)
                )
                rows, loss = len(labels), result.loss
                assert loss is not None
                position.batch += 1
                position.step += 1
                if not math.isfinite(loss):
                    raise NotFinite(f"the loss is {loss}")
                position.loss += loss * rows
                position.correct += result.correct or 0.0
                position.images += rows
                now = time.monotonic()
                position.seconds += now - previous
                previous = now
                if now >= next_tick:
                    speed = (position.images - first_images) / (now - started)
                    reporter.tick(self._progress(speed))
                    next_tick = now + reporter.interval
                if now >= self._next_save:
                    self._save()
                if interrupts.requested:
                    self._stop()

    def _progress(self, speed: float) -> Progress:
        position = self.position
        left = (self.epochs - position.epoch) * len(self.train) - position.images
        return Progress(
            epoch=position.epoch + 1,
            epochs=self.epochs,
            batch=position.batch,
            batches=self.batches,
            step=position.step,
            loss=position.loss / position.images,
            accuracy=position.correct / position.images if self.counts_correct else None,
            images_per_second=speed,
            seconds_left=left / speed,
        )

    def _finish_epoch(self) -> None:
        """Validate, keep the weights, write the record, and only then count the epoch as complete."""
        position, started = self.position, time.monotonic()
        training_seconds = position.seconds
        state = self.program.state_dict()
        weights = {name: state[name] for name in self.program.params}
        bad = non_finite(state)
        if bad:
            raise NotFinite(f"{bad[0]} holds values that are not finite")
        loss = position.loss / position.images
        accuracy = position.correct / position.images if self.counts_correct else None
        validation = self._validate(weights)
        score = (-loss,) if validation is None else (validation["accuracy"], -(validation["loss"] or 0.0))
        best = not position.best_score or score > position.best_score
        if best:
            position.best_score, position.best_epoch = score, position.epoch + 1
        about = {**self.about, "epoch": str(position.epoch + 1), "step": str(position.step)}
        if best:
            self.program.write_weights(self.folder.best, weights, about)
        self.program.write_weights(self.folder.last, weights, about)
        position.seconds += time.monotonic() - started
        record = EpochRecord(
            epoch=position.epoch + 1,
            step=position.step,
            learning_rate=self.rate(position.epoch + (self.batches - 1) / self.batches, position.step - 1),
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=validation["loss"] if validation else None,
            validation_accuracy=validation["accuracy"] if validation else None,
            seconds=round(position.seconds, 3),
            images_per_second=round(position.images / max(training_seconds, 1e-9), 1),
            best=best,
        )
        self.metrics.append(record)
        position.next_epoch()
        self._save(state)
        self.reporter.emit("epoch", describe_epoch(record, self.epochs), **vars(record))
        problem = self.curves.draw_if_cheap(self.metrics.records)
        if problem:
            self.reporter.emit("warning", problem)

    def _validate(self, weights: Mapping[str, np.ndarray]) -> Evaluation | None:
        if self.validation is None:
            return None
        program = self.infer()
        program.set_params(weights)
        try:
            return evaluate(program, self.validation, check=self.interrupts.check)
        except Interrupted:
            self._stop()
            raise

    def _save(self, state: Mapping[str, np.ndarray] | None = None) -> None:
        started = time.monotonic()
        try:
            save_state(self.folder.state, self.program, self.position, self.about, state)
        except CompileError as error:
            if error.diagnostics[0].code == "checkpoint-not-finite":
                raise NotFinite(error.diagnostics[0].message) from error
            raise
        now = time.monotonic()
        self._next_save = now + max(SAVE_SECONDS, (now - started) / _SAVE_SHARE)

    def _stop(self, saved: bool = False) -> None:
        """Save and leave; the batch under way has been done."""
        if not saved:
            self._save()
        position = self.position
        problem = self.curves.draw(self.metrics.records)
        if problem:
            self.reporter.emit("warning", problem)
        where = f"epoch {position.epoch + 1}, batch {position.batch} of {self.batches}"
        raise Interrupted(f"stopped and saved after step {position.step} ({where})", str(self.folder.path))


def describe_epoch(record: EpochRecord, epochs: int) -> str:
    """One line: `epoch 3/10  loss 0.0521  accuracy 98.40 %  validation 0.0481 98.55 %  9,876 images/s  6.1 s`."""
    parts = [f"epoch {record.epoch}/{epochs}", f"loss {figure(record.train_loss)}"]
    if record.train_accuracy is not None:
        parts.append(f"accuracy {percent(record.train_accuracy)}")
    if record.validation_loss is not None:
        parts.append(f"validation loss {figure(record.validation_loss)}")
    if record.validation_accuracy is not None:
        parts.append(f"validation accuracy {percent(record.validation_accuracy)}")
    parts += [f"lr {record.learning_rate:g}", f"{record.images_per_second:,.0f} images/s", f"{record.seconds:.1f} s"]
    if record.best and record.validation_accuracy is not None:
        parts.append("best so far")
    return "  ".join(parts)
