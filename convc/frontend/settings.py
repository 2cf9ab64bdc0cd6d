"""What the `train` and `search` items of a file say, checked and with defaults filled in.

The settings are complete whatever of them this version carries out; `unsupported` names what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from convc.frontend.expressions import Constant, Quantity
from convc.frontend.schedule import Schedule
from convc.ir.diagnostic import Diagnostic
from convc.ir.span import Span
from convc.lazy import dataclass

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
    """`loss_scale` is what the loss is multiplied with in training: "dynamic" (in fp16 only), "none", or a number."""

    kind: Literal["fp32", "fp16", "bf16"] = "fp32"
    loss_scale: float | Literal["dynamic", "none"] = "dynamic"
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

    def __str__(self) -> str:
        return " ".join([self.word, *(_written(value) for value in self.arguments.values())])


def _written(value: object) -> str:
    """An argument of a step as a file has it: `crop 32` for 32x32, `rotate 10` for 10 degrees."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return _written(value[0])
    if isinstance(value, tuple):
        return f"({', '.join(map(_written, value))})"
    return str(value).removesuffix(".0")


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


# Words that the language has and this version does not carry out, and what helps in their place.
_LATER: Mapping[str, tuple[tuple[str, ...], str]] = {
    "data": (("shards",), "there are mnist, fashion_mnist, cifar10, digits, idx, npz and folder"),
    "optim": (("cg", "lbfgs", "newton_cg"), "there are sgd, adagrad, rmsprop, adam and adamw"),
    "augment": (
        ("jitter", "pca", "shear", "elastic"),
        "there are pad, crop, flip, shift, rotate, scale, noise and cutout",
    ),
}
# Settings that have to wait as a whole.
_LATER_ENTIRELY = ("test", "ensemble", "search")


def waits(word: str, variant: str | None = None) -> bool:
    """Whether this version only reads and checks a setting, such as `test` or (`optim`, `cg`)."""
    return word in _LATER_ENTIRELY or (word in _LATER and variant in _LATER[word][0])


def unsupported(settings: TrainSettings) -> list[Diagnostic]:
    """One error for each setting that this version reads but cannot carry out."""
    given: list[tuple[str, str, Span | None]] = []
    if settings.data is not None:
        given.append(("data", settings.data.kind, settings.span("data")))
    if settings.optimizer is not None:
        given.append(("optim", settings.optimizer.kind, settings.span("optim")))
    given += [("augment", step.word, step.span) for step in settings.augment]
    found = [_refusal(f"{word} {kind}", span, _LATER[word][1]) for word, kind, span in given if kind in _LATER[word][0]]
    found += [_refusal(word, settings.span(word)) for word in _LATER_ENTIRELY if getattr(settings, word)]
    return found


def _refusal(title: str, span: Span | None, hint: str | None = None) -> Diagnostic:
    message = f"`{title}` is not available in this version"
    return Diagnostic("unavailable-setting", message, span, hint=hint or f"leave `{title}` out")
