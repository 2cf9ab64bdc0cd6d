"""The order of passes, with the reason for each place."""

from __future__ import annotations

from convc.ir.ops.update import Update
from convc.passes.base import Mode, Pass
from convc.passes.dead_code import DeadCode
from convc.passes.specialize import Specialize
from convc.passes.training import Training


def pipeline(mode: Mode, optimizer: Update | None = None, decay_bias: bool = False) -> tuple[Pass, ...]:
    """The passes that turn the forward graph of a net into an inference program or a training step."""
    if mode == "infer":
        return (
            Specialize("infer"),  # first: everything after may rely on there being no loss and no dropout
            DeadCode(),  # last: removes what only the loss needed
        )
    return (
        Specialize("train"),  # before differentiation: the training forms are the ones with gradients
        Training(optimizer, decay_bias),
        DeadCode(),  # gradients that nobody wanted: of the input, of frozen layers
    )
