"""What a trained net sees in image files: the five likeliest classes with their probabilities.

Of a net that predicts a class for each pixel, the five classes with the most pixels and their shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convc.ir.diagnostic import CompileError, Diagnostic, fail
from convc.lazy import dataclass
from convc.runtime.data.image_size import centre
from convc.runtime.data.picture import decode, reason, require_pillow, strict_decoding
from convc.runtime.program import Program

TOP = 5


@dataclass(frozen=True)
class Guess:
    """A class with its probability in 0…1 or, where every pixel has a class, its share of the pixels."""

    name: str
    label: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, best first; of a prediction `per_pixel`, those that have any pixels."""

    path: str
    guesses: tuple[Guess, ...]
    per_pixel: bool = False


def predict(
    program: Program,
    paths: Sequence[str | Path],
    classes: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Classify image files with an inference program.

    Images are brought to the net's channels and to `size`, by default the net's, by the rules of `data folder`, and
    their centres are looked at; pixels become 0…1, and `mean` and `std` are part of the net. `classes` names the
    outputs; without it their numbers serve. Errors: `data-image` (all files that cannot be read), `data-shape`,
    `value-mode`.
    """
    if program.mode != "infer":
        fail("value-mode", "prediction needs a program compiled for inference", hint='compile(net, mode="infer")')
    channels, height, width = program.image
    if channels not in (1, 3):
        fail("data-shape", f"images have 1 or 3 channels, the net's input has {channels}")
    require_pillow()
    decoded = _decode_all([Path(path) for path in paths], channels, size or (height, width))
    pixels = [centre(image, (height, width)) for image in decoded]
    names = list(classes) if len(classes) == program.classes else [str(label) for label in range(program.classes)]
    predictions: list[Prediction] = []
    for start in range(0, len(pixels), program.batch):
        x = np.stack(pixels[start : start + program.batch]).astype(np.float32) / np.float32(255)
        logits = program(x)
        per_pixel = math.prod(logits.shape[2:]) > 1
        rows = shares(logits) if per_pixel else softmax(logits.reshape(logits.shape[:2]))
        for path, row in zip(paths[start:], rows, strict=False):
            # A stable sort: of equal probabilities the lower class comes first.
            order = np.argsort(-row, kind="stable")[:TOP]
            guesses = [Guess(names[label], int(label), float(row[label])) for label in order]
            shown = (guess for guess in guesses if guess.probability or not per_pixel)
            predictions.append(Prediction(str(path), tuple(shown), per_pixel))
    return predictions


def shares(logits: np.ndarray) -> np.ndarray:
    """What part of the pixels of (n, K, H, W) goes to each class, (n, K): of equal logits, to the lower class."""
    predicted = logits.argmax(1).reshape(len(logits), -1)
    return np.stack([np.bincount(image, minlength=logits.shape[1]) for image in predicted]) / predicted.shape[1]


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
