"""Make a training step: gradients of the loss, and an optimiser update for every trainable parameter.

%loss = …                          →    %loss = …
return (loss: %loss)                    %g = …                                      (reverse-mode differentiation)
                                        %w', %m' = sgd_update(%w, %g, %w.momentum, %lr, %step) {momentum=0.9}
                                        return (loss: %loss, grad.w: %g);  update %w = %w', %w.momentum = %m'
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from convc.ir.autodiff import differentiate
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Initializer, Parameter
from convc.ir.ops.update import Update
from convc.ir.types import DType
from convc.passes.base import Pass, PassLog
from convc.passes.specialize import scalar_input

GRADIENT = "grad."
# Penalties act on weights; biases and normalisation parameters are left alone unless asked.
_DECAYED_ROLES = ("weight",)


@dataclass(frozen=True)
class Training(Pass):
    """Append gradients (outputs `grad.NAME`) and, with an optimiser, the updates of parameters and its states."""

    name: ClassVar[str] = "training"
    optimizer: Update | None = None
    decay_bias: bool = False

    def run(self, graph: Graph, log: PassLog) -> None:
        parameters = [p for p in graph.parameters.values() if p.trainable and not p.frozen]
        loss = graph.outputs["loss"]
        assert loss.producer is not None
        gradients = differentiate(graph, loss, [p.value for p in parameters])
        builder = Builder(graph)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                gradient = builder.constant(0.0)
                zeros = replace(gradient.producer.op, shape=parameter.value.shape)  # type: ignore[union-attr, type-var]
                gradient = builder.add(zeros)
            graph.outputs[GRADIENT + parameter.name] = gradient
            if self.optimizer is not None:
                self._update(graph, builder, parameter)
        frozen = [p.name for p in graph.parameters.values() if p.trainable and p.frozen]
        saved = f"; none for the frozen {', '.join(frozen)}" if frozen else ""
        log.changed("gradients", (loss.producer,), (), why=f"{len(parameters)} parameters are trained{saved}")
        graph.version += 1

    def _update(self, graph: Graph, builder: Builder, parameter: Parameter) -> None:
        assert self.optimizer is not None
        decayed = self.decay_bias or parameter.role in _DECAYED_ROLES
        scale = parameter.decay if decayed else 0.0
        update = replace(
            self.optimizer, l2=self.optimizer.l2 * scale, l1=self.optimizer.l1 * scale, lr_scale=parameter.lr
        )
        states = [
            graph.add_parameter(
                f"{parameter.name}.{state}",
                parameter.value.type,
                role="state",
                trainable=False,
                initial=Initializer("zeros"),
            )
            for state in update.states
        ]
        lr, step = scalar_input(graph, "lr", DType.F32), scalar_input(graph, "step", DType.I64)
        location = (parameter.span,) if parameter.span else ()
        with builder.at(location, parameter.name):
            gradient = graph.outputs[GRADIENT + parameter.name]
            node = builder.add_node(update, parameter.value, gradient, *states, lr, step)
        for name, value in zip(
            (parameter.name, *(f"{parameter.name}.{s}" for s in update.states)), node.results, strict=True
        ):
            graph.updates[name] = value
