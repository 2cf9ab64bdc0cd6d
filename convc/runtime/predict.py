"""What a trained net sees in image files: the five likeliest classes with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.runtime.data.picture import decode, reason, require_pillow, strict_decoding
from convc.runtime.program import Program

TOP = 5


@dataclass(frozen=True)
class Guess:
    """A class with its probability in 0…1."""

    name: str
    label: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, best first."""

    path: str
    guesses: tuple[Guess, ...]


def predict(program: Program, paths: Sequence[str | Path], classes: Sequence[str] = ()) -> list[Prediction]:
    """Classify image files with an inference program.

    Images are brought to the net's size and channels by the rules of `data folder`; pixels become 0…1, and `mean` and
    `std` are part of the net. `classes` names the outputs; without it their numbers serve. Errors: `data-image` (all
    files that cannot be read), `data-shape`, `value-mode`.
    """
    if program.mode != "infer":
        fail("value-mode", "prediction needs a program compiled for inference", hint='compile(net, mode="infer")')
    channels, height, width = program.image
    if channels not in (1, 3):
        fail("data-shape", f"images have 1 or 3 channels, the net's input has {channels}")
    if program.graph.outputs["logits"].type.rank != 2:
        fail("data-shape", "the net gives a class for every pixel, not for an image")
    require_pillow()
    pixels = _decode_all([Path(path) for path in paths], channels, (height, width))
    names = list(classes) if len(classes) == program.classes else [str(label) for label in range(program.classes)]
    predictions: list[Prediction] = []
    for start in range(0, len(pixels), program.batch):
        x = np.stack(pixels[start : start + program.batch]).astype(np.float32) / np.float32(255)
        for path, row in zip(paths[start:], softmax(program(x)), strict=False):
            # A stable sort: of equal probabilities the lower class comes first.
            order = np.argsort(-row, kind="stable")[:TOP]
            guesses = tuple(Guess(names[label], int(label), float(row[label])) for label in order)
            predictions.append(Prediction(str(path), guesses))
    return predictions


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of rows of logits, in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(1, keepdims=True)


def _decode_all(paths: Sequence[Path], channels: int, size: tuple[int, int]) -> list[np.ndarray]:
    pixels: list[np.ndarray] = []
    problems: list[Diagnostic] = []
    with strict_decoding():
        for path in paths:
            try:
                pixels.append(decode(path, channels, size))
            except Exception as error:  # Pillow's plug-ins raise nearly everything on damaged files
                why = "there is no such file" if not path.exists() else reason(error)
                problems.append(Diagnostic("data-image", f"cannot read {path}: {why}"))
    if problems:
        raise CompileError(problems)
    return pixels
