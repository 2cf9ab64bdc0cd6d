"""From `.cnn` text to the forward graph.

    net = load("lenet.cnn", set={"classes": 10, "train.batch": 128})
    graph = net.graph(batch=128)

`lexer` and `parser` make a `syntax` tree, `elaborate` runs it and emits ops, `train_item` reads the settings. The
tables of `layers` and `setting_kinds` are the one place that knows which arguments there are.
"""

from __future__ import annotations

from convc.frontend.emission import Layer
from convc.frontend.expressions import Quantity
from convc.frontend.limits import Limits, parse_limits
from convc.frontend.load import check, load, loads, parse_data
from convc.frontend.net import Net
from convc.frontend.overrides import parse_assignments
from convc.frontend.schedule import Schedule
from convc.frontend.settings import (
    Checkpoint,
    DataSetting,
    Decay,
    EarlyStop,
    InitialWeights,
    OptimizerSetting,
    Precision,
    TrainSettings,
    unsupported,
)
from convc.frontend.source import sources_of

__all__ = [
    "Checkpoint",
    "DataSetting",
    "Decay",
    "EarlyStop",
    "InitialWeights",
    "Layer",
    "Limits",
    "Net",
    "OptimizerSetting",
    "Precision",
    "Quantity",
    "Schedule",
    "TrainSettings",
    "check",
    "load",
    "loads",
    "parse_assignments",
    "parse_data",
    "parse_limits",
    "sources_of",
    "unsupported",
]
