"""The contestant `convc`: the net as its users compile it."""

from __future__ import annotations

import numpy as np

from convc._version import __version__
from convc.runtime.benchmark.case import open_case_net
from convc.runtime.benchmark.prepared import Prepared
from convc.runtime.benchmark.task import LEARNING_RATE, TRAIN, WEIGHTS, Task
from convc.runtime.build import build_net
from convc.runtime.calibration import calibrate
from convc.runtime.configuration import INT8


def prepare(task: Task) -> Prepared:
    """Compile for the processor, with the algorithms that are chosen without measurements."""
    net = open_case_net(task.file, task.net, task.set, task.limits, still=task.still)
    images, weights = task.images(), task.path(WEIGHTS)
    ranges = calibrate(net, images, weights=weights, threads=task.threads) if task.precision == INT8 else None
    program = build_net(
        net, batch=task.batch, mode=task.mode, precision=task.precision, ranges=ranges, threads=task.threads
    )
    program.load_params(weights)
    if task.mode == TRAIN:
        labels = task.targets()
        return Prepared(__version__, lambda: program.step(images, labels, lr=LEARNING_RATE), np.float64)
    return Prepared(__version__, lambda: program(images), np.asarray)
