"""From the settings of a `train` item to what the passes and the loop need: the update, the learning rate, refusals."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import get_args

import numpy as np

from convc.frontend.emission import Layer
from convc.frontend.schedule import Schedule
from convc.frontend.settings import OptimizerSetting, TrainSettings, unsupported
from convc.ir.diagnostic import CompileError, fail, similar
from convc.ir.graph import Graph
from convc.ir.ops.loss import SoftmaxCrossEntropy
from convc.ir.ops.update import AdagradUpdate, AdamUpdate, AdamWUpdate, RmspropUpdate, SgdUpdate, Update
from convc.passes.base import Mode, Pass
from convc.passes.half_precision import HALVES, HalfPrecision, Precision
from convc.passes.pipeline import Recipe
from convc.passes.quantization import QuantizeProducts, Ranges
from convc.passes.training import LossScaling, ParameterRounding
from convc.runtime.program import Rate

TARGETS = ("cpu", "cuda", "reference")
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# What inference may be asked for: whole numbers of 8 bits, too.
INT8 = "int8"
INFERENCE_PRECISIONS = (*PRECISIONS, INT8)
# Settings that change what a compiled step computes; the others concern the trainer alone.
STEP_WORDS = ("optim", "clip", "maxnorm", "class_weights")


# The update of each optimiser, and which of its settings are fields of it.
_UPDATES: Mapping[str, tuple[type[Update], tuple[str, ...]]] = {
    "sgd": (SgdUpdate, ("momentum", "nesterov")),
    "adagrad": (AdagradUpdate, ("eps",)),
    "rmsprop": (RmspropUpdate, ("alpha", "eps", "momentum")),
    "adam": (AdamUpdate, ("beta1", "beta2", "eps")),
    "adamw": (AdamWUpdate, ("beta1", "beta2", "eps")),
}


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


def choose_precision(asked: str | None, settings: TrainSettings, mode: Mode | None = None) -> Precision:
    """The element type of products and of what is kept between them, for a program of a mode; without a mode for
    something that knows float32 only. Error: `unavailable-precision`."""
    precision, span = asked or settings.precision.kind, None if asked else settings.precision.span
    for known in PRECISIONS:
        if known == precision:
            break
    else:
        if precision == INT8:
            message = "int8 is for inference: gradients have no use for 256 numbers"
            fail("unavailable-precision", message, span, hint="fp32, fp16 or bf16")
        fail("unavailable-precision", f"precision `{precision}` is not {', '.join(INFERENCE_PRECISIONS)}", span)
    if known == "fp32":
        return known
    if mode is None:
        message = f"precision `{known}` is not available here in this version"
        fail("unavailable-precision", message, span, hint="`--precision fp32`")
    return known


def half_precision(
    precision: Precision, layers: Sequence[Layer] = (), fp32: Sequence[str] = ()
) -> HalfPrecision | None:
    """The pass that makes a program of a precision, of what its layers ask for, and of patterns of those that stay in
    float32. None where nothing has 16 bits. Error: `name-layer` for a pattern that matches no layer."""
    found = HalfPrecision(precision, tuple(fp32), named_layers(layers, fp32))
    return found if found.kinds else None


def element_types(
    precision: str | None,
    settings: TrainSettings,
    mode: Mode,
    layers: Sequence[Layer] = (),
    fp32: Sequence[str] = (),
    ranges: Ranges | None = None,
) -> HalfPrecision | QuantizeProducts | None:
    """The pass for what is asked for, as `half_precision`; for int8 at inference that one which takes `ranges`.

    Errors: those of `choose_precision` and `half_precision`, `missing-ranges`.
    """
    if precision == INT8 and mode == "infer":
        if ranges is None:
            message = "precision int8 needs the ranges of what the net computes"
            fail("missing-ranges", message, hint="ranges=convc.calibrate(net, images, weights=…)")
        return QuantizeProducts(dict(ranges), tuple(fp32), named_layers(layers, fp32))
    return half_precision(choose_precision(precision, settings, mode), layers, fp32)


def named_layers(layers: Sequence[Layer], fp32: Sequence[str] = ()) -> tuple[tuple[str, Precision], ...]:
    """What layers ask for themselves. Error: `name-layer` for a pattern of `fp32` that matches no layer."""
    for pattern in fp32:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            hint = similar(pattern, [layer.name for layer in layers]) or "`convc summary` lists them"
            fail("name-layer", f"no layer matches `{pattern}`, which is to stay in float32", hint=hint)
    return tuple((layer.name, known) for layer in layers for known in PRECISIONS if known == layer.precision)


def check_target(target: str, arch: str | None = None) -> None:
    """Errors: `unavailable-target`; `value-architecture` for an architecture of GPUs that there is not, or with another
    target."""
    if target not in TARGETS:
        fail("unavailable-target", f"target `{target}` is unknown", hint=f"there are {', '.join(TARGETS)}")
    if arch is None:
        return
    if target != "cuda":
        fail("value-architecture", f"arch={arch!r} is for GPUs, and the target is {target}", hint="target='cuda'")
    from convc.codegen.cuda.architectures import architecture

    architecture(arch)


def refuse_precision(target: str, precision: str | None) -> None:
    """Error: `unavailable-precision` for whole numbers of 8 bits on a GPU."""
    if target == "cuda" and precision == INT8:
        fail("unavailable-precision", "int8 is for processors, not for GPUs", hint="fp16, bf16, or target cpu")


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


def make_recipe(settings: TrainSettings, forward: Graph, types: Pass | None = None) -> Recipe:
    """What the settings say about a training step of `forward`, and what follows from what `types` has in 16 bits.

    Errors: those of `make_update` and of `loss_scaling`, `value-class-weights`.
    """
    half = types if isinstance(types, HalfPrecision) else None
    return Recipe(
        make_update(settings),
        settings.decay.bias,
        settings.clip,
        settings.accumulate,
        settings.maxnorm,
        _class_weights(settings, forward),
        loss_scaling(settings, half),
        parameter_rounding(settings, half),
    )


def parameter_rounding(settings: TrainSettings, half: HalfPrecision | None) -> ParameterRounding | None:
    """With `rounding=stochastic` updated parameters are numbers of the program's 16 bits; else they are float32, and
    cast where they are used."""
    if settings.precision.rounding == "nearest" or half is None or half.kind not in HALVES:
        return None
    return ParameterRounding("f16" if half.kind == "fp16" else "bf16")


def loss_scaling(settings: TrainSettings, half: HalfPrecision | None) -> LossScaling | None:
    """How the loss is scaled: as the settings say, else dynamically where any layer is in fp16, and not at all in types
    that have the range of float32. Error: `value-range` for a scale that is 0 or infinite in float32."""
    scale = settings.precision.loss_scale
    if scale == "dynamic":
        return LossScaling() if half is not None and "fp16" in half.kinds else None
    if scale == "none":
        return None
    with np.errstate(over="ignore"):
        rounded = np.float32(scale)
    if not 0 < rounded < np.inf:
        fail("value-range", f"loss_scale={scale:g} is {rounded:g} in float32", settings.precision.span)
    return LossScaling(scale, dynamic=False)


def _class_weights(settings: TrainSettings, forward: Graph) -> tuple[float, ...]:
    """The weights of the classes, () for equal ones. Error: `value-class-weights`."""
    weights, span = settings.class_weights, settings.span("class_weights")
    if weights is None:
        return ()
    classes = [node.operands[0].shape[1] for node in forward.nodes_of(SoftmaxCrossEntropy)]
    if not classes:
        fail("value-class-weights", "`class_weights` weighs `loss softmax`, and this net has none", span)
    if weights == "balanced":
        hint = "give the weights as a list: class_weights [1, 2.5]"
        fail("value-class-weights", "`class_weights balanced` needs the labels of a training", span, hint)
    if any(count != len(weights) for count in classes):
        wrong = next(count for count in classes if count != len(weights))
        message = f"there are {len(weights)} class weights, but the soft-max has {wrong} classes"
        fail("value-class-weights", message, span)
    return weights


def balanced_weights(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """N / (K·count) for each of K classes, so that all of them count alike; 0 for a class without examples."""
    counts, flat = np.zeros(classes, np.int64), labels.reshape(-1)
    for start in range(0, flat.size, 1 << 20):  # counting makes 64-bit numbers of the labels: not of all pixels at once
        counts += np.bincount(flat[start : start + (1 << 20)], minlength=classes)
    return tuple(float(labels.size / (classes * count)) if count else 0.0 for count in counts)


def make_update(settings: TrainSettings) -> Update | None:
    """The optimiser's update with its penalties; None where the file names no optimiser.

    Error: `value-range` for an `eps` that is 0 in float32, which would divide 0 by 0.
    """
    optimizer, decay = settings.optimizer, settings.decay
    if optimizer is None:
        return None
    if optimizer.kind in _UPDATES:
        kind, fields = _UPDATES[optimizer.kind]
        if "eps" in fields and np.float32(optimizer.eps) == 0:
            fail("value-range", f"eps={optimizer.eps:g} is 0 in float32, and may be divided by", optimizer.span)
        return kind(decay.l2, decay.l1, **{name: getattr(optimizer, name) for name in fields})
    fail("unavailable-setting", f"`optim {optimizer.kind}` is not available in this version", optimizer.span)


def make_rate(schedule: Schedule, steps_per_epoch: int, epochs: int) -> Rate:
    """The learning rate as a function of the progress in epochs and the number of updates done."""
    if schedule.kind == "constant" and not schedule.warmup.value:
        return lambda epoch, step: schedule.base
    return lambda epoch, step: schedule.rate(epoch, step, steps_per_epoch, epochs)


def describe_optimizer(optimizer: OptimizerSetting, rate: bool = True) -> str:
    """`sgd lr=0.1 momentum=0.9`, as a file writes it; without `lr=` where `rate` is false."""
    words = [optimizer.kind, f"lr={optimizer.lr!r}"] if rate else [optimizer.kind]
    for name in _UPDATES[optimizer.kind][1]:
        value = getattr(optimizer, name)
        # What is switched off goes without saying.
        if name not in ("momentum", "nesterov"):
            words.append(f"{name}={value!r}")
        elif value:
            words.append(f"{name}={'yes' if value is True else repr(value)}")
    return " ".join(words)
