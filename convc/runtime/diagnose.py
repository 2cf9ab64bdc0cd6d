"""After a loss that is not a number: which step, which op.

The step that failed has overwritten the parameters that it failed with. Training is deterministic, so they are had
again for nothing: go back to the last state that was saved, repeat the steps up to the one in question, and run that
one op by op. No copy of the parameters has to be kept while all goes well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convc.ir.diagnostic import Diagnostic, Note
from convc.lazy import dataclass
from convc.runtime.checkpoint import non_finite
from convc.runtime.data import BatchLoader, Source
from convc.runtime.nonfinite import find_origin
from convc.runtime.program import Program, Rate
from convc.runtime.training_loop import current_rate
from convc.runtime.training_state import Position

CODE = "train-not-finite"


@dataclass(frozen=True)
class Replay:
    """What is needed to repeat a training; `restore` brings the program to the last saved state and says which."""

    program: Program
    train: Source
    batch: int
    rate: Rate
    restore: Callable[[], Position]
    check: Callable[[], None]

    @property
    def batches(self) -> int:
        """Batches per epoch."""
        return -(-len(self.train) // self.batch)

    def before(self, number: int) -> tuple[Position, np.ndarray, np.ndarray, float] | None:
        """Bring the program to the moment before batch `number` of the training, from 1; that batch, its learning rate.

        None if that moment lies before the saved state.
        """
        position, batches = self.restore(), self.batches
        if position.epoch * batches + position.batch >= number:
            return None
        while True:
            if position.batch >= batches:
                position.next_epoch()
            seed, start = self.program.seed, position.batch
            with BatchLoader(self.train, self.batch, seed=seed, epoch=position.epoch, start_batch=start) as loader:
                for images, labels in loader:
                    self.check()
                    rate = current_rate(self.rate, position, batches, self.program.accumulate)
                    if position.epoch * batches + position.batch + 1 == number:
                        return position, images.copy(), labels.copy(), rate
                    last = True if position.batch + 1 == batches else None
                    self.program.train_batch(images, labels, rate, update=last)
                    position.step = self.program.steps
                    position.batch += 1


def inputs_of(
    program: Program, images: np.ndarray, labels: np.ndarray, rate: float, step: int
) -> dict[str, np.ndarray]:
    """The inputs of a training graph by name, for a batch and the update that it is part of."""
    inputs = {
        "x": images,
        "labels": program.targets(labels),
        "lr": np.asarray(rate, np.float32),
        "step": np.asarray(step, np.int64),
        "rows": np.asarray(len(images), np.int64),
        "seen": np.asarray(program.waiting[1], np.int64),
        "seed": np.asarray(program.seed, np.int64),
    }
    return {name: inputs[name] for name in program.graph.inputs}


def explain(replay: Replay, number: int, step: int, what: str, kept: str) -> Diagnostic:
    """The diagnostic for a training in which `what` turned up in batch `number`, part of update number `step`; `kept`
    tells what is left."""
    last = number
    while True:
        moment = replay.before(last)
        # A mean gradient that overflowed is what updates are skipped for.
        means = replay.program.unbounded_names
        state = {n: np.nan_to_num(a) if n in means else a for n, a in replay.program.state_dict().items()}
        if moment is None or not non_finite(state) or last <= 1:
            break
        # The step before left a parameter that is not finite, though its loss still was.
        last -= 1
    if moment is None:
        return Diagnostic(CODE, f"{what} in step {step}: the saved state is not finite", notes=(Note(kept),))
    position, images, labels, rate = moment
    graph = replay.program.graph
    origin = find_origin(graph, {**inputs_of(replay.program, images, labels, rate, position.step + 1), **state})
    place = f"step {position.step + 1} (epoch {position.epoch + 1}, batch {position.batch + 1})"
    hint = f"a smaller learning rate often helps (it was {rate:g})"
    if origin is None:
        cause = "; the reference interpreter gets finite numbers there, so it overflows at the edge of float32"
        return Diagnostic(CODE, f"{what} in {place}{cause}", notes=(Note(kept),), hint=hint)
    if origin.node is None:
        source = "the images of that batch are" if origin.source == "x" else f"{origin.source} is"
        return Diagnostic(CODE, f"{what} in {place}: {source} not finite to begin with", notes=(Note(kept),))
    message = f"{what} in {place}: the first value that is not finite comes from {origin}"
    return Diagnostic(CODE, message, origin.node.span, (Note(kept),), hint)
