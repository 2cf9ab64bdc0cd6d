"""What a contestant has to do, handed from the process that measures to those that are measured: a folder of files."""

from __future__ import annotations

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import numpy as np

from convc.ir.diagnostic import fail
from convc.lazy import dataclass

TRAIN, INFER = "train", "infer"
LEARNING_RATE = 1e-4  # small enough that random labels never lead to infinities
TASK, GRAPH, WEIGHTS, MODEL = "task.json", "net.ir", "weights.safetensors", "model.onnx"


@dataclass(frozen=True)
class Task:
    """One net, mode, batch and number of threads; what else a contestant needs lies in `folder`.

    `net.ir` is the forward graph, `weights.safetensors` the parameters that all contestants start from, `model.onnx`
    the net as a model where one of them reads that. `still` asks for the net without its random draws. `precision` is
    fp32, fp16 or bf16: of products and of what is kept, by whatever rules a library has for that. `labels` is the type
    of the labels (None: the net has no loss) and their shape. `optimizer` is the kind and the fields of the update,
    `model_problem` why there is no model.
    """

    folder: str
    file: str
    net: str | None
    set: dict[str, Any]
    limits: tuple[str, ...]
    mode: str
    batch: int
    threads: int
    still: bool
    precision: str
    image: tuple[int, ...]
    classes: int
    labels: tuple[str, tuple[int, ...]] | None
    optimizer: dict[str, Any] = field(default_factory=dict[str, Any])
    model_problem: str = ""

    def path(self, name: str) -> Path:
        return Path(self.folder) / name

    def model(self) -> Path:
        """Where the ONNX model is. Error: `unavailable-peer` if the net has none."""
        if self.model_problem:
            fail("unavailable-peer", self.model_problem)
        return self.path(MODEL)

    def write(self) -> Path:
        """Write the task beside its files; returns the path for `read_task`."""
        path = self.path(TASK)
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    def images(self) -> np.ndarray:
        """float32 (N, C, H, W), the same for all contestants."""
        return np.random.default_rng(1).random((self.batch, *self.image), np.float32)

    def targets(self) -> np.ndarray:
        """Labels as the loss reads them, the same for all contestants: int32 classes, or float32 numbers."""
        assert self.labels is not None
        kind, shape = self.labels
        generator = np.random.default_rng(2)
        if kind == "float":
            return generator.random(shape, np.float32)
        return generator.integers(0, self.classes, shape).astype(np.int32)


def read_task(path: Path) -> Task:
    """The task that `write` has written."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= {name: tuple(content[name]) for name in ("image", "limits")}
    if content["labels"] is not None:
        kind, shape = content["labels"]
        content["labels"] = (kind, tuple(shape))
    return Task(**content)
