"""What a training will do, decided before anything is written: settings, data, and the reason for each choice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.frontend.load import loads, parse_data
from convc.frontend.settings import DataSetting, OptimizerSetting, TrainSettings
from convc.ir.diagnostic import fail
from convc.runtime import environment
from convc.runtime.checkpoint import match, non_finite, read_checkpoint, require_match
from convc.runtime.configuration import (
    check_target,
    choose_precision,
    describe_optimizer,
    make_rate,
    positive,
    refuse_unsupported,
    seed_number,
)
from convc.runtime.data import DataSet, load_dataset
from convc.runtime.program import Rate
from convc.runtime.progress import Reporter
from convc.runtime.run_settings import RunSettings

if TYPE_CHECKING:
    from convc.frontend.net import Net

_DEFAULT_OPTIMIZER = OptimizerSetting("adam", lr=1e-3)
# Schedules that end with the last epoch: another number of epochs is another schedule.
_BOUND_TO_EPOCHS = ("cosine", "poly", "onecycle")


@dataclass(frozen=True)
class Choice:
    """A setting that nobody gave, its value, and why it is that."""

    name: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"  {self.name} {self.value}: {self.why}"


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that a training needs. `model` is the text of model.cnn, `about` what checkpoints say."""

    net: Net
    settings: TrainSettings
    dataset: DataSet
    rate: Rate
    run: RunSettings
    threads: int | None
    init: Path | None
    choices: tuple[Choice, ...]
    model: str
    about: dict[str, str]


def make_plan(
    net: Net,
    overrides: Mapping[str, Any],
    target: str,
    threads: int | None,
    init: Path | None,
    reporter: Reporter,
    check: Callable[[], None],
) -> TrainingPlan:
    """Resolve settings (`overrides` holds the arguments of `fit` that were given), read the data, check all of it.

    Nothing is written. `check` is called now and then during the reading of images and may raise.
    """
    check_target(target)
    if threads is not None:
        positive(threads, "threads")
    if not net.has_loss:
        fail(
            "value-loss",
            f"the net {net.name} has no loss, so there is nothing to train",
            hint="end it with `loss softmax`",
        )
    if init is not None:
        _check_init(init, net)
    choices: list[Choice] = []
    settings, given = _settings(net, overrides, choices)
    refuse_unsupported(settings, net.sources)
    precision = choose_precision(overrides.get("precision"), settings)
    dataset = given or _read(net, settings, reporter, check)
    span = settings.data.span if settings.data else None
    dataset.require_shape(net.input_shape, span)
    dataset.require_outputs(net.classes, span)
    dataset.require_batch(settings.batch, settings.span("batch"))
    for warning in dataset.warnings:
        notes = [note.message for note in warning.notes]
        text = "\n  ".join([f"warning: {warning.message}", *notes])
        reporter.emit("warning", text, code=warning.code, message=warning.message, notes=notes)
    workers = _threads(target, threads, choices)
    _explain_validation(dataset, choices)
    steps = -(-len(dataset.train) // settings.batch)
    run = RunSettings(
        net=net.name,
        net_digest=net.digest(),
        data=str(settings.data) if settings.data else dataset.name,
        data_digest=dataset.content_hash,
        batch=settings.batch,
        epochs=settings.epochs,
        seed=settings.seed,
        optimizer=describe_optimizer(settings.optimizer or _DEFAULT_OPTIMIZER, rate=not settings.schedule.absolute),
        schedule=_describe_schedule(settings),
        decay=f"l2={settings.decay.l2:g} l1={settings.decay.l1:g} bias={'yes' if settings.decay.bias else 'no'}",
        precision=precision,
        target=target,
        cpu_tier=environment.cpu_tier(target),
        threads=workers,
        source=net.path,
    )
    about = {
        "classes": json.dumps(dataset.classes, ensure_ascii=False),
        "normalisation": json.dumps({"pixels": "value / 255", "mean": net.input_mean, "std": net.input_std}),
        "seed": str(settings.seed),
    }
    rate = make_rate(settings.schedule, steps, settings.epochs)
    model = _model(net, settings, overrides)
    return TrainingPlan(net, settings, dataset, rate, run, workers, init, tuple(choices), model, about)


def _model(net: Net, settings: TrainSettings, overrides: Mapping[str, Any]) -> str:
    """The net and all settings of this training as a program of the language, whatever the defaults will be one day."""
    words: dict[str, object] = {name: getattr(settings, name) for name in ("batch", "epochs", "seed")}
    if settings.data is not None:
        words["data"] = str(_absolute(settings.data))
    if settings.optimizer is not None:
        # Rates of the schedule take the place of the optimiser's own; a file must not give both.
        words["optim"] = describe_optimizer(settings.optimizer, rate=not settings.schedule.absolute)
    missing = {
        f"train.{word}": value for word, value in words.items() if word in overrides or not net.settings.explicit(word)
    }
    text = net.resolved()
    if not missing:
        return text
    # Without the second heading.
    return loads(text, file=net.path, net=net.name, set=missing).resolved().split("\n", 1)[1]


def _check_init(path: Path, net: Net) -> None:
    """What is wrong with the weights to start from shall be told before anything is written.

    Errors: those of `read_checkpoint`, `checkpoint-mismatch` if nothing fits, `checkpoint-not-finite`.
    """
    weights = read_checkpoint(path).weights
    shapes = {name: parameter.value.shape for name, parameter in net.graph(1).parameters.items()}
    found = match({name: array.shape for name, array in weights.items()}, shapes)
    if not found.loaded:
        require_match(found, path, net.name)
    with np.errstate(over="ignore"):
        bad = non_finite({name: weights[name].astype(np.float32) for name in found.loaded})
    if bad:
        fail("checkpoint-not-finite", f"{bad[0]} in {path} holds values that are not finite")


def _absolute(data: DataSetting) -> DataSetting:
    return data if data.path is None else replace(data, path=os.path.abspath(os.path.join(data.base, data.path)))


def _settings(net: Net, overrides: Mapping[str, Any], choices: list[Choice]) -> tuple[TrainSettings, DataSet | None]:
    """The file's settings with the overrides, and what was chosen in place of what nobody said."""
    settings = net.settings
    changes: dict[str, Any] = {
        name: positive(overrides[name], name) for name in ("batch", "epochs") if name in overrides
    }
    if "seed" in overrides:
        changes["seed"] = seed_number(overrides["seed"])
    given = overrides.get("data")
    if given is not None and not isinstance(given, DataSet):
        changes["data"] = given if isinstance(given, DataSetting) else parse_data(given)
    settings = replace(settings, **changes)
    defaults = {"batch": "images per step", "epochs": "passes over the data", "seed": "random numbers"}
    for name, why in defaults.items():
        if name not in changes and not settings.explicit(name):
            choices.append(Choice(name, str(getattr(settings, name)), f"the default for the {why}"))
    if settings.optimizer is None:
        optimizer = _DEFAULT_OPTIMIZER
        value = describe_optimizer(optimizer, rate=not settings.schedule.absolute)
        choices.append(Choice("optimiser", value, "the file names none; adam needs no tuning"))
        schedule = replace(settings.schedule, base=optimizer.lr)
        settings = replace(settings, optimizer=optimizer, schedule=schedule)
    elif not settings.explicit("optim.lr") and not settings.schedule.absolute:
        lr = settings.optimizer.lr
        choices.append(Choice("learning rate", f"{lr:g}", f"the default of {settings.optimizer.kind}"))
    if isinstance(given, DataSet):
        return replace(settings, data=None), given
    if settings.data is None:
        if net.input_shape != (1, 28, 28):
            hint = 'write `data folder "photos/"` into the train item, or use --data'
            fail("data-missing", f"nothing says what {net.name} is to be trained on", hint=hint)
        choices.append(Choice("data", "mnist", "the file names none, and the net reads images of this size"))
        settings = replace(settings, data=DataSetting("mnist"))
    return settings, None


def _read(net: Net, settings: TrainSettings, reporter: Reporter, check: Callable[[], None]) -> DataSet:
    def progress(done: int, total: int) -> None:
        check()
        reporter.loading(done, total)

    assert settings.data is not None
    data = settings.data
    return load_dataset(
        data.kind,
        data.path,
        data.options,
        base=Path(data.base),
        input_shape=net.input_shape,
        seed=settings.seed,
        span=data.span,
        progress=progress,
    )


def _threads(target: str, threads: int | None, choices: list[Choice]) -> int | None:
    if target == "reference":
        return None
    from convc.codegen.llvm.target import host_target
    from convc.runtime.cores import choose_threads

    choice, host = choose_threads(threads), host_target()
    if threads is None:
        choices.append(Choice("threads", str(choice.threads), choice.why))
    choices.append(Choice("processor", host.tier, host.why))
    return choice.threads


def _explain_validation(dataset: DataSet, choices: list[Choice]) -> None:
    if dataset.validation is None:
        why = "there are no images for it (val=N or split=0.9 sets some aside); `best` is the lowest training loss"
        choices.append(Choice("validation", "none", why))


def _describe_schedule(settings: TrainSettings) -> str:
    bound = f" over {settings.epochs} epochs" if settings.schedule.kind in _BOUND_TO_EPOCHS else ""
    return f"{settings.schedule}{bound}"
