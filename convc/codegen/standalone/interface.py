"""What a standalone model is, as its header and its tables tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Parameter
from convc.ir.ops.loss_scaling import MoveScale
from convc.lazy import dataclass
from convc.passes.base import Mode
from convc.passes.machine import Variant
from convc.passes.sections import ACCUMULATOR
from convc.passes.training import LOSS_SCALE, LossScaling

# What nobody draws or trains: states of the optimiser and of the scaled loss, and mean gradients.
_STATES = ("state", ACCUMULATOR)
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Duration:
    """So many epochs, or steps."""

    value: float
    epochs: bool


@dataclass(frozen=True)
class LearningRate:
    """The schedule of a training: the fields of the front end's `Schedule`, and the epochs that the file wants.

    `segments` are rates, each with how long it holds (None: to the end).
    """

    kind: str
    base: float
    segments: tuple[tuple[float, Duration | None], ...]
    every: Duration
    gamma: float
    power: float
    floor: float
    maximum: float
    warmup: Duration
    epochs: int


@dataclass(frozen=True)
class Interface:
    """The public side of a model.

    `prefix` begins every public name. `image` is (C, H, W) and `output` (K,) or (K, H, W) of one image; `classes` names
    the K outputs. `labels` is the shape of one image's labels, and None at inference; `targets` says that they are
    numbers instead of classes, `rate` is the schedule, `scaling` how the loss is scaled, if it is. `mean` and `std` are
    those of the net's `input`, which the model applies itself.
    """

    prefix: str
    net: str
    mode: Mode
    batch: int
    image: tuple[int, ...]
    output: tuple[int, ...]
    classes: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    tiers: tuple[Variant, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[int, ...] | None = None
    targets: bool = False
    accumulate: int = 1
    seed: int = 0
    rate: LearningRate | None = None
    scaling: LossScaling | None = None
    inside: bool = True

    @property
    def macro(self) -> str:
        """What public macros begin with."""
        return self.prefix.upper()

    @property
    def trains(self) -> bool:
        return self.mode == "train"

    @property
    def functions(self) -> tuple[str, ...]:
        """The public symbols of the library."""
        return tuple(f"{self.prefix}_{word}" for word in (*COMMON, *(TRAINING if self.trains else ())))


COMMON = (
    "create", "destroy", "run", "error", "cpu", "threads", "parameters", "parameter_index", "parameter_name",
    "parameter_rank", "parameter_shape", "parameter_size", "get_parameter", "set_parameter",
)  # fmt: skip
TRAINING = ("step", "learning_rate", "update_now", "steps", "set_steps", "set_seed", "loss_scale", "skipped_steps")


def is_state(parameter: Parameter) -> bool:
    """Whether a parameter belongs to the optimiser: no file of weights has it."""
    return parameter.role in _STATES


def public_prefix(name: str, given: str | None = None) -> str:
    """The prefix that was `given`, or one made of a net's name. Error: `value-prefix`."""
    if given is not None:
        if not _IDENTIFIER.fullmatch(given):
            fail("value-prefix", f"{given!r} cannot begin names in C", hint="letters, digits and _, a letter first")
        return given
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if _IDENTIFIER.fullmatch(plain) else f"net_{plain.lstrip('_')}"


def interface_of(
    graph: Graph,
    *,
    prefix: str,
    mode: Mode,
    batch: int,
    tiers: Sequence[Variant],
    classes: Sequence[str] = (),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    accumulate: int = 1,
    seed: int = 0,
    rate: LearningRate | None = None,
    inside: bool = True,
) -> Interface:
    """The interface of a graph that the passes have prepared for `mode`. Classes without names are numbered."""
    output = graph.outputs["logits"].type.shape[1:]
    labels = graph.inputs.get("labels")
    named = tuple(classes) if len(classes) == output[0] else tuple(str(number) for number in range(output[0]))
    return Interface(
        prefix=prefix,
        net=graph.name,
        mode=mode,
        batch=batch,
        image=graph.inputs["x"].type.shape[1:],
        output=output,
        classes=named,
        parameters=graph.parameters,
        tiers=tuple(tiers),
        mean=mean,
        std=std,
        labels=labels.type.shape[1:] if labels is not None else None,
        targets=labels is not None and labels.type.dtype.is_float,
        accumulate=accumulate,
        seed=seed,
        rate=rate,
        scaling=_scaling(graph),
        inside=inside,
    )


def _scaling(graph: Graph) -> LossScaling | None:
    """How the loss is scaled before it is differentiated."""
    rules = [node.op for node in graph.nodes_of(MoveScale) if isinstance(node.op, MoveScale)]
    return LossScaling(graph.parameters[LOSS_SCALE].initial.value, rules[0].is_dynamic) if rules else None
