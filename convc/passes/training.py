"""Make a training step: gradients of the loss, and an optimiser update for every trainable parameter.

%loss = …                          →    %loss = …
return (loss: %loss)                    %g = …                                      (reverse-mode differentiation)
                                        %w', %m' = sgd_update(%w, %g, %w.momentum, %lr, %step) {momentum=0.9}
                                        return (loss: %loss, grad.w: %g);  update %w = %w', %w.momentum = %m'

Where several batches make one update, where gradients are clipped and where the norm of weights is bounded:

    %a' = accumulate(%w.accumulated, %g, %rows, %seen);  update %w.accumulated = %a'
    %n = gradient_norm(%a', …);  %c = min(1, clip / (%n + 1e-6))
    %w', %m' = sgd_update(%w, %a', %w.momentum, %lr, %step, %c)
    %w" = max_norm(%w') {bound=3.0};  update %w = %w"

Where the loss is scaled, lest gradients in 16 bits vanish:

    %s = scale_loss(%loss, %loss.scale)                                                  (this is differentiated)
    %u = unscale(%g, %loss.scale);  return (loss: %loss, grad.w: %u)
    %ok = all_finite(%u, …);  %w', %m' = sgd_update(%w, %u, %w.momentum, %lr, %step, 1, %ok)
    update %loss.scale, %loss.good, %loss.skipped = move_scale(%loss.scale, %loss.good, %loss.skipped, %ok)

Where parameters have no digits beyond those of 16 bits:

    %r = round_to(%w', %seed, %step) {dtype="bf16", rounding="stochastic"};  update %w = %r
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from convc.ir.autodiff import differentiate
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Initializer, Parameter, Value, total_cost
from convc.ir.op import Cost
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Divide, Minimum
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss_scaling import AllFinite, MoveScale, ScaleLoss, Unscale
from convc.ir.ops.round_to import HalfName, Rounding, RoundTo
from convc.ir.ops.sweep import Accumulate, GradientNorm, MaxNorm
from convc.ir.ops.update import Update
from convc.ir.philox import stream_key
from convc.ir.span import Location
from convc.ir.types import DType, TensorType
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog
from convc.passes.sections import ACCUMULATOR
from convc.passes.specialize import scalar_input

GRADIENT = "grad."
# Penalties act on weights and the slopes of `prelu`; biases and parameters of `bn` are left alone unless asked.
DECAYED_ROLES = ("weight", "slope")
# PyTorch's `clip_grad_norm_` adds this to the norm.
_CLIP_EPSILON = 1e-6


# The parameters that hold the state of loss scaling.
LOSS_SCALE, GOOD_UPDATES, SKIPPED_UPDATES = "loss.scale", "loss.good", "loss.skipped"
# Updates that may be skipped in a row once the scale can fall no further: then training gives up.
PATIENCE = 50


@dataclass(frozen=True)
class LossScaling:
    """The loss is differentiated `initial` times as large. Updates with gradients that are not finite are skipped; if
    `dynamic`, each of them halves the scale, and 2000 good ones in a row double it (see `MoveScale`)."""

    initial: float = 65536.0
    dynamic: bool = True

    def __str__(self) -> str:
        return f"dynamic, from {self.initial:.10g}" if self.dynamic else f"{self.initial:.10g}"

    @property
    def move(self) -> MoveScale:
        return MoveScale() if self.dynamic else MoveScale(growth=1.0, backoff=1.0)


@dataclass(frozen=True)
class ParameterRounding:
    """Every update leaves parameters that are numbers of `dtype`: there is no other copy of them, with more digits."""

    dtype: HalfName
    kind: Rounding = "stochastic"


@dataclass(frozen=True)
class Training(Pass):
    """Append gradients (outputs `grad.NAME`) and, with an optimiser, the updates of parameters and its states.

    `clip` bounds the norm of all gradients together, `max_norm` that of each unit's weights; with `accumulate` an
    update takes the mean gradient over the rows of several batches. With `scaling` a multiple of the loss is
    differentiated; gradients, and all that is made of them, are those of the loss itself. With `rounding` updated
    parameters are numbers of 16 bits.
    """

    name: ClassVar[str] = "training"
    metrics: ClassVar[Mapping[str, str]] = {
        "gradients": "parameters that are trained",
        "frozen": "parameters that are not",
        "unused": "parameters that the loss does not depend on",
        "saved_nodes": "operations that freezing saves",
        "saved_flops": "and their arithmetic",
        "saved_bytes": "and their operands and results",
    }
    optimizer: Update | None = None
    decay_bias: bool = False
    clip: float | None = None
    accumulate: bool = False
    max_norm: float | None = None
    scaling: LossScaling | None = None
    rounding: ParameterRounding | None = None

    def run(self, graph: Graph, log: PassLog) -> None:
        loss = graph.outputs["loss"].producer
        assert loss is not None
        frozen = [p for p in graph.parameters.values() if p.trainable and p.frozen]
        trained = [p for p in graph.parameters.values() if p.trainable and not p.frozen]
        if not trained:
            log.missed("gradients", loss, "no parameter is trained")
            return
        whole = self._if_nothing_were_frozen(graph) if frozen else graph
        readers = {p.name: p.value.users[0][0] for p in (*frozen, *trained) if p.value.users}
        unused = self._append(graph, trained)
        why = f"{_counted(trained)} trained"
        if unused:
            why += f", and the loss does not depend on {', '.join(p.name for p in unused)}"
        log.metrics |= {"gradients": len(trained), "frozen": len(frozen), "unused": len(unused)}
        if frozen:
            nodes, saved = _saved(whole, graph)
            log.metrics |= {"saved_nodes": nodes, "saved_flops": saved.flops, "saved_bytes": saved.bytes}
            saving = f"{nodes:,} operations, {saved.flops:,} flops, {saved.bytes:,} bytes"
            why += f"; {_counted(frozen)} frozen, which saves {saving}"
        log.changed("gradients", (loss,), (), why)
        for parameter in (*frozen, *unused):
            if parameter.name in readers:
                reason = "is frozen" if parameter.frozen else "does not lead to the loss: its gradient is zero"
                log.missed("gradients", readers[parameter.name], f"{parameter.name} {reason}")

    def _if_nothing_were_frozen(self, graph: Graph) -> Graph:
        twin = graph.copy()
        twin.parameters = {name: replace(p, frozen=False) for name, p in twin.parameters.items()}
        self._append(twin, [p for p in twin.parameters.values() if p.trainable])
        return twin

    def _append(self, graph: Graph, parameters: list[Parameter]) -> list[Parameter]:
        """Gradients and updates of `parameters`. Returns those that the loss does not depend on: theirs is zero."""
        # Asked before differentiation: gradients of convolutions use weights the other way round.
        units = {p.name: _units(p) for p in parameters if p.role == "weight"}
        builder = Builder(graph)
        loss, scale = graph.outputs["loss"], None
        if self.scaling is not None:
            scale = self._scalar(graph, LOSS_SCALE, self.scaling.initial)
            with builder.at((), "loss"):
                loss = builder.add(ScaleLoss(), loss, scale)
        gradients = differentiate(graph, loss, [p.value for p in parameters])
        unused: list[Parameter] = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                unused.append(parameter)
                gradient = builder.add(Constant((0.0,), parameter.value.shape))
            elif scale is not None:
                with builder.at(_place(parameter), parameter.name):
                    gradient = builder.add(Unscale(), gradient, scale)
            graph.outputs[GRADIENT + parameter.name] = gradient
        if self.optimizer is not None:
            self._update(graph, builder, parameters, units)
        return unused

    def _update(
        self, graph: Graph, builder: Builder, parameters: list[Parameter], units: Mapping[str, MaxNorm]
    ) -> None:
        """Stage by stage, each for all parameters, so that every stage is one pass over memory."""
        gradients = {p.name: graph.outputs[GRADIENT + p.name] for p in parameters}
        if self.accumulate:
            gradients = {p.name: self._mean(graph, builder, p, gradients[p.name]) for p in parameters}
        scale = None if self.clip is None else _clip(builder, list(gradients.values()), self.clip)
        ok = None
        if self.scaling is not None:
            ok = self._check(graph, builder, list(gradients.values()))
            scale = scale or builder.constant(1.0)
        for parameter in parameters:
            self._move(graph, builder, parameter, gradients[parameter.name], scale, ok)
        if self.max_norm is not None:
            for name, unit in units.items():
                with builder.at(_place(graph.parameters[name]), name):
                    graph.updates[name] = builder.add(replace(unit, bound=self.max_norm), graph.updates[name])
        if self.rounding is not None:
            for parameter in parameters:
                self._round(graph, builder, parameter, self.rounding)

    @staticmethod
    def _round(graph: Graph, builder: Builder, parameter: Parameter, rounding: ParameterRounding) -> None:
        seed, step = scalar_input(graph, "seed", DType.I64), scalar_input(graph, "step", DType.I64)
        op = RoundTo(rounding.dtype, rounding.kind, stream_key(parameter.name, "round"))
        with builder.at(_place(parameter), parameter.name):
            graph.updates[parameter.name] = builder.add(op, graph.updates[parameter.name], seed, step)

    @staticmethod
    def _scalar(graph: Graph, name: str, initial: float) -> Value:
        """A number that outlives a step, declared at its first use."""
        if name in graph.parameters:
            return graph.parameters[name].value
        start = Initializer("const", initial)
        return graph.add_parameter(name, TensorType(DType.F32, ()), role="state", trainable=False, initial=start)

    def _check(self, graph: Graph, builder: Builder, gradients: list[Value]) -> Value:
        """Whether all gradients are finite; what follows from that for the scale."""
        assert self.scaling is not None
        names = (LOSS_SCALE, GOOD_UPDATES, SKIPPED_UPDATES)
        state = [self._scalar(graph, name, 0.0) for name in names]
        with builder.at((), "loss"):
            ok = builder.add(AllFinite(), *gradients)
            moved = builder.add_node(self.scaling.move, *state, ok)
        graph.updates.update(zip(names, moved.results, strict=True))
        return ok

    @staticmethod
    def _mean(graph: Graph, builder: Builder, parameter: Parameter, gradient: Value) -> Value:
        """The mean gradient over this batch and those of the same update before it."""
        name = f"{parameter.name}.accumulated"
        mean = _state(graph, name, parameter, ACCUMULATOR)
        rows, seen = scalar_input(graph, "rows", DType.I64), scalar_input(graph, "seen", DType.I64)
        with builder.at(_place(parameter), parameter.name):
            graph.updates[name] = builder.add(Accumulate(), mean, gradient, rows, seen)
        return graph.updates[name]

    def _move(
        self, graph: Graph, builder: Builder, parameter: Parameter, gradient: Value, *factors: Value | None
    ) -> None:
        assert self.optimizer is not None
        decayed = self.decay_bias or parameter.role in DECAYED_ROLES
        factor = parameter.decay if decayed else 0.0
        update = replace(
            self.optimizer, l2=self.optimizer.l2 * factor, l1=self.optimizer.l1 * factor, lr_scale=parameter.lr
        )
        names = [f"{parameter.name}.{state}" for state in update.states]
        states = [_state(graph, name, parameter, "state") for name in names]
        lr, step = scalar_input(graph, "lr", DType.F32), scalar_input(graph, "step", DType.I64)
        with builder.at(_place(parameter), parameter.name):
            node = builder.add_node(update, parameter.value, gradient, *states, lr, step, *factors)
        graph.updates.update(zip((parameter.name, *names), node.results, strict=True))


def _counted(parameters: list[Parameter]) -> str:
    return f"{len(parameters)} parameters are" if len(parameters) != 1 else "1 parameter is"


def _saved(whole: Graph, graph: Graph) -> tuple[int, Cost]:
    """How many nodes, and what, a step takes less than the `whole` one; only what the results of each need counts."""
    one, other = (g.ancestors((*g.outputs.values(), *g.updates.values())) for g in (whole, graph))
    more, less = total_cost(one), total_cost(other)
    return len(one) - len(other), Cost(more.flops - less.flops, more.bytes - less.bytes)


def _place(parameter: Parameter) -> Location:
    return (parameter.span,) if parameter.span else ()


def _state(graph: Graph, name: str, parameter: Parameter, role: str) -> Value:
    """A tensor beside a parameter, zero in the beginning."""
    return graph.add_parameter(name, parameter.value.type, role=role, trainable=False, initial=Initializer("zeros"))


def _clip(builder: Builder, gradients: list[Value], bound: float) -> Value:
    """The factor that brings the norm of all gradients together down to `bound`."""
    with builder.at((), "clip"):
        norm = builder.add(GradientNorm(), *gradients)
        safe = builder.add(Add(), norm, builder.constant(_CLIP_EPSILON))
        return builder.add(Minimum(), builder.constant(1.0), builder.add(Divide(), builder.constant(bound), safe))


def _units(parameter: Parameter) -> MaxNorm:
    """Which weights go into one unit: a transposed convolution, alone, has its outputs along axis 1."""
    ops = [user.op for user, index in parameter.value.users if index == 1]
    transposed = [op for op in ops if isinstance(op, Conv2dBackwardData)]
    if transposed and not any(isinstance(op, (Conv2d, Linear)) for op in ops):
        return MaxNorm(axis=1, groups=transposed[0].groups)
    return MaxNorm()
