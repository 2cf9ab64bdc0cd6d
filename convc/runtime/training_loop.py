"""The loop of a training: batches, validation, checkpoints, and stopping where it can be continued.

Per step Python does no more than fetch a batch that a thread has prepared, call the compiled step, and add up three
numbers; everything else happens at intervals.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import field

import numpy as np

from convc.ir.diagnostic import CompileError
from convc.lazy import dataclass
from convc.runtime.checkpoint import non_finite
from convc.runtime.curves import Curves
from convc.runtime.data import BatchLoader, Source, Split
from convc.runtime.evaluate import Evaluation, evaluate
from convc.runtime.interrupt import Interrupted, Interrupts
from convc.runtime.metrics import EpochRecord, Metrics
from convc.runtime.numbered import Numbered
from convc.runtime.program import Program, Rate
from convc.runtime.progress import Progress, Reporter, figure, percent, scaling
from convc.runtime.run_folder import RunFolder
from convc.runtime.stall import Plateau, Stopping
from convc.runtime.training_state import Position, save_state

# Within long epochs the state is saved this often, unless saving takes more than a fiftieth of the time.
SAVE_SECONDS = 60.0
_SAVE_SHARE = 0.02


class NotFinite(Exception):
    """A loss or a parameter stopped being a finite number in the step that `position` counts as done."""


@dataclass
class TrainingLoop:
    """One training from `position` on. `infer` is a program for inference of the same net, made when it is needed.

    `plateau` scales the rate after epochs without progress, `stopping` ends the training, `numbered` keeps states.
    """

    program: Program
    train: Source
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
    plateau: Plateau | None = None
    stopping: Stopping | None = None
    numbered: Numbered | None = None
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self._save_interval = SAVE_SECONDS
        self._next_save = time.monotonic() + SAVE_SECONDS
        self.batches = -(-len(self.train) // self.batch)

    def run(self) -> None:
        """Train to the end. Raises `Interrupted` (after saving) and `NotFinite` (nothing saved)."""
        # A process may have been killed between the state and its numbered copy.
        updated = self.program.waiting[0] == 0
        self._keep_numbered(self.position.step - updated, saved=True)
        while not self.over:
            self._run_batches()
            self._finish_epoch()
            if self.interrupts.requested and not self.over:
                self._stop(saved=True)

    @property
    def over(self) -> bool:
        """Whether all epochs are complete, or `stopping` sees no point in more."""
        return is_over(self.position, self.epochs, self.stopping)

    def _run_batches(self) -> None:
        program, position, interrupts = self.program, self.position, self.interrupts
        batches, reporter = self.batches, self.reporter
        started = previous = now = time.monotonic()
        first_images = position.images
        next_tick = now + (0.0 if reporter.interval < 1 else reporter.interval)
        with BatchLoader(
            self.train, self.batch, seed=program.seed, epoch=position.epoch, start_batch=position.batch
        ) as loader:
            for images, labels in loader:
                step = position.step
                # The last batches of an epoch make an update of their own, however few they are.
                last = True if position.batch + 1 == batches else None
                rate = current_rate(self.rate, position, batches, program.accumulate)
                result = program.train_batch(images, labels, rate, update=last)
                rows, loss = len(labels), result.loss
                assert loss is not None
                position.batch += 1
                position.step = program.steps
                if not math.isfinite(loss):
                    raise NotFinite(f"the loss is {loss}")
                position.loss += loss * rows
                # Of labels per pixel, the share of an image that is right.
                position.correct += (result.correct or 0.0) * rows / labels.size
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
                if position.batch < batches:
                    self._keep_numbered(step)
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
            loss_scale=self.program.loss_scale,
            skipped=self._skipped,
        )

    @property
    def _skipped(self) -> int | None:
        return None if self.program.loss_scale is None else self.program.skipped_steps

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
        validation_loss = None if validation is None else finite(validation["loss"])
        score = (-loss,) if validation is None else _score(validation)
        best = not position.best_score or score > position.best_score
        if best:
            position.best_score, position.best_epoch = score, position.epoch + 1
        about = {**self.about, "epoch": str(position.epoch + 1), "step": str(position.step)}
        if best:
            self.program.write_weights(self.folder.best, weights, about)
        self.program.write_weights(self.folder.last, weights, about)
        updates = -(-self.batches // self.program.accumulate)
        last = max(position.step - 1, 0)  # none if all have been skipped
        rate = self.rate(position.epoch + (updates - 1) / updates, last) * position.rate_scale
        reduction, end = self._draw_conclusions(loss, validation, rate)
        position.seconds += time.monotonic() - started
        record = EpochRecord(
            epoch=position.epoch + 1,
            step=position.step,
            learning_rate=rate,
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation["accuracy"] if validation else None,
            seconds=round(position.seconds, 3),
            images_per_second=round(position.images / max(training_seconds, 1e-9), 1),
            best=best,
            note="; ".join(text for text in (reduction, end) if text) or None,
            loss_scale=self.program.loss_scale,
            skipped=self._skipped,
        )
        self.metrics.append(record)
        position.next_epoch()
        self._save(state)
        self._keep_numbered(position.step - 1, saved=True)
        self.reporter.emit("epoch", describe_epoch(record, self.epochs), **vars(record))
        if validation is not None and validation["loss"] != validation_loss:
            text = f"warning: the validation loss is {validation['loss']}: outputs of the net overflow"
            self.reporter.emit("warning", text, message=text)
        if reduction:
            now = self.rate(position.epoch, position.step) * position.rate_scale
            self.reporter.emit("rate", reduction, epoch=record.epoch, before=rate, now=now, reason=reduction)
        if end:
            self.reporter.emit("early-stop", end, epoch=record.epoch, epochs=self.epochs, reason=end)
        problem = self.curves.draw_if_cheap(self.metrics.records)
        if problem:
            self.reporter.emit("warning", problem)

    def _draw_conclusions(
        self, loss: float, validation: Evaluation | None, rate: float
    ) -> tuple[str | None, str | None]:
        """Of an epoch and the `rate` at its end: why the rate is reduced, why the training ends; None if it is not."""
        position, reduction, end = self.position, None, None
        if self.plateau is not None:
            watched = validation["loss"] if validation is not None else None
            reason = self.plateau.after_epoch(position.plateau, loss if watched is None else watched, rate)
            if reason is not None:
                position.rate_scale *= self.plateau.factor
                reduction = f"learning rate {rate:g} -> {rate * self.plateau.factor:g}: {reason}"
        if self.stopping is not None and validation is not None:
            self.stopping.after_epoch(position.early_stop, validation["loss"], validation["accuracy"])
            reason = self.stopping.reason(position.early_stop)
            if reason is not None and position.epoch + 1 < self.epochs:
                end = f"stopped after epoch {position.epoch + 1} of {self.epochs}: {reason}"
        return reduction, end

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

    def _keep_numbered(self, steps_before: int, saved: bool = False) -> None:
        """Keep a copy of the state if one is due after the last batch. `saved`: the state has been saved already."""
        position, numbered = self.position, self.numbered
        batches = position.epoch * self.batches + position.batch
        if numbered is not None and numbered.due(batches, self.batches, steps_before, position.step):
            if not saved:
                self._save()
            numbered.add(self.folder.state, position.step)

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


def current_rate(rate: Rate, position: Position, batches: int, accumulate: int) -> float:
    """The learning rate of the update that the next batch is part of, one per `accumulate` of `batches` per epoch."""
    update, updates = position.batch // accumulate, -(-batches // accumulate)
    return rate(position.epoch + update / updates, position.step) * position.rate_scale


def is_over(position: Position, epochs: int, stopping: Stopping | None) -> bool:
    """Whether a training that stands there is finished."""
    return position.epoch >= epochs or (stopping is not None and stopping.reason(position.early_stop) is not None)


def finite(value: float | None) -> float | None:
    """`value`, None if it is no finite number: files and events hold none."""
    return value if value is not None and math.isfinite(value) else None


def _score(validation: Evaluation) -> tuple[float, ...]:
    """What the weights of an epoch are chosen by: accuracy, then loss."""
    loss = validation["loss"]
    return validation["accuracy"], 0.0 if loss is None else -loss if math.isfinite(loss) else -sys.float_info.max


def describe_epoch(record: EpochRecord, epochs: int) -> str:
    """One line: `epoch 3/10  loss 0.0521  accuracy 98.40 %  validation 0.0481 98.55 %  9,876 images/s  6.1 s`."""
    parts = [f"epoch {record.epoch}/{epochs}", f"loss {figure(record.train_loss)}"]
    if record.train_accuracy is not None:
        parts.append(f"accuracy {percent(record.train_accuracy)}")
    if record.validation_loss is not None:
        parts.append(f"validation loss {figure(record.validation_loss)}")
    if record.validation_accuracy is not None:
        parts.append(f"validation accuracy {percent(record.validation_accuracy)}")
    parts += scaling(record.loss_scale, record.skipped)
    parts += [f"lr {record.learning_rate:g}", f"{record.images_per_second:,.0f} images/s", f"{record.seconds:.1f} s"]
    if record.best and record.validation_accuracy is not None:
        parts.append("best so far")
    return "  ".join(parts)
