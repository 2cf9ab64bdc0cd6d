"""What a training will do, decided before anything is written: settings, data, and the reason for each choice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.frontend.expressions import literal
from convc.frontend.load import loads, parse_data
from convc.frontend.settings import DataSetting, OptimizerSetting, TrainSettings
from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.runtime import environment
from convc.runtime.algorithms import AlgorithmOptions
from convc.runtime.build import main_loss, require_plans
from convc.runtime.choices import (
    Choice,
    explain_gpu,
    explain_rounding,
    explain_scaling,
    explain_settings,
    explain_validation,
    explain_weights,
)
from convc.runtime.configuration import (
    balanced_weights,
    check_target,
    choose_precision,
    describe_optimizer,
    half_precision,
    loss_scaling,
    make_rate,
    make_recipe,
    parameter_rounding,
    positive,
    refuse_unsupported,
    seed_number,
)
from convc.runtime.cuda_driver import usable_gpu
from convc.runtime.data import DataSet, Source, load_dataset
from convc.runtime.data.dataset import require_labels
from convc.runtime.fitting_batch import LARGEST, fitting_batch
from convc.runtime.program import Rate
from convc.runtime.progress import Reporter
from convc.runtime.run_settings import RunSettings
from convc.runtime.stall import Plateau, Stopping, make_plateau, make_stopping
from convc.runtime.starting_weights import StartingWeights, starting_weights
from convc.runtime.training_images import check_folder, explain_images, prepare_images

if TYPE_CHECKING:
    from convc.frontend.net import Net

_DEFAULT_OPTIMIZER = OptimizerSetting("adam", lr=1e-3)
# Schedules that end with the last epoch: another number of epochs is another schedule.
_BOUND_TO_EPOCHS = ("cosine", "poly", "onecycle")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that a training needs. `model` is the text of model.cnn, `about` what checkpoints say.

    `train` delivers the training images of `dataset` as they are to be learned from: changed by `augment`. `memory`
    bounds the bytes of the training step, `arch` is the architecture of the GPU for target cuda, `fp32` are patterns of
    the layers that stay in float32. `rate` leaves out what `plateau` does to it. `init` has been read once, unless the
    run may be one to be continued.
    """

    net: Net
    settings: TrainSettings
    dataset: DataSet
    train: Source
    rate: Rate
    run: RunSettings
    threads: int | None
    algorithms: AlgorithmOptions
    memory: int | None
    arch: str | None
    fp32: tuple[str, ...]
    init: StartingWeights | None
    plateau: Plateau | None
    stopping: Stopping | None
    choices: tuple[Choice, ...]
    model: str
    about: dict[str, str]


def make_plan(
    net: Net,
    overrides: Mapping[str, Any],
    target: str,
    threads: int | None,
    algorithms: AlgorithmOptions,
    reporter: Reporter,
    check: Callable[[], None],
    resume: bool = False,
    arch: str | None = None,
) -> TrainingPlan:
    """Resolve settings (`overrides` holds the arguments of `fit` that were given), read the data, check all of it.

    Nothing is written. `check` is called now and then during the reading of images and may raise. With `resume` the
    weights to start from are not read: a run that goes on has no need of them.
    """
    check_target(target, arch)
    # Nothing is read for a training that cannot run.
    gpu = usable_gpu(arch) if target == "cuda" else None
    if threads is not None:
        positive(threads, "threads")
    if not net.has_loss:
        fail(
            "value-loss",
            f"the net {net.name} has no loss, so there is nothing to train",
            hint="end it with `loss softmax`",
        )
    init = starting_weights(net, overrides.get("init"))
    if init is not None and not resume:
        init.read()
    graph = net.graph(1)
    if all(parameter.frozen or not parameter.trainable for parameter in graph.parameters.values()):
        what = "all its parameters are frozen" if graph.parameters else "it has no parameters"
        fail("value-frozen", f"there is nothing to train in {net.name}: {what}", net.settings.span("init.freeze"))
    choices: list[Choice] = []
    settings, given = _settings(net, overrides, choices)
    precision = choose_precision(overrides.get("precision"), settings, "train")
    settings = replace(settings, precision=replace(settings.precision, kind=precision))
    fp32: tuple[str, ...] = overrides.get("fp32", ())
    half = half_precision(precision, net.layers, fp32)  # what is wrong with it is told before data is read
    refuse_unsupported(settings, net.sources)
    check_folder(net, settings)
    dataset, train = prepare_images(net, settings, given or _read(net, settings, reporter, check))
    span = settings.data.span if settings.data else None
    dataset.require_outputs(net.classes, span)
    require_labels(dataset.name, train.label_shape, graph.outputs["logits"].shape[1:], span)
    if "fit_bytes" not in overrides:
        dataset.require_batch(settings.batch, settings.span("batch"))
    for warning in dataset.warnings:
        notes = [note.message for note in warning.notes]
        text = "\n  ".join([f"warning: {warning.message}", *notes])
        reporter.emit("warning", text, code=warning.code, message=warning.message, notes=notes)
    workers = _threads(target, threads, choices) if gpu is None else None
    choices += [] if gpu is None else [explain_gpu(gpu)]
    measures_loss = main_loss(graph) is not None
    choices += explain_images(net, settings)
    choices += explain_settings(settings)
    scaling = loss_scaling(settings, half)
    rounding = parameter_rounding(settings, half)
    choices += [*explain_scaling(settings, scaling), *explain_rounding(settings, rounding)]
    choices += explain_validation(settings, dataset, measures_loss)
    _require_validation(settings, dataset, measures_loss)
    if settings.class_weights == "balanced":
        settings = replace(settings, class_weights=balanced_weights(dataset.train.labels, net.classes))
        choices.append(explain_weights(settings))
    if "fit_bytes" in overrides:
        require_plans(target)
        most = min(LARGEST, len(dataset.train))
        found = fitting_batch(
            net, overrides["fit_bytes"], mode="train", most=most, settings=settings, threads=workers,
            algorithms=algorithms, types=half, target=target, arch=arch,
        )  # fmt: skip
        settings = replace(settings, batch=found.batch)
        choices.append(Choice("batch", str(found.batch), str(found)))
    make_recipe(settings, graph, half)  # what is wrong with it is told before anything is written
    steps = math.ceil(math.ceil(len(dataset.train) / settings.batch) / settings.accumulate)
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
        cpu_tier=environment.cpu_tier(target, precision),
        threads=workers,
        source=net.path,
        accumulate=settings.accumulate,
        clip=settings.clip,
        maxnorm=settings.maxnorm,
        class_weights=str(settings.class_weights or "none"),
        augment=" -> ".join(map(str, settings.augment)) or "none",
        algorithms=str(algorithms),
        fp32=", ".join(fp32) or "none",
        rounding="nearest" if rounding is None else rounding.kind,
        loss_scale=str(scaling or "none"),
    )
    about = {
        "classes": json.dumps(dataset.classes, ensure_ascii=False),
        "normalisation": json.dumps({"pixels": "value / 255", "mean": net.input_mean, "std": net.input_std}),
        "seed": str(settings.seed),
    }
    rate = make_rate(settings.schedule, steps, settings.epochs)
    model = _model(net, settings, overrides)
    plateau = make_plateau(settings.schedule, dataset.validation is not None and measures_loss)
    stopping = make_stopping(settings.early_stop)
    return TrainingPlan(
        net=net,
        settings=settings,
        dataset=dataset,
        train=train,
        rate=rate,
        run=run,
        threads=workers,
        algorithms=algorithms,
        memory=overrides.get("memory"),
        arch=None if gpu is None else gpu.architecture,
        fp32=fp32,
        init=init,
        plateau=plateau,
        stopping=stopping,
        choices=tuple(choices),
        model=model,
        about=about,
    )


def _model(net: Net, settings: TrainSettings, overrides: Mapping[str, Any]) -> str:
    """The net and all settings of this training as a program of the language, whatever the defaults will be one day."""
    words: dict[str, object] = {name: getattr(settings, name) for name in ("batch", "epochs", "seed")}
    if settings.data is not None:
        words["data"] = str(_absolute(settings.data))
    if settings.optimizer is not None:
        # Rates of the schedule take the place of the optimiser's own; a file must not give both.
        words["optim"] = describe_optimizer(settings.optimizer, rate=not settings.schedule.absolute)
    if "precision" in overrides:
        words["precision"] = overrides["precision"]
    if "init" in overrides:
        words["init"] = literal(os.path.abspath(overrides["init"]))
    missing = {
        f"train.{word}": value for word, value in words.items() if word in overrides or not net.settings.explicit(word)
    }
    text = net.resolved()
    if not missing:
        return text
    # Without the second heading.
    return loads(text, file=net.path, net=net.name, set=missing).resolved().split("\n", 1)[1]


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
    if "fit_bytes" in overrides:
        del defaults["batch"]
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
        augment=settings.augment,
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


def _require_validation(settings: TrainSettings, dataset: DataSet, measures_loss: bool) -> None:
    """Refuse (`data-validation`) an `early_stop` that would have nothing to look at."""
    stop = settings.early_stop
    if stop is None:
        return
    if dataset.validation is None:
        hint = "val=N or split=0.9 in the data item sets images aside"
        fail(
            "data-validation",
            f"`early_stop {stop.metric}` needs a validation part, and {dataset.name} has none",
            stop.span,
            hint,
        )
    if stop.metric == "val_loss" and not measures_loss:
        message = "`early_stop val_loss` needs a loss at the net's end, not only in `aux`"
        fail("data-validation", message, stop.span, "early_stop val_accuracy")


def _describe_schedule(settings: TrainSettings) -> str:
    bound = f" over {settings.epochs} epochs" if settings.schedule.kind in _BOUND_TO_EPOCHS else ""
    return f"{settings.schedule}{bound}"
