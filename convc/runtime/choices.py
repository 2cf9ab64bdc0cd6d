"""What is chosen for the user, and what the choices of a training are founded on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from convc.frontend.setting_kinds import BY_WORD
from convc.frontend.settings import TrainSettings
from convc.ir.sizes import format_bytes
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.passes.plan_report import MemoryReport
    from convc.passes.training import LossScaling, ParameterRounding
    from convc.runtime.cuda_driver import FoundGpu
    from convc.runtime.data import DataSet


@dataclass(frozen=True)
class Choice:
    """A setting that nobody gave, its value, and why it is that."""

    name: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"  {self.name} {self.value}: {self.why}"


def explain_settings(settings: TrainSettings) -> Iterator[Choice]:
    """The arguments of the settings about the course of a training that were left to their defaults."""
    schedule, stop, checkpoint = settings.schedule, settings.early_stop, settings.checkpoint
    given = [("schedule", schedule.kind, schedule), ("early_stop", None, stop), ("checkpoint", None, checkpoint)]
    for word, variant, values in given:
        kind = BY_WORD[word].get(variant)
        if kind is None or values is None or not settings.explicit(word):
            continue
        # A warm-up of no length is no choice that anybody has to know of.
        left = [
            f"{parameter.key}={_shown(getattr(values, _FIELDS.get(parameter.key, parameter.key)))}"
            for parameter in kind.parameters
            if not settings.explicit(f"{word}.{parameter.key}") and parameter.key != "warmup"
        ]
        if left:
            yield Choice(kind.title, " ".join(left), "the default" if len(left) == 1 else "the defaults")


_FIELDS = {"max": "maximum", "min": "floor"}


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def explain_weights(settings: TrainSettings) -> Choice:
    """What `class_weights balanced` comes to."""
    weights = settings.class_weights or ()
    assert not isinstance(weights, str)
    shown = " ".join(f"{weight:.4g}" for weight in weights)
    if len(weights) > 10:
        shown = f"from {min(weights):.4g} to {max(weights):.4g}"
    return Choice("class_weights", shown, "balanced: labels / (classes · labels of the class)")


def explain_scaling(settings: TrainSettings, scaling: LossScaling | None) -> Iterator[Choice]:
    """How the loss is scaled where only the precision was given."""
    if scaling is not None and scaling.dynamic and not settings.explicit("precision.loss_scale"):
        why = (
            "fp16 makes zeros of gradients below 3e-8; halved when they overflow, doubled after 2000 steps that do not"
        )
        yield Choice("loss scale", str(scaling), why)


def explain_rounding(settings: TrainSettings, rounding: ParameterRounding | None) -> Iterator[Choice]:
    """Where `rounding=stochastic` was written and means nothing."""
    if settings.precision.rounding == "stochastic" and rounding is None:
        yield Choice("rounding", "nearest", "parameters of a program in fp32 are not rounded")


def explain_algorithms(mode: str, chosen: Mapping[str, str], measured: bool) -> Choice:
    """How the convolutions of a program are computed: `chosen` by convolution."""
    counts = Counter(chosen.values()).most_common()
    text = ", ".join(f"{count} x {name}" for name, count in counts)
    why = "measured" if measured else "predicted to be the fastest; `convc explain` shows the others"
    return Choice(f"algorithms ({mode})", text, why)


def explain_gpu(gpu: FoundGpu) -> Choice:
    """The GPU that a training runs on."""
    size, cuda = format_bytes(gpu.memory_bytes), f"{gpu.cuda[0]}.{gpu.cuda[1]}"
    why = f"{gpu.architecture}, {size}, the driver runs CUDA {cuda}; CUDA_VISIBLE_DEVICES chooses another one"
    return Choice("GPU", gpu.name, why)


def explain_memory(report: MemoryReport) -> Choice:
    """What a program takes, and for what."""
    total = format_bytes(report.arena_bytes + report.persistent_bytes)
    why = f"{format_bytes(report.arena_bytes)} within a step, the most "
    why += f"for {report.peak_kernel.name} of {report.peak_kernel.layer}; " if report.peak_kernel else "; "
    why += f"{format_bytes(report.persistent_bytes)} for parameters, states and other gradients"
    if report.recomputed:
        why += f"; {len(report.recomputed)} values are computed again, not kept"
    return Choice("memory", total, why)


def explain_validation(settings: TrainSettings, dataset: DataSet, measures_loss: bool) -> Iterator[Choice]:
    """What is watched, where there is no validation part to watch."""
    if dataset.validation is None:
        why = "there are no images for it (val=N or split=0.9 sets some aside); `best` is the lowest training loss"
        yield Choice("validation", "none", why)
    if settings.schedule.kind == "plateau" and (dataset.validation is None or not measures_loss):
        lacking = "validation part" if dataset.validation is None else "loss at its end to validate with"
        yield Choice("plateau", "on the training loss", f"there is no {lacking}")
