"""Everything that a training needs to go on bit by bit, as one file.

Parameters, buffers and optimiser states are its tensors, the position in the training its metadata. Random numbers need
no state of their own: they follow from the seed, the count of updates and the epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.runtime.checkpoint import match, read_checkpoint, require_match, write_checkpoint
from convc.runtime.program import Program
from convc.runtime.stall import Stall, parse_stall


@dataclass
class Position:
    """Where a training stands: `epoch` epochs are complete, `batch` batches of the next one are done.

    `loss`, `correct` and `images` are sums over the batches of the epoch under way, `seconds` its time so far,
    `total_seconds` the time of all complete epochs. `best_epoch` (from 1; 0: none yet) reached `best_score`, compared
    from left to right, larger being better. `rate_scale` is what `schedule plateau` has made of the learning rate;
    `plateau` and `early_stop` are what it and `early_stop` have seen.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    best_epoch: int = 0
    best_score: tuple[float, ...] = ()
    rate_scale: float = 1.0
    plateau: Stall = field(default_factory=Stall)
    early_stop: Stall = field(default_factory=Stall)

    def next_epoch(self) -> None:
        """The epoch under way is complete."""
        self.total_seconds += self.seconds
        self.epoch += 1
        self.batch, self.loss, self.correct, self.images, self.seconds = 0, 0.0, 0.0, 0, 0.0


_STALLS = ("plateau", "early_stop")


def save_state(
    path: Path,
    program: Program,
    position: Position,
    metadata: Mapping[str, str],
    state: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the state of `program` at `position`; `state` is its `state_dict` if that was read already.

    Errors: `checkpoint-not-finite`, `file-write`.
    """
    about = {
        "kind": "state",
        "states": json.dumps(program.state_names),
        "position": json.dumps(asdict(position)),
        "waiting": json.dumps(program.waiting),
        "epoch": str(position.epoch),
        "step": str(position.step),
        **program.about,
        **metadata,
    }
    write_checkpoint(path, program.state_dict() if state is None else state, about, unbounded=program.unbounded_names)


def load_state(path: Path, program: Program) -> Position:
    """Bring `program` to where `save_state` left it.

    Errors: those of `read_checkpoint`, `checkpoint-mismatch`, `checkpoint-unreadable` for a file that is no state.
    """
    checkpoint = read_checkpoint(path)
    position = parse_position(path, checkpoint.metadata)
    expected = {name: parameter.value.shape for name, parameter in program.graph.parameters.items()}
    found = match({name: array.shape for name, array in checkpoint.tensors.items()}, expected)
    require_match(found, path, program.graph.name)
    program.load_state_dict(checkpoint.tensors)
    program.steps = position.step
    program.waiting = _parse_waiting(path, checkpoint.metadata, program)
    return position


def _parse_waiting(path: Path, metadata: Mapping[str, str], program: Program) -> tuple[int, int]:
    """The batches and rows of the update under way. Error: `checkpoint-unreadable`."""
    text = metadata.get("waiting", "[0, 0]")
    try:
        batches, rows = json.loads(text)
        if program.could_wait(batches, rows):
            return batches, rows
    except (ValueError, TypeError, RecursionError):
        pass
    fail("checkpoint-unreadable", f"{path} is damaged: {text:.80} is no update under way")


def parse_position(path: Path, metadata: Mapping[str, str]) -> Position:
    """The position that a state's metadata tells. Error: `checkpoint-unreadable`."""
    try:
        content = json.loads(metadata["position"])
        values: dict[str, Any] = {field.name: content[field.name] for field in fields(Position)}
        score = values["best_score"] = tuple(values["best_score"])
        for name in _STALLS:
            values[name] = parse_stall(values[name])
    except (KeyError, ValueError, TypeError, RecursionError):
        fail("checkpoint-unreadable", f"{path} is not the state of a training: it does not say where it stands")
    counts = [values[field.name] for field in fields(Position) if field.type == "int"]
    numbers = [value for name, value in values.items() if name not in ("best_score", *_STALLS)]
    if not (
        all(isinstance(value, int) and 0 <= value < 1 << 53 for value in counts)
        and all(isinstance(value, (int, float)) and abs(value) < math.inf for value in (*numbers, *score))
    ):
        fail("checkpoint-unreadable", f"{path} is damaged: {content!s:.200} is no place in a training")
    return Position(**values)
