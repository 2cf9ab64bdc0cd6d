"""What the `train` and `search` items of a file say, checked and with defaults filled in.

The settings are complete whatever of them this version carries out; `unsupported` names what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from convc.frontend.expressions import Constant, Quantity
from convc.frontend.schedule import Schedule
from convc.ir.diagnostic import Diagnostic
from convc.ir.span import Span

_EVERY_EPOCH = Quantity(1, "e")
_CONSTANT = Schedule()
OptimizerKind = Literal["sgd", "adagrad", "rmsprop", "adam", "adamw", "cg", "lbfgs", "newton_cg"]


@dataclass(frozen=True)
class DataSetting:
    """`data folder "photos/" split=0.9`. `options` holds those that were given.

    `path` is as written, to be taken relative to `base`: the folder of the file that says it, or the working folder
    for what comes from the command line (both as far as known: "" is the working folder, too).
    """

    kind: str
    path: str | None = None
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    base: str = ""
    span: Span | None = None

    def __str__(self) -> str:
        from convc.frontend.expressions import literal

        words = [self.kind] + ([literal(self.path)] if self.path is not None else [])
        for key, value in self.options.items():
            shown = value if key == "bad" else literal(value)  # type: ignore[arg-type]
            words.append(f"{key}={shown}")
        return " ".join(words)


@dataclass(frozen=True)
class OptimizerSetting:
    """`optim`; a field that the kind does not have keeps its default. Defaults are PyTorch's, but 0.01 for sgd."""

    kind: OptimizerKind
    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    alpha: float = 0.99
    eps: float = 1e-8
    history: int = 10
    iterations: int = 20
    span: Span | None = None


@dataclass(frozen=True)
class Decay:
    """λ‖θ‖² and λ|θ| added to the objective; biases and bn parameters are left alone unless `bias`."""

    l2: float = 0.0
    l1: float = 0.0
    bias: bool = False
    span: Span | None = None


@dataclass(frozen=True)
class Precision:
    """`loss_scale` is "dynamic" or a number; it means something in fp16 only."""

    kind: Literal["fp32", "fp16", "bf16"] = "fp32"
    loss_scale: float | Literal["dynamic"] = "dynamic"
    rounding: Literal["nearest", "stochastic"] = "nearest"
    span: Span | None = None


@dataclass(frozen=True)
class EarlyStop:
    """Ends the training when `metric` has not improved by more than `delta` for `patience` epochs."""

    metric: str
    patience: int
    delta: float = 0.0
    span: Span | None = None


@dataclass(frozen=True)
class InitialWeights:
    """`init "pretrained.safetensors" freeze="conv*"`; `freeze` holds patterns of parameter names.

    `path` is relative to `base`, as that of `DataSetting`.
    """

    path: str
    freeze: tuple[str, ...] = ()
    base: str = ""
    span: Span | None = None


@dataclass(frozen=True)
class Checkpoint:
    every: Quantity = _EVERY_EPOCH
    keep: int = 1
    span: Span | None = None


@dataclass(frozen=True)
class Ensemble:
    count: int
    mode: str
    span: Span | None = None


@dataclass(frozen=True)
class Step:
    """One step of `augment` or `test`, its arguments by key."""

    word: str
    arguments: Mapping[str, object]
    span: Span


@dataclass(frozen=True)
class SearchAxis:
    """`values`: the candidates; with `log` or `uniform` the bounds (low, high) of a range."""

    path: str
    scale: Literal["list", "log", "uniform"]
    values: tuple[Constant, ...]
    span: Span


@dataclass(frozen=True)
class Search:
    """`count` is None for `grid`; `refine` is how often a finer search follows."""

    method: Literal["grid", "random", "bayes"]
    count: int | None
    axes: tuple[SearchAxis, ...]
    refine: int
    span: Span


@dataclass(frozen=True)
class TrainSettings:
    """Everything about a training. `spans` tells what was given and where: by word (`batch`) and by path (`optim.lr`).

    Without a `train` item these are the defaults; `data` and `optimizer` have none.
    """

    data: DataSetting | None = None
    batch: int = 64
    accumulate: int = 1
    epochs: int = 10
    seed: int = 0
    optimizer: OptimizerSetting | None = None
    schedule: Schedule = _CONSTANT
    decay: Decay = Decay()
    clip: float | None = None
    maxnorm: float | None = None
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    augment: tuple[Step, ...] = ()
    test: tuple[Step, ...] = ()
    precision: Precision = Precision()
    early_stop: EarlyStop | None = None
    init: InitialWeights | None = None
    ensemble: Ensemble | None = None
    checkpoint: Checkpoint = Checkpoint()
    search: Search | None = None
    spans: Mapping[str, Span] = field(default_factory=dict[str, Span])

    def explicit(self, path: str) -> bool:
        """Whether the file or an override says `path`, such as `batch` or `optim.lr`."""
        return path in self.spans

    def span(self, path: str) -> Span | None:
        """Where `path` was said."""
        return self.spans.get(path)


_DATA = ("mnist", "fashion_mnist", "cifar10", "digits", "idx", "npz", "folder")
_OPTIMIZERS = ("sgd", "adam")
_SCHEDULES = ("constant", "rates", "step", "cosine", "poly", "onecycle")


# What helps in place of a setting that is refused.
_INSTEAD = {
    "data": f"there are {', '.join(_DATA)}",
    "optim": f"there are {' and '.join(_OPTIMIZERS)}",
    "schedule": f"there are {', '.join(kind for kind in _SCHEDULES if kind != 'rates')} and lists of rates",
    "precision": "there is fp32",
    "init": "--init W starts from weights, without freezing any",
}


def unsupported(settings: TrainSettings) -> list[Diagnostic]:
    """One error for each setting that this version reads but cannot carry out."""
    refused: list[tuple[str, bool]] = [
        (f"data {settings.data.kind}", settings.data.kind not in _DATA) if settings.data else ("data", False),
        ("batch accumulate", settings.accumulate != 1),
        (f"optim {settings.optimizer.kind}", settings.optimizer.kind not in _OPTIMIZERS)
        if settings.optimizer
        else ("optim", False),
        (f"schedule {settings.schedule.kind}", settings.schedule.kind not in _SCHEDULES),
        ("clip", settings.clip is not None),
        ("maxnorm", settings.maxnorm is not None),
        ("class_weights", settings.class_weights is not None),
        ("augment", bool(settings.augment)),
        ("test", bool(settings.test)),
        (f"precision {settings.precision.kind}", settings.precision.kind != "fp32"),
        ("early_stop", settings.early_stop is not None),
        ("init", settings.init is not None),
        ("ensemble", settings.ensemble is not None),
        ("checkpoint", settings.explicit("checkpoint")),
        ("search", settings.search is not None),
    ]
    found: list[Diagnostic] = []
    for title, condition in refused:
        if condition:
            shown = "accumulate" if title == "batch accumulate" else title
            span = settings.span(title.split()[0])
            hint = _INSTEAD.get(title.split()[0], f"leave `{shown}` out")
            message = f"`{shown}` is not available in this version"
            found.append(Diagnostic("unavailable-setting", message, span, hint=hint))
    return found
