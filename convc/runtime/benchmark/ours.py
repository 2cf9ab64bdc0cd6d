"""The contestant `convc`: the net as its users compile it."""

from __future__ import annotations

import numpy as np

from convc._version import __version__
from convc.runtime.benchmark.case import open_case_net
from convc.runtime.benchmark.prepared import Prepared
from convc.runtime.benchmark.task import LEARNING_RATE, TRAIN, WEIGHTS, Task
from convc.runtime.build import build_net


def prepare(task: Task) -> Prepared:
    """Compile for the processor, with the algorithms that are chosen without measurements."""
    net = open_case_net(task.file, task.net, task.set, task.limits, still=task.still)
    program = build_net(net, batch=task.batch, mode=task.mode, precision=task.precision, threads=task.threads)
    program.load_params(task.path(WEIGHTS))
    images = task.images()
    if task.mode == TRAIN:
        labels = task.targets()
        return Prepared(__version__, lambda: program.step(images, labels, lr=LEARNING_RATE), np.float64)
    return Prepared(__version__, lambda: program(images), np.asarray)
