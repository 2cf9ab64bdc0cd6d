"""From the settings of a `train` item to what the passes and the loop need: the update, the learning rate, refusals."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from convc.frontend.schedule import Schedule
from convc.frontend.settings import OptimizerSetting, TrainSettings, unsupported
from convc.ir.diagnostic import CompileError, fail
from convc.ir.ops.update import AdamUpdate, SgdUpdate, Update
from convc.runtime.program import Rate

TARGETS = ("cpu", "reference")
PRECISIONS = ("fp32",)
ALGORITHMS = ("auto", "direct")
# Settings that change what a compiled step computes; the others concern the trainer alone.
STEP_WORDS = ("optim", "clip", "maxnorm", "class_weights")


def refuse_unsupported(
    settings: TrainSettings, sources: Mapping[str, str], words: Collection[str] | None = None
) -> None:
    """Raise one error that names every setting that this version cannot carry out (of `words`, or of all)."""
    found = [
        diagnostic
        for diagnostic in unsupported(settings)
        if words is None or diagnostic.message.split("`")[1].split()[0] in words
    ]
    if found:
        raise CompileError(found, sources)


def choose_precision(asked: str | None, settings: TrainSettings) -> str:
    """The element type of the arithmetic. Error: `unavailable-precision`."""
    precision = asked or settings.precision.kind
    if precision not in PRECISIONS:
        known = precision in ("fp16", "bf16")
        reason = "is not available in this version" if known else "is not fp32, fp16 or bf16"
        fail(
            "unavailable-precision", f"precision `{precision}` {reason}", settings.precision.span if not asked else None
        )
    return precision


def check_target(target: str) -> None:
    """Error: `unavailable-target`."""
    if target not in TARGETS:
        reason = "is not available in this version" if target == "cuda" else "is unknown"
        fail("unavailable-target", f"target `{target}` {reason}", hint=f"there are {' and '.join(TARGETS)}")


def check_algorithm(algo: str) -> None:
    """Error: `unavailable-algorithm`."""
    if algo not in ALGORITHMS:
        known = algo in ("im2col", "winograd", "fft", "strassen")
        reason = "is not available in this version" if known else "is unknown"
        fail("unavailable-algorithm", f"algorithm `{algo}` {reason}", hint=f"there are {' and '.join(ALGORITHMS)}")


def positive(value: object, what: str) -> int:
    """`value` as a whole number of at least 1. Error: `value-range`."""
    return _whole(value, what, 1)


def seed_number(value: object) -> int:
    """`value` as a seed: a whole number from 0 to 2^63 - 1. Error: `value-range`."""
    return _whole(value, "seed", 0)


def _whole(value: object, what: str, least: int) -> int:
    try:
        number = value.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        number = None
    if number is None or isinstance(value, bool) or not least <= number < 1 << 63:
        fail("value-range", f"{what}={value!r}: a whole number of at least {least} is needed")
    return number


def make_update(settings: TrainSettings) -> Update | None:
    """The optimiser's update with its penalties; None where the file names no optimiser."""
    optimizer, decay = settings.optimizer, settings.decay
    if optimizer is None:
        return None
    if optimizer.kind == "sgd":
        return SgdUpdate(decay.l2, decay.l1, momentum=optimizer.momentum, nesterov=optimizer.nesterov)
    if optimizer.kind == "adam":
        return AdamUpdate(decay.l2, decay.l1, beta1=optimizer.beta1, beta2=optimizer.beta2, eps=optimizer.eps)
    fail("unavailable-setting", f"`optim {optimizer.kind}` is not available in this version", optimizer.span)


def make_rate(schedule: Schedule, steps_per_epoch: int, epochs: int) -> Rate:
    """The learning rate as a function of the progress in epochs and the number of updates done."""
    if schedule.kind == "constant" and not schedule.warmup.value:
        return lambda epoch, step: schedule.base
    return lambda epoch, step: schedule.rate(epoch, step, steps_per_epoch, epochs)


def describe_optimizer(optimizer: OptimizerSetting, rate: bool = True) -> str:
    """`sgd lr=0.1 momentum=0.9`, as a file writes it; without `lr=` where `rate` is false."""
    words = [optimizer.kind, f"lr={optimizer.lr!r}"] if rate else [optimizer.kind]
    if optimizer.kind == "sgd":
        words += [f"momentum={optimizer.momentum!r}"] if optimizer.momentum else []
        words += ["nesterov=yes"] if optimizer.nesterov else []
    else:
        words += [f"{name}={getattr(optimizer, name)!r}" for name in ("beta1", "beta2", "eps")]
    return " ".join(words)
